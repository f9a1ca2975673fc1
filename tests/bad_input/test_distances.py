"""What the divergences refuse, and that they say what was needed and what came."""

import math

import pytest
import torch

from gmlib.divergences import (
    energy_distance,
    frechet,
    js,
    kl,
    mmd,
    total_variation,
    wasserstein,
    wasserstein_1d,
)

EVEN = torch.tensor([0.5, 0.5])
LINE = torch.tensor([0.0, 1.0, 2.0])
CLOUD = torch.zeros(3, 2)
COST = torch.ones(2, 2)


@pytest.mark.parametrize("name", ["kl", "js", "total_variation", "wasserstein"])
@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (torch.tensor([1.5, -0.5]), ">= 0, got -0.5"),
        (torch.tensor([math.nan, 1]), ">= 0, got nan"),
        (torch.tensor([0.5, 0.6]), "to sum to 1, got 1.1"),
        (torch.tensor([0.5, 0.4999]), "to sum to 1, got 0.9999"),
        (torch.tensor([math.inf, 0]), "to sum to 1, got inf"),
        (EVEN.log(), ">= 0, got -0.69"),
        (torch.tensor([1, 0]), r"as a tensor of floats \(..., K\), got torch.int64 \(2,\)"),
        (torch.ones(()), r"as a tensor of floats \(..., K\), got torch.float32 \(\)"),
        ([0.5, 0.5], "as a tensor of floats .* got list"),
        (torch.ones(0), "to sum to 1, got 0"),
    ],
)
def test_what_are_no_probabilities(name, bad, message):
    call = {"kl": kl, "js": js, "total_variation": total_variation, "wasserstein": _transport}[name]
    for which, pair in (("p", (bad, EVEN)), ("q", (EVEN, bad))):
        with pytest.raises(ValueError, match=f"{name} needs {which} {message}"):
            call(*pair)


def _transport(p, q):
    return wasserstein(p, q, COST)


def test_the_worst_row_is_named():
    p = torch.tensor([[0.5, 0.5], [0.5, 0.7], [0.5, 0.6]])
    with pytest.raises(ValueError, match=r"kl needs q to sum to 1, got 1\.2"):
        kl(EVEN.expand(3, 2), p)


@pytest.mark.parametrize("divergence", [kl, js, total_variation])
@pytest.mark.parametrize("q", [torch.ones(1), EVEN.expand(3, 2), torch.full((4,), 0.25)])
def test_other_states(divergence, q):
    with pytest.raises(ValueError, match=f"{divergence.__name__} needs p and q of one shape, got"):
        divergence(EVEN, q)


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (LINE[:0], r"of floats \(N,\) with N >= 1, got torch.float32 \(0,\)"),
        (LINE[:, None], r"of floats \(N,\) with N >= 1, got torch.float32 \(3, 1\)"),
        (LINE.long(), "got torch.int64"),
        (LINE * math.nan, "NaN or infinity"),
        (LINE / 0, "NaN or infinity"),
    ],
)
def test_samples_on_the_line(bad, message):
    for which, pair in (("x", (bad, LINE)), ("y", (LINE, bad))):
        with pytest.raises(ValueError, match=rf"wasserstein_1d needs (finite )?{which}.*{message}"):
            wasserstein_1d(*pair)


@pytest.mark.parametrize("order", [0, 0.5, -1, math.inf, math.nan])
def test_orders(order):
    with pytest.raises(ValueError, match=f"wasserstein_1d needs a finite order >= 1, got {order}"):
        wasserstein_1d(LINE, LINE, order)


@pytest.mark.parametrize(
    ("cost", "message"),
    [
        (torch.ones(2, 3), r"a cost of floats \(N, M\), got \(2,\), \(2,\) and torch.float32 \(2, 3\)"),
        (torch.ones(2), r"and torch.float32 \(2,\)"),
        (COST.long(), "and torch.int64"),
        (COST * math.nan, "a finite cost, got NaN or infinity"),
        (COST * math.inf, "a finite cost, got NaN or infinity"),
    ],
)
def test_costs(cost, message):
    with pytest.raises(ValueError, match=f"wasserstein needs .*{message}"):
        wasserstein(EVEN, EVEN, cost)


def test_transport_of_a_batch():
    with pytest.raises(ValueError, match=r"wasserstein needs p \(N,\), q \(M,\)"):
        wasserstein(EVEN.expand(1, 2), EVEN, torch.ones(1, 2, 2))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (CLOUD[:1], CLOUD, "2 points or more in each sample, got 1 and 3"),
        (CLOUD, CLOUD[:1], "2 points or more in each sample, got 3 and 1"),
        (CLOUD, CLOUD[:, :1], r"shape \(N, 2\) with N >= 1, got \(3, 1\)"),
        (CLOUD[0], CLOUD, r"shape \(N, D\) with N >= 1, got \(2,\)"),
        (CLOUD * math.nan, CLOUD, "finite x"),
        (CLOUD, CLOUD.long(), "floats, got torch.int64"),
        (CLOUD, CLOUD.tolist(), "floats, got list"),
        (CLOUD / 0, CLOUD, "finite x"),
    ],
)
def test_samples_in_space(x, y, message):
    with pytest.raises(ValueError, match=f"mmd needs .*{message}"):
        mmd(x, y, 1.0)
    for distance in (energy_distance, frechet):
        with pytest.raises(ValueError, match=f"^{distance.__name__} needs .*{message}"):
            distance(x, y)


@pytest.mark.parametrize("bandwidth", [0, -1.0, math.inf, math.nan])
def test_bandwidths(bandwidth):
    with pytest.raises(ValueError, match=f"mmd needs a finite bandwidth > 0, got {bandwidth}"):
        mmd(CLOUD, CLOUD, bandwidth)
