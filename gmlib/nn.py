"""Networks and noise that the models share."""

from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn


class MLP(nn.Sequential):
    r"""Fully connected network: a linear map to each width in turn, an activation between two of them.

    .. math:: h_0 = x, \quad h_l = a(W_l h_{l-1} + b_l), \quad y = W_L h_{L-1} + b_L

    Args:
        inputs: width of the last axis of x.
        hidden: widths of the hidden layers; empty for one linear map.
        outputs: width of the last axis of y.
        activation: class of the activation a.
        dropout: share of each hidden layer that is set to zero while training, at random by torch's own
            generator.

    Raises:
        ValueError: if a width is below 1 or the dropout not in [0, 1).
    """

    def __init__(
        self,
        inputs: int,
        hidden: tuple[int, ...],
        outputs: int,
        *,
        activation: type[nn.Module] = nn.SiLU,
        dropout: float = 0.0,
    ):
        widths = (inputs, *hidden, outputs)
        if min(widths) < 1:
            raise ValueError(f"MLP needs widths >= 1, got {widths}.")
        if not 0 <= dropout < 1:
            raise ValueError(f"MLP needs dropout in [0, 1), got {dropout}.")
        layers: list[nn.Module] = []
        for width, next_width in pairwise(widths):
            layers += [nn.Linear(width, next_width), activation()] + [nn.Dropout(dropout)] * (dropout > 0)
        super().__init__(*layers[: -2 if dropout else -1])
        self.inputs, self.outputs = inputs, outputs


# Noise. Numbers are drawn where the generator lives and then moved to the tensor that they join, so
# that one seed gives the same numbers on every device. `rng=None` is torch's own CPU generator.


def normal(shape: tuple[int, ...], rng: torch.Generator | None, like: Float[Tensor, "..."]) -> Tensor:
    """Standard-normal noise of a shape, with the dtype and the device of `like`."""
    return torch.randn(shape, generator=rng, dtype=like.dtype, device=_home(rng)).to(like.device)


def uniform(shape: tuple[int, ...], rng: torch.Generator | None, like: Float[Tensor, "..."]) -> Tensor:
    """Noise uniform on [0, 1), of a shape, with the dtype and the device of `like`."""
    return torch.rand(shape, generator=rng, dtype=like.dtype, device=_home(rng)).to(like.device)


def bernoulli(p: Float[Tensor, "*shape"], rng: torch.Generator | None) -> Float[Tensor, "*shape"]:
    """Draws 1 with probability p and 0 otherwise, for each element: whether uniform noise lies below p.

    Raises:
        ValueError: if an element of p is not in [0, 1].
    """
    if not ((p >= 0) & (p <= 1)).all():
        raise ValueError(f"bernoulli needs probabilities in [0, 1], got {_span(p)}.")
    return (uniform(p.shape, rng, like=p) < p).to(p.dtype)


def categorical(logits: Float[Tensor, "*shape K"], rng: torch.Generator | None) -> Int[Tensor, "*shape"]:
    """Draws k with probability softmax(logits)_k along the last axis.

    Raises:
        ValueError: if logits are NaN or +infinite, or all of them -infinite.
    """
    if not logits.logsumexp(-1).isfinite().all():
        raise ValueError(f"categorical needs logits whose softmax exists, got {_span(logits)}.")
    p = logits.softmax(-1).reshape(-1, logits.shape[-1]).to(_home(rng))
    return torch.multinomial(p, 1, generator=rng).reshape(logits.shape[:-1]).to(logits.device)


def _home(rng: torch.Generator | None) -> torch.device:
    return torch.device("cpu") if rng is None else rng.device


def _span(x: Tensor) -> str:
    return f"values from {x.min():g} to {x.max():g}"
