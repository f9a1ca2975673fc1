"""What holds for every model that draws."""

import pytest
import torch

from gmlib.base import Sampler

from .models import CLASSES, DEVICES, LEVELS, MODELS, build, generator, of

pytestmark = pytest.mark.parametrize("name", of(Sampler))


def draw(name, n, seed=0, dtype=torch.float64, device="cpu"):
    condition = torch.arange(n, device=device) % CLASSES if MODELS[name].conditional else None
    return build(name, dtype, device).sample(n, condition, rng=generator(seed))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("n", [1, 6])
def test_samples_are_rows_without_a_gradient(name, n, dtype, device):
    x = draw(name, n, dtype=dtype, device=device)
    assert x.shape == (n, MODELS[name].dim)
    assert x.dtype == dtype
    assert x.device.type == device
    assert not x.requires_grad
    assert x.isfinite().all()


def test_samples_are_such_as_the_data(name):
    x = draw(name, 200)
    values = set(x.unique().tolist())
    if MODELS[name].data == "binary":
        assert values == {0, 1}
    if MODELS[name].data == "levels":
        assert values == set(range(LEVELS))
    if MODELS[name].data == "integers":
        assert values >= set(range(LEVELS))
        assert torch.equal(x, x.round())


def test_a_seed_decides_the_samples(name):
    before = draw(name, 20, seed=3)
    assert torch.equal(draw(name, 20, seed=3), before)
    assert not torch.equal(draw(name, 20, seed=4), before)


def test_a_generator_is_the_only_source(name):
    model = build(name)
    before = torch.get_rng_state()
    condition = torch.zeros(5, dtype=torch.int64) if MODELS[name].conditional else None
    model.sample(5, condition, rng=generator())
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.skipif("cuda" not in DEVICES, reason="no CUDA device")
def test_the_device_changes_nothing(name):
    torch.testing.assert_close(draw(name, 20, device="cuda").cpu(), draw(name, 20))
