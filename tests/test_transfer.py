"""Learning across tasks, against enumeration, closed forms and scikit-learn."""

import copy
import itertools
import math

import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.semi_supervised import SelfTrainingClassifier
from torch import nn
from torch.distributions import Bernoulli, MultivariateNormal, Normal, kl_divergence
from torch.nn import functional as F

from gmlib.nn import MLP
from gmlib.train import fit
from gmlib.transfer import (
    Classifier,
    DomainAdversarial,
    SemiSupervisedVAE,
    density_ratio,
    effective_sample_size,
    reverse_gradient,
    self_train,
    warm_start,
)
from gmlib.vae import BernoulliLikelihood, CategoricalLikelihood, GaussianLikelihood

STATES = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)), dtype=torch.float64)
K = 3


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=generator(seed), dtype=torch.float64)


def randomised(model, scale: float = 0.7, seed: int = 3):
    rng = generator(seed)
    with torch.no_grad():
        for p in model.double().parameters():
            p.copy_(scale * torch.randn(p.shape, generator=rng, dtype=p.dtype))
    return model


# Self-training


def clouds(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Three clouds in the plane, with labels 2, 5 and 7, which are no indices."""
    k = torch.arange(n) % 3
    angle = 2 * math.pi * k / 3
    x = 2 * torch.stack([angle.cos(), angle.sin()], -1) + randn(n, 2, seed=seed)
    return x, torch.tensor([2, 5, 7])[k]


@pytest.mark.parametrize("rounds", [1, 2, 10])
@pytest.mark.parametrize("threshold", [0.0, 0.6, 0.8, 0.95])
def test_self_training_is_scikit_learns(threshold, rounds):
    (x, y), (unlabelled, _) = clouds(9, 0), clouds(150, 1)
    ours = LogisticRegression()
    labels = self_train(ours, x, y, unlabelled, threshold, rounds)
    reference = SelfTrainingClassifier(LogisticRegression(), threshold=threshold, max_iter=rounds)
    rows, targets = torch.cat([x, unlabelled]), torch.cat([y, torch.full((150,), -1)])
    reference.fit(rows.numpy(), targets.numpy())
    assert labels.tolist() == reference.transduction_[9:].tolist()
    probe = clouds(50, 2)[0].numpy()
    torch.testing.assert_close(
        torch.tensor(ours.predict_proba(probe)), torch.tensor(reference.predict_proba(probe))
    )


def test_self_training_ends_where_nothing_is_confident():
    (x, y), (unlabelled, _) = clouds(9, 0), clouds(150, 1)
    fits = []

    class Counted(LogisticRegression):
        def fit(self, x, y):
            fits.append(len(x))
            return super().fit(x, y)

    labels = self_train(Counted(), x, y, unlabelled, 0.999999, 10)
    assert (labels == -1).all()
    assert fits == [9]
    self_train(Counted(), x, y, unlabelled, 0.0, 10)
    assert fits == [9, 9, 159], "all rows were labelled at once, and then fitted"


def test_more_confidence_means_fewer_labels():
    (x, y), (unlabelled, truth) = clouds(30, 0), clouds(600, 1)
    found = [self_train(LogisticRegression(), x, y, unlabelled, t, 1) for t in (0.5, 0.7, 0.9)]
    counts = [int((labels >= 0).sum()) for labels in found]
    assert counts == sorted(counts, reverse=True)
    wrong = [(labels != truth)[labels >= 0].double().mean().item() for labels in found]
    assert wrong == sorted(wrong, reverse=True), "on data that fit the model the confident rows are right"


# Density ratios


def test_density_ratio_is_that_of_two_gaussians():
    """Gaussians of equal covariance: log w is linear in x, as logistic regression is."""
    m_s, m_t = torch.tensor([0.0, 0.0]), torch.tensor([1.0, -0.5])
    source, target = m_s + randn(60_000, 2), m_t + randn(20_000, 2, seed=1)
    log_ratio = density_ratio(LogisticRegression(C=1e6), source, target)
    x = randn(200, 2, seed=2)
    exact = Normal(m_t, 1).log_prob(x).sum(-1) - Normal(m_s, 1).log_prob(x).sum(-1)
    assert (log_ratio(x) - exact).abs().max() < 0.15
    assert log_ratio(x).dtype == torch.float64
    assert log_ratio(source).exp().mean() == pytest.approx(1, abs=0.03), "its mean over the source is 1"


def test_a_density_ratio_without_a_difference_is_one():
    x = randn(1_000, 2)
    log_ratio = density_ratio(LogisticRegression(), x, x[:500].repeat(4, 1))
    assert log_ratio(x).abs().max() < 0.5
    half = density_ratio(LogisticRegression(), x, torch.cat([x, x]))
    torch.testing.assert_close(half(x), torch.zeros(1_000, dtype=torch.float64), atol=1e-3, rtol=0)


@pytest.mark.parametrize("shift", [0.0, 700.0])
def test_effective_sample_size(shift):
    log_w = randn(50)
    w = log_w.exp()
    torch.testing.assert_close(effective_sample_size(log_w + shift), w.sum() ** 2 / (w**2).sum())
    torch.testing.assert_close(effective_sample_size(torch.zeros(50) + shift), torch.tensor(50.0))


# Classifiers, transferred


def classifier() -> Classifier:
    return randomised(Classifier(MLP(4, (5,), 6), MLP(6, (), K)))


def test_classifier_is_the_cross_entropy():
    model, y = classifier(), torch.arange(16) % K
    logits = model.head(model.features(STATES))
    torch.testing.assert_close(model.loss(STATES, y), F.cross_entropy(logits, y))
    log_p = model.log_prob(STATES)
    torch.testing.assert_close(log_p.exp().sum(-1), torch.ones(16, dtype=torch.float64))
    assert torch.equal(model.predict(STATES), logits.argmax(-1))


@pytest.mark.parametrize("frozen", [True, False])
def test_warm_start(frozen):
    source = classifier()
    before = copy.deepcopy(source.state_dict())
    model = warm_start(source, MLP(6, (), 2).double(), frozen=frozen)
    torch.testing.assert_close(model.features(STATES), source.features(STATES))
    head = model.head[0].weight.detach().clone()
    fit(model, STATES, condition=torch.arange(16) % 2, steps=3, batch_size=8, lr=0.1, rng=generator())
    moved = not torch.equal(model.features[0].weight, source.features[0].weight)
    assert moved is not frozen
    assert not torch.equal(model.head[0].weight, head)
    assert all(torch.equal(tensor, before[name]) for name, tensor in source.state_dict().items())
    assert all(p.requires_grad for p in source.parameters())


# Domains


@pytest.mark.parametrize("strength", [0.0, 0.3, 2.0])
def test_reversal_keeps_the_value_and_turns_the_gradient(strength):
    x = randn(5, 3).requires_grad_()
    weight = randn(5, 3, seed=1)
    assert torch.equal(reverse_gradient(x, strength), x)
    (gradient,) = torch.autograd.grad((weight * reverse_gradient(x, strength) ** 2).sum(), x)
    torch.testing.assert_close(gradient, -strength * 2 * weight * x)


def adversarial(strength: float = 0.7) -> DomainAdversarial:
    return randomised(DomainAdversarial(MLP(4, (5,), 6), MLP(6, (), K), MLP(6, (), 1), strength))


def test_adversarial_gradients_are_those_of_the_game():
    model, condition = adversarial(), torch.tensor([0, -1, 2, -1, 1, 0, -1, -1, 2, 1, -1, 0, 0, 1, -1, 2])
    loss = model.loss(STATES, condition)
    groups = [list(part.parameters()) for part in (model.features, model.head, model.discriminator)]
    found = [torch.autograd.grad(loss, group, retain_graph=True) for group in groups]
    h = model.features(STATES)
    known = condition >= 0
    log_p = torch.log_softmax(model.head(h[known]), -1)
    label_loss = -log_p[torch.arange(int(known.sum())), condition[known]].sum() / 16
    is_source = Bernoulli(logits=-model.discriminator(h)[:, 0])
    domain_loss = -is_source.log_prob(known.double()).mean()
    torch.testing.assert_close(loss, label_loss + domain_loss)
    wanted = [label_loss - 0.7 * domain_loss, label_loss, domain_loss]
    for gradients, group, value in zip(found, groups, wanted, strict=True):
        reference = torch.autograd.grad(value, group, retain_graph=True)
        torch.testing.assert_close(gradients, reference)


def test_without_labels_only_the_domains_count():
    model = adversarial()
    loss = model.loss(STATES, torch.full((16,), -1))
    torch.testing.assert_close(loss, F.softplus(-model.discriminator(model.features(STATES))).mean())


def test_adversarial_features_lose_the_domain():
    """In the source both coordinates tell the class; in the target the second tells the domain alone."""
    y = torch.arange(400) % 2
    target = torch.arange(400) >= 200
    x = torch.stack([2.0 * y - 1, torch.where(target, 4.0, 2.0 * y - 1)], -1) + randn(400, 2)
    share, right = {}, {}
    for strength in (0.0, 1.0):
        torch.manual_seed(0)
        model = DomainAdversarial(MLP(2, (), 1), MLP(1, (), 2), MLP(1, (), 1), strength).double()
        torch.nn.init.ones_(model.features[0].weight)
        condition = torch.where(target, -1, y)
        fit(model, x, condition=condition, steps=300, batch_size=400, lr=0.02, rng=generator())
        weight = model.features[0].weight[0].abs()
        share[strength] = (weight[1] / weight[0]).item()
        right[strength] = (model.predict(x[target]) == y[target]).double().mean()
    assert share[1.0] < 0.15 < 0.4 < share[0.0]
    assert right[0.0] < 0.65 < 0.7 < right[1.0]


# The semi-supervised VAE


def m2(alpha: float = 0.5, latent: int = 2) -> SemiSupervisedVAE:
    networks = MLP(4, (5,), K), MLP(4 + K, (6,), 2 * latent), MLP(latent + K, (6,), 4)
    return randomised(SemiSupervisedVAE(*networks, BernoulliLikelihood(), alpha))


def by_hand(model: SemiSupervisedVAE, seed: int) -> torch.Tensor:
    """L(x, y), one class at a time, with the noise that the model draws."""
    noise = torch.randn(K, 16, 2, generator=generator(seed), dtype=torch.float64)
    columns = []
    for y in range(K):
        one_hot = torch.zeros(16, K, dtype=torch.float64)
        one_hot[:, y] = 1
        mu, log_var = model.encoder(torch.cat([STATES, one_hot], -1)).chunk(2, -1)
        q = Normal(mu, (log_var / 2).exp())
        logits = model.decoder(torch.cat([mu + (log_var / 2).exp() * noise[y], one_hot], -1))
        divergence = kl_divergence(q, Normal(torch.zeros_like(mu), 1)).sum(-1)
        columns.append(Bernoulli(logits=logits).log_prob(STATES).sum(-1) + math.log(1 / K) - divergence)
    return torch.stack(columns, -1)


def test_bounds_are_those_that_are_summed_by_hand():
    model, condition = m2(), torch.tensor([0, -1, 2, 1] * 4)
    joint = by_hand(model, 5)
    torch.testing.assert_close(model.elbo_joint(STATES, rng=generator(5)), joint)
    log_q = F.log_softmax(model.classifier(STATES), -1)
    torch.testing.assert_close(model.classify(STATES), log_q)
    unlabelled = sum(log_q[:, y].exp() * (joint[:, y] - log_q[:, y]) for y in range(K))
    torch.testing.assert_close(model.elbo(STATES, rng=generator(5)), unlabelled)
    mixed = [joint[n, y] if y >= 0 else unlabelled[n] for n, y in enumerate(condition.tolist())]
    torch.testing.assert_close(model.elbo(STATES, condition, rng=generator(5)), torch.stack(mixed))
    cross_entropy = -sum(log_q[n, y] for n, y in enumerate(condition.tolist()) if y >= 0)
    loss = (-sum(mixed) + 0.5 * cross_entropy) / 16
    torch.testing.assert_close(model.loss(STATES, condition, rng=generator(5)), loss)
    torch.testing.assert_close(model.loss(STATES, rng=generator(5)), -unlabelled.mean())


def log_evidence(model: SemiSupervisedVAE) -> torch.Tensor:
    """log p(x, y) of a model with a latent plane, by quadrature: (16, K)."""
    line = torch.arange(-8, 8, 0.1, dtype=torch.float64)
    z = torch.cartesian_prod(line, line)
    log_weight = Normal(0, 1).log_prob(z).sum(-1) + 2 * math.log(0.1)
    columns = []
    for y in range(K):
        one_hot = torch.eye(K, dtype=torch.float64)[y].expand(len(z), K)
        with torch.no_grad():
            logits = model.decoder(torch.cat([z, one_hot], -1))
        log_p = Bernoulli(logits=logits[:, None]).log_prob(STATES).sum(-1)  # (G, 16)
        columns.append((log_p + log_weight[:, None]).logsumexp(0) - math.log(K))
    return torch.stack(columns, -1)


def test_bounds_are_below_the_evidence():
    model, exact = m2(), log_evidence(m2())
    assert exact.exp().sum() == pytest.approx(1, abs=1e-6)
    with torch.no_grad():
        draws = torch.stack([model.elbo_joint(STATES, rng=generator(i)) for i in range(400)])
        unlabelled = torch.stack([model.elbo(STATES, rng=generator(i)) for i in range(400)])
    error, marginal_error = draws.std(0) / 20, unlabelled.std(0) / 20
    assert (draws.mean(0) < exact + 4 * error).all()
    assert (unlabelled.mean(0) < exact.logsumexp(-1) + 4 * marginal_error).all()
    assert (exact - draws.mean(0)).min() < 1.5, "a bound, and not far below"


def test_the_labelled_bound_is_tight_at_the_linear_posterior():
    """x = W_y z + noise: with the exact posterior as encoder, L is log p(x, y) on average."""
    sigma, w = 0.8, randn(K, 4, 1)
    precision = 1 + (w**2).sum((1, 2)) / sigma**2  # (K,)
    encoder, decoder = MLP(4 + K, (), 2).double(), MLP(1 + K, (), 4).double()
    networks = MLP(4, (), K), encoder, decoder
    model = SemiSupervisedVAE(*networks, GaussianLikelihood(sigma), 0.0).double()
    x = randn(6, 4, seed=1)
    for y in range(K):  # a linear network for one class at a time
        with torch.no_grad():
            for p in (*encoder.parameters(), *decoder.parameters()):
                p.zero_()
            encoder[0].weight[0, :4] = w[y, :, 0] / sigma**2 / precision[y]
            encoder[0].bias[1] = -precision[y].log()
            decoder[0].weight[:, :1] = w[y]
            draws = torch.stack([model.elbo_joint(x, rng=generator(i))[:, y] for i in range(2_000)])
        covariance = w[y] @ w[y].T + sigma**2 * torch.eye(4, dtype=torch.float64)
        p_x = MultivariateNormal(torch.zeros(4, dtype=torch.float64), covariance)
        exact = p_x.log_prob(x) - math.log(K)
        assert ((draws.mean(0) - exact).abs() < 4 * draws.std(0) / 2_000**0.5).all()


def test_a_label_that_is_hidden_has_no_influence():
    """-1 is no class: not the last one, and not the first."""
    model, hidden = m2(), torch.full((16,), -1)
    torch.testing.assert_close(
        model.elbo(STATES, hidden, rng=generator(1)), model.elbo(STATES, rng=generator(1))
    )
    torch.testing.assert_close(
        model.loss(STATES, hidden, rng=generator(1)), model.loss(STATES, rng=generator(1))
    )
    for label in (0, K - 1):
        shown = torch.full((16,), label)
        assert (
            model.elbo(STATES, shown, rng=generator(1)) - model.elbo(STATES, rng=generator(1))
        ).abs().min() > 0


def test_only_alpha_teaches_the_classifier_from_labels():
    y = torch.arange(16) % K
    for alpha in (0.0, 0.5):
        model = m2(alpha)
        model.loss(STATES, y, rng=generator()).backward()
        taught = model.classifier[0].weight.grad.abs().max() > 0
        assert taught == (alpha > 0)


def test_samples_follow_their_class():
    model = m2()
    p = log_evidence(model)
    for y in range(K):
        given_y = (p[:, y] - p[:, y].logsumexp(0)).exp()
        samples = model.sample(20_000, torch.full((20_000,), y), rng=generator(y))
        error = samples.std(0) / 20_000**0.5
        assert ((samples.mean(0) - given_y @ STATES).abs() < 4 * error).all()
    samples = model.sample(20_000, rng=generator(9))
    exact = p.logsumexp(-1).exp() @ STATES
    assert ((samples.mean(0) - exact).abs() < 4 * samples.std(0) / 20_000**0.5).all()


def test_grey_levels_need_a_score_each():
    networks = MLP(4, (), K), MLP(4 + K, (), 4), MLP(2 + K, (), 4 * 5)
    model = SemiSupervisedVAE(*networks, CategoricalLikelihood(5), 1.0).double()
    assert model.elbo(4 * STATES, rng=generator()).isfinite().all()


def test_networks_are_modules_of_the_model():
    assert {name.split(".")[0] for name, _ in m2().named_parameters()} == {"classifier", "encoder", "decoder"}
    assert isinstance(m2().likelihood, nn.Module)
