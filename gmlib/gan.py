"""Generators that learn from a second network, which tells what they draw from data: GAN and WGAN."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from gmlib.base import (
    Adversarial,
    require_classes,
    require_count,
    require_fake,
    require_networks,
    require_no_condition,
    require_points,
)
from gmlib.nn import normal, uniform


class _Game(Adversarial):
    """A generator of latents z ~ N(0, I_M) and its discriminator; both may also read a class, one-hot."""

    def __init__(
        self, generator: nn.Module, discriminator: nn.Module, classes: int | None, penalty: float | int
    ):
        super().__init__()
        name, more = type(self).__name__, classes or 0
        require_networks((generator, discriminator), name)
        if classes is not None and classes < 1:
            raise ValueError(f"{name} needs classes >= 1 or None, got {classes}.")
        if not 0 <= penalty < math.inf:
            raise ValueError(f"{name} needs a finite penalty >= 0, got {penalty}.")
        self.dim, self.latent = generator.outputs, generator.inputs - more
        if self.latent < 1 or (discriminator.inputs, discriminator.outputs) != (self.dim + more, 1):
            raise ValueError(
                f"{name} needs a generator with {more + 1} inputs or more and a discriminator with "
                f"{self.dim + more} inputs and 1 output, got {generator.inputs} inputs, and "
                f"{discriminator.inputs} and {discriminator.outputs}."
            )
        self.generator, self.discriminator = generator, discriminator
        self.classes, self.penalty = classes, penalty

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        require_count(n, type(self).__name__)
        like = next(self.parameters()).new_empty(n, 0)
        return self._generate(self._one_hot(like, condition), rng)

    def fake(self, x, condition=None, *, rng=None):
        require_points(x, self.dim, type(self).__name__)
        return self._generate(self._one_hot(x, condition), rng)

    def _given(
        self, x: Tensor, condition: Tensor | None, fake: Tensor | None, rng: torch.Generator | None
    ) -> tuple[Float[Tensor, "N K"], Float[Tensor, "N D"]]:
        """The condition as one-hot rows, and the fake or a new one, once all are found to be valid."""
        require_points(x, self.dim, type(self).__name__)
        y = self._one_hot(x, condition)
        if fake is None:
            return y, self._generate(y, rng)
        require_fake(fake, x.shape, type(self).__name__)
        return y, fake

    def _one_hot(self, like: Float[Tensor, "N _"], condition: Tensor | None) -> Float[Tensor, "N K"]:
        """The condition as one-hot rows, K = 0 columns wide if the game has no classes."""
        if self.classes is None:
            require_no_condition(condition, type(self).__name__)
            return like[:, :0]
        require_classes(condition, len(like), self.classes, type(self).__name__)
        return F.one_hot(condition, self.classes).to(like)

    def _generate(self, y: Float[Tensor, "N K"], rng: torch.Generator | None) -> Float[Tensor, "N D"]:
        """G(z) for one z for each row of classes."""
        z = normal((len(y), self.latent), rng, like=y)
        return self.generator(torch.cat([z, y], -1))

    def _tell(self, x: Float[Tensor, "N D"], y: Float[Tensor, "N K"]) -> Float[Tensor, "N 1"]:
        """The discriminator's output."""
        return self.discriminator(torch.cat([x, y], -1))

    def _slope(self, x: Float[Tensor, "N D"], y: Float[Tensor, "N K"]) -> Float[Tensor, "N D"]:
        """Gradient of the discriminator in x, row by row; itself differentiable wherever gradients are on."""
        differentiable = torch.is_grad_enabled()
        with torch.enable_grad():
            x = x.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self._tell(x, y).sum(), x, create_graph=differentiable)
        return slope


class GAN(_Game):
    r"""Generative adversarial network: samples G(z) that a discriminator with logit d is to take for data.

    .. math:: \text{discriminator loss} = -\frac1N \sum_{n=1}^N \left(
            \log \sigma(d_\phi(x_n)) + \log \sigma(-d_\phi(G_\theta(z_n))) \right)
            + \frac{\gamma}{2N} \sum_{n=1}^N |\nabla_x d_\phi(x_n)|^2, \quad
        \text{generator loss} = -\frac1N \sum_{n=1}^N \log \sigma(d_\phi(G_\theta(z_n)))

    with z_n ~ N(0, I_M); G(z_n) is the `fake`, held in the discriminator's loss. Saturating, the generator's
    loss is the mean of log sigma(-d(G(z))), whose gradient vanishes where the discriminator is sure of the
    samples. Losses are in nats, and the discriminator's, without its penalty, is 2 log 2 where it knows
    nothing.

    Given classes, it is a conditional GAN: the condition, a class for each row, is joined one-hot to the
    inputs of both networks, and a sample is told from data of its own class.

    Args:
        generator: M inputs, and K more given classes; D outputs: G(z).
        discriminator: D inputs, and K more given classes; one output, the logit d of "data".
        classes: number of classes K; `condition` is then a whole number below it for each row.
        saturating: whether the generator lowers the discriminator's gain, log sigma(-d), itself.
        penalty: gamma >= 0, of the discriminator's slope at the data. Its gradient is of second order;
            under `torch.no_grad` it is computed as well. Each row's d must depend on that row alone.

    Both networks state their `inputs` and `outputs`, as `gmlib.nn.MLP` does.

    Raises:
        ValueError: if the widths do not fit together, the penalty is negative, x is not a finite (N, D),
            or the condition is not one class for each row, or none without classes.

    Source: Goodfellow et al. (2014), Generative Adversarial Nets, algorithm 1 and section 3 for the loss
    that does not saturate; Mirza and Osindero (2014), Conditional Generative Adversarial Nets, section 3.2;
    Mescheder, Geiger and Nowozin (2018), Which Training Methods for GANs do actually Converge?, equation 9.
    Departs from algorithm 1: `fit_adversarial` draws z_n once, for both players of a step.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        classes: int | None = None,
        saturating: bool = False,
        penalty: float | int = 0.0,
    ):
        super().__init__(generator, discriminator, classes, penalty)
        self.saturating = saturating

    def discriminator_loss(self, x, condition=None, fake=None, *, rng=None):
        y, fake = self._given(x, condition, fake, rng)
        loss = F.softplus(-self._tell(x, y)).mean() + F.softplus(self._tell(fake.detach(), y)).mean()
        if self.penalty == 0:
            return loss
        return loss + self.penalty / 2 * self._slope(x, y).square().sum(-1).mean()

    def generator_loss(self, x, condition=None, fake=None, *, rng=None):
        y, fake = self._given(x, condition, fake, rng)
        d = self._tell(fake, y)
        return -F.softplus(d).mean() if self.saturating else F.softplus(-d).mean()


class WGAN(_Game):
    r"""Wasserstein GAN: a critic f that is to have slope 1, and a generator that climbs it.

    .. math:: \text{discriminator loss} = \frac1N \sum_{n=1}^N \left( f_\phi(G_\theta(z_n)) - f_\phi(x_n)
            + \lambda \left( |\nabla f_\phi(\tilde x_n)| - 1 \right)^2 \right), \quad
        \tilde x_n = u_n x_n + (1 - u_n) G_\theta(z_n), \quad
        \text{generator loss} = -\frac1N \sum_{n=1}^N f_\phi(G_\theta(z_n))

    with z_n and the `fake` as for `GAN`, and u_n uniform on [0, 1). Of all f with slopes of at most 1, the
    best makes the negative discriminator loss, without its penalty, the distance W_1 of samples from data:
    it is in the unit of x. The critic is named `discriminator`, as in every game of two players. On the
    line the penalty can hold a critic of the wrong sign, for on the way from slope -1 to 1 it costs lambda
    at 0.

    Args:
        generator, discriminator, classes: as for `GAN`; the discriminator's output is f.
        penalty: lambda >= 0; 0 for none, where the critic's weights are clipped instead. As for `GAN`.

    Raises:
        ValueError: as `GAN`.

    Source: Gulrajani et al. (2017), Improved Training of Wasserstein GANs, algorithm 1; Arjovsky, Chintala
    and Bottou (2017), Wasserstein Generative Adversarial Networks, section 3, for the game. Departs from
    them as `GAN` does from its algorithm.
    """

    def __init__(
        self,
        generator: nn.Module,
        discriminator: nn.Module,
        *,
        classes: int | None = None,
        penalty: float | int = 10.0,
    ):
        super().__init__(generator, discriminator, classes, penalty)

    def discriminator_loss(self, x, condition=None, fake=None, *, rng=None):
        y, fake = self._given(x, condition, fake, rng)
        fake = fake.detach()
        loss = self._tell(fake, y).mean() - self._tell(x, y).mean()
        if self.penalty == 0:
            return loss
        u = uniform((len(x), 1), rng, like=x)
        steepness = torch.linalg.vector_norm(self._slope(u * x + (1 - u) * fake, y), dim=-1)
        return loss + self.penalty * (steepness - 1).square().mean()

    def generator_loss(self, x, condition=None, fake=None, *, rng=None):
        y, fake = self._given(x, condition, fake, rng)
        return -self._tell(fake, y).mean()
