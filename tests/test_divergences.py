"""Gaussian divergences against torch.distributions, and their limits."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal, kl_divergence

from gmlib.divergences import gaussian_kl, gaussian_kl_to_standard


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
