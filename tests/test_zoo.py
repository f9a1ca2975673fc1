"""The models of the scoreboard: their units, and what they are made of."""

import math

import pytest
import torch
from torch import nn
from torch.distributions import Normal

from gmlib import data, scoreboard, zoo
from gmlib.autoregressive import tree_order
from gmlib.diffusion import Diffusion, Schedule
from gmlib.zoo import MODELS, DequantizedDiffusion

GREY = data.digits()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


BITS = torch.bernoulli(torch.full((40, 6), 0.5), generator=generator())


class Exact(nn.Module):
    """The best guess of x_0 in x_t where x_0 is N(0, s^2)."""

    def __init__(self, schedule, s):
        super().__init__()
        self.schedule, self.s, self.inputs, self.outputs = schedule, s, 1, 1

    def forward(self, x, time, label):
        alpha, sigma = self.schedule.levels(time * self.schedule.T)
        return alpha * self.s**2 / (alpha**2 * self.s**2 + sigma**2) * x


def gaussian_diffusion(s=0.5, T=800):
    """A diffusion model of N(0, s^2), exact but for its steps, which are short."""
    alpha_bar = torch.linspace(9, -9, T).double().sigmoid()
    schedule = Schedule(1 - alpha_bar / torch.cat([torch.ones(1).double(), alpha_bar[:-1]]))
    return Diffusion(Exact(schedule, s), schedule, predicts="data")


@pytest.mark.parametrize("levels", [16, 64])
def test_nats_of_a_diffusion_model_are_those_of_the_mass_of_a_cell(levels):
    s, x = 0.5, torch.arange(0, levels, levels // 8).double()[:, None]
    edges = torch.cat([x, x + 1], 1) * 2 / levels - 1
    mass = Normal(0.0, s).cdf(edges).diff(dim=1)[:, 0].log()
    model = DequantizedDiffusion(gaussian_diffusion(s), levels)
    draws = model.elbo(x.repeat(2_000, 1), rng=generator()).reshape(-1, len(x))
    error = draws.std(0) / len(draws) ** 0.5
    gap = mass - draws.mean(0)
    assert (error < 0.02).all()
    assert (gap > -4 * error).all(), "a bound"
    assert (gap < 0.07 + 4 * error).all(), "and a tight one: the cells are small, and so are the steps"


def test_a_diffusion_models_loss_and_draws_are_on_its_own_scale():
    inner = gaussian_diffusion(T=5)
    model, x = DequantizedDiffusion(inner, 4), torch.tensor([[0.0], [3.0]]).double()
    rng = generator(1)
    points = 2 / 4 * (x + torch.rand((2, 1), generator=rng, dtype=torch.float64)) - 1
    torch.testing.assert_close(model.loss(x, rng=generator(1)), inner.loss(points, rng=rng))
    draws, points = model.sample(50, rng=generator()), inner.sample(50, rng=generator())
    assert torch.equal(draws, ((points + 1) * 2).floor())


def test_bad_input_of_a_diffusion_model():
    model = DequantizedDiffusion(gaussian_diffusion(T=5), 4)
    for x, message in [
        (torch.full((2, 1), 4.0), "whole numbers from 0 to 3"),
        (torch.full((2, 1), 0.5), "whole numbers from 0 to 3"),
        (torch.zeros(2, 3), r"shape \(N, 1\)"),
    ]:
        with pytest.raises(ValueError, match=f"DequantizedDiffusion needs .*{message}"):
            model.elbo(x.double())
        with pytest.raises(ValueError, match=f"DequantizedDiffusion needs .*{message}"):
            model.loss(x.double())
    with pytest.raises(ValueError, match="DequantizedDiffusion needs levels >= 2, got 1"):
        DequantizedDiffusion(gaussian_diffusion(T=5), 1)


def test_points_fill_the_cells():
    x = torch.arange(17.0).repeat(4_000, 1)
    y = zoo.to_points(x, 17, generator())
    low = x * 2 / 17 - 1
    assert (y >= low - 1e-6).all()
    assert (y <= low + 2 / 17 + 1e-6).all()
    assert ((y - low).mean(0) - 1 / 17).abs().max() < 0.005


@pytest.mark.parametrize("levels", [2, 17])
def test_the_independent_model_is_its_frequencies(levels):
    dataset = data.digits(binary=levels == 2)
    entry, x = zoo.independent(levels), dataset.train.x
    model = entry.make(x, 0, generator())
    before = entry.step(model, x)
    assert before == pytest.approx(64 * math.log(levels), rel=1e-5)
    counts = torch.stack([(x == level).sum(0) for level in range(levels)]).double() + 1
    p = (counts / counts.sum(0)).log()  # (levels, D)
    row = dataset.test.x[0].long()
    found = model.log_prob(dataset.test.x[:1]).item()
    assert found == pytest.approx(p[row, torch.arange(64)].sum().item(), rel=1e-5)


def test_a_step_of_the_grey_mixture_lowers_its_loss_in_nats():
    entry, x = MODELS["Grey mixture"], GREY.train.x
    model = entry.make(x, 0, generator())
    losses = [entry.step(model, x) for _ in range(5)]
    assert losses == sorted(losses, reverse=True)
    nats, error = scoreboard.nats(model, x, zoo.BOUND)
    assert entry.step(model, x) == pytest.approx(nats, abs=4 * error + 1)


@pytest.mark.parametrize("name", scoreboard.fitting("digits-grey"))
def test_a_grey_model_draws_whole_numbers_and_scores_them(name):
    entry = MODELS[name]
    model = entry.make(GREY.train.x, 0, generator()).eval()
    drawn = model.sample(3, rng=generator())
    assert drawn.shape == (3, 64)
    assert torch.equal(drawn, drawn.round())
    for score in entry.scores.values():
        assert scoreboard.surprises(model, GREY.test.x[:3], score).isfinite().all()


def test_pixel_cnn_sees_the_whole_image():
    for side in (8, 28):
        x = torch.zeros(1, side**2)
        model = zoo.pixel_cnn(MODELS["PixelCNN"].recipe, 2, 2).make(x, 0, generator())
        assert 2 * len(model.layers) >= side - 1


def test_the_halves_of_the_flow_are_a_checkerboard():
    flow = zoo.grey_flow(GREY.train.x, 0, generator()).flow
    first = set(flow.transforms[0].order[:32].tolist())
    for pixel in range(64):
        row, column = divmod(pixel, 8)
        assert (pixel in first) == ((row + column) % 2 == 0)


def test_wide_mades_have_orders_of_their_own_and_leave_out_units_in_training_alone():
    x = BITS
    first, second = (MODELS["Wide MADE"].make(x, k, generator(k)) for k in (0, 1))
    assert list(first.order) != list(second.order)
    assert first.train().loss(x) != first.loss(x)
    assert first.eval().loss(x) == first.loss(x)
    torch.manual_seed(0)
    without = zoo.made(x, 0, generator(), hidden=4_000)
    torch.manual_seed(0)
    dropping = MODELS["Wide MADE"].make(x, 0, generator())
    torch.testing.assert_close(dropping.eval().log_prob(x), without.log_prob(x))


def test_every_other_made_with_trees_is_in_the_order_of_one():
    trees = [tree_order(BITS, root) for root in range(6)]
    make = MODELS["MADE with trees"].make
    assert [list(make(BITS, k, generator(k)).order) in trees for k in range(4)] == [True, False, True, False]
