"""How far one distribution lies from another."""

import torch
from jaxtyping import Float
from torch import Tensor


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
