"""What a model promises. What a model does not inherit is part of the lesson."""

import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gmlib.nn import categorical


class Trainable(nn.Module, ABC):
    """A model with a loss to be lowered by gradient descent. Calling the model is computing its loss."""

    @abstractmethod
    def loss(
        self, x: Float[Tensor, "N D"], condition: Tensor | None = None, *, rng: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """Mean loss per row of x. A subclass states its unit: nats only for -log p(x) and for -ELBO."""

    def forward(
        self, x: Float[Tensor, "N D"], condition: Tensor | None = None, *, rng: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        """The loss, so that wrappers which call the model, such as data-parallel ones, train it."""
        return self.loss(x, condition, rng=rng)


class Sampler(nn.Module, ABC):
    """A model that draws."""

    @abstractmethod
    def sample(
        self, n: int, condition: Tensor | None = None, *, rng: torch.Generator | None = None
    ) -> Float[Tensor, "n D"]:
        """Draws n rows, without a gradient."""


class Density(Trainable, Sampler):
    r"""A model whose log p(x) is exact to rounding. Its loss is the mean of -log p(x), in nats.

    .. math:: \text{loss} = -\frac1N \sum_{n=1}^N \log p_\theta(x_n)

    `measure` says what p sums or integrates to 1 against: "counting" (probabilities) or "lebesgue"
    (densities). The two are never compared.

    Raises:
        TypeError: when a subclass is defined that changes the loss, or whose measure is neither.
    """

    measure: str

    def __init_subclass__(cls, **kwargs):
        super().__init_subclass__(**kwargs)
        if cls.loss is not Density.loss:
            raise TypeError(f"{cls.__name__} needs the loss of Density, -log_prob(x).mean(), got its own.")
        measure = getattr(cls, "measure", None)
        if inspect.isabstract(cls) or isinstance(measure, property):
            return
        if measure not in ("counting", "lebesgue"):
            raise TypeError(f"{cls.__name__} needs measure 'counting' or 'lebesgue', got {measure!r}.")

    @abstractmethod
    def log_prob(self, x: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
        """log p(x) in nats."""

    @final
    def loss(
        self, x: Float[Tensor, "N D"], condition: Tensor | None = None, *, rng: torch.Generator | None = None
    ) -> Float[Tensor, ""]:
        require_no_condition(condition, type(self).__name__)
        return -self.log_prob(x).mean()


class Adversarial(Sampler):
    """A sampler that learns from a second network, which tells what it makes from the real, by two losses.

    The submodule `discriminator` lowers one of them by its own parameters; all other parameters are the
    generator's, and lower the other. A loss may have gradients in any parameter: who trains the model
    takes those of one player alone. Both are losses of what the generator makes for the batch, the `fake`:
    given, it serves both players, who need it made but once; otherwise each loss makes its own.
    """

    discriminator: nn.Module

    def players(self) -> tuple[list[nn.Parameter], list[nn.Parameter]]:
        """The discriminator's parameters, and the generator's, which are all others."""
        discriminator = list(self.discriminator.parameters())
        taken = set(discriminator)
        return discriminator, [parameter for parameter in self.parameters() if parameter not in taken]

    @abstractmethod
    def fake(
        self, x: Float[Tensor, "N D"], condition: Tensor | None = None, *, rng: torch.Generator | None = None
    ) -> Float[Tensor, "N F"]:
        """What the generator makes for the rows of x, and the discriminator is to tell; with its gradient."""

    @abstractmethod
    def discriminator_loss(
        self,
        x: Float[Tensor, "N D"],
        condition: Tensor | None = None,
        fake: Float[Tensor, "N F"] | None = None,
        *,
        rng: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Mean loss per row of x, lowered in the discriminator's parameters; the fake is held."""

    @abstractmethod
    def generator_loss(
        self,
        x: Float[Tensor, "N D"],
        condition: Tensor | None = None,
        fake: Float[Tensor, "N F"] | None = None,
        *,
        rng: torch.Generator | None = None,
    ) -> Float[Tensor, ""]:
        """Mean loss per row of x, lowered in the generator's parameters; the fake carries their gradient."""


class Ensemble(Density):
    r"""The mixture of K densities with equal weights: it averages probabilities.

    .. math:: \log p(x) = \log \sum_{k=1}^K p_k(x) - \log K

    Raises:
        ValueError: if there is no model, one is not a Density, or their measures differ.
    """

    def __init__(self, models: Sequence[nn.Module]):
        super().__init__()
        if not models or not all(isinstance(model, Density) for model in models):
            raise ValueError(f"Ensemble needs one Density or more, got {[type(m).__name__ for m in models]}.")
        if len({model.measure for model in models}) > 1:
            raise ValueError(f"Ensemble needs one measure, got {[model.measure for model in models]}.")
        self.models = nn.ModuleList(models)

    @property
    def measure(self) -> str:
        return self.models[0].measure

    def log_prob(self, x):
        log_p = torch.stack([model.log_prob(x) for model in self.models])  # (K, N)
        return log_p.logsumexp(0) - math.log(len(self.models))

    def sample(self, n, condition=None, *, rng=None):
        require_count(n, "Ensemble")
        require_no_condition(condition, "Ensemble")
        k = categorical(torch.zeros(n, len(self.models)), rng)
        counts = k.bincount(minlength=len(self.models)).tolist()
        draws = [m.sample(count, rng=rng) for m, count in zip(self.models, counts, strict=True) if count]
        return torch.cat(draws)[k.argsort().argsort()]  # the i-th row is a draw of model k_i


def require_batch(x: Tensor, dim: int | None, name: str) -> None:
    """Raises ValueError unless x is a float tensor of shape (N, dim), or of any width, with N >= 1."""
    if not isinstance(x, Tensor) or not x.is_floating_point():
        got = x.dtype if isinstance(x, Tensor) else type(x).__name__
        raise ValueError(f"{name} needs a tensor of floats, got {got}.")
    if x.ndim != 2 or x.numel() == 0 or dim not in (None, x.shape[1]):
        raise ValueError(f"{name} needs x of shape (N, {dim or 'D'}) with N >= 1, got {tuple(x.shape)}.")


def require_points(x: Tensor, dim: int | None, name: str) -> None:
    """Raises ValueError unless x is a batch, as in `require_batch`, of finite values."""
    require_batch(x, dim, name)
    _require_finite(x, name)


def require_levels(x: Tensor, values: int, name: str) -> None:
    """Raises ValueError unless x holds whole numbers from 0 to values - 1."""
    if not torch.equal(x, x.round().clamp_(0, values - 1)):
        _require_finite(x, name)
        raise ValueError(
            f"{name} needs whole numbers from 0 to {values - 1}, got values from {x.min():g} to {x.max():g}."
        )


def _require_finite(x: Tensor, name: str) -> None:
    if not all(map(math.isfinite, torch.stack(x.aminmax()).tolist())):  # quicker than to ask each element
        raise ValueError(f"{name} needs finite x, got NaN or infinity.")


def require_count(n: int, name: str) -> None:
    """Raises ValueError unless n, the number of draws asked of `name`, is at least 1."""
    if n < 1:
        raise ValueError(f"{name} needs n >= 1 draws, got {n}.")


def require_no_condition(condition: Tensor | None, name: str) -> None:
    """Raises ValueError if a model without conditions is given one."""
    if condition is not None:
        raise ValueError(f"{name} takes no condition, got one.")


def require_classes(y: Tensor | None, n: int, classes: int | None, name: str, least: int = 0) -> None:
    """Raises ValueError unless y holds n labels of int64 from least to classes - 1, or to any number."""
    if not isinstance(y, Tensor) or y.shape != (n,) or y.dtype != torch.int64:
        got = f"{y.dtype} of shape {tuple(y.shape)}" if isinstance(y, Tensor) else type(y).__name__
        raise ValueError(f"{name} needs {n} labels of int64, got {got}.")
    if y.min() < least or (classes is not None and y.max() >= classes):
        most = "" if classes is None else f" to {classes - 1}"
        raise ValueError(f"{name} needs labels from {least}{most}, got {y.min()} to {y.max()}.")


def require_fake(fake: Tensor, shape: Sequence[int], name: str) -> None:
    """Raises ValueError unless fake has the shape of what the generator of `name` makes for a batch."""
    if not isinstance(fake, Tensor) or fake.shape != shape:
        got = f"one of {tuple(fake.shape)}" if isinstance(fake, Tensor) else type(fake).__name__
        raise ValueError(f"{name} needs a fake of shape {tuple(shape)}, got {got}.")


def require_networks(networks: Sequence[nn.Module], name: str) -> None:
    """Raises ValueError unless each network states its widths as `inputs` and `outputs`."""
    for network in networks:
        if not hasattr(network, "inputs") or not hasattr(network, "outputs"):
            raise ValueError(
                f"{name} needs networks that state their `inputs` and `outputs`, as gmlib.nn.MLP does, "
                f"got {type(network).__name__}."
            )
