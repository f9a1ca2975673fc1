"""How far one distribution lies from another.

`kl`, `js` and `total_variation` compare probabilities of the same K states, `wasserstein` probabilities of
states with a cost between them; `wasserstein_1d`, `mmd`, `energy_distance` and `frechet` compare samples; the
rest is for Gaussians.
"""

import math
from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from gmlib.base import require_points


def kl(p: Float[Tensor, "*batch K"], q: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    r"""Kullback-Leibler divergence of probabilities p from probabilities q, in nats.

    .. math:: \mathrm{KL}(p \,\|\, q) = \sum_{k : p_k > 0} p_k (\log p_k - \log q_k)

    Infinite where q_k = 0 < p_k for some k. A state with p_k = 0 adds nothing, and no gradient. Rows are
    not renormalised: a sum that is off by 1e-5 leaves an error of that size, and between equals rounding
    can make the result slightly negative.

    Args:
        p, q: probabilities, not their logarithms, along the last axis; of one shape.

    Raises:
        ValueError: if a row holds a negative number or NaN, or does not sum to 1 within 1e-5, or the
            shapes differ.

    Source: Kullback and Leibler (1951), On Information and Sufficiency, equation 2.3.
    """
    _require_same_states("kl", p, q)
    return _mean_log_ratio(p, p, q)


def js(p: Float[Tensor, "*batch K"], q: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    r"""Jensen-Shannon divergence of two rows of probabilities, in nats: from 0 to log 2, and symmetric.

    .. math:: \mathrm{JS}(p, q) = \tfrac12 \sum_k p_k \log \frac{2 p_k}{p_k + q_k}
        + \tfrac12 \sum_k q_k \log \frac{2 q_k}{p_k + q_k}

    States without probability and rounding are treated as in `kl`.

    Raises:
        ValueError: as `kl`.

    Source: Lin (1991), Divergence Measures Based on the Shannon Entropy, section 4.
    """
    _require_same_states("js", p, q)
    return 0.5 * (_mean_log_ratio(p, 2 * p, p + q) + _mean_log_ratio(q, 2 * q, p + q))


def total_variation(p: Float[Tensor, "*batch K"], q: Float[Tensor, "*batch K"]) -> Float[Tensor, "*batch"]:
    r"""Total variation distance of two rows of probabilities, from 0 to 1.

    .. math:: \mathrm{TV}(p, q) = \tfrac12 \sum_k |p_k - q_k|

    Raises:
        ValueError: as `kl`.
    """
    _require_same_states("total_variation", p, q)
    return 0.5 * (p - q).abs().sum(-1)


def wasserstein_1d(
    x: Float[Tensor, " N"], y: Float[Tensor, " M"], order: float | int = 1
) -> Float[Tensor, ""]:
    r"""Wasserstein distance of two samples on the line, each value of a sample with equal weight.

    .. math:: W_r = \left( \int_0^1 |F_x^{-1}(u) - F_y^{-1}(u)|^r \, du \right)^{1/r}

    The quantile functions F^{-1} are steps, so the integral is a sum: over pairs of sorted values where
    the sizes are equal. In the unit of x. Gradients reach x and y, and are 0 where the distance is.

    Args:
        order: r >= 1; 1 for the mean distance moved, 2 for its root mean square.

    Raises:
        ValueError: if a sample is not one-dimensional, empty or not finite, or order is below 1.
    """
    for name, sample in (("x", x), ("y", y)):
        if not sample.is_floating_point() or sample.ndim != 1 or len(sample) == 0:
            raise ValueError(
                f"wasserstein_1d needs {name} of floats (N,) with N >= 1, "
                f"got {sample.dtype} {tuple(sample.shape)}."
            )
        if not sample.isfinite().all():
            raise ValueError(f"wasserstein_1d needs finite {name}, got NaN or infinity.")
    if not 1 <= order < math.inf:
        raise ValueError(f"wasserstein_1d needs a finite order >= 1, got {order}.")
    n, m = len(x), len(y)
    steps = torch.cat([m * torch.arange(1, n + 1), n * torch.arange(1, m + 1)]).sort().values
    width = steps.diff(prepend=steps.new_zeros(1)).to(x) / (n * m)  # of [0, 1], in steps of 1 / nm
    moved = x.sort().values[(steps - 1) // m] - y.sort().values[(steps - 1) // n]
    return torch.linalg.vector_norm(width ** (1 / order) * moved, ord=order)


def wasserstein(
    p: Float[Tensor, " N"], q: Float[Tensor, " M"], cost: Float[Tensor, "N M"]
) -> Float[Tensor, ""]:
    r"""Least mean cost of moving probabilities p to probabilities q: optimal transport, solved exactly.

    .. math:: \min_{\pi \ge 0} \sum_{ij} \pi_{ij} c_{ij}
        \quad \text{with} \quad \sum_j \pi_{ij} = p_i, \quad \sum_i \pi_{ij} = q_j

    A linear programme of N M variables, for SciPy's HiGHS. No root is taken: with c a distance to the
    power r the result is W_r to the power r. The gradient with respect to the cost is the plan \pi;
    none reaches p and q.

    Raises:
        ValueError: if p or q are not probabilities as for `kl`, or the cost is not a finite (N, M).
    """
    for name, weights in (("p", p), ("q", q)):
        _require_probabilities("wasserstein", name, weights)
    if cost.shape != (*p.shape, *q.shape) or cost.ndim != 2 or not cost.is_floating_point():
        raise ValueError(
            f"wasserstein needs p (N,), q (M,) and a cost of floats (N, M), got "
            f"{tuple(p.shape)}, {tuple(q.shape)} and {cost.dtype} {tuple(cost.shape)}."
        )
    if not cost.isfinite().all():
        raise ValueError("wasserstein needs a finite cost, got NaN or infinity.")
    from scipy import sparse
    from scipy.optimize import linprog

    p, q = (weights.detach().cpu().double().numpy() for weights in (p, q))
    rows, columns = np.flatnonzero(p), np.flatnonzero(q)  # nothing moves from or to the other states
    n, m = len(rows), len(columns)
    leaves = sparse.kron(sparse.eye_array(n), np.ones((1, m)))
    arrives = sparse.kron(np.ones((1, n)), sparse.eye_array(m))
    moves = cost.detach().cpu().double().numpy()[np.ix_(rows, columns)].ravel()
    moves = moves - moves.min()  # which is paid under every plan
    unit, mass = moves.max() / 1e3 or 1.0, 1e6  # the solver's tolerance of 1e-7 is absolute
    result = linprog(
        moves / unit,
        A_eq=sparse.vstack([leaves, arrives], format="csc"),
        b_eq=mass * np.concatenate([p[rows] / p.sum(), q[columns] / q.sum()]),
        method="highs-ds",
    )
    if result.status != 0:
        raise RuntimeError(f"wasserstein found no plan: {result.message}")
    plan = np.zeros(cost.shape)
    plan[np.ix_(rows, columns)] = result.x.reshape(n, m) / mass
    return (torch.from_numpy(plan).to(cost) * cost).sum()


def gaussian_kernel(square: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""The Gaussian kernel of a squared distance in bandwidths, less 1, which `mmd` does not see.

    .. math:: k - 1 = e^{-s/2} - 1
    """
    return (-0.5 * square).expm1()  # which keeps the digits of what is left at a large bandwidth


def inverse_multiquadratic(square: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    r"""The inverse multiquadratic kernel of a squared distance in bandwidths, less 1; its tails are heavy.

    .. math:: k - 1 = \frac{1}{1 + s} - 1 = -\frac{s}{1 + s}
    """
    return -square / (1 + square)


def mmd(
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M D"],
    bandwidth: float | int,
    kernel: Callable[[Tensor], Tensor] = gaussian_kernel,
) -> Float[Tensor, ""]:
    r"""Unbiased estimate of the squared maximum mean discrepancy of two samples.

    .. math:: \frac{\sum_{i \ne j} k(x_i, x_j)}{N (N - 1)} + \frac{\sum_{i \ne j} k(y_i, y_j)}{M (M - 1)}
        - \frac{2 \sum_{ij} k(x_i, y_j)}{N M}, \quad k(x, y) = e^{-|x - y|^2 / 2 b^2}

    or with another kernel. The U-statistic: pairs of a point with itself are left out. Its mean is the
    squared discrepancy, so where that is small the estimate can be negative, and no root is taken.

    Args:
        bandwidth: b > 0, in the unit of x.
        kernel: k - 1 as a function of s = |x - y|^2 / b^2: `gaussian_kernel`, `inverse_multiquadratic` or
            a sum of such.

    Raises:
        ValueError: if a sample is not a finite (N, D) with N >= 2, the widths D differ, or b is not
            positive.

    Source: Gretton et al. (2012), A Kernel Two-Sample Test, lemma 6.
    """
    _require_samples("mmd", x, y)
    if not 0 < bandwidth < math.inf:
        raise ValueError(f"mmd needs a finite bandwidth > 0, got {bandwidth}.")
    x, y = x / bandwidth, y / bandwidth
    return (
        _mean_kernel(x, x, kernel, others=True)
        + _mean_kernel(y, y, kernel, others=True)
        - 2 * _mean_kernel(x, y, kernel, others=False)
    )


def energy_distance(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, ""]:
    r"""Unbiased estimate of the energy distance of two samples, in the unit of x.

    .. math:: \frac{2 \sum_{ij} |x_i - y_j|}{N M} - \frac{\sum_{i \ne j} |x_i - x_j|}{N (N - 1)}
        - \frac{\sum_{i \ne j} |y_i - y_j|}{M (M - 1)}

    The U-statistic: pairs of a point with itself are left out. Its mean is 0 between equal distributions
    alone, so there the estimate can be negative. Some call this the squared distance; no root is taken.

    Raises:
        ValueError: if a sample is not a finite (N, D) with N >= 2, or the widths D differ.

    Source: Szekely and Rizzo (2013), Energy Statistics: A Class of Statistics Based on Distances.
    """
    _require_samples("energy_distance", x, y)
    return (2 * _distances(x, y).mean() - _mean_within(x) - _mean_within(y)).to(x)


@torch.no_grad()
def frechet(x: Float[Tensor, "N D"], y: Float[Tensor, "M D"]) -> Float[Tensor, ""]:
    r"""Squared Wasserstein distance W_2 of the Gaussians fitted to two samples, in the squared unit of x.

    .. math:: |\mu_x - \mu_y|^2 + |R_x|^2 + |R_y|^2 - 2 \|R_x R_y^\top\|_*, \quad
        R_x^\top R_x = \Sigma_x, \quad R_y^\top R_y = \Sigma_y

    The covariances have divisor N - 1, and may lack rank. Their roots R come from a QR decomposition of the
    samples; the last term, a sum of singular values, is the trace of 2 (\Sigma_x \Sigma_y)^{1/2}, without
    the root of a matrix that is not symmetric. There is no gradient. On features of the Inception
    network this is the FID. Its bias depends on the sizes of the samples: compare at one size. Between
    equals rounding can make it slightly negative.

    Raises:
        ValueError: if a sample is not a finite (N, D) with N >= 2, or the widths D differ.

    Source: Dowson and Landau (1982), The Frechet Distance between Multivariate Normal Distributions;
    Heusel et al. (2017), GANs Trained by a Two Time-Scale Update Rule, equation 6.
    """
    _require_samples("frechet", x, y)
    root_x, root_y = _root_covariance(x), _root_covariance(y)
    shift = x.double().mean(0) - y.double().mean(0)
    overlap = torch.linalg.matrix_norm(root_x @ root_y.T, "nuc")
    return (shift.square().sum() + root_x.square().sum() + root_y.square().sum() - 2 * overlap).to(x)


def gaussian_kl(
    mu_q: Float[Tensor, "*batch M"],
    cov_q: Float[Tensor, "*batch M M"],
    mu_p: Float[Tensor, "*#batch M"],
    cov_p: Float[Tensor, "*#batch M M"],
) -> Float[Tensor, "*batch"]:
    r"""KL divergence of two M-dimensional Gaussians, in nats.

    .. math:: \tfrac12 \left( \operatorname{tr} \Sigma_p^{-1} \Sigma_q
        + (\mu_p - \mu_q)^\top \Sigma_p^{-1} (\mu_p - \mu_q) - M
        + \log \det \Sigma_p - \log \det \Sigma_q \right)

    Both covariances enter through their Cholesky factors, so that no inverse is formed.

    Raises:
        ValueError: if a covariance is not symmetric and positive definite.
    """
    lower_q, lower_p = _cholesky(cov_q, "cov_q"), _cholesky(cov_p, "cov_p")
    whitened_q = torch.linalg.solve_triangular(lower_p, lower_q, upper=False)
    shift = torch.linalg.solve_triangular(lower_p, (mu_p - mu_q).unsqueeze(-1), upper=False)
    return (
        0.5 * (whitened_q.square().sum((-2, -1)) + shift.square().sum((-2, -1)) - mu_q.shape[-1])
        + _half_log_det(lower_p)
        - _half_log_det(lower_q)
    )


def gaussian_kl_to_standard(
    mu: Float[Tensor, "*batch M"], sigma: Float[Tensor, "*batch M"]
) -> Float[Tensor, "*batch"]:
    r"""KL divergence of a diagonal Gaussian from the standard normal, in nats.

    .. math:: \mathrm{KL}(\mathcal N(\mu, \operatorname{diag} \sigma^2) \,\|\, \mathcal N(0, I))
        = \sum_m \tfrac12 (\mu_m^2 + \sigma_m^2 - 1) - \log \sigma_m

    Raises:
        ValueError: if an entry of sigma is negative.

    Source: Kingma and Welling (2014), Auto-Encoding Variational Bayes, appendix B.
    """
    if (sigma < 0).any():
        raise ValueError(f"gaussian_kl_to_standard needs sigma >= 0, got {sigma.min().item():g}.")
    return (0.5 * (mu.square() + sigma.square() - 1) - sigma.log()).sum(-1)


def _cholesky(cov: Tensor, name: str) -> Tensor:
    lower, info = torch.linalg.cholesky_ex(cov)
    if info.any() or not torch.allclose(cov, cov.mT):
        raise ValueError(f"gaussian_kl needs {name} symmetric and positive definite, got {cov}.")
    return lower


def _half_log_det(lower: Tensor) -> Tensor:
    return lower.diagonal(dim1=-2, dim2=-1).log().sum(-1)


def _mean_log_ratio(p: Tensor, over: Tensor, under: Tensor) -> Tensor:
    """Mean under p of log(over / under), with nothing from where p is 0."""
    live = p > 0
    log_ratio = torch.where(live, over, 1).log() - torch.where(live, under, 1).log()
    return (p * log_ratio).sum(-1)


def _mean_kernel(x: Tensor, y: Tensor, kernel: Callable[[Tensor], Tensor], *, others: bool) -> Tensor:
    """Mean of the kernel, less 1, over pairs; with others, only over those of different index.

    The ones cancel in `mmd`. Without them a point paired with itself adds nothing.
    """
    # by differences, not by inner products, which lose digits far from the origin
    distance = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    pairs = len(x) * (len(x) - 1) if others else len(x) * len(y)
    return kernel(distance.square()).sum() / pairs


def _distances(x: Tensor, y: Tensor) -> Tensor:
    """|x_i - y_j| by inner products: quick, and in float64 from one mean exact enough for means."""
    x, y, center = x.double(), y.double(), x.double().mean(0)
    return torch.cdist(x - center, y - center, compute_mode="use_mm_for_euclid_dist")


def _mean_within(x: Tensor) -> Tensor:
    distance = _distances(x, x)
    return (distance.sum() - distance.trace()) / (len(x) * (len(x) - 1))


def _root_covariance(x: Tensor) -> Tensor:
    """R of min(N, D) rows, where R^T R is the covariance."""
    x = x.double()
    return torch.linalg.qr(x - x.mean(0), mode="r").R / (len(x) - 1) ** 0.5


def _require_samples(name: str, x: Tensor, y: Tensor) -> None:
    require_points(x, None, name)
    require_points(y, x.shape[1], name)
    if min(len(x), len(y)) < 2:
        raise ValueError(f"{name} needs 2 points or more in each sample, got {len(x)} and {len(y)}.")


def _require_same_states(name: str, p: Tensor, q: Tensor) -> None:
    _require_probabilities(name, "p", p)
    _require_probabilities(name, "q", q)
    if p.shape != q.shape:
        raise ValueError(f"{name} needs p and q of one shape, got {tuple(p.shape)} and {tuple(q.shape)}.")


def _require_probabilities(name: str, which: str, p: Tensor) -> None:
    if not isinstance(p, Tensor) or not p.is_floating_point() or p.ndim == 0:
        got = f"{p.dtype} {tuple(p.shape)}" if isinstance(p, Tensor) else type(p).__name__
        raise ValueError(f"{name} needs {which} as a tensor of floats (..., K), got {got}.")
    if not (p >= 0).all():
        raise ValueError(f"{name} needs {which} >= 0, got {p[~(p >= 0)][0].item():g}.")
    total = p.sum(-1)
    off = (total - 1).abs()
    if not (off <= 1e-5).all():
        raise ValueError(f"{name} needs {which} to sum to 1, got {total.flatten()[off.argmax()].item():g}.")
