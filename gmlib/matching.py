"""Autoencoders whose codes, taken over all data, are to be distributed as the prior: WAE, WAE-GAN, AAE."""

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from gmlib.base import (
    Adversarial,
    Sampler,
    Trainable,
    require_count,
    require_fake,
    require_networks,
    require_no_condition,
    require_points,
)
from gmlib.divergences import inverse_multiquadratic, mmd
from gmlib.nn import normal


class _Autoencoder(Sampler):
    """Encoder and decoder, whose draws are the decoder's outputs for codes from the prior N(0, I_M)."""

    def __init__(self, encoder: nn.Module, decoder: nn.Module):
        super().__init__()
        require_networks((encoder, decoder), type(self).__name__)
        self.dim, self.latent = encoder.inputs, decoder.inputs
        if encoder.outputs not in (self.latent, 2 * self.latent) or decoder.outputs != self.dim:
            raise ValueError(
                f"{type(self).__name__} needs an encoder with {self.latent} or {2 * self.latent} outputs "
                f"and a decoder with {self.dim}, got {encoder.outputs} and {decoder.outputs}."
            )
        self.encoder, self.decoder = encoder, decoder

    def encode(self, x: Float[Tensor, "N D"], *, rng: torch.Generator | None = None) -> Float[Tensor, "N M"]:
        """A code for each x: the encoder's output or, of an encoder with 2M outputs, a draw of q(z | x)."""
        require_points(x, self.dim, type(self).__name__)
        outputs = self.encoder(x)
        if outputs.shape[-1] == self.latent:
            return outputs
        mu, log_var = outputs.chunk(2, -1)
        return mu + (0.5 * log_var).exp() * normal(mu.shape, rng, like=mu)

    def decode(self, z: Float[Tensor, "N M"]) -> Float[Tensor, "N D"]:
        """The decoder's output."""
        require_points(z, self.latent, f"{type(self).__name__}.decode")
        return self.decoder(z)

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        require_count(n, type(self).__name__)
        require_no_condition(condition, type(self).__name__)
        return self.decoder(normal((n, self.latent), rng, like=next(self.decoder.parameters())))

    def _error(self, x: Float[Tensor, "N D"], z: Float[Tensor, "N M"]) -> Float[Tensor, ""]:
        """The mean squared distance of x from what is decoded from its codes."""
        return F.mse_loss(self.decoder(z), x, reduction="sum") / len(x)


class WAE(_Autoencoder, Trainable):
    r"""Wasserstein autoencoder, which compares its codes with the prior by their mean discrepancy.

    .. math:: \text{loss} = \frac1N \sum_{n=1}^N |x_n - G(z_n)|^2
        + \lambda \, \widehat{\mathrm{MMD}}{}^2(\{z_n\}, \{z'_n\}), \quad z_n \sim q_\phi(z \mid x_n),
        \quad z'_n \sim \mathcal N(0, I_M)

    The discrepancy is `gmlib.divergences.mmd`, unbiased, from as many draws of the prior as there are
    codes. It is one of the batch as a whole, which must have 2 rows or more. The loss is in the squared
    unit of x, no likelihood.

    Args:
        encoder: D inputs; M outputs, the code, or 2M, the means and log-variances of q(z | x).
        decoder: M inputs, D outputs: G(z).
        weight: the factor lambda >= 0.
        bandwidth: b of the kernel; by default b^2 = 2M, the mean squared distance of draws of the prior.
        kernel: as for `mmd`.

    Encoder and decoder state their `inputs` and `outputs`, as `gmlib.nn.MLP` does.

    Raises:
        ValueError: if the widths do not fit together, the weight is negative, or x is not a finite (N, D).

    Source: Tolstikhin, Bousquet, Gelly and Schoelkopf (2018), Wasserstein Auto-Encoders, algorithm 2, and
    section 4 for the kernel.
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        weight: float | int,
        bandwidth: float | int | None = None,
        kernel: Callable[[Tensor], Tensor] = inverse_multiquadratic,
    ):
        super().__init__(encoder, decoder)
        self.weight = _weight(self, weight)
        self.bandwidth = (2 * self.latent) ** 0.5 if bandwidth is None else bandwidth
        self.kernel = kernel

    def loss(self, x, condition=None, *, rng=None):
        require_no_condition(condition, type(self).__name__)
        z = self.encode(x, rng=rng)
        if not z.isfinite().all():
            return z.sum()  # which is not finite either: to be caught where the step is known
        discrepancy = mmd(z, normal(z.shape, rng, like=z), self.bandwidth, self.kernel)
        return self._error(x, z) + self.weight * discrepancy


class WAEGAN(_Autoencoder, Adversarial):
    r"""Wasserstein autoencoder, which has its codes told from the prior by a discriminator with logit d.

    .. math:: \text{generator loss} = \frac1N \sum_{n=1}^N \left(
            |x_n - G(z_n)|^2 - \lambda \log \sigma(d_\phi(z_n)) \right), \quad
        \text{discriminator loss} = -\frac1N \sum_{n=1}^N \left(
            \log \sigma(d_\phi(z'_n)) + \log \sigma(-d_\phi(z_n)) \right)

    where z_n is a code of x_n, the `fake`, and z'_n a draw of the prior N(0, I_M). The generator is the
    encoder with the decoder; its loss, in the squared unit of x, does not saturate where the discriminator
    is sure. The discriminator's loss is in nats, and 2 log 2 where it knows nothing.

    Args:
        encoder, decoder: as for `WAE`.
        discriminator: M inputs, one output, the logit of "from the prior".
        weight: the factor lambda >= 0.

    Raises:
        ValueError: as `WAE`.

    Source: Tolstikhin, Bousquet, Gelly and Schoelkopf (2018), Wasserstein Auto-Encoders, algorithm 1.
    Departs from it: no factor lambda in the discriminator's loss.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, discriminator: nn.Module, weight: float | int):
        super().__init__(encoder, decoder)
        require_networks((discriminator,), type(self).__name__)
        if (discriminator.inputs, discriminator.outputs) != (self.latent, 1):
            raise ValueError(
                f"{type(self).__name__} needs a discriminator with {self.latent} inputs and 1 output, "
                f"got {discriminator.inputs} and {discriminator.outputs}."
            )
        self.discriminator, self.weight = discriminator, _weight(self, weight)

    def fake(self, x, condition=None, *, rng=None):
        require_no_condition(condition, type(self).__name__)
        return self.encode(x, rng=rng)

    def discriminator_loss(self, x, condition=None, fake=None, *, rng=None):
        z = self._given(x, condition, fake, rng).detach()
        prior = normal(z.shape, rng, like=z)
        return F.softplus(-self.discriminator(prior)).mean() + F.softplus(self.discriminator(z)).mean()

    def generator_loss(self, x, condition=None, fake=None, *, rng=None):
        z = self._given(x, condition, fake, rng)
        return self._error(x, z) + self.weight * F.softplus(-self.discriminator(z)).mean()

    def _given(
        self, x: Tensor, condition: Tensor | None, fake: Tensor | None, rng: torch.Generator | None
    ) -> Float[Tensor, "N M"]:
        """The fake, or a new one, once all are found to be valid."""
        if fake is None:
            return self.fake(x, condition, rng=rng)
        require_no_condition(condition, type(self).__name__)
        require_points(x, self.dim, type(self).__name__)
        require_fake(fake, (len(x), self.latent), type(self).__name__)
        return fake


class AAE(WAEGAN):
    r"""Adversarial autoencoder: a WAE-GAN of weight 2 sigma^2, its generator's loss in nats.

    .. math:: \text{generator loss} = -\frac1N \sum_{n=1}^N \left(
            \log \mathcal N(x_n; G(z_n), \sigma^2 I_D) + \log \sigma(d_\phi(z_n)) \right)

    It is computed as the loss of `WAEGAN`, divided by 2 sigma^2, plus D / 2 log(2 pi sigma^2): the same
    weights are best for both. Draws are the decoder's means, without the noise of sigma.

    Args:
        encoder, decoder, discriminator: as for `WAEGAN`.
        sigma: standard deviation of p(x | z), a positive number.

    Raises:
        ValueError: as `WAE`, or if sigma is not positive.

    Source: Makhzani, Shlens, Jaitly, Goodfellow and Frey (2015), Adversarial Autoencoders, section 2.
    Departs from it: one step lowers the reconstruction's and the regularisation's loss together.
    """

    def __init__(
        self, encoder: nn.Module, decoder: nn.Module, discriminator: nn.Module, sigma: float | int = 1.0
    ):
        if not 0 < sigma < math.inf:
            raise ValueError(f"AAE needs a finite sigma > 0, got {sigma}.")
        super().__init__(encoder, decoder, discriminator, weight=2 * sigma**2)

    def generator_loss(self, x, condition=None, fake=None, *, rng=None):
        normaliser = self.dim / 2 * math.log(math.pi * self.weight)
        return super().generator_loss(x, condition, fake, rng=rng) / self.weight + normaliser


def _weight(model: nn.Module, weight: float | int) -> float | int:
    if not 0 <= weight < math.inf:
        raise ValueError(f"{type(model).__name__} needs a finite weight >= 0, got {weight}.")
    return weight
