"""Variational autoencoders: a lower bound on log p(x), and both of its networks, trained at once."""

import math
from abc import ABC, abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributions import LowRankMultivariateNormal, Normal
from torch.nn import functional as F

from gmlib.base import (
    Density,
    Sampler,
    Trainable,
    require_classes,
    require_count,
    require_levels,
    require_networks,
    require_no_condition,
    require_points,
)
from gmlib.divergences import gaussian_kl_to_standard
from gmlib.nn import bernoulli, categorical, normal


class Likelihood(nn.Module, ABC):
    """p(x | z), read off what the decoder puts out for z: `per_coordinate` numbers for each x_d."""

    per_coordinate = 1

    @abstractmethod
    def log_prob(self, x: Float[Tensor, "N D"], outputs: Float[Tensor, "*k N P"]) -> Float[Tensor, "*k N"]:
        """log p(x | z) in nats, summed over coordinates, all constants kept."""

    @abstractmethod
    def mean(self, outputs: Float[Tensor, "*k N P"]) -> Float[Tensor, "*k N D"]:
        """E[x | z]."""

    @abstractmethod
    def sample(self, outputs: Float[Tensor, "N P"], rng: torch.Generator | None) -> Float[Tensor, "N D"]:
        """Draws x from p(x | z)."""


class BernoulliLikelihood(Likelihood):
    r"""Independent binary pixels; the decoder gives logits.

    .. math:: \log p(x \mid z) = \sum_d x_d \log \pi_d(z) + (1 - x_d) \log (1 - \pi_d(z))

    For x strictly between 0 and 1 this is the expected log-probability of x binarised at random.

    Raises:
        ValueError: if a value of x lies outside [0, 1].
    """

    def log_prob(self, x, outputs):
        if x.min() < 0 or x.max() > 1:
            raise ValueError(
                f"BernoulliLikelihood needs x in [0, 1], got values from {x.min():g} to {x.max():g}."
            )
        cross_entropy = F.softplus(outputs) - x * outputs  # stable at any logit
        return -cross_entropy.sum(-1)

    def mean(self, outputs):
        return outputs.sigmoid()

    def sample(self, outputs, rng):
        return bernoulli(outputs.sigmoid(), rng)


class GaussianLikelihood(Likelihood):
    r"""Independent Gaussian pixels of one standard deviation sigma; the decoder gives their means.

    .. math:: \log p(x \mid z) = -\sum_d \left(
        \frac{(x_d - m_d(z))^2}{2 \sigma^2} + \log \sigma + \tfrac12 \log 2\pi \right)

    Args:
        sigma: a positive number; or "learned", a parameter trained with the networks; or "optimal",
            the maximiser in closed form, sigma^2 = mean squared error of the batch, while training,
            and the last training batch's value in evaluation mode.

    Raises:
        ValueError: if sigma is none of these.

    Source: Rybkin, Daniilidis and Levine (2021), Simple and Effective VAE Training with Calibrated Decoders.
    """

    def __init__(self, sigma: float | str = 1.0):
        super().__init__()
        number = isinstance(sigma, int | float) and 0 < sigma < math.inf
        if not number and sigma not in ("learned", "optimal"):
            raise ValueError(f"GaussianLikelihood needs sigma > 0, 'learned' or 'optimal', got {sigma!r}.")
        self.optimal = sigma == "optimal"
        log_sigma = torch.tensor(math.log(sigma) if number else 0.0)
        if sigma == "learned":
            self.log_sigma = nn.Parameter(log_sigma)
        else:
            self.register_buffer("log_sigma", log_sigma)

    def log_prob(self, x, outputs):
        log_sigma = self.log_sigma
        if self.optimal and self.training:
            log_sigma = 0.5 * (x - outputs).square().mean().log()
            self.log_sigma.copy_(log_sigma.detach())
        # unvalidated, so that a loss which is not finite is caught where the step is known
        return Normal(outputs, log_sigma.exp(), validate_args=False).log_prob(x).sum(-1)

    def mean(self, outputs):
        return outputs

    def sample(self, outputs, rng):
        return outputs + self.log_sigma.exp() * normal(outputs.shape, rng, like=outputs)


class CategoricalLikelihood(Likelihood):
    r"""Independent pixels with `levels` grey levels 0, 1, ...; the decoder gives D x levels logits.

    .. math:: \log p(x \mid z) = \sum_d \log \operatorname{softmax}(\ell_d(z))_{x_d}

    Raises:
        ValueError: if levels < 2, or a value of x is not a whole number from 0 to levels - 1.
    """

    def __init__(self, levels: int):
        super().__init__()
        if levels < 2:
            raise ValueError(f"CategoricalLikelihood needs levels >= 2, got {levels}.")
        self.per_coordinate = levels

    def log_prob(self, x, outputs):
        require_levels(x, self.per_coordinate, "CategoricalLikelihood")
        log_p = self._logits(outputs).log_softmax(-1)  # (*k, N, D, levels)
        level = x.long().expand(*log_p.shape[:-1]).unsqueeze(-1)
        return log_p.gather(-1, level).squeeze(-1).sum(-1)

    def mean(self, outputs):
        levels = torch.arange(self.per_coordinate, dtype=outputs.dtype, device=outputs.device)
        return self._logits(outputs).softmax(-1) @ levels

    def sample(self, outputs, rng):
        return categorical(self._logits(outputs), rng).to(outputs.dtype)

    def _logits(self, outputs):
        return outputs.unflatten(-1, (-1, self.per_coordinate))


class VAE(Trainable, Sampler):
    r"""Latent-variable model x <- z ~ N(0, I_M) with a Gaussian recognition model of z.

    .. math:: \operatorname{ELBO}(x) = \log p_\theta(x \mid z)
        - \mathrm{KL}(q_\phi(z \mid x) \,\|\, \mathcal N(0, I)),
        \quad z = \mu_\phi(x) + \sigma_\phi(x) \, \varepsilon, \quad \varepsilon \sim \mathcal N(0, I)

    One draw of z for each x: an unbiased estimate of a lower bound on log p(x), in nats. It is no
    `Density`: log p(x) itself is out of reach. `loss` is the mean of -ELBO.

    Args:
        encoder: D inputs, 2M outputs, the means and the log-variances of q(z | x).
        decoder: M inputs; outputs as the likelihood reads them.
        likelihood: p(x | z).

    Encoder and decoder state their `inputs` and `outputs`, as `gmlib.nn.MLP` does.

    Raises:
        ValueError: if the widths do not fit together, or x is not a finite (N, D) batch.

    Source: Kingma and Welling (2014), Auto-Encoding Variational Bayes, sections 2.3 and 3.
    """

    classes = 0

    def __init__(self, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood):
        super().__init__()
        require_networks((encoder, decoder), type(self).__name__)
        self.dim, self.latent = encoder.inputs - self.classes, decoder.inputs - self.classes
        needed = (2 * self.latent, self.dim * likelihood.per_coordinate)
        if min(self.dim, self.latent) < 1 or (encoder.outputs, decoder.outputs) != needed:
            raise ValueError(
                f"{type(self).__name__} needs an encoder with {needed[0]} outputs "
                f"and a decoder with {needed[1]}, "
                f"got {encoder.outputs} and {decoder.outputs}."
            )
        self.encoder, self.decoder, self.likelihood = encoder, decoder, likelihood

    def encode(
        self, x: Float[Tensor, "N D"], condition: Tensor | None = None
    ) -> tuple[Float[Tensor, "N M"], Float[Tensor, "N M"]]:
        """Mean and standard deviation of q(z | x)."""
        require_points(x, self.dim, type(self).__name__)
        mu, log_var = self.encoder(self._join(x, condition)).chunk(2, -1)
        return mu, (0.5 * log_var).exp()

    def decode(self, z: Float[Tensor, "N M"], condition: Tensor | None = None) -> Float[Tensor, "N D"]:
        """E[x | z]."""
        require_points(z, self.latent, f"{type(self).__name__}.decode")
        return self.likelihood.mean(self.decoder(self._join(z, condition)))

    def elbo(
        self, x: Float[Tensor, "N D"], condition: Tensor | None = None, *, rng: torch.Generator | None = None
    ) -> Float[Tensor, " N"]:
        """The bound from one draw of z for each x, in nats; the KL term in closed form."""
        mu, sigma = self.encode(x, condition)
        z = mu + sigma * normal(mu.shape, rng, like=mu)
        log_p_x = self.likelihood.log_prob(x, self.decoder(self._join(z, condition)))
        return log_p_x - gaussian_kl_to_standard(mu, sigma)

    def log_prob_iw(
        self,
        x: Float[Tensor, "N D"],
        k: int,
        condition: Tensor | None = None,
        *,
        rng: torch.Generator | None = None,
    ) -> Float[Tensor, " N"]:
        """The importance-weighted estimate of log p(x) from k draws, in nats; in expectation a lower bound.

        Raises:
            ValueError: if k < 1.

        Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 3.
        """
        if k < 1:
            raise ValueError(f"log_prob_iw needs k >= 1, got {k}.")
        mu, sigma = self.encode(x, condition)
        at_once = max(1, 2**22 // (len(x) * self.decoder.outputs))  # bounds the memory, not the result
        draws = [min(at_once, k - start) for start in range(0, k, at_once)]
        return iwae_bound(torch.cat([self._log_weights(x, mu, sigma, n, condition, rng) for n in draws]))

    def loss(self, x, condition=None, *, rng=None):
        return -self.elbo(x, condition, rng=rng).mean()

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        require_count(n, type(self).__name__)
        z = normal((n, self.latent), rng, like=next(self.decoder.parameters()))
        return self.likelihood.sample(self.decoder(self._join(z, condition)), rng)

    def _log_weights(self, x, mu, sigma, k, condition, rng):
        """log p(x, z) - log q(z | x) for k draws of z: (k, N)."""
        z = mu + sigma * normal((k, *mu.shape), rng, like=mu)
        log_p_x = self.likelihood.log_prob(x, self.decoder(self._join(z, condition)))
        return log_p_x + (Normal(0, 1).log_prob(z) - Normal(mu, sigma).log_prob(z)).sum(-1)

    def _join(self, inputs, condition):
        require_no_condition(condition, type(self).__name__)
        return inputs


class IWAE(VAE):
    r"""A VAE whose loss is minus the importance-weighted bound of k draws.

    .. math:: \text{loss} = -\frac1N \sum_{n=1}^N \log \frac1k \sum_{i=1}^k
        \frac{p_\theta(x_n, z_i)}{q_\phi(z_i \mid x_n)}, \quad z_i \sim q_\phi(z \mid x_n)

    Args:
        encoder, decoder, likelihood: as for `VAE`.
        k: number of draws for each x.

    Raises:
        ValueError: if k < 1.

    Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 3.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood, k: int):
        super().__init__(encoder, decoder, likelihood)
        if k < 1:
            raise ValueError(f"IWAE needs k >= 1, got {k}.")
        self.k = k

    def loss(self, x, condition=None, *, rng=None):
        return -self.log_prob_iw(x, self.k, condition, rng=rng).mean()


class ConditionalVAE(VAE):
    r"""A VAE of p(x | y): encoder and decoder also read the class y, one-hot.

    .. math:: \log p_\theta(x \mid y) \ge \mathbb E_{q_\phi(z \mid x, y)} [\log p_\theta(x \mid z, y)]
        - \mathrm{KL}(q_\phi(z \mid x, y) \,\|\, \mathcal N(0, I))

    Args:
        encoder, decoder: as for `VAE`, with `classes` more inputs each.
        classes: number of classes; `condition` is a whole number below it for each row of x.

    Raises:
        ValueError: if the condition is missing, of another length, or not a class.

    Source: Sohn, Lee and Yan (2015), Learning Structured Output Representation using Deep Conditional
    Generative Models, section 4. Departs from it: the prior of z does not depend on y.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, likelihood: Likelihood, classes: int):
        self.classes = classes
        super().__init__(encoder, decoder, likelihood)

    def _join(self, inputs: Float[Tensor, "*k N I"], condition: Tensor | None):
        require_classes(condition, inputs.shape[-2], self.classes, "ConditionalVAE")
        one_hot = F.one_hot(condition, self.classes).to(inputs)
        return torch.cat([inputs, one_hot.expand(*inputs.shape[:-1], -1)], -1)


def iwae_bound(log_w: Float[Tensor, "k N"]) -> Float[Tensor, " N"]:
    r"""The importance-weighted bound from k log-weights log p(x, z_i) - log q(z_i | x), in nats.

    .. math:: \log \frac1k \sum_{i=1}^k w_i

    Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 3.
    """
    if log_w.ndim != 2 or len(log_w) < 1:
        raise ValueError(f"iwae_bound needs log-weights (k, N) with k >= 1, got shape {tuple(log_w.shape)}.")
    return log_w.logsumexp(0) - math.log(len(log_w))


class ProbabilisticPCA(Density):
    r"""The linear-Gaussian latent-variable model: evidence and posterior in closed form.

    .. math:: z \sim \mathcal N(0, I_M), \quad x \mid z \sim \mathcal N(W z + \mu, \sigma^2 I_D), \quad
        x \sim \mathcal N(\mu, W W^\top + \sigma^2 I_D)

    Args:
        dim: number of coordinates D of x.
        latent: number of coordinates M of z, below D.

    Raises:
        ValueError: if not 1 <= latent < dim.

    Source: Tipping and Bishop (1999), Probabilistic Principal Component Analysis, section 3.
    """

    measure = "lebesgue"

    def __init__(self, dim: int, latent: int):
        super().__init__()
        if not 1 <= latent < dim:
            raise ValueError(f"ProbabilisticPCA needs 1 <= latent < dim, got latent {latent} and dim {dim}.")
        self.mu = nn.Parameter(torch.zeros(dim))
        self.W = nn.Parameter(torch.randn(dim, latent))
        self.log_sigma = nn.Parameter(torch.zeros(()))

    @classmethod
    def maximum_likelihood(cls, x: Float[Tensor, "N D"], latent: int) -> "ProbabilisticPCA":
        r"""The maximum-likelihood fit: W spans the leading eigenvectors of the covariance of x.

        .. math:: W = U_M (\Lambda_M - \sigma^2 I)^{1/2},
            \quad \sigma^2 = \frac{1}{D - M} \sum_{d > M} \lambda_d
        """
        require_points(x, None, "ProbabilisticPCA.maximum_likelihood")
        model = cls(x.shape[1], latent).to(x)
        eigenvalues, vectors = torch.linalg.eigh(torch.cov(x.T, correction=0))  # ascending
        variance = eigenvalues[:-latent].mean()
        if variance <= 0:
            raise ValueError(f"ProbabilisticPCA needs data that {latent} dimensions do not explain in full.")
        with torch.no_grad():
            model.mu.copy_(x.mean(0))
            model.W.copy_(vectors[:, -latent:] * (eigenvalues[-latent:] - variance).sqrt())
            model.log_sigma.copy_(0.5 * variance.log())
        return model

    def log_prob(self, x):
        """log p(x) in nats, exact."""
        require_points(x, len(self.mu), "ProbabilisticPCA")
        variance = (2 * self.log_sigma).exp().expand(len(self.mu))
        return LowRankMultivariateNormal(self.mu, self.W, variance).log_prob(x)

    def posterior(self, x: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "N M"], Float[Tensor, "M M"]]:
        r"""Mean and covariance of p(z | x).

        .. math:: A^{-1} W^\top (x - \mu), \quad \sigma^2 A^{-1}, \quad A = W^\top W + \sigma^2 I_M
        """
        require_points(x, len(self.mu), "ProbabilisticPCA.posterior")
        variance = (2 * self.log_sigma).exp()
        a = self.W.T @ self.W + variance * torch.eye(self.W.shape[1]).to(self.W)
        return torch.linalg.solve(a, self.W.T @ (x - self.mu).T).T, variance * torch.linalg.inv(a)

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        require_count(n, "ProbabilisticPCA")
        require_no_condition(condition, "ProbabilisticPCA")
        z = normal((n, self.W.shape[1]), rng, like=self.W)
        return z @ self.W.T + self.mu + self.log_sigma.exp() * normal((n, len(self.mu)), rng, like=self.W)
