"""Networks compute what they say, and noise follows its law from its own generator."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional as F

from gmlib.nn import (
    MLP,
    CausalConv2d,
    MaskedLinear,
    TimeMLP,
    bernoulli,
    categorical,
    made_masks,
    normal,
    uniform,
)

LIKE = torch.empty((), dtype=torch.float64)
DRAWS = 40_000


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def assert_mean(draws, exact):
    standard_error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - exact).abs() < 4 * standard_error).all()


def test_mlp_computes_its_formula():
    network = MLP(3, (5, 4), 2, activation=nn.Tanh).double()
    x = torch.randn(7, 3, generator=generator(), dtype=torch.float64)
    (w1, b1, w2, b2, w3, b3) = network.parameters()
    h = torch.tanh(torch.tanh(x @ w1.T + b1) @ w2.T + b2)
    torch.testing.assert_close(network(x), h @ w3.T + b3)


@given(st.integers(1, 5), st.lists(st.integers(1, 5), max_size=3), st.integers(1, 5))
def test_mlp_has_the_widths_it_is_given(inputs, hidden, outputs):
    network = MLP(inputs, tuple(hidden), outputs)
    linear = [layer for layer in network if isinstance(layer, nn.Linear)]
    assert [layer.out_features for layer in linear] == [*hidden, outputs]
    assert (network.inputs, network.outputs) == (inputs, outputs)
    assert isinstance(network[-1], nn.Linear)
    assert sum(isinstance(layer, nn.SiLU) for layer in network) == len(hidden)
    assert network(torch.zeros(2, 3, inputs)).shape == (2, 3, outputs)


def test_mlp_without_hidden_layers_is_linear():
    network = MLP(3, (), 3)
    x = torch.randn(2, 3, generator=generator())
    torch.testing.assert_close(network(3 * x) - network(0 * x), 3 * (network(x) - network(0 * x)))


@pytest.mark.parametrize("classes", [0, 3])
def test_time_mlp_reads_point_time_and_label(classes):
    network = TimeMLP(2, (5,), classes).double()
    assert (network.inputs, network.outputs) == (2 + classes, 2)
    x = torch.randn(4, 2, generator=generator(), dtype=torch.float64)
    time = torch.tensor([0.0, 0.25, 0.7, 1.0], dtype=torch.float64)
    label = F.one_hot(torch.arange(4) % max(classes, 1), max(classes, 1))[:, :classes].double()
    for row, t, c, y in zip(x, time.tolist(), label, network(x, time, label), strict=True):
        angles = [100 ** (k / 15) * t for k in range(16)]
        waves = [f(a) for f in (math.sin, math.cos) for a in angles]
        inputs = torch.cat([row, torch.tensor(waves, dtype=torch.float64), c])
        torch.testing.assert_close(y, network.network(inputs), rtol=1e-5, atol=1e-5)


def test_mlp_drops_hidden_units_only_and_only_while_training():
    network = MLP(2, (50, 50), 1, dropout=0.25)
    kinds = [nn.Linear, nn.SiLU, nn.Dropout, nn.Linear, nn.SiLU, nn.Dropout, nn.Linear]
    assert [type(layer) for layer in network] == kinds
    assert {layer.p for layer in network if isinstance(layer, nn.Dropout)} == {0.25}
    x = torch.ones(1, 2)
    assert not torch.equal(network(x), network(x))
    network.eval()
    assert torch.equal(network(x), network(x))


def test_normal_is_standard():
    eps = normal((DRAWS, 2), generator(), LIKE)
    assert_mean(eps, 0.0)
    assert_mean(eps.square(), 1.0)
    assert_mean(eps.prod(-1), 0.0)


def test_uniform_is_on_the_unit_interval():
    u = uniform((DRAWS,), generator(), LIKE)
    assert u.min() >= 0
    assert u.max() < 1
    assert_mean(u, 1 / 2)
    assert_mean(u.square(), 1 / 3)


def test_bernoulli_has_its_probabilities():
    p = torch.tensor([0.1, 0.5, 0.9], dtype=torch.float64)
    draws = bernoulli(p.expand(DRAWS, 3), generator())
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert_mean(draws, p)


def test_bernoulli_is_sure_of_0_and_1():
    p = torch.tensor([0.0, 1.0]).expand(DRAWS, 2)
    assert torch.equal(bernoulli(p, generator()), p)


def test_categorical_has_its_probabilities():
    p = torch.tensor([[0.1, 0.2, 0.7], [0.5, 0.5, 0.0]], dtype=torch.float64)
    k = categorical((p.log() + 3).expand(DRAWS, 2, 3), generator())
    assert k.shape == (DRAWS, 2)
    assert k.dtype == torch.int64
    for value in range(3):
        share, exact = (k == value).double(), p[:, value]
        certain = exact == 0
        assert not share[:, certain].any()
        assert_mean(share[:, ~certain], exact[~certain])


NOISE = {
    "normal": lambda rng, like: normal((50,), rng, like),
    "uniform": lambda rng, like: uniform((50,), rng, like),
    "bernoulli": lambda rng, like: bernoulli(like.expand(50) * 0 + 0.5, rng),
    "categorical": lambda rng, like: categorical(like.expand(50, 4) * 0, rng),
}


@pytest.mark.parametrize("draw", NOISE.values(), ids=NOISE)
class TestNoise:
    like = torch.zeros((), dtype=torch.float64)

    def test_a_seed_decides_it(self, draw):
        assert torch.equal(draw(generator(3), self.like), draw(generator(3), self.like))
        assert not torch.equal(draw(generator(3), self.like), draw(generator(4), self.like))

    def test_a_generator_goes_on(self, draw):
        rng = generator()
        assert not torch.equal(draw(rng, self.like), draw(rng, self.like))

    def test_a_generator_is_the_only_source(self, draw):
        before = torch.get_rng_state()
        draw(generator(), self.like)
        assert torch.equal(torch.get_rng_state(), before)

    def test_without_one_it_is_torchs_own(self, draw):
        state = torch.get_rng_state()
        torch.manual_seed(5)
        drawn = draw(None, self.like)
        torch.set_rng_state(state)
        assert torch.equal(drawn, draw(generator(5), self.like))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype(self, draw, dtype):
        assert draw(generator(), self.like.to(dtype)).dtype in (dtype, torch.int64)

    @pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
    def test_the_device_changes_nothing(self, draw):
        here, there = draw(generator(), self.like), draw(generator(), self.like.cuda())
        assert there.is_cuda
        assert torch.equal(here, there.cpu())
        rng = torch.Generator("cuda").manual_seed(0)
        assert draw(rng, self.like).device.type == "cpu"


def test_masked_linear_leaves_out_connections():
    torch.manual_seed(0)
    mask = torch.tensor([[1.0, 0, 1], [0, 0, 0]])
    layer, x = MaskedLinear(3, 2, mask), torch.randn(5, 3, generator=generator())
    with torch.no_grad():
        layer.bias.copy_(torch.tensor([2.0, 3]))
    w = layer.weight
    torch.testing.assert_close(
        layer(x), torch.stack([w[0, 0] * x[:, 0] + w[0, 2] * x[:, 2] + 2, 0 * x[:, 0] + 3], -1)
    )
    layer(x).sum().backward()
    assert (layer.weight.grad[mask == 0] == 0).all()
    assert MaskedLinear(3, 2, mask, bias=False).bias is None
    mask[0, 0] = 0
    assert layer.mask[0, 0] == 1, "a copy"


TRIANGLE = torch.ones(10, 9).tril()
MASKS = {
    "triangle": TRIANGLE,
    "its other half": TRIANGLE.T.flip(0).T,
    "a triangle above": TRIANGLE.T.flip(0, 1),
    "nothing in a block": torch.ones(8, 4).tril(-3),
    "no order": (torch.rand(9, 7, generator=generator()) < 0.5).float(),
    "nothing": torch.zeros(5, 3),
    "fewer outputs than blocks": torch.eye(2),
}


@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_masked_linear_by_blocks_is_the_whole_product(mask):
    outputs, inputs = mask.shape
    x = torch.randn(2, 5, inputs, generator=generator(), requires_grad=True)
    layer = MaskedLinear(inputs, outputs, 1 - mask)
    other = MaskedLinear(inputs, outputs, mask)
    layer.load_state_dict(other.state_dict())  # brings the mask with it
    with torch.no_grad():
        layer.bias.normal_(generator=generator())
    y, whole = layer(x), F.linear(x, layer.weight * mask, layer.bias)
    torch.testing.assert_close(y, whole)
    of = (x, layer.weight, layer.bias)
    ours, theirs = (torch.autograd.grad(z.square().sum(), of) for z in (y, whole))
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference)


def test_masked_linear_skips_what_a_triangle_leaves_out():
    layer = MaskedLinear(784, 500, torch.ones(500, 784).tril(200))
    work = sum(n * (r.stop - r.start) for n, r in zip(layer.blocks, layer.ranges, strict=True))
    assert work == 125 * (325 + 450 + 575 + 700)
    assert layer.ranges[0] == slice(0, 325)
    apart = MaskedLinear(8, 8, torch.eye(8))
    assert apart.ranges == [slice(0, 2), slice(2, 4), slice(4, 6), slice(6, 8)]
    everywhere = MaskedLinear(784, 500, torch.ones(500, 784).tril(700))
    assert (everywhere.blocks, everywhere.ranges) == ([500], [slice(0, 784)]), "nothing to save"


def test_masked_linear_starts_by_the_connections_that_there_are():
    torch.manual_seed(0)
    mask = (torch.arange(4000) < torch.tensor([[0], [16], [4000]])).float()
    layer = MaskedLinear(4000, 3, mask)
    for row, bound in zip(layer.weight, [1, 1 / 4, 1 / 4000**0.5], strict=True):
        assert 0.99 * bound < row.max() <= bound
        assert -bound <= row.min() < -0.99 * bound
        assert abs(row.mean()) < 4 * bound / (3 * 4000) ** 0.5
    assert (layer.bias == 0).all()


def test_made_masks_spread_evenly():
    order = [2, 0, 1, 3]  # so that the places are 2, 3, 1, 4
    first, second, last, direct = made_masks(order, (3, 6))
    assert first.tolist() == [[0, 0, 1, 0], [1, 0, 1, 0], [1, 1, 1, 0]]
    assert second.tolist() == [[1, 0, 0]] * 2 + [[1, 1, 0]] * 2 + [[1, 1, 1]] * 2
    assert last.tolist() == [[1, 1, 0, 0, 0, 0], [1, 1, 1, 1, 0, 0], [0] * 6, [1] * 6]
    assert direct.tolist() == [[0, 0, 1, 0], [1, 0, 1, 0], [0, 0, 0, 0], [1, 1, 1, 0]]
    assert [mask.tolist() for mask in made_masks([0], (2,))] == [[[1], [1]], [[0, 0]], [[0]]]
    assert [tuple(mask.shape) for mask in made_masks(order, ())] == [(4, 4), (4, 4)]


def test_made_masks_drawn():
    first, _, _, _ = made_masks(range(6), (10_000, 10), generator())
    counts = first.sum(1).long().bincount(minlength=7)
    assert (counts[[0, 6]] == 0).all()
    assert (abs(counts[1:6] - 2000) < 4 * (10_000 * 0.2 * 0.8) ** 0.5).all()
    for seed in range(30):
        below, above, _, _ = made_masks(range(6), (2, 100), generator(seed))
        assert (above.sum(1) > 0).all(), "each unit has one below that serves it"
        seen = {int((unit > 0).sum()) for unit in above @ below}
        assert seen == {int(row.sum()) for row in below}
    same = zip(
        made_masks(range(6), (5, 4), generator(1)), made_masks(range(6), (5, 4), generator(1)), strict=True
    )
    assert all(torch.equal(a, b) for a, b in same)


@pytest.mark.parametrize("reach", [0, 1, 3])
@pytest.mark.parametrize("rows", [True, False])
def test_causal_convolution_sees_what_it_says(rows, reach):
    torch.manual_seed(0)
    x = torch.randn(1, 2, 7, 9, requires_grad=True)
    y = CausalConv2d(2, 3, reach, rows=rows)(x)
    assert y.shape == (1, 3, 7, 9)
    i, j = 4, 5
    seen = torch.autograd.grad(y[0, :, i, j].square().sum(), x)[0][0].abs().sum(0) > 0
    exact = torch.zeros(7, 9, dtype=torch.bool)
    if rows:
        exact[i - reach : i + 1, j - reach : j + reach + 1] = True
    else:
        exact[i, j - reach : j + 1] = True
    assert torch.equal(seen, exact)
