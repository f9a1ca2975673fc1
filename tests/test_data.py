"""The digits are split as stated, and the toys have the shapes they are named after."""

import math

import pytest
import torch
from sklearn.datasets import load_digits

from gmlib import data

TOYS = [
    data.two_moons,
    data.rings,
    data.ring_of_gaussians,
    data.checkerboard,
    data.spirals,
    data.pinwheel,
]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def test_digits_are_scikit_learns_in_order():
    splits, bunch = data.digits(), load_digits()
    assert [len(split.x) for split in splits] == [1000, 350, 447]
    x, y = (torch.cat([getattr(split, name) for split in splits]) for name in "xy")
    assert torch.equal(x.double(), torch.tensor(bunch.data))
    assert torch.equal(y, torch.tensor(bunch.target))
    assert (x.dtype, y.dtype) == (torch.float32, torch.int64)
    assert (x.min(), x.max()) == (0, 16)


def test_binary_digits_are_the_dark_pixels():
    grey, binary = data.digits(), data.digits(binary=True)
    assert torch.equal(binary.test.x, (grey.test.x > 7.5).float())
    assert torch.equal(binary.test.y, grey.test.y)


def test_digits_can_be_changed_without_harm():
    data.digits().train.x.zero_()
    assert data.digits().train.x.any()


def test_binarize_draws_anew_with_the_mean_of_x():
    x = torch.linspace(0, 1, 5, dtype=torch.float64).expand(20_000, 5)
    rng = generator()
    draws = data.binarize(x, rng)
    assert set(draws.unique().tolist()) == {0.0, 1.0}
    assert ((draws - x).mean(0).abs() <= 4 * (x[0] * (1 - x[0]) / len(x)).sqrt()).all()
    assert not torch.equal(data.binarize(x, rng), draws)


@pytest.mark.parametrize("toy", TOYS)
class TestToys:
    @pytest.mark.parametrize("n", [1, 2, 101])
    def test_rows_in_the_plane(self, toy, n):
        x = toy(n, rng=generator())
        assert x.shape == (n, 2)
        assert x.dtype == torch.float32
        assert x.isfinite().all()

    def test_a_seed_decides_them(self, toy):
        assert torch.equal(toy(50, rng=generator(1)), toy(50, rng=generator(1)))
        assert not torch.equal(toy(50, rng=generator(1)), toy(50, rng=generator(2)))

    def test_a_generator_goes_on(self, toy):
        rng = generator()
        assert not torch.equal(toy(50, rng=rng), toy(50, rng=rng))

    def test_rows_are_in_no_order(self, toy):
        x = toy(4000, rng=generator())
        products = (x[1:] - x.mean(0)) * (x[:-1] - x.mean(0))
        assert (products.mean(0).abs() < 4 * products.std(0) / len(products) ** 0.5).all()


def radius_and_angle(x):
    return x.norm(dim=-1), torch.atan2(x[:, 1], x[:, 0]) % (2 * math.pi)


def test_two_moons_lie_on_two_half_circles():
    x = data.two_moons(2000, rng=generator(), noise=0.0)
    upper = (x.norm(dim=-1) - 1).abs() < 1e-5
    lower = ((x - torch.tensor([1.0, 0.5])).norm(dim=-1) - 1).abs() < 1e-5
    assert (upper | lower).all()
    assert upper.sum() == lower.sum() == 1000
    assert x[upper, 1].min() > -1e-6
    assert x[lower, 1].max() < 0.5 + 1e-6


def test_rings_have_radius_one_half_and_one():
    radius, _ = radius_and_angle(data.rings(2000, rng=generator(), noise=0.0))
    assert (
        torch.isclose(radius, torch.tensor(0.5)).sum()
        == torch.isclose(radius, torch.tensor(1.0)).sum()
        == 1000
    )


def test_noise_has_its_size():
    residual = data.rings(20_000, rng=generator(), noise=0.02).norm(dim=-1).sub(0.75).abs().sub(0.25)
    assert residual.std() == pytest.approx(
        0.02, abs=4 * 0.02 / (2 * 20_000) ** 0.5 + 0.001
    )  # 0.02^2 / 2r more


def test_ring_of_gaussians_has_its_moments():
    x = data.ring_of_gaussians(40_000, rng=generator(), modes=6, radius=3.0, sigma=0.1)
    _, angle = radius_and_angle(x)
    k = (angle / (2 * math.pi / 6)).round().long() % 6
    mean = 3 * torch.stack([(2 * math.pi * k / 6).cos(), (2 * math.pi * k / 6).sin()], -1)
    eps = (x - mean) / 0.1
    assert (eps.mean(0).abs() < 4 / len(x) ** 0.5).all()
    assert ((eps.square().mean(0) - 1).abs() < 4 * (2 / len(x)) ** 0.5).all()
    share = k.bincount(minlength=6) / len(x)
    assert ((share - 1 / 6).abs() < 4 * (5 / 36 / len(x)) ** 0.5).all()


def test_checkerboard_fills_the_dark_squares_alike():
    x = data.checkerboard(40_000, rng=generator())
    column, row = (x + 2).floor().long().T
    assert ((column + row) % 2 == 0).all()
    share = (4 * column + row).bincount(minlength=16)[::1] / len(x)
    dark = share > 0
    assert dark.sum() == 8
    assert ((share[dark] - 1 / 8).abs() < 4 * (7 / 64 / len(x)) ** 0.5).all()
    assert torch.allclose(
        (x + 2 - (x + 2).floor()).mean(0), torch.tensor(0.5), atol=4 * (1 / 12 / len(x)) ** 0.5
    )


def test_spirals_are_two_arms_that_mirror_each_other():
    x = data.spirals(20_000, rng=generator(), noise=0.0)
    radius, angle = radius_and_angle(x)
    arm = (angle - 3 * math.pi * radius / 2) % (2 * math.pi) / math.pi  # 0 or 1
    assert torch.allclose(arm.round(), arm, atol=1e-4)
    assert radius.max() < 2.0 + 1e-6
    share = (radius / 2).square()  # of the arm within the radius: its length grows like the square
    assert abs(share.mean() - 1 / 2) < 4 * (1 / 12 / len(x)) ** 0.5
    assert abs((arm.round() % 2).mean() - 0.5) < 4 * 0.5 / len(x) ** 0.5


def test_pinwheel_unwinds_to_blobs():
    radius, angle = radius_and_angle(data.pinwheel(40_000, rng=generator(), blades=3))
    unwound = angle - radius
    k = (unwound * 3 / (2 * math.pi)).round()
    offset = unwound - 2 * math.pi * k / 3
    along, across = radius * offset.cos() - 1, radius * offset.sin()
    near = radius > 0.4  # a blob's tail beyond the centre belongs to another blade
    assert abs(across[near].std() - 0.1) < 4 * 0.1 / (2 * len(radius)) ** 0.5 + 0.002
    assert abs(along.mean()) < 4 * 0.3 / len(radius) ** 0.5 + 0.002
