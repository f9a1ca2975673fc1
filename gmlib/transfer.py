"""Learning across tasks: few labels, features from another task, rows from another domain."""

import copy
import math
from collections.abc import Callable
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from gmlib.base import (
    Sampler,
    Trainable,
    require_classes,
    require_count,
    require_networks,
    require_points,
)
from gmlib.divergences import gaussian_kl_to_standard
from gmlib.nn import categorical, normal

UNLABELLED = -1  # stands where a row has no label


def self_train(
    classifier: Any,
    x: Float[Tensor, "N D"],
    y: Int[Tensor, " N"],
    unlabelled: Float[Tensor, "U D"],
    threshold: float,
    rounds: int,
) -> Int[Tensor, " U"]:
    r"""Labels rows by the classifier's own confident predictions, and fits it to these as well, in rounds.

    .. math:: \hat y_u = \arg\max_c p(c \mid x_u) \quad \text{if } \max_c p(c \mid x_u) > \text{threshold}

    A label that is given stays. The classifier is left fitted to all rows with a label.

    Args:
        classifier: has `fit` and `predict_proba`, as those of scikit-learn.
        rounds: at most so many times labels are given; it ends where no new row is confident enough.

    Returns:
        A label for each unlabelled row, -1 where the classifier was never confident enough.

    Raises:
        ValueError: if the rows do not fit together, a label is negative, the threshold is not in [0, 1),
            or rounds is below 1.

    Source: Yarowsky (1995), Unsupervised Word Sense Disambiguation Rivaling Supervised Methods, section 4.
    Departs from it: labels are not taken back, as in scikit-learn's `SelfTrainingClassifier`.
    """
    require_points(x, None, "self_train")
    require_points(unlabelled, x.shape[1], "self_train")
    require_classes(y, len(x), None, "self_train")
    if not 0 <= threshold < 1 or rounds < 1:
        raise ValueError(f"self_train needs 0 <= threshold < 1 <= rounds, got {threshold} and {rounds}.")
    labels = torch.full((len(unlabelled),), UNLABELLED)

    def fit() -> None:
        known = labels != UNLABELLED
        rows, targets = torch.cat([x, unlabelled[known]]), torch.cat([y, labels[known]])
        classifier.fit(rows.numpy(), targets.numpy())

    for _ in range(rounds):
        fit()
        confidence, best = torch.as_tensor(classifier.predict_proba(unlabelled.numpy())).max(-1)
        new = (labels == UNLABELLED) & (confidence > threshold)
        if not new.any():
            return labels
        labels = torch.where(new, torch.as_tensor(classifier.classes_)[best], labels)
    fit()
    return labels


def density_ratio(
    classifier: Any, source: Float[Tensor, "S D"], target: Float[Tensor, "T D"]
) -> Callable[[Float[Tensor, "N D"]], Float[Tensor, " N"]]:
    r"""The logarithm of target density over source density, from a classifier that tells the two apart.

    .. math:: \log w(x) = \log p(\text{target} \mid x) - \log p(\text{source} \mid x) + \log (S / T)

    Args:
        classifier: has `fit` and `predict_log_proba`, as those of scikit-learn.

    Returns:
        A function from rows to log w.

    Raises:
        ValueError: if source and target are not finite batches of one width.

    Source: Bickel, Brueckner and Scheffer (2009), Discriminative Learning Under Covariate Shift; Sugiyama,
    Suzuki and Kanamori (2012), Density Ratio Estimation in Machine Learning, chapter 4.
    """
    require_points(source, None, "density_ratio")
    require_points(target, source.shape[1], "density_ratio")
    is_target = torch.arange(len(source) + len(target)) >= len(source)
    classifier.fit(torch.cat([source, target]).numpy(), is_target.numpy())
    log_share = math.log(len(source) / len(target))

    def log_ratio(x: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        require_points(x, source.shape[1], "density_ratio")
        log_p = torch.as_tensor(classifier.predict_log_proba(x.numpy())).to(x)
        return log_p[:, 1] - log_p[:, 0] + log_share

    return log_ratio


def effective_sample_size(log_w: Float[Tensor, " N"]) -> Float[Tensor, ""]:
    r"""How many rows of equal weight would tell as much as rows with these weights.

    .. math:: \left( \sum_n w_n \right)^2 / \sum_n w_n^2

    Source: Kong (1992), A Note on Importance Sampling using Standardized Weights.
    """
    return 1 / torch.softmax(log_w, 0).square().sum()


class Classifier(Trainable):
    r"""Features and a head that turns them into one score for each class. Its loss is in nats.

    .. math:: \text{loss} = -\frac1N \sum_n \log p(y_n \mid x_n),
        \quad p(\cdot \mid x) = \operatorname{softmax}(\text{head}(\text{features}(x)))

    Labels y come as `condition`. The networks state their `inputs` and `outputs`, as `gmlib.nn.MLP` does.

    Raises:
        ValueError: if the widths do not fit together, x is not a finite (N, D) batch, or y no classes.
    """

    def __init__(self, features: nn.Module, head: nn.Module):
        super().__init__()
        require_networks((features, head), type(self).__name__)
        _require_widths(self, (features, head), head.inputs == features.outputs)
        self.features, self.head, self.classes = features, head, head.outputs

    def log_prob(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """log p(y | x) in nats, for each class y."""
        require_points(x, self.features.inputs, "Classifier")
        return self.head(self.features(x)).log_softmax(-1)

    def predict(self, x: Float[Tensor, "N D"]) -> Int[Tensor, " N"]:
        """The most probable class."""
        return self.log_prob(x).argmax(-1)

    def loss(self, x, condition=None, *, rng=None):
        log_p = self.log_prob(x)
        require_classes(condition, len(x), self.classes, "Classifier")
        return F.nll_loss(log_p, condition)


def warm_start(source: Classifier, head: nn.Module, *, frozen: bool = False) -> Classifier:
    """A classifier for another task: a copy of the features, and a new head.

    With `frozen` features `gmlib.train.fit` trains the head alone; else it fine-tunes all.

    Source: Yosinski, Clune, Bengio and Lipson (2014), How Transferable are Features in Deep Neural
    Networks?, section 2.
    """
    return Classifier(copy.deepcopy(source.features).requires_grad_(not frozen), head)


class DomainAdversarial(Classifier):
    r"""A classifier whose features are trained to hide which domain a row is from.

    .. math:: \text{loss} = \frac1N \sum_n \left( -[y_n \ne -1] \log p(y_n \mid x_n)
        - \log d(\text{domain}_n \mid h_n) \right)

    in nats. h are the features, and the label -1 stands for a row of the target domain. The discriminator d
    goes downhill; the gradient that reaches the features through it is multiplied by -strength. So the
    features do not descend the loss: this is a game.

    Args:
        discriminator: from features to one number, the log-odds of the target domain.
        strength: the factor lambda >= 0 of the reversal.

    Raises:
        ValueError: as `Classifier`, or if the discriminator does not fit or the strength is negative.

    Source: Ganin et al. (2016), Domain-Adversarial Training of Neural Networks, equations 9 to 18. Departs
    from it: a mean over all rows, so domains weigh as they are many; the strength is constant.
    """

    def __init__(self, features: nn.Module, head: nn.Module, discriminator: nn.Module, strength: float):
        super().__init__(features, head)
        require_networks((discriminator,), "DomainAdversarial")
        fits = (discriminator.inputs, discriminator.outputs) == (features.outputs, 1)
        _require_widths(self, (features, discriminator), fits)
        if not 0 <= strength < math.inf:
            raise ValueError(f"DomainAdversarial needs a strength >= 0, got {strength}.")
        self.discriminator, self.strength = discriminator, strength

    def loss(self, x, condition=None, *, rng=None):
        require_points(x, self.features.inputs, "DomainAdversarial")
        require_classes(condition, len(x), self.classes, "DomainAdversarial", UNLABELLED)
        h, is_target = self.features(x), (condition == UNLABELLED).to(x)
        log_odds = self.discriminator(reverse_gradient(h, self.strength)).squeeze(-1)
        domain_nll = F.binary_cross_entropy_with_logits(log_odds, is_target)
        return _labelled_nll(self.head(h).log_softmax(-1), condition) + domain_nll


def reverse_gradient(x: Float[Tensor, "*shape"], strength: float) -> Float[Tensor, "*shape"]:
    """x itself, but a gradient that passes backward is multiplied by -strength."""
    return _Reversed.apply(x, strength)


class _Reversed(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, strength):
        ctx.strength = strength
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient):
        return -ctx.strength * gradient, None


class SemiSupervisedVAE(Trainable, Sampler):
    r"""The model M2: x <- (y, z) with a class y, known for some rows, and z ~ N(0, I_M).

    .. math:: \mathcal L(x, y) = \log p_\theta(x \mid y, z) - \log K
        - \mathrm{KL}(q_\phi(z \mid x, y) \,\|\, \mathcal N(0, I))

    .. math:: \mathcal U(x) = \sum_y q_\phi(y \mid x) \left( \mathcal L(x, y) - \log q_\phi(y \mid x) \right)

    with one draw of z from q(z | x, y) for each x and y: L bounds log p(x, y), and U log p(x), in nats. The
    loss is the mean over rows of -L(x, y) - alpha log q(y | x) where there is a label y, and of -U(x) where
    it is -1. Classes are equally probable.

    Args:
        classifier: D inputs, K outputs, the logits of q(y | x).
        encoder: D + K inputs, 2M outputs, the means and log-variances of q(z | x, y).
        decoder: M + K inputs; outputs as the likelihood reads them.
        likelihood: p(x | y, z), one of `gmlib.vae`.
        alpha: weight of a labelled row's cross-entropy.

    Raises:
        ValueError: if the widths do not fit, alpha is negative, x is not a finite (N, D) batch, or y not
            one class, or -1, for each row.

    Source: Kingma, Mohamed, Rezende and Welling (2014), Semi-supervised Learning with Deep Generative Models,
    equations 6 to 9. Departs from it: its alpha is ours times the number of labels.
    """

    def __init__(
        self, classifier: nn.Module, encoder: nn.Module, decoder: nn.Module, likelihood, alpha: float
    ):
        super().__init__()
        require_networks((classifier, encoder, decoder), "SemiSupervisedVAE")
        self.dim, self.classes = classifier.inputs, classifier.outputs
        self.latent = decoder.inputs - self.classes
        widths = (encoder.inputs, encoder.outputs, decoder.outputs)
        needed = (self.dim + self.classes, 2 * self.latent, self.dim * likelihood.per_coordinate)
        _require_widths(self, (classifier, encoder, decoder), widths == needed and self.latent > 0)
        if not 0 <= alpha < math.inf:
            raise ValueError(f"SemiSupervisedVAE needs alpha >= 0, got {alpha}.")
        self.classifier, self.encoder, self.decoder = classifier, encoder, decoder
        self.likelihood, self.alpha = likelihood, alpha

    def classify(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """log q(y | x) in nats, for each class y."""
        require_points(x, self.dim, "SemiSupervisedVAE")
        return self.classifier(x).log_softmax(-1)

    def elbo_joint(
        self, x: Float[Tensor, "N D"], *, rng: torch.Generator | None = None
    ) -> Float[Tensor, "N K"]:
        """L(x, y) for each class y: a bound on log p(x, y) from one draw of z, in nats."""
        require_points(x, self.dim, "SemiSupervisedVAE")
        y = torch.eye(self.classes).to(x)[:, None].expand(-1, len(x), -1)  # (K, N, K)
        mu, log_var = self.encoder(torch.cat([x.expand(self.classes, -1, -1), y], -1)).chunk(2, -1)
        sigma = (0.5 * log_var).exp()
        z = mu + sigma * normal(mu.shape, rng, like=mu)
        log_p_x = self.likelihood.log_prob(x, self.decoder(torch.cat([z, y], -1)))
        return (log_p_x - math.log(self.classes) - gaussian_kl_to_standard(mu, sigma)).T

    def elbo(
        self, x: Float[Tensor, "N D"], condition: Tensor | None = None, *, rng: torch.Generator | None = None
    ) -> Float[Tensor, " N"]:
        """L(x, y) where a row has a label, U(x) where it is -1, or where no labels are given; in nats."""
        joint, log_q = self.elbo_joint(x, rng=rng), self.classify(x)
        marginal = (log_q.exp() * (joint - log_q)).sum(-1)
        if condition is None:
            return marginal
        require_classes(condition, len(x), self.classes, "SemiSupervisedVAE", UNLABELLED)
        labelled = joint.gather(-1, condition.clamp(min=0)[:, None]).squeeze(-1)
        return torch.where(condition == UNLABELLED, marginal, labelled)

    def loss(self, x, condition=None, *, rng=None):
        loss = -self.elbo(x, condition, rng=rng).mean()
        return loss if condition is None else loss + self.alpha * _labelled_nll(self.classify(x), condition)

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        require_count(n, "SemiSupervisedVAE")
        like = next(self.decoder.parameters())
        if condition is None:
            condition = categorical(torch.zeros(n, self.classes), rng)
        require_classes(condition, n, self.classes, "SemiSupervisedVAE")
        y = F.one_hot(condition, self.classes).to(like)
        z = normal((n, self.latent), rng, like=like)
        return self.likelihood.sample(self.decoder(torch.cat([z, y], -1)), rng)


def _labelled_nll(log_p: Float[Tensor, "N K"], y: Int[Tensor, " N"]) -> Float[Tensor, ""]:
    """The sum of -log p(y | x) over the rows that have a label, by the number of all rows."""
    return F.nll_loss(log_p, y, ignore_index=UNLABELLED, reduction="sum") / len(y)


def _require_widths(model: nn.Module, networks: tuple[nn.Module, ...], fits: bool) -> None:
    if not fits:
        widths = [f"{network.inputs} to {network.outputs}" for network in networks]
        raise ValueError(f"{type(model).__name__} needs networks that fit together, got {', '.join(widths)}.")
