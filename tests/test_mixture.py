"""Mixtures against torch.distributions, and EM against scikit-learn and against what it must never do."""

import math
from contextlib import nullcontext, suppress
from itertools import pairwise

import numpy as np
import pytest
import torch
from sklearn.mixture import GaussianMixture as TheirMixture
from torch.distributions import (
    Bernoulli,
    Categorical,
    Independent,
    MixtureSameFamily,
    MultivariateNormal,
)

from gmlib.mixture import COVARIANCES, BernoulliMixture, GaussianMixture, em_step
from gmlib.train import fit

THEIRS = {"full": "full", "diagonal": "diag", "spherical": "spherical", "tied": "tied"}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


each_covariance = pytest.mark.parametrize("covariance", COVARIANCES)


def randomised(model):
    model, rng = model.double(), generator(5)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=rng, dtype=torch.float64))
    return model


def blobs(n=300, dim=3, seed=0):
    """Three clusters of unlike shapes."""
    rng = generator(seed)
    z = torch.randint(3, (n,), generator=rng)
    mu = 3 * torch.randn(3, dim, generator=rng, dtype=torch.float64)
    root = torch.randn(3, dim, dim, generator=rng, dtype=torch.float64)
    noise = torch.randn(n, dim, generator=rng, dtype=torch.float64)
    return mu[z] + torch.einsum("nij,nj->ni", root[z], noise)


def shares(n, components, seed=0):
    """Random responsibilities."""
    scores = 2 * torch.randn(n, components, generator=generator(seed), dtype=torch.float64)
    return scores.softmax(-1)


def library(model):
    weights = Categorical(logits=model.logits)
    if isinstance(model, BernoulliMixture):
        return MixtureSameFamily(weights, Independent(Bernoulli(logits=model.eta), 1))
    return MixtureSameFamily(weights, MultivariateNormal(model.mu, model.Sigma))


@each_covariance
@pytest.mark.parametrize(("dim", "components"), [(1, 1), (1, 3), (3, 1), (5, 4)])
def test_a_gaussian_mixture_is_the_librarys(covariance, dim, components):
    model, x = randomised(GaussianMixture(dim, components, covariance)), blobs(50, dim)
    torch.testing.assert_close(model.log_prob(x), library(model).log_prob(x))
    parts = library(model).component_distribution.log_prob(x[:, None])
    posterior = (parts + model.log_pi).softmax(-1)
    torch.testing.assert_close(model.responsibilities(x), posterior)
    torch.testing.assert_close(model.log_joint(x), parts + model.log_pi)


@each_covariance
def test_covariances_have_the_form_that_they_are_named_after(covariance):
    sigma = randomised(GaussianMixture(3, 4, covariance)).Sigma.detach()
    assert sigma.shape == (4, 3, 3)
    assert (torch.linalg.eigvalsh(sigma) > 0).all()
    off = sigma - sigma.diagonal(dim1=-2, dim2=-1).diag_embed()
    assert bool(off.any()) == (covariance in ("full", "tied"))
    diagonal = sigma.diagonal(dim1=-2, dim2=-1)
    assert torch.allclose(diagonal, diagonal[:, :1]) == (covariance == "spherical")
    assert torch.allclose(sigma, sigma[:1]) == (covariance == "tied")


@pytest.mark.parametrize(
    ("covariance", "free"),
    [
        ("full", 3 + 4 * 5 + 4 * 15),
        ("diagonal", 3 + 20 + 20),
        ("spherical", 3 + 20 + 4),
        ("tied", 3 + 20 + 15),
    ],
)
def test_parameters_are_the_free_ones_and_one(covariance, free):
    """Of K logits, K - 1 count."""
    model = GaussianMixture(5, 4, covariance)
    assert sum(parameter.numel() for parameter in model.parameters()) == free + 1


def test_a_bernoulli_mixture_is_the_librarys():
    model = randomised(BernoulliMixture(6, 4))
    x = torch.randint(2, (40, 6), generator=generator()).double()
    torch.testing.assert_close(model.log_prob(x), library(model).log_prob(x))
    parts = library(model).component_distribution.log_prob(x[:, None])
    torch.testing.assert_close(model.responsibilities(x), (parts + model.log_pi).softmax(-1))


def test_one_bernoulli_component_is_independent_coins():
    x = torch.randint(2, (40, 6), generator=generator()).double()
    model = BernoulliMixture(6, 1).double()
    em_step(model, x, 0.0)
    torch.testing.assert_close(model.eta.sigmoid()[0].detach(), x.mean(0))
    exact = Independent(Bernoulli(x.mean(0)), 1).log_prob(x)
    torch.testing.assert_close(model.log_prob(x), exact)


@each_covariance
def test_draws_have_the_covariances(covariance):
    model = randomised(GaussianMixture(3, 1, covariance))
    x = model.sample(200_000, rng=generator())
    sigma = model.Sigma[0].detach()
    error = torch.linalg.matrix_norm(torch.cov(x.T) - sigma) / torch.linalg.matrix_norm(sigma)
    assert error < 0.02


def test_draws_visit_components_by_their_weights():
    model = GaussianMixture(1, 3, "spherical").double()
    with torch.no_grad():
        model.mu.copy_(torch.tensor([[0.0], [100.0], [200.0]]))
        model.logits.copy_(torch.tensor([0.5, 0.3, 0.2]).log() + 7)
    counts = (model.sample(100_000, rng=generator()) / 100).round().long().flatten().bincount()
    torch.testing.assert_close(counts / 1e5, torch.tensor([0.5, 0.3, 0.2]), atol=0.006, rtol=0)


@each_covariance
@pytest.mark.parametrize("floor", [0.0, 0.1])
def test_em_is_scikit_learns(covariance, floor):
    x, r = blobs(), shares(300, 4)
    ours = GaussianMixture(3, 4, covariance).double()
    ours.maximize(x, r, floor)
    theirs = TheirMixture(4, covariance_type=THEIRS[covariance], reg_covar=floor)
    theirs._initialize(x.numpy(), r.numpy())
    for _ in range(20):
        mean_log_p = em_step(ours, x, floor)
        their_mean, log_r = theirs._e_step(x.numpy())
        theirs._m_step(x.numpy(), log_r)
        assert mean_log_p == pytest.approx(their_mean, abs=1e-8)
    found = theirs.covariances_
    sigma = {
        "full": lambda: found,
        "diagonal": lambda: np.stack([np.diag(row) for row in found]),
        "spherical": lambda: found[:, None, None] * np.eye(3),
        "tied": lambda: np.stack([found] * 4),
    }[covariance]()
    for mine, other in [
        (ours.log_pi.exp(), theirs.weights_),
        (ours.mu, theirs.means_),
        (ours.Sigma, sigma),
        (ours.log_prob(x), theirs.score_samples(x.numpy())),
        (ours.responsibilities(x), theirs.predict_proba(x.numpy())),
    ]:
        torch.testing.assert_close(mine.detach(), torch.tensor(other), atol=1e-8, rtol=1e-8)


@pytest.mark.parametrize("seed", range(20))
def test_em_never_lowers_the_likelihood(seed):
    for covariance in COVARIANCES:
        x = blobs(200, 2, seed)
        model = GaussianMixture(2, 3, covariance).double()
        model.maximize(x, shares(200, 3, seed), 0.0)
        path = [em_step(model, x, 0.0) for _ in range(30)]
        assert all(after >= before - 1e-12 for before, after in pairwise(path))
        assert path[-1] > path[0]
    x = (blobs(200, 6, seed) > 0).double()
    coins = BernoulliMixture(6, 3).double()
    coins.maximize(x, shares(200, 3, seed), 1e-3)
    path = [em_step(coins, x, 1e-9) for _ in range(30)]
    assert all(after >= before - 1e-12 for before, after in pairwise(path))


@each_covariance
def test_an_m_step_leaves_no_gradient(covariance):
    """At responsibilities that are held, the mean of log p(x, z) over them is stationary."""
    x, r = blobs(), shares(300, 4, 3)
    model = GaussianMixture(3, 4, covariance).double()
    model.maximize(x, r, 0.0)
    (r * model.log_joint(x)).sum(-1).mean().backward()
    for parameter in model.parameters():
        assert parameter.grad.abs().max() < 1e-12


def test_an_m_step_of_coins_leaves_no_gradient():
    x, r = (blobs() > 0).double(), shares(300, 4, 3)
    model = BernoulliMixture(3, 4).double()
    model.maximize(x, r, 0.0)
    (r * model.log_joint(x)).sum(-1).mean().backward()
    for parameter in model.parameters():
        assert parameter.grad.abs().max() < 1e-12


def test_a_floor_is_a_pseudo_count_of_coins():
    x, r = (blobs() > 0).double(), shares(300, 4, 3)
    model = BernoulliMixture(3, 4).double()
    model.maximize(x, r, 0.7)
    with_two_more = ((r.T @ x) + 0.7) / (r.sum(0)[:, None] + 1.4)
    torch.testing.assert_close(model.eta.sigmoid().detach(), with_two_more)
    weights = (r.sum(0) + 0.7) / (300 + 4 * 0.7)
    torch.testing.assert_close(model.log_pi.exp().detach(), weights)


@pytest.mark.parametrize("make", [lambda: GaussianMixture(3, 2), lambda: BernoulliMixture(3, 2)])
def test_em_returns_the_likelihood_before_the_step(make):
    model, x = randomised(make()), blobs()
    x = (x > 0).double() if isinstance(model, BernoulliMixture) else x
    before = library(model).log_prob(x).mean().item()
    assert em_step(model, x) == pytest.approx(before)
    assert all(parameter.requires_grad and parameter.grad_fn is None for parameter in model.parameters())


def test_gradient_steps_come_to_where_em_stays():
    """In one cluster the optimum is known; steps of any length keep the covariance valid."""
    x = blobs(300, 2)
    torch.manual_seed(0)
    model = GaussianMixture(2, 1).double()
    fit(model, x, steps=800, batch_size=300, lr=0.1, rng=generator(), schedule=lambda done: 1 - done)
    torch.testing.assert_close(model.mu[0].detach(), x.mean(0), atol=0.02, rtol=0)
    torch.testing.assert_close(model.Sigma[0].detach(), torch.cov(x.T, correction=0), rtol=0.02, atol=0)


@each_covariance
@pytest.mark.parametrize(
    ("x", "components"),
    [
        (torch.tensor([[1.0, 2.0]]), 1),  # one point
        (torch.tensor([[1.0, 2.0], [3.0, 0.0]]), 5),  # more components than points
        (torch.ones(20, 2), 2),  # the same point again and again
        (torch.arange(20.0)[:, None].repeat(1, 2), 2),  # on a line
        (1e-6 * torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), 2),
        (1e6 + torch.randn(30, 2, generator=torch.Generator().manual_seed(0)), 2),
    ],
)
@pytest.mark.parametrize("floor", [0.0, 1e-6])
def test_hard_data_give_numbers_or_a_word_of_advice(covariance, x, components, floor):
    x = x.double()
    model = GaussianMixture(2, components, covariance).double()
    advice = pytest.raises(ValueError, match="take a larger floor")
    with nullcontext() if floor else advice if (x == x[0]).all() else suppress(ValueError):
        model.maximize(x, shares(len(x), components), floor)
        for _ in range(10):
            em_step(model, x, floor)
    assert all(parameter.isfinite().all() for parameter in model.parameters())
    assert math.isfinite(model.loss(x).item())


def test_a_narrow_component_beside_wide_ones_is_exact():
    model = GaussianMixture(1, 2, "diagonal").double()
    x = torch.tensor([[0.5], [0.5 + 1e-6], [0.5 - 2e-6], [3.0]]).double()
    with torch.no_grad():
        model.mu.copy_(torch.tensor([[0.0], [0.5]]))
        model.log_diagonal.copy_(torch.tensor([[0.0], [math.log(1e6)]]))
    torch.testing.assert_close(model.log_prob(x), library(model).log_prob(x), rtol=1e-9, atol=0)


@pytest.mark.parametrize("covariance", ["diagonal", "spherical"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tight_clusters_far_apart_keep_their_variances(covariance, dtype):
    noise = torch.randn(40, 2, generator=generator(), dtype=torch.float64)
    noise *= 1e-2 if dtype == torch.float32 else 1e-7
    z = torch.arange(40) % 2
    x = (noise + 8 * z[:, None]).to(dtype)
    model = GaussianMixture(2, 2, covariance).to(dtype)
    model.maximize(x, torch.eye(2, dtype=dtype)[z], 0.0)
    exact = torch.stack([x[z == k].double().var(0, correction=0) for k in (0, 1)])
    exact = exact if covariance == "diagonal" else exact.mean(-1, keepdim=True).expand(-1, 2)
    found = model.Sigma.detach().diagonal(dim1=1, dim2=2).double()
    torch.testing.assert_close(found, exact, rtol=2e-3 if dtype == torch.float32 else 1e-6, atol=0)


def test_a_step_that_fails_changes_nothing():
    x = torch.ones(5, 2).double()
    model = randomised(GaussianMixture(2, 2))
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with pytest.raises(ValueError, match="take a larger floor"):
        em_step(model, x, 0.0)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


@pytest.mark.parametrize("covariance", COVARIANCES)
def test_far_data_lose_no_digits(covariance):
    """A shift of everything by 1e6 shifts the means, and changes nothing else."""
    near, far = (GaussianMixture(2, 3, covariance).double() for _ in range(2))
    x, r = blobs(100, 2), shares(100, 3)
    near.maximize(x, r)
    far.maximize(x + 1e6, r)
    for _ in range(5):
        assert em_step(far, x + 1e6) == pytest.approx(em_step(near, x), abs=1e-6)
    torch.testing.assert_close(far.Sigma, near.Sigma, rtol=1e-5, atol=1e-7)
