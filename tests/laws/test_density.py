"""What holds for every model with an exact log p(x)."""

import pytest
import torch

from gmlib.base import Density

from .models import DEVICES, MODELS, batch, build, generator, of, space

pytestmark = pytest.mark.parametrize("name", of(Density))


def test_mass_is_one(name):
    x, cell = space(name)
    with torch.no_grad():
        mass = build(name).log_prob(x).exp().sum() * cell
    assert abs(mass - 1) < MODELS[name].kinks


def test_samples_follow_the_density(name):
    model, (x, cell) = build(name), space(name)
    with torch.no_grad():
        log_p = model.log_prob(x)
        surprise = -model.log_prob(model.sample(20_000, rng=generator()))
    entropy = -(log_p.exp() * log_p).sum() * cell
    standard_error = surprise.std() / len(surprise) ** 0.5
    assert abs(surprise.mean() - entropy) < 4 * standard_error


def test_samples_have_the_mean_of_the_density(name):
    model, (x, cell) = build(name), space(name)
    draws = model.sample(20_000, rng=generator())
    with torch.no_grad():
        mean = (model.log_prob(x).exp().unsqueeze(-1) * x).sum(0) * cell
    standard_error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - mean).abs() < 4 * standard_error).all()


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_log_prob_is_one_finite_number_a_row(name, dtype, device):
    x, _ = batch(name, 7, dtype, device)
    log_p = build(name, dtype, device).log_prob(x)
    assert log_p.shape == (7,)
    assert log_p.dtype == dtype
    assert log_p.device == x.device
    assert log_p.isfinite().all()
    exact = build(name).log_prob(batch(name, 7)[0])
    torch.testing.assert_close(log_p.cpu().double(), exact, rtol=1e-4, atol=1e-4)


def test_rows_are_independent(name):
    model, (x, _) = build(name), batch(name, 7)
    torch.testing.assert_close(model.log_prob(x)[2:3], model.log_prob(x[2:3]))


def test_loss_is_the_mean_of_minus_log_prob(name):
    model, (x, _) = build(name), batch(name, 7)
    torch.testing.assert_close(model.loss(x), -model.log_prob(x).mean())
