"""Networks and noise that the models share."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F


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


class TimeMLP(nn.Module):
    r"""Fully connected network of points, a time and a label, for diffusion and flow matching.

    .. math:: y = \operatorname{MLP}(x, \sin(\omega_1 t), \dots, \sin(\omega_{16} t),
        \cos(\omega_1 t), \dots, \cos(\omega_{16} t), c), \quad \omega_k = 100^{(k - 1) / 15}

    It is called with x (N, D), times t (N,) in [0, 1] and labels c (N, classes), one-hot or all zeros for
    none.

    Args:
        dim: number of coordinates D of x and of y.
        hidden: widths of the hidden layers.
        classes: number of classes.

    Raises:
        ValueError: if dim or a width is below 1, or classes below 0.

    Source: Ho, Jain and Abbeel (2020), Denoising Diffusion Probabilistic Models, appendix B, for the
    functions of time.
    """

    FREQUENCIES = 16

    def __init__(self, dim: int, hidden: tuple[int, ...], classes: int = 0):
        super().__init__()
        if dim < 1 or classes < 0:
            raise ValueError(f"TimeMLP needs dim >= 1 and classes >= 0, got {dim} and {classes}.")
        self.network = MLP(dim + 2 * self.FREQUENCIES + classes, hidden, dim)
        self.register_buffer("omega", torch.logspace(0, 2, self.FREQUENCIES))
        self.inputs, self.outputs = dim + classes, dim

    def forward(self, x, time, label):
        angle = time.unsqueeze(-1) * self.omega
        return self.network(torch.cat([x, angle.sin(), angle.cos(), label], -1))


class MaskedLinear(nn.Linear):
    r"""A linear map without some of its connections.

    .. math:: y = (W \odot M) x + b

    Outputs are computed in blocks, each from the range of inputs that it has connections to, which saves
    up to half of the work where M is a triangle. Weights start uniform within one over the root of the
    number of connections of their output, b at 0.

    Args:
        inputs: width of the last axis of x.
        outputs: width of the last axis of y.
        mask: the matrix M of zeros and ones, (outputs, inputs).
        bias: whether there is a b.

    Raises:
        ValueError: if the mask is of another shape.
    """

    BLOCKS = 4

    def __init__(
        self, inputs: int, outputs: int, mask: Float[Tensor, "outputs inputs"], *, bias: bool = True
    ):
        super().__init__(inputs, outputs, bias=bias)
        self.register_buffer("mask", torch.empty_like(self.weight))
        self.set_mask(mask)
        self.register_load_state_dict_post_hook(lambda layer, _: layer.set_mask(layer.mask))
        with torch.no_grad():
            self.weight.uniform_(-1, 1).div_(mask.sum(1, keepdim=True).clamp(min=1).sqrt())
            if bias:
                self.bias.zero_()

    @torch.no_grad()
    def set_mask(self, mask: Tensor) -> None:
        """Takes the mask in place of the present one."""
        if mask.shape != self.weight.shape:
            raise ValueError(
                f"MaskedLinear needs a mask of shape {tuple(self.weight.shape)}, got {tuple(mask.shape)}."
            )
        self.mask.copy_(mask)
        blocks = self.mask.chunk(self.BLOCKS)
        ranges = [_nonzero_range(block) for block in blocks]
        work = sum(len(block) * (r.stop - r.start) for block, r in zip(blocks, ranges, strict=True))
        if work > 0.75 * self.mask.numel():  # little to save
            blocks, ranges = [self.mask], [slice(0, self.in_features)]
        self.blocks, self.ranges = [len(block) for block in blocks], ranges

    def forward(self, x):
        weights, masks = self.weight.split(self.blocks), self.mask.split(self.blocks)
        biases = [None] * len(weights) if self.bias is None else self.bias.split(self.blocks)
        blocks = zip(weights, masks, biases, self.ranges, strict=True)
        return torch.cat([F.linear(x[..., r], w[:, r] * m[:, r], b) for w, m, b, r in blocks], -1)


def _nonzero_range(block: Float[Tensor, "outputs inputs"]) -> slice:
    """From the first to the last column of the block that is not all zeros."""
    columns = block.any(0).nonzero().flatten().tolist()
    return slice(columns[0], columns[-1] + 1) if columns else slice(0, 0)


def made_masks(
    order: Sequence[int], hidden: Sequence[int], rng: torch.Generator | None = None
) -> list[Float[Tensor, "outputs inputs"]]:
    r"""The masks with which output d of a network depends on the inputs before d in an order, and no others.

    .. math:: M_{kj} = [m_k \ge m_j] \text{ up to the last hidden layer}, \quad M_{dk} = [m_d > m_k]
        \text{ at the outputs}

    where m_d is the place of coordinate d in the order, from 1, and m_k the place up to which hidden unit k
    sees: evenly spread over 1, ..., D - 1, or drawn, in the layers after the first from those that some
    unit below can serve.

    Args:
        order: the coordinates 0, ..., D - 1, the first one first.
        hidden: widths of the hidden layers.
        rng: draws what the hidden units see, if given.

    Returns:
        One mask for each layer, then one for direct connections from the inputs to the outputs.

    Raises:
        ValueError: if a width is below 1.

    Source: Germain, Gregor, Murray and Larochelle (2015), MADE: Masked Autoencoder for Distribution
    Estimation, section 3.
    """
    dim = len(order)
    if min(hidden, default=1) < 1:
        raise ValueError(f"made_masks needs widths >= 1, got {tuple(hidden)}.")
    places = torch.tensor(order).argsort() + 1
    last = max(dim - 1, 1)
    sees = [places]
    for width in hidden:
        if rng is None:
            sees.append(1 + torch.arange(width) * last // width)
        else:
            least = int(sees[-1].min())
            share = uniform((width,), rng, like=torch.empty(0, dtype=torch.float64))
            sees.append(least + (share.cpu() * (last + 1 - least)).long())
    within = [(above[:, None] >= below).float() for below, above in pairwise(sees)]
    return [*within, (places[:, None] > sees[-1]).float(), (places[:, None] > places).float()]


class CausalConv2d(nn.Conv2d):
    """A convolution whose kernel ends at the pixel itself, and which keeps height and width.

    Args:
        inputs: channels of x.
        outputs: channels of y.
        reach: how many pixels far it sees, beside the pixel itself.
        rows: whether it sees whole rows, its own and those above, as far to either side as up;
            else pixels of its own row, itself and those to the left.

    Raises:
        ValueError: if a number of channels is below 1, or the reach below 0.
    """

    def __init__(self, inputs: int, outputs: int, reach: int, *, rows: bool):
        if min(inputs, outputs) < 1 or reach < 0:
            raise ValueError(
                f"CausalConv2d needs channels >= 1 and reach >= 0, got {inputs} and {outputs} channels "
                f"and reach {reach}."
            )
        super().__init__(inputs, outputs, (reach + 1, 2 * reach + 1) if rows else (1, reach + 1))
        self.margin = (reach, reach, reach, 0) if rows else (reach, 0, 0, 0)  # left, right, top, bottom

    def forward(self, x):
        return super().forward(F.pad(x, self.margin))


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
