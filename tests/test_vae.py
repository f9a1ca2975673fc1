"""Variational autoencoders against enumeration, quadrature, torch.distributions and scikit-learn."""

import itertools
import math

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA
from torch.distributions import Bernoulli, Categorical, Independent, MultivariateNormal, Normal, kl_divergence

from gmlib.nn import MLP
from gmlib.train import fit
from gmlib.vae import (
    IWAE,
    VAE,
    BernoulliLikelihood,
    CategoricalLikelihood,
    ConditionalVAE,
    GaussianLikelihood,
    ProbabilisticPCA,
    iwae_bound,
)

STATES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=5)), dtype=torch.float64)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(model, scale: float = 0.5):
    rng = generator(7)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(scale * torch.randn(p.shape, generator=rng))
    return model.double().eval()


@pytest.fixture
def vae():
    return randomised(VAE(MLP(5, (6,), 4), MLP(2, (6,), 5), BernoulliLikelihood()))


def log_evidence(model, x, condition=None):
    """log p(x) by quadrature over two latent dimensions."""
    step = 0.1
    line = torch.arange(-8, 8, step, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    log_p_z = Normal(0, 1).log_prob(z).sum(-1) + math.log(step**2)
    with torch.no_grad():
        rows = torch.full((len(z),), condition) if condition is not None else None
        p = Independent(Bernoulli(probs=model.decode(z, rows)), 1)
        return (p.log_prob(x[:, None]) + log_p_z).logsumexp(-1)


def test_the_evidence_of_all_states_is_one(vae):
    torch.testing.assert_close(log_evidence(vae, STATES).exp().sum().item(), 1.0)


def test_elbo_is_reconstruction_minus_divergence(vae):
    mu, sigma = vae.encode(STATES)
    z = mu + sigma * torch.randn(mu.shape, generator=generator(), dtype=torch.float64)
    reconstruction = Bernoulli(probs=vae.decode(z)).log_prob(STATES).sum(-1)
    expected = reconstruction - kl_divergence(Normal(mu, sigma), Normal(0, 1)).sum(-1)
    torch.testing.assert_close(vae.elbo(STATES, rng=generator()), expected)
    torch.testing.assert_close(vae.loss(STATES, rng=generator()), -expected.mean())


def test_the_encoder_puts_out_log_variances(vae):
    mu, sigma = vae.encode(STATES)
    torch.testing.assert_close(vae.encoder(STATES), torch.cat([mu, sigma.square().log()], -1))


def test_log_evidence_is_elbo_plus_gap(vae):
    """The mean of many ELBO draws lies below log p(x) by the divergence from q to the true posterior."""
    x = STATES[3:4]
    draws = vae.elbo(x.expand(100_000, -1), rng=generator()).detach()
    mu, sigma = vae.encode(x)
    step = 0.05
    line = torch.arange(-8, 8, step, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    log_q = Normal(mu, sigma).log_prob(z).sum(-1)
    log_joint = Bernoulli(probs=vae.decode(z)).log_prob(x).sum(-1) + Normal(0, 1).log_prob(z).sum(-1)
    log_p = (log_joint.logsumexp(0) + math.log(step**2)).item()
    gap = (log_q.exp() * (log_q - log_joint + log_p)).sum().item() * step**2
    error = draws.std().item() / len(draws) ** 0.5
    assert abs(draws.mean().item() + gap - log_p) < 4 * error
    assert gap > 8 * error  # so that forgetting the gap would show


def test_weights_average_to_the_evidence(vae):
    log_p = log_evidence(vae, STATES[:8])
    estimates = torch.stack([vae.log_prob_iw(STATES[:8], 1, rng=generator(i)) for i in range(4000)]).detach()
    ratio = (estimates - log_p).exp()
    error = ratio.std(0) / len(ratio) ** 0.5
    assert (error < 0.05).all()
    assert ((ratio.mean(0) - 1).abs() < 4 * error).all()


def test_the_importance_weighted_estimate_rises_to_the_evidence(vae):
    log_p = log_evidence(vae, STATES).mean().item()
    means = [vae.log_prob_iw(STATES, k, rng=generator()).mean().item() for k in (1, 10, 1000)]
    assert means[0] < means[1] < means[2] < log_p + 0.01
    assert log_p - means[2] < 0.02


def test_draws_in_pieces_are_draws_at_once(vae):
    """Many rows leave room for one draw at a time; few rows take all four at once."""
    many, few = STATES[3:4].expand(2**19, -1), STATES[3:4].expand(2**15, -1)
    with torch.no_grad():
        pieces, whole = vae.log_prob_iw(many, 4, rng=generator()), vae.log_prob_iw(few, 4, rng=generator())
        single = vae.log_prob_iw(few, 1, rng=generator())
    error = whole.std() / len(whole) ** 0.5
    assert abs(pieces.mean() - whole.mean()) < 4 * error
    assert whole.mean() - single.mean() > 8 * error  # so that a forgotten piece would show


def test_iwae_bound_is_the_log_mean():
    log_w = torch.randn(7, 4, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(iwae_bound(log_w), log_w.exp().mean(0).log())
    torch.testing.assert_close(iwae_bound(log_w - 2000), log_w.exp().mean(0).log() - 2000)
    torch.testing.assert_close(iwae_bound(log_w[:1]), log_w[0])


def test_the_loss_of_an_iwae_is_minus_the_bound_of_its_draws():
    model = randomised(IWAE(MLP(5, (6,), 4), MLP(2, (6,), 5), BernoulliLikelihood(), k=3))
    mu, sigma = model.encode(STATES)
    z = mu + sigma * torch.randn(3, *mu.shape, generator=generator(), dtype=torch.float64)
    log_p_x = torch.stack([Bernoulli(probs=model.decode(one)).log_prob(STATES).sum(-1) for one in z])
    weights = (log_p_x + (Normal(0, 1).log_prob(z) - Normal(mu, sigma).log_prob(z)).sum(-1)).exp()
    torch.testing.assert_close(model.loss(STATES, rng=generator()), -weights.mean(0).log().mean())


def test_conditional_vae_is_one_model_a_class():
    model = randomised(ConditionalVAE(MLP(8, (6,), 4), MLP(5, (6,), 5), BernoulliLikelihood(), classes=3))
    evidences = torch.stack([log_evidence(model, STATES, condition=c) for c in range(3)])
    torch.testing.assert_close(evidences.exp().sum(-1), torch.ones(3, dtype=torch.float64))
    assert (evidences[0] - evidences[1]).abs().max() > 0.1
    for c in range(3):
        with torch.no_grad():
            estimate = model.log_prob_iw(STATES, 20_000, torch.full((32,), c), rng=generator())
        assert (estimate - evidences[c]).abs().mean() < 0.03  # one draw scatters by about 2 nats, so 0.014


def test_conditional_samples_follow_their_class():
    model = randomised(
        ConditionalVAE(MLP(8, (6,), 4), MLP(5, (6,), 5), BernoulliLikelihood(), classes=3), 1.0
    )
    for c in range(3):
        p = log_evidence(model, STATES, condition=c).exp()
        samples = model.sample(20_000, torch.full((20_000,), c), rng=generator(c))
        exact, error = p @ STATES, samples.std(0) / 20_000**0.5
        assert ((samples.mean(0) - exact).abs() < 4 * error).all()


@pytest.mark.parametrize(
    ("likelihood", "reference", "x"),
    [
        (BernoulliLikelihood(), lambda h: Bernoulli(logits=h), [[0.0, 1.0, 1.0]]),
        (GaussianLikelihood(0.3), lambda h: Normal(h, 0.3), [[0.2, -1.0, 3.0]]),
        (
            CategoricalLikelihood(4),
            lambda h: Categorical(logits=h.view(*h.shape[:-1], 3, 4)),
            [[0.0, 3.0, 1.0]],
        ),
    ],
)
def test_likelihoods_are_torchs(likelihood, reference, x):
    x = torch.tensor(x, dtype=torch.float64).expand(6, 3)
    outputs = torch.randn(2, 6, 3 * likelihood.per_coordinate, generator=generator(), dtype=torch.float64)
    likelihood.double()
    p = reference(outputs)
    torch.testing.assert_close(likelihood.log_prob(x, outputs), p.log_prob(x).sum(-1))
    if isinstance(p, Categorical):
        mean = p.probs @ torch.arange(4, dtype=torch.float64)
        variance = p.probs @ torch.arange(4, dtype=torch.float64) ** 2 - mean**2
    else:
        mean, variance = p.mean, p.variance
    torch.testing.assert_close(likelihood.mean(outputs), mean)
    many = outputs[0, :1].expand(20_000, -1)
    draws = likelihood.sample(many, generator(1))
    assert draws.dtype == torch.float64
    assert ((draws.mean(0) - mean[0, 0]).abs() < 4 * (variance[0, 0] / 20_000).sqrt()).all()
    assert ((draws.var(0) / variance[0, 0] - 1).abs() < 0.1).all()


def test_bernoulli_is_finite_at_extreme_logits():
    outputs = torch.tensor([[1e4, -1e4]])
    assert BernoulliLikelihood().log_prob(torch.tensor([[1.0, 0.0]]), outputs).item() == 0.0
    assert BernoulliLikelihood().log_prob(torch.tensor([[0.0, 0.0]]), outputs).item() == -1e4


def test_bernoulli_of_grey_is_the_mean_over_binarisations():
    grey, outputs = torch.tensor([[0.3, 0.8]]), torch.tensor([[0.5, -1.0]])
    states = torch.tensor(list(itertools.product([0.0, 1.0], repeat=2)))
    weight = Bernoulli(grey).log_prob(states).sum(-1).exp()
    mean = (weight * BernoulliLikelihood().log_prob(states, outputs)).sum()
    torch.testing.assert_close(BernoulliLikelihood().log_prob(grey, outputs), mean[None])


def test_optimal_sigma_is_the_batchs_in_training_and_the_last_ones_in_evaluation():
    likelihood = GaussianLikelihood("optimal").double()
    x, mean = torch.randn(2, 10, 3, generator=generator(), dtype=torch.float64)
    best = (x - mean).square().mean().sqrt()
    torch.testing.assert_close(likelihood.log_prob(x, mean), Normal(mean, best).log_prob(x).sum(-1))
    for sigma in (0.95 * best, 1.05 * best):
        assert likelihood.log_prob(x, mean).sum() > Normal(mean, sigma).log_prob(x).sum()
    likelihood.eval()
    torch.testing.assert_close(
        likelihood.log_prob(x[:1], mean[:1]), Normal(mean[:1], best).log_prob(x[:1]).sum(-1)
    )


def test_learned_sigma_is_trained_and_fixed_sigma_is_not():
    x = 0.1 * torch.randn(200, 3, generator=generator())
    sigmas = {}
    for kind in ("learned", 1.0):
        torch.manual_seed(0)
        model = VAE(MLP(3, (), 4), MLP(2, (), 3), GaussianLikelihood(kind))
        fit(model, x, steps=300, batch_size=100, lr=0.02, rng=generator())
        sigmas[kind] = model.likelihood.log_sigma.exp().item()
    assert sigmas[1.0] == 1.0
    assert sigmas["learned"] < 0.3


def ppca(dim: int = 6, latent: int = 2) -> ProbabilisticPCA:
    return randomised(ProbabilisticPCA(dim, latent))


def test_ppca_is_a_gaussian():
    model = ppca()
    x = model.sample(20, rng=generator())
    covariance = model.W @ model.W.T + (2 * model.log_sigma).exp() * torch.eye(6, dtype=torch.float64)
    torch.testing.assert_close(model.log_prob(x), MultivariateNormal(model.mu, covariance).log_prob(x))


def test_ppca_posterior_is_bayes_rule():
    """log p(z | x) + log p(x) = log p(x | z) + log p(z), at any x and z."""
    model = ppca()
    x = model.sample(20, rng=generator())
    z = torch.randn(20, 2, generator=generator(1), dtype=torch.float64)
    mean, covariance = model.posterior(x)
    sigma = model.log_sigma.exp()
    joint = Normal(z @ model.W.T + model.mu, sigma).log_prob(x).sum(-1) + Normal(0, 1).log_prob(z).sum(-1)
    torch.testing.assert_close(MultivariateNormal(mean, covariance).log_prob(z) + model.log_prob(x), joint)


def test_ppca_maximum_likelihood_is_scikit_learns():
    x = ppca().sample(500, rng=generator())
    model = ProbabilisticPCA.maximum_likelihood(x, 2)
    reference = PCA(2, svd_solver="full").fit(x.numpy())
    # scikit-learn divides by N - 1, maximum likelihood by N
    torch.testing.assert_close(
        (2 * model.log_sigma).exp().item(), reference.noise_variance_ * 499 / 500, rtol=1e-8, atol=0
    )
    overlap = np.linalg.svd(reference.components_ @ torch.linalg.qr(model.W.detach())[0].numpy())[1]
    np.testing.assert_allclose(overlap, 1, atol=1e-9)


def test_ppca_maximum_likelihood_is_a_maximum():
    x = ppca().sample(500, rng=generator())
    model = ProbabilisticPCA.maximum_likelihood(x, 2)
    model.loss(x).backward()
    for name, p in model.named_parameters():
        assert p.grad.abs().max() < 1e-8, name
    best = model.loss(x).item()
    rng = generator(3)
    for _ in range(20):
        other = ProbabilisticPCA.maximum_likelihood(x, 2)
        with torch.no_grad():
            for p in other.parameters():
                p += 0.01 * torch.randn(p.shape, generator=rng, dtype=p.dtype)
        assert other.loss(x).item() > best


def test_ppca_refuses_data_without_noise():
    flat = torch.randn(50, 2, generator=generator(), dtype=torch.float64)
    with pytest.raises(ValueError, match="do not explain in full"):
        ProbabilisticPCA.maximum_likelihood(torch.cat([flat, torch.zeros_like(flat)], -1), 2)


def test_the_linear_vae_reaches_ppca():
    """The bound of the trained linear VAE comes to the evidence of the closed-form fit, never above it."""
    x = ppca(dim=4, latent=1).sample(1000, rng=generator())
    best = -ProbabilisticPCA.maximum_likelihood(x, 1).loss(x).item()
    torch.manual_seed(0)
    model = VAE(MLP(4, (), 2), MLP(1, (), 4), GaussianLikelihood("learned")).double()
    fit(model, x, steps=1500, batch_size=250, lr=0.02, rng=generator(), schedule=lambda done: 1 - done)
    draws = torch.stack([model.elbo(x, rng=generator(i)).mean() for i in range(200)]).detach()
    error = draws.std().item() / 200**0.5
    assert best - 0.02 < draws.mean().item() < best + 4 * error


@pytest.mark.parametrize("sigma", [0.5, "learned", "optimal"])
def test_a_diverging_gaussian_vae_names_the_step(sigma):
    torch.manual_seed(0)
    model = VAE(MLP(3, (), 4), MLP(2, (), 3), GaussianLikelihood(sigma))
    with torch.no_grad():
        model.decoder[0].weight.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="VAE loss is nan at step 1"):
        fit(model, torch.randn(10, 3, generator=generator()), steps=2, batch_size=5, lr=0.1, rng=generator())


def test_the_optimal_sigma_that_is_kept_has_no_gradient():
    torch.manual_seed(0)
    model = VAE(MLP(3, (), 4), MLP(2, (), 3), GaussianLikelihood("optimal"))
    fit(model, torch.randn(20, 3, generator=generator()), steps=3, batch_size=10, lr=0.01, rng=generator())
    assert not model.likelihood.log_sigma.requires_grad


def test_as_many_draws_as_asked_for(vae, monkeypatch):
    seen = []
    monkeypatch.setattr("gmlib.vae.iwae_bound", lambda log_w: seen.append(len(log_w)) or log_w[0])
    with torch.no_grad():
        for rows, k in [(32, 7), (2**18, 7), (2**18, 6)]:  # at once; three at a time, with one left and none
            vae.log_prob_iw(STATES[:1].expand(rows, -1), k, rng=generator())
    assert seen == [7, 7, 6]
