"""Data sets: scikit-learn's handwritten digits, and toys in two dimensions that are drawn afresh."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from gmlib.base import require_count
from gmlib.nn import bernoulli, categorical, normal, uniform

_LIKE = torch.empty(0)  # the toys are float32, on the CPU


class Split(NamedTuple):
    """Rows x (N, D) with one label y (N,) each."""

    x: Float[Tensor, "N D"]
    y: Shaped[Tensor, " N"]


class Dataset(NamedTuple):
    """Three disjoint sets of rows: to fit, to choose by, and to report on."""

    train: Split
    validation: Split
    test: Split


def digits(*, binary: bool = False) -> Dataset:
    """Handwritten digits, 8 x 8 pixels: 1,000 rows to train, 350 to validate, 447 to test, always the same.

    Pixels are the grey levels 0, 1, ..., 16, or with `binary` whether they are 8 or more, as 0 and 1.

    Source: Alpaydin and Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, https://archive.ics.uci.edu/dataset/80; its test set, as bundled with scikit-learn.
    """
    from sklearn.datasets import load_digits

    bunch = load_digits()
    x, y = torch.tensor(bunch.data, dtype=torch.float32), torch.tensor(bunch.target, dtype=torch.int64)
    x = (x >= 8).float() if binary else x
    return Dataset(*(Split(x[a:b], y[a:b]) for a, b in [(0, 1000), (1000, 1350), (1350, 1797)]))


def binarize(x: Float[Tensor, "N D"], rng: torch.Generator | None) -> Float[Tensor, "N D"]:
    """Draws 0 or 1 with mean x: a binary image anew from each grey one.

    Raises:
        ValueError: if an element of x is not in [0, 1].
    """
    return bernoulli(x, rng)


def two_moons(n: int, *, rng: torch.Generator | None, noise: float = 0.1) -> Float[Tensor, "n 2"]:
    """Two half circles of radius 1 that interlock, with Gaussian noise. Scikit-learn's `make_moons`."""
    from sklearn.datasets import make_moons

    require_count(n, "two_moons")
    return _float32(make_moons(n, noise=noise, random_state=_seed(rng))[0])


def rings(n: int, *, rng: torch.Generator | None, noise: float = 0.05) -> Float[Tensor, "n 2"]:
    """Circles of radius 1/2 and 1 about the origin, with Gaussian noise. Scikit-learn's `make_circles`."""
    from sklearn.datasets import make_circles

    require_count(n, "rings")
    return _float32(make_circles(n, factor=0.5, noise=noise, random_state=_seed(rng))[0])


def ring_of_gaussians(
    n: int, *, rng: torch.Generator | None, modes: int = 8, radius: float = 2.0, sigma: float = 0.2
) -> Float[Tensor, "n 2"]:
    r"""Gaussians with equal weights, their means evenly spaced on a circle.

    .. math:: p(x) = \frac1K \sum_{k=0}^{K-1} \mathcal N(x; r (\cos a_k, \sin a_k), \sigma^2 I),
        \quad a_k = 2 \pi k / K

    Raises:
        ValueError: if n or modes is below 1.
    """
    require_count(n, "ring_of_gaussians")
    if modes < 1:
        raise ValueError(f"ring_of_gaussians needs modes >= 1, got {modes}.")
    angle = 2 * math.pi * _pick(n, modes, rng) / modes
    return _polar(angle, radius) + sigma * normal((n, 2), rng, _LIKE)


def checkerboard(n: int, *, rng: torch.Generator | None) -> Float[Tensor, "n 2"]:
    """Uniform on the dark squares of a 4 x 4 checkerboard that covers [-2, 2] x [-2, 2]."""
    require_count(n, "checkerboard")
    column, pair = _pick(n, 4, rng), _pick(n, 2, rng)
    corner = torch.stack([column, 2 * pair + column % 2], -1)  # (n, 2)
    return corner - 2 + uniform((n, 2), rng, _LIKE)


def spirals(n: int, *, rng: torch.Generator | None, noise: float = 0.05) -> Float[Tensor, "n 2"]:
    """Two spiral arms of one and a half turns, evenly filled along their length, with Gaussian noise."""
    require_count(n, "spirals")
    turn = 3 * math.pi * uniform((n,), rng, _LIKE).sqrt()
    arm = math.pi * _pick(n, 2, rng)
    return _polar(turn + arm, 2 * turn / (3 * math.pi)) + noise * normal((n, 2), rng, _LIKE)


def pinwheel(n: int, *, rng: torch.Generator | None, blades: int = 5) -> Float[Tensor, "n 2"]:
    """Gaussian blobs, long along a radius, that are bent the more the farther out they lie.

    Source: Johnson et al. (2016), Composing graphical models with neural networks for structured
    representations and fast inference, https://arxiv.org/abs/1603.06277.
    Departs from it: wound by 1 radian for each unit of radius.

    Raises:
        ValueError: if n or blades is below 1.
    """
    require_count(n, "pinwheel")
    if blades < 1:
        raise ValueError(f"pinwheel needs blades >= 1, got {blades}.")
    along, across = (torch.tensor([0.3, 0.1]) * normal((n, 2), rng, _LIKE)).T
    angle = 2 * math.pi * _pick(n, blades, rng) / blades + torch.atan2(across, 1 + along)
    radius = torch.hypot(1 + along, across)
    return _polar(angle + radius, radius)


def _pick(n: int, choices: int, rng: torch.Generator | None) -> Float[Tensor, " n"]:
    """Uniform choices among 0, 1, ..., as floats to calculate with."""
    return categorical(torch.zeros(n, choices), rng).float()


def _polar(angle: Float[Tensor, " n"], radius: float | Float[Tensor, " n"]) -> Float[Tensor, "n 2"]:
    return torch.stack([radius * angle.cos(), radius * angle.sin()], -1)


def _seed(rng: torch.Generator | None) -> int:
    """A seed for numpy's generators, drawn from torch's."""
    return int(2**31 * uniform((), rng, torch.empty((), dtype=torch.float64)))


def _float32(x) -> Float[Tensor, "n 2"]:
    return torch.tensor(x, dtype=torch.float32)
