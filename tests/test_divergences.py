"""Divergences against torch.distributions, SciPy, enumeration and closed forms, and at their limits."""

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats
from scipy.linalg import sqrtm
from scipy.optimize import linear_sum_assignment, linprog
from scipy.spatial.distance import jensenshannon
from scipy.stats import wasserstein_distance
from torch.distributions import Categorical, MultivariateNormal, kl_divergence

from gmlib.divergences import (
    energy_distance,
    frechet,
    gaussian_kernel,
    gaussian_kl,
    gaussian_kl_to_standard,
    inverse_multiquadratic,
    js,
    kl,
    mmd,
    total_variation,
    wasserstein,
    wasserstein_1d,
)


def gaussian(seed: int, dim: int, batch: int = 5):
    """A batch of means and covariances."""
    rng = torch.Generator().manual_seed(seed)
    root = torch.randn(batch, dim, dim, generator=rng, dtype=torch.float64)
    mu = torch.randn(batch, dim, generator=rng, dtype=torch.float64)
    return mu, root @ root.mT + 0.1 * torch.eye(dim, dtype=torch.float64)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_gaussian_kl_is_torchs(seed, dim):
    (mu_q, cov_q), (mu_p, cov_p) = gaussian(seed, dim), gaussian(seed + 1, dim)
    reference = kl_divergence(MultivariateNormal(mu_q, cov_q), MultivariateNormal(mu_p, cov_p))
    torch.testing.assert_close(gaussian_kl(mu_q, cov_q, mu_p, cov_p), reference)


@given(st.integers(0, 10_000), st.integers(1, 6))
def test_the_diagonal_case_is_the_general_one(seed, dim):
    mu, cov = gaussian(seed, dim)
    sigma = cov.diagonal(dim1=-2, dim2=-1).sqrt()
    eye = torch.eye(dim, dtype=torch.float64).expand(5, dim, dim)
    general = gaussian_kl(mu, torch.diag_embed(sigma**2), torch.zeros_like(mu), eye)
    torch.testing.assert_close(gaussian_kl_to_standard(mu, sigma), general)


def test_it_is_zero_only_between_equals():
    mu, cov = gaussian(0, 3)
    torch.testing.assert_close(gaussian_kl(mu, cov, mu, cov), torch.zeros(5, dtype=torch.float64))
    assert (gaussian_kl(mu, cov, mu + 0.01, cov) > 0).all()


def test_a_collapsed_code_is_infinitely_far():
    zero = torch.zeros(1, 2)
    assert gaussian_kl_to_standard(zero, zero).item() == float("inf")


def test_nan_passes_so_that_training_can_name_the_step():
    assert gaussian_kl_to_standard(torch.full((1, 2), torch.nan), torch.ones(1, 2)).isnan()


def test_gradients_reach_both_arguments():
    mu = torch.randn(
        3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0), requires_grad=True
    )
    sigma = torch.rand(3, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 0.5
    assert torch.autograd.gradcheck(gaussian_kl_to_standard, (mu, sigma.requires_grad_()))


def test_negative_sigma_is_refused():
    with pytest.raises(ValueError, match=r"sigma >= 0, got -1"):
        gaussian_kl_to_standard(torch.zeros(1, 2), torch.tensor([[1.0, -1.0]]))


@pytest.mark.parametrize("bad", [-torch.eye(2), torch.tensor([[1.0, 0.5], [0.0, 1.0]]), torch.zeros(2, 2)])
def test_what_is_no_covariance_is_refused(bad):
    mu, eye = torch.zeros(2), torch.eye(2)
    with pytest.raises(ValueError, match="cov_q symmetric and positive definite"):
        gaussian_kl(mu, bad, mu, eye)
    with pytest.raises(ValueError, match="cov_p symmetric and positive definite"):
        gaussian_kl(mu, eye, mu, bad)


def rows(seed: int, states: int, batch: int = 5):
    """Two batches of probabilities."""
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(2, batch, states, generator=rng, dtype=torch.float64).softmax(-1)


def vector(*values: float):
    return torch.tensor(values, dtype=torch.float64)


@given(st.integers(0, 10_000), st.integers(1, 9))
def test_divergences_of_probabilities_are_the_libraries(seed, states):
    p, q = rows(seed, states)
    torch.testing.assert_close(kl(p, q), kl_divergence(Categorical(p), Categorical(q)))
    torch.testing.assert_close(js(p, q), torch.tensor(jensenshannon(p, q, axis=-1) ** 2).nan_to_num(0))
    events = torch.tensor(list(itertools.product([0.0, 1.0], repeat=states)), dtype=torch.float64)
    torch.testing.assert_close(total_variation(p, q), ((p - q) @ events.T).amax(-1))


def test_states_without_probability():
    p, q = vector(0.5, 0.5, 0), vector(0.25, 0, 0.75)
    assert kl(p, q).item() == kl(q, p).item() == math.inf
    assert kl(vector(0.5, 0.5, 0), vector(0.25, 0.5, 0.25)).item() == 0.5 * math.log(2)
    assert total_variation(p, q).item() == 0.75
    expected = 0.25 * math.log(4 / 3) + 0.25 * math.log(2) + 0.125 * math.log(2 / 3) + 0.375 * math.log(2)
    torch.testing.assert_close(js(p, q).item(), expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_divergences_at_their_ends(dtype):
    sure, other, only = torch.tensor([[1, 0], [0, 1], [1, 1]], dtype=dtype).split(1)
    one = only[:, :1]
    for divergence, most in ((kl, math.inf), (js, math.log(2)), (total_variation, 1.0)):
        assert divergence(sure, sure).item() == divergence(one, one).item() == 0
        torch.testing.assert_close(divergence(sure, other).item(), most, rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_smallest_probabilities(dtype):
    """Half of the smallest number is 0, and one over it is infinite: neither may show."""
    tiny = torch.nextafter(torch.zeros((), dtype=dtype), torch.ones((), dtype=dtype))
    p, q = torch.stack([tiny, 1 - tiny]), torch.tensor([0, 1], dtype=dtype)
    half = torch.full((2,), 0.5, dtype=dtype)
    assert js(p, q).item() == pytest.approx(0, abs=1e-40)
    torch.testing.assert_close(kl(half, p), -math.log(2) - 0.5 * tiny.log())


def test_gradients_of_divergences_are_numerical_ones():
    p, q = (row.requires_grad_() for row in rows(3, 4))
    for divergence in (kl, js, total_variation):
        assert torch.autograd.gradcheck(divergence, (p, q))


@pytest.mark.parametrize("divergence", [kl, js, total_variation])
def test_no_gradient_is_nan_where_a_probability_is_zero(divergence):
    p, q = vector(0.5, 0.5, 0, 0).requires_grad_(), vector(0.25, 0, 0.75, 0).requires_grad_()
    for gradient in torch.autograd.grad(divergence(p, q), (p, q)):
        assert not gradient.isnan().any()
    p, q = vector(0.5, 0.5, 0).requires_grad_(), vector(0.2, 0.3, 0.5)
    (gradient,) = torch.autograd.grad(kl(p, q), p)
    torch.testing.assert_close(gradient, (1 + (p / q).log()).detach().where(p > 0, 0))


def on_the_line(seed: int, n: int, m: int):
    rng = torch.Generator().manual_seed(seed)
    return torch.randn(n, generator=rng, dtype=torch.float64), torch.rand(
        m, generator=rng, dtype=torch.float64
    )


@settings(max_examples=20)  # three linear programmes each
@given(st.integers(0, 10_000), st.integers(1, 9), st.integers(1, 9))
def test_wasserstein_on_the_line_is_scipys_and_the_linear_programme(seed, n, m):
    x, y = on_the_line(seed, n, m)
    p, q = torch.full((n,), 1 / n, dtype=x.dtype), torch.full((m,), 1 / m, dtype=x.dtype)
    assert wasserstein_1d(x, y).item() == pytest.approx(wasserstein_distance(x, y))
    for order in (1, 2, 3):
        exact = wasserstein(p, q, (x[:, None] - y).abs() ** order)
        torch.testing.assert_close(wasserstein_1d(x, y, order) ** order, exact)


def test_wasserstein_on_the_line_has_gradients_and_none_that_is_nan():
    x, y = (sample.requires_grad_() for sample in on_the_line(0, 4, 6))
    for order in (1, 2):
        assert torch.autograd.gradcheck(lambda x, y, order=order: wasserstein_1d(x, y, order), (x, y))
        (gradient,) = torch.autograd.grad(wasserstein_1d(x, x.detach().clone(), order), x)
        assert gradient.tolist() == [0] * 4


def test_wasserstein_is_the_best_assignment_and_its_dual():
    rng = torch.Generator().manual_seed(1)
    cost = torch.rand(6, 6, generator=rng, dtype=torch.float64)
    even = torch.full((6,), 1 / 6, dtype=torch.float64)
    best = cost[linear_sum_assignment(cost.numpy())].mean()
    torch.testing.assert_close(wasserstein(even, even, cost), best)

    p, q = rows(2, 6, 1)[:, 0]
    potentials = np.concatenate([np.eye(6).repeat(6, 0), np.tile(np.eye(6), (6, 1))], 1)
    dual = linprog(-np.concatenate([p, q]), potentials, cost.flatten().numpy(), bounds=(None, None))
    torch.testing.assert_close(wasserstein(p, q, cost).item(), -dual.fun)


def test_wasserstein_leaves_out_empty_states_and_keeps_types():
    p, q = vector(0, 0.25, 0.75), vector(0.5, 0.5)
    cost = torch.tensor([[9, 9], [1, 2], [3, 5]], dtype=torch.float64, requires_grad=True)
    total = wasserstein(p, q, cost)
    assert total.item() == pytest.approx(0.25 * 2 + 0.5 * 3 + 0.25 * 5)
    (plan,) = torch.autograd.grad(total, cost)
    torch.testing.assert_close(plan, torch.tensor([[0, 0], [0, 0.25], [0.5, 0.25]], dtype=torch.float64))
    assert wasserstein(p.float(), q.float(), cost.detach().float()).dtype == torch.float32
    third = torch.full((3,), 1 / 3)  # in float32 three of them are not quite 1
    assert wasserstein(third, torch.ones(1), torch.ones(3, 1)).item() == pytest.approx(1)
    assert wasserstein(torch.ones(1), torch.ones(1), torch.zeros(1, 1)).item() == 0


def test_wasserstein_of_what_sums_to_one_only_nearly():
    p, q = vector(0.5, 0.500008).requires_grad_(), vector(0.5, 0.499992)
    cost = 1 - torch.eye(2, dtype=torch.float64)
    expected = total_variation(p / p.sum(), q / q.sum()).item()
    assert wasserstein(p, q, cost).item() == pytest.approx(expected, abs=1e-12)
    assert wasserstein(q, p, cost).item() == pytest.approx(expected, abs=1e-12)


@pytest.mark.parametrize("scale", [1e-10, 1.0, 1e10])
@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_wasserstein_at_any_scale_of_cost(scale, shift):
    rng = torch.Generator().manual_seed(3)
    p, q = torch.randn(2, 20, generator=rng, dtype=torch.float64).softmax(-1)
    place = torch.randn(20, generator=rng, dtype=torch.float64).sort().values
    ends = (
        torch.cat([p.cumsum(0), q.cumsum(0)]).sort().values.clamp(max=1)
    )  # steps of both quantile functions
    middles = ends - ends.diff(prepend=torch.zeros(1)) / 2
    x, y = (place[torch.searchsorted(weights.cumsum(0), middles).clamp(max=19)] for weights in (p, q))
    exact = (ends.diff(prepend=torch.zeros(1)) * (x - y).square()).sum()
    found = wasserstein(p, q, scale * ((place[:, None] - place).square() + shift)) / scale - shift
    torch.testing.assert_close(found, exact, rtol=1e-8, atol=0)


def test_wasserstein_of_peaked_rows_is_total_variation():
    rng = torch.Generator().manual_seed(4)
    p, q = (6 * torch.randn(2, 20, 20, generator=rng, dtype=torch.float64)).softmax(-1)
    every_move = 1 - torch.eye(20, dtype=torch.float64)
    moved = torch.stack([wasserstein(one, other, every_move) for one, other in zip(p, q, strict=True)])
    torch.testing.assert_close(moved, total_variation(p, q))


def test_wasserstein_of_the_smallest_masses():
    e = 1e-8
    p, q = torch.tensor([[1 - 3 * e, e, 2 * e], [1 - 3 * e, 2 * e, e]], dtype=torch.float64)
    moved = wasserstein(p, q, 1 - torch.eye(3, dtype=torch.float64))
    torch.testing.assert_close(moved, total_variation(p, q), rtol=1e-4, atol=0)


KERNELS = {  # ours, and by its square distance s in bandwidths
    "gaussian": (gaussian_kernel, lambda s: math.exp(-s / 2)),
    "inverse multiquadratic": (inverse_multiquadratic, lambda s: 1 / (1 + s)),
    "sum": (
        lambda s: gaussian_kernel(s) + inverse_multiquadratic(3 * s),
        lambda s: math.exp(-s / 2) + 1 / (1 + 3 * s),
    ),
}
kernels = pytest.mark.parametrize(("kernel", "exact_kernel"), KERNELS.values(), ids=KERNELS)


@kernels
def test_kernels_less_one_are_their_definition(kernel, exact_kernel):
    square = torch.tensor([0.0, 1e-3, 0.7, 5.0, 300.0], dtype=torch.float64)
    expected = torch.tensor([exact_kernel(s) - exact_kernel(0.0) for s in square.tolist()]).double()
    torch.testing.assert_close(kernel(square), expected)


def test_mmd_takes_the_gaussian_kernel_unless_told():
    x, y = torch.randn(2, 6, 2, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    assert mmd(x, y, 0.7) == mmd(x, y, 0.7, gaussian_kernel) != mmd(x, y, 0.7, inverse_multiquadratic)


@kernels
def test_mmd_keeps_its_digits_at_a_large_bandwidth(kernel, exact_kernel):
    rng = torch.Generator().manual_seed(5)
    x, y = torch.randn(2, 30, 2, generator=rng)
    y = y + 1
    exact = mmd(x.double(), y.double(), 1e4, kernel)
    torch.testing.assert_close(mmd(x, y, 1e4, kernel).double(), exact, rtol=1e-3, atol=0)


@kernels
def test_mmd_is_unbiased_by_enumeration(kernel, exact_kernel):
    """All samples of two points each from three states, weighed by their probabilities."""
    (p,), (q,) = rows(4, 3, 1)
    states = vector(-1.0, 0.2, 1.5)[:, None]
    square = (states - states.T).square() / 0.7**2
    exact = (p - q) @ square.clone().apply_(exact_kernel) @ (p - q)
    mean = sum(
        p[list(a)].prod() * q[list(b)].prod() * mmd(states[list(a)], states[list(b)], 0.7, kernel)
        for a in itertools.product(range(3), repeat=2)
        for b in itertools.product(range(3), repeat=2)
    )
    torch.testing.assert_close(mean, exact)


@kernels
def test_mmd_of_unequal_sizes_is_its_definition(kernel, exact_kernel):
    rng = torch.Generator().manual_seed(5)
    x, y = torch.randn(4, 2, generator=rng).double(), torch.randn(7, 2, generator=rng).double() + 1

    def k(a, b):
        return exact_kernel((a - b).square().sum().item() / 1.3**2)

    expected = (
        np.mean([k(a, b) for a, b in itertools.permutations(x, 2)])
        + np.mean([k(a, b) for a, b in itertools.permutations(y, 2)])
        - 2 * np.mean([k(a, b) for a, b in itertools.product(x, y)])
    )
    torch.testing.assert_close(mmd(x, y, 1.3, kernel).item(), expected)
    torch.testing.assert_close(mmd(x + 1e6, y + 1e6, 1.3, kernel).item(), expected, rtol=1e-7, atol=0)


@kernels
def test_mmd_has_gradients_and_none_that_is_nan(kernel, exact_kernel):
    rng = torch.Generator().manual_seed(6)
    x, y = torch.randn(2, 3, 2, generator=rng, dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: mmd(x, y, 0.9, kernel), (x, y))
    same = torch.zeros(3, 2, requires_grad=True)
    assert mmd(same, same.detach(), 1.0, kernel).item() == 0
    assert torch.autograd.grad(mmd(same, same.detach(), 1.0, kernel), same)[0].tolist() == [[0, 0]] * 3
    assert mmd(torch.zeros(2, 1), torch.full((2, 1), 1e6), 1.0).item() == 2.0


def samples(seed: int, n: int, m: int, dim: int):
    """Two samples of different means and covariances."""
    rng = torch.Generator().manual_seed(seed)
    x, y = (torch.randn(size, dim, generator=rng, dtype=torch.float64) for size in (n, m))
    root = torch.randn(dim, dim, generator=rng, dtype=torch.float64)
    return x, y @ root + 1


sizes = given(st.integers(0, 10_000), st.integers(2, 9), st.integers(2, 9), st.integers(1, 4))


@settings(max_examples=30)
@sizes
def test_energy_distance_is_a_loop_written_out(seed, n, m, dim):
    x, y = samples(seed, n, m, dim)
    expected = (
        2 * np.mean([math.dist(a, b) for a, b in itertools.product(x.tolist(), y.tolist())])
        - np.mean([math.dist(a, b) for a, b in itertools.permutations(x.tolist(), 2)])
        - np.mean([math.dist(a, b) for a, b in itertools.permutations(y.tolist(), 2)])
    )
    torch.testing.assert_close(energy_distance(x, y).item(), expected)
    assert energy_distance(y, x).item() == pytest.approx(expected)


def test_energy_distance_is_unbiased_by_enumeration():
    """All samples of two points each from three states; the mean is Cramer's 2 int (F - G)^2 on the line."""
    (p,), (q,) = rows(4, 3, 1)
    states = vector(-1.0, 0.2, 1.5)
    exact = 2 * (torch.cumsum(p - q, 0)[:2].square() * states.diff()).sum()
    mean = sum(
        p[list(a)].prod() * q[list(b)].prod() * energy_distance(states[list(a), None], states[list(b), None])
        for a in itertools.product(range(3), repeat=2)
        for b in itertools.product(range(3), repeat=2)
    )
    torch.testing.assert_close(mean, exact)


def test_energy_distance_without_its_correction_is_scipys():
    """Which pairs each point with itself as well, and takes a root."""
    x, y = samples(1, 7, 5, 1)
    squared = stats.energy_distance(x[:, 0], y[:, 0]) ** 2
    within = [
        np.mean([abs(a - b) for a, b in itertools.product(s.tolist(), repeat=2)]) for s in (x[:, 0], y[:, 0])
    ]
    corrected = squared - within[0] / 6 - within[1] / 4
    assert energy_distance(x, y).item() == pytest.approx(corrected)


@pytest.mark.parametrize("shift", [0.0, 1e6])
def test_energy_distance_keeps_its_digits(shift):
    """Far from the origin, and where points coincide."""
    x, y = samples(2, 8, 6, 3)
    expected = energy_distance(x, y).item()
    assert energy_distance(x + shift, y + shift).item() == pytest.approx(expected, rel=1e-8)
    twice = torch.cat([x, x])
    within = torch.cdist(x, x).mean().item()  # of all pairs, a point with itself too
    apart = 2 * within - 2 * within * 256 / 240
    assert energy_distance(twice + shift, twice + shift).item() == pytest.approx(apart, rel=1e-6)


def test_energy_distance_of_single_precision():
    x, y = (sample.float() for sample in samples(3, 40, 30, 5))
    found = energy_distance(x, y)
    assert found.dtype == torch.float32
    assert found.item() == pytest.approx(energy_distance(x.double(), y.double()).item(), rel=1e-6)


def test_energy_distance_has_gradients_and_none_that_is_nan():
    x, y = (sample.requires_grad_() for sample in samples(6, 3, 4, 2))
    assert torch.autograd.gradcheck(energy_distance, (x, y))
    same = torch.zeros(3, 2, requires_grad=True)
    assert torch.autograd.grad(energy_distance(same, same.detach()), same)[0].tolist() == [[0, 0]] * 3


@settings(max_examples=30)
@sizes
def test_frechet_is_the_formula_with_the_root_of_a_matrix(seed, n, m, dim):
    """By SciPy, of covariances of full rank: the root of Sigma_x Sigma_y itself, which is not symmetric."""
    x, y = (sample.numpy() for sample in samples(seed, n + dim, m + dim, dim))
    cov_x, cov_y = (np.atleast_2d(np.cov(sample, rowvar=False)) for sample in (x, y))
    shift = x.mean(0) - y.mean(0)
    expected = shift @ shift + np.trace(cov_x + cov_y - 2 * sqrtm(cov_x @ cov_y)).real
    found = frechet(torch.from_numpy(x), torch.from_numpy(y))
    assert found.item() == pytest.approx(expected, rel=1e-6, abs=1e-6)


@settings(max_examples=30)
@sizes
def test_frechet_is_what_it_costs_to_move_a_sample_by_a_convex_map(seed, n, m, dim):
    """x -> A x + b with A positive: no plan moves x there for less, and A moves the Gaussians too."""
    x, y = samples(seed, n, m, dim)
    moved = x @ (y.T @ y) + 0.3
    cost = torch.cdist(x, moved).square()
    even = torch.full((n,), 1 / n, dtype=torch.float64)
    least = wasserstein(even, even, cost)
    shift = (x.mean(0) - moved.mean(0)).square().sum()
    torch.testing.assert_close(frechet(x, moved), shift + (least - shift) * n / (n - 1))


def test_frechet_on_the_line_is_the_difference_of_means_and_deviations():
    x, y = samples(8, 9, 7, 1)
    expected = (x.mean() - y.mean()) ** 2 + (x.std() - y.std()) ** 2
    torch.testing.assert_close(frechet(x, y), expected)


def test_frechet_of_covariances_that_lack_rank():
    """Fewer points than dimensions; constant coordinates; points in two lines at a right angle."""
    x, y = samples(9, 4, 5, 12)
    assert frechet(x, x).item() == pytest.approx(0, abs=1e-12)
    torch.testing.assert_close(frechet(x, x + 0.5).item(), 12 * 0.25)
    turned = torch.linalg.qr(y.T @ y + torch.eye(12).double()).Q
    torch.testing.assert_close(frechet(x @ turned, y @ turned), frechet(x, y))
    one = torch.zeros(4, 12).double()
    torch.testing.assert_close(frechet(x, one), x.mean(0).square().sum() + x.var(0).sum())
    a, b = torch.zeros(2, 4, 12).double()
    a[:, 0], b[:, 1] = x[:, 0], x[:, 1]
    apart = x[:, :2].mean(0).square().sum() + x[:, :2].var(0).sum()
    torch.testing.assert_close(frechet(a, b), apart)


def test_frechet_far_from_the_origin_and_in_single_precision():
    x, y = samples(10, 50, 40, 6)
    expected = frechet(x, y).item()
    assert frechet(x + 1e6, y + 1e6).item() == pytest.approx(expected, rel=1e-8)
    found = frechet(x.float().requires_grad_(), y.float())
    assert found.dtype == torch.float32
    assert not found.requires_grad
    assert found.item() == pytest.approx(expected, rel=1e-5)
