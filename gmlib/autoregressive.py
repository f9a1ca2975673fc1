"""Models that draw one coordinate after the other, each from a distribution given those before it."""

import math
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.distributions import Normal
from torch.nn import functional as F

from gmlib.base import (
    Density,
    Trainable,
    require_batch,
    require_count,
    require_levels,
    require_no_condition,
    require_points,
)
from gmlib.nn import (
    MLP,
    CausalConv2d,
    MaskedLinear,
    bernoulli,
    categorical,
    made_masks,
    normal,
    uniform,
)


class _Autoregressive(Density):
    r"""A density by the chain rule, over the coordinates in the order o_1, ..., o_D.

    .. math:: \log p(x) = \sum_{i=1}^D \log p(x_{o_i} \mid x_{o_1}, \dots, x_{o_{i-1}})
    """

    def __init__(self, dim: int, order: Sequence[int] | None = None):
        super().__init__()
        _require_positive(type(self).__name__, dim=dim)
        self.dim = dim
        self._set_order(range(dim) if order is None else order)

    def _set_order(self, order: Sequence[int]) -> None:
        if sorted(order) != list(range(self.dim)):
            raise ValueError(
                f"{type(self).__name__} needs an order of the coordinates 0 to {self.dim - 1}, "
                f"got {list(order)}."
            )
        self.order = tuple(order)

    @abstractmethod
    def _steps(self, x: Float[Tensor, "N D"], known: int) -> Iterator[tuple[int, Tensor]]:
        """Coordinates from the `known`-th on, in order, with what the network says of each.

        Whoever iterates writes the coordinate into x before asking for the next one.
        """

    @abstractmethod
    def _draw(self, outputs: Tensor, rng: torch.Generator | None) -> Float[Tensor, " N"]:
        """Draws a coordinate, given what the network says of it."""

    def _require_values(self, x: Float[Tensor, "N D"]) -> None:
        require_points(x, self.dim, type(self).__name__)

    @torch.no_grad()
    def complete(
        self, x: Float[Tensor, "N D"], known: int, *, rng: torch.Generator | None = None
    ) -> Float[Tensor, "N D"]:
        """Keeps the first `known` coordinates of the model's order and draws the rest given them.

        Raises:
            ValueError: if known is not in 0, ..., D, or the first coordinates are none of the model's.
        """
        name = type(self).__name__
        require_points(x, self.dim, name)
        if not 0 <= known <= self.dim:
            raise ValueError(f"{name} needs 0 <= known <= {self.dim}, got {known}.")
        x = x.clone()
        x[:, self.order[known:]] = 0.0
        self._require_values(x)
        for d, outputs in self._steps(x, known):
            x[:, d] = self._draw(outputs, rng).to(x.dtype)
        return x

    def sample(self, n, condition=None, *, rng=None):
        require_count(n, type(self).__name__)
        require_no_condition(condition, type(self).__name__)
        return self.complete(torch.zeros(n, self.dim).to(next(self.parameters())), 0, rng=rng)


class _Discrete(_Autoregressive):
    r"""Each coordinate is a whole number 0, ..., m - 1.

    .. math:: \log p(x_d \mid x_{<d}) = \log \operatorname{softmax}(\ell_d(x_{<d}))_{x_d}

    With m = 2 there is one logit, that of x_d = 1, in place of two.
    """

    measure = "counting"

    def __init__(self, dim: int, order: Sequence[int] | None = None, values: int = 2):
        super().__init__(dim, order)
        if values < 2:
            raise ValueError(f"{type(self).__name__} needs values >= 2, got {values}.")
        self.values = values
        self.outputs = 1 if values == 2 else values  # logits of one coordinate

    def logits(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"] | Float[Tensor, "N D values"]:
        """The logits of all conditionals at once: (N, D), or (N, D, values) for more than two values."""
        require_points(x, self.dim, type(self).__name__)
        return self._logits(x)

    @abstractmethod
    def _logits(self, x: Float[Tensor, "N D"]) -> Tensor:
        """The logits of an x that has been looked at."""

    def log_prob(self, x):
        """log p(x) in nats, exact."""
        self._require_values(x)
        logits = self._logits(x)
        if self.values == 2:
            return -F.binary_cross_entropy_with_logits(logits, x, reduction="none").sum(-1)
        return -F.cross_entropy(logits.mT, x.long(), reduction="none").sum(-1)

    def _require_values(self, x):
        require_batch(x, self.dim, type(self).__name__)
        require_levels(x, self.values, type(self).__name__)

    def _steps(self, x, known):
        for d in self.order[known:]:
            yield d, self._logits(x)[:, d]

    def _draw(self, outputs, rng):
        return bernoulli(outputs.sigmoid(), rng) if self.values == 2 else categorical(outputs, rng)


class LogisticAR(_Discrete):
    r"""One logistic regression for each coordinate on those before it: a fully visible belief net.

    .. math:: \operatorname{logit} p(x_d = 1 \mid x_{<d}) = b_d + \sum_{j < d} W_{dj} x_j

    It starts as fair coins.

    Args:
        dim: number of coordinates D.

    Raises:
        ValueError: if dim < 1, or x is not a batch of D zeros and ones.

    Source: Neal (1992), Connectionist Learning of Belief Networks; Frey (1998), Graphical Models for
    Machine Learning and Digital Communication.
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self.W, self.b = nn.Parameter(torch.zeros(dim, dim)), nn.Parameter(torch.zeros(dim))

    def _logits(self, x):
        return F.linear(x, self.W.tril(-1), self.b)

    def _steps(self, x, known):
        for d in range(known, self.dim):
            yield d, self.b[d] + x[:, :d] @ self.W[d, :d]


class NADE(_Discrete):
    r"""Conditionals with one hidden layer each, whose weights are shared so that all cost O(D H).

    .. math:: a_1 = c, \quad a_{d+1} = a_d + x_d W_d, \quad h_d = \sigma(a_d), \quad
        \operatorname{logit} p(x_d = 1 \mid x_{<d}) = b_d + V_d^\top h_d

    Args:
        dim: number of coordinates D.
        hidden: number of hidden units H.

    Raises:
        ValueError: if a size is below 1, or x is not a batch of D zeros and ones.

    Source: Larochelle and Murray (2011), The Neural Autoregressive Distribution Estimator, section 3.
    """

    def __init__(self, dim: int, hidden: int):
        super().__init__(dim)
        _require_positive("NADE", hidden=hidden)
        self.W = nn.Parameter(nn.init.xavier_uniform_(torch.empty(dim, hidden)))
        self.V = nn.Parameter(nn.init.xavier_uniform_(torch.empty(dim, hidden)))
        self.b, self.c = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(hidden))

    def _logits(self, x):
        if x.requires_grad:
            states = zip(_states(x, self.W, self.c), self.V.unbind(0), strict=True)
            return torch.stack([a.sigmoid() @ v for a, v in states], -1) + self.b
        return _SparseNADE.apply(x, self.W, self.V, self.c) + self.b

    def _steps(self, x, known):
        for d, a in enumerate(_states(x, self.W, self.c, known), known):
            yield d, self.b[d] + a.sigmoid() @ self.V[d]


def _states(x, W, c, known: int = 0) -> Iterator[Float[Tensor, "N H"]]:
    """The activations c + sum_{j<d} x_j W_j for one d after the other, the first of them `known`.

    W.unbind, and not W[d]: the gradient of each W[d] would be a whole (D, H) matrix of zeros but for a row.
    """
    a = c + x[:, :known] @ W[:known]
    for d, w in enumerate(W.unbind(0)[known:], known):
        yield a
        a = torch.addr(a, x[:, d], w)


class _SparseNADE(torch.autograd.Function):
    """V_d . h_d for all d, by updating the rows with x_d != 0 alone; memory O(N (D + H)), both ways.

    On the way back it takes each update back, instead of storing D hidden layers.
    """

    @staticmethod
    def forward(ctx, x, W, V, c):
        a = c.expand(len(x), -1).clone(memory_format=torch.contiguous_format)
        h, out = a.sigmoid(), torch.empty_like(x.T, memory_format=torch.contiguous_format)
        runs = _runs(x)
        for start, stop, rows in runs:
            if start:
                a_rows = torch.addr(a[rows], x[rows, start - 1], W[start - 1])
                a[rows], h[rows] = a_rows, a_rows.sigmoid()
            torch.mm(V[start:stop], h.T, out=out[start:stop])
        ctx.save_for_backward(x, W, V, a)
        ctx.runs = runs
        return out.T

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        x, W, V, a = ctx.saved_tensors
        a, grad = a.clone(), grad.T.contiguous()
        h, dW, dV = a.sigmoid(), torch.zeros_like(W), torch.empty_like(V)
        da, dh = torch.zeros_like(a), torch.zeros_like(a)  # of the states after, and in, the present run
        for start, stop, rows in reversed(ctx.runs):
            torch.mm(grad[start:stop], h, out=dV[start:stop])
            dh.addmm_(grad[start:stop].T, V[start:stop])
            if start:
                h_rows, x_rows = h[rows], x[rows, start - 1]
                da_rows = da[rows] + dh[rows] * h_rows * (1 - h_rows)
                da[rows], dh[rows] = da_rows, 0.0
                dW[start - 1] = x_rows @ da_rows
                a_rows = torch.addr(a[rows], x_rows, W[start - 1], alpha=-1)
                a[rows], h[rows] = a_rows, a_rows.sigmoid()
        return None, dW, dV, (da + dh * h * (1 - h)).sum(0)


def _runs(x: Float[Tensor, "N D"]) -> list[tuple[int, int, Tensor]]:
    """Runs of coordinates that share all hidden states: start, stop, and the rows with x_{start-1} != 0."""
    counts = (x != 0).sum(0).tolist()
    rows = x.T.nonzero()[:, 1].split(counts)
    starts = [0] + [d + 1 for d, count in enumerate(counts[:-1]) if count]
    return [(start, stop, rows[start - 1]) for start, stop in pairwise([*starts, len(counts)])]


class RNADE(_Autoregressive):
    r"""NADE of real numbers: each conditional is a mixture of K Gaussians.

    .. math:: p(x_d \mid x_{<d}) = \sum_{k=1}^K \pi_{dk} \, \mathcal N(x_d; \mu_{dk}, \sigma_{dk}^2), \quad
        (\log \pi_d, \mu_d, \sigma_d) \text{ from } b_d + V_d^\top \max(0, a_d)

    with NADE's a_d. A sigma is at least `FLOOR`, or the density of a constant coordinate has no bound;
    standardise the data.

    Args:
        dim: number of coordinates D.
        hidden: number of hidden units H.
        components: number K of Gaussians in each conditional.

    Raises:
        ValueError: if a size is below 1, or x is not a finite (N, D) batch.

    Source: Uria, Murray and Larochelle (2013), RNADE: The Real-valued Neural Autoregressive
    Density-Estimator, section 3. Departs from it: no scaling of the activations with d; sigma by softplus.
    """

    measure = "lebesgue"
    FLOOR = 1e-3

    def __init__(self, dim: int, hidden: int, components: int):
        super().__init__(dim)
        _require_positive("RNADE", hidden=hidden, components=components)
        self.components = components
        self.W = nn.Parameter(nn.init.xavier_uniform_(torch.empty(dim, hidden)))
        self.V = nn.Parameter(torch.randn(dim, hidden, 3 * components) / (10 * hidden**0.5))
        self.b, self.c = nn.Parameter(torch.randn(dim, 3 * components)), nn.Parameter(torch.zeros(hidden))

    def conditionals(
        self, x: Float[Tensor, "N D"]
    ) -> tuple[Float[Tensor, "N D K"], Float[Tensor, "N D K"], Float[Tensor, "N D K"]]:
        """Log-weights, means and standard deviations of all conditionals at once."""
        self._require_values(x)
        states = zip(_states(x, self.W, self.c), self.V.unbind(0), strict=True)
        return self._mixture(torch.stack([a.relu() @ v for a, v in states], 1) + self.b)

    def log_prob(self, x):
        """log p(x) in nats, exact."""
        log_pi, mu, sigma = self.conditionals(x)
        log_p = log_pi + Normal(mu, sigma, validate_args=False).log_prob(x.unsqueeze(-1))  # (N, D, K)
        return log_p.logsumexp(-1).sum(-1)

    def _mixture(self, outputs):
        log_pi, mu, sigma = outputs.chunk(3, -1)
        return log_pi.log_softmax(-1), mu, F.softplus(sigma) + self.FLOOR

    def _steps(self, x, known):
        for d, a in enumerate(_states(x, self.W, self.c, known), known):
            yield d, self.b[d] + a.relu() @ self.V[d]

    def _draw(self, outputs, rng):
        log_pi, mu, sigma = self._mixture(outputs)
        k = categorical(log_pi, rng).unsqueeze(-1)
        mu, sigma = mu.gather(-1, k).squeeze(-1), sigma.gather(-1, k).squeeze(-1)
        return mu + sigma * normal(mu.shape, rng, like=mu)


class MADE(_Discrete):
    r"""An autoencoder with masks, which leave output d only the inputs before d in the order.

    .. math:: h_0 = x, \quad h_l = \max(0, (W_l \odot M_l) h_{l-1} + b_l), \quad
        \operatorname{logit} p(x \mid \cdot) = (V \odot M_V) h_L + b_V \; [+ (A \odot M_A) x]

    Args:
        dim: number of coordinates D.
        hidden: widths of the hidden layers.
        order: the coordinates in the order in which they are drawn; by default 0, ..., D - 1.
        direct: whether inputs are connected to outputs directly too, by the matrix A.
        rng: draws how many coordinates each hidden unit sees; by default the numbers are spread evenly.

    Raises:
        ValueError: if a width is below 1, the order is not one of all coordinates, or x is not a batch of D
            zeros and ones.

    Source: Germain, Gregor, Murray and Larochelle (2015), MADE: Masked Autoencoder for Distribution
    Estimation, sections 3 and 4.
    """

    def __init__(
        self,
        dim: int,
        hidden: tuple[int, ...],
        order: Sequence[int] | None = None,
        direct: bool = False,
        rng: torch.Generator | None = None,
    ):
        super().__init__(dim, order)
        masks = made_masks(self.order, hidden, rng)
        layers: list[nn.Module] = []
        for mask in masks[:-1]:
            layers += [MaskedLinear(*mask.T.shape, mask), nn.ReLU()]
        self.hidden = tuple(hidden)
        self.network = nn.Sequential(*layers[:-1])
        self.direct = MaskedLinear(dim, dim, masks[-1], bias=False) if direct else None

    def _logits(self, x):
        logits = self.network(x)
        return logits if self.direct is None else logits + self.direct(x)

    @torch.no_grad()
    def reorder(self, order: Sequence[int], rng: torch.Generator | None = None) -> "MADE":
        """Gives the same weights the masks of another order, and returns the model."""
        self._set_order(order)
        masks = made_masks(self.order, self.hidden, rng)
        layers = [*self.network[::2], *([self.direct] if self.direct else [])]
        for layer, mask in zip(layers, masks, strict=False):
            layer.set_mask(mask)
        return self


def tree_order(x: Float[Tensor, "N D"], root: int = 0) -> list[int]:
    r"""The coordinates in an order in which each follows one that it shares much information with.

    .. math:: o_1 = \text{root}, \quad
        o_i = \arg\max_{d \notin \{o_1, \dots, o_{i-1}\}} \; \max_{j < i} I(x_d; x_{o_j})

    with the mutual informations of the frequencies in x: Prim's algorithm grows the tree of Chow and Liu.

    Raises:
        ValueError: if x is not a batch of zeros and ones, or the root not one of its coordinates.

    Source: Chow and Liu (1968), Approximating Discrete Probability Distributions with Dependence Trees;
    Prim (1957), Shortest Connection Networks and Some Generalizations.
    """
    require_batch(x, None, "tree_order")
    require_levels(x, 2, "tree_order")
    if not 0 <= root < x.shape[1]:
        raise ValueError(f"tree_order needs a root from 0 to {x.shape[1] - 1}, got {root}.")
    sides = torch.stack([x, 1 - x])  # (2, N, D)
    joint = (sides.mT[:, None] @ sides).double() / len(x)  # (2, 2, D, D)
    alone = sides.mean(1, dtype=torch.float64)  # (2, D)
    apart = alone[:, None, :, None] * alone[:, None]  # what independence would make of it
    information = torch.xlogy(joint, joint / apart.where(joint > 0, 1)).sum((0, 1))
    information = information.round(decimals=9)  # ties are ties on all processors
    order, shared = [root], information[root]
    while len(order) < x.shape[1]:
        order.append(int(shared.index_fill(0, torch.tensor(order), -torch.inf).argmax()))
        shared = torch.maximum(shared, information[order[-1]])
    return order


class OrderAgnosticMADE(Trainable):
    r"""One set of weights trained for all orders: MADE with an order and masks drawn for each batch.

    .. math:: \text{loss} = -\frac1N \sum_{n=1}^N \log p_{\theta, o, M}(x_n)

    A draw of the expectation over orders o and masks M, in nats; since each order is another
    distribution, the model is no `Density`. `at` gives one that is, and an `Ensemble` of several averages
    their probabilities.

    Args:
        dim: number of coordinates D.
        hidden: widths of the hidden layers.

    Raises:
        ValueError: if a width is below 1, or x is not a batch of D zeros and ones.

    Source: Germain, Gregor, Murray and Larochelle (2015), MADE: Masked Autoencoder for Distribution
    Estimation, sections 4.2 and 4.3.
    """

    def __init__(self, dim: int, hidden: tuple[int, ...]):
        super().__init__()
        self.made = MADE(dim, hidden)

    def loss(self, x, condition=None, *, rng=None):
        order = uniform((self.made.dim,), rng, like=next(self.parameters())).argsort().tolist()
        return self.made.reorder(order, rng).loss(x, condition)

    def at(self, order: Sequence[int], rng: torch.Generator | None = None) -> MADE:
        """A MADE of this order, with a copy of the weights, and masks that are spread evenly or drawn."""
        return deepcopy(self.made).reorder(order, rng)


class _GatedLayer(nn.Module):
    """One step of the two stacks: v has seen the rows above a pixel, h also those to its left."""

    def __init__(self, channels: int, reach: int):
        super().__init__()
        self.down = CausalConv2d(channels, 2 * channels, reach, rows=True)
        self.right = CausalConv2d(channels, 2 * channels, reach, rows=False)
        self.across = nn.Conv2d(2 * channels, 2 * channels, 1)
        self.out = nn.Conv2d(channels, channels, 1)

    def forward(self, v, h):
        down = self.down(v)
        right = self.right(h) + self.across(down)
        return v + _gate(down), h + self.out(_gate(right))


def _gate(x: Float[Tensor, "N C H W"]) -> Float[Tensor, "N C/2 H W"]:
    filtered, gate = x.chunk(2, 1)
    return filtered.tanh() * gate.sigmoid()


class PixelCNN(_Discrete):
    r"""Convolutions over the pixels above and to the left, in two stacks of gated layers: no blind spot.

    .. math:: v \leftarrow v + g(u), \; u = \text{down}(v), \quad
        h \leftarrow h + \text{out}(g(\text{right}(h) + \text{across}(u))), \quad
        g(a, b) = \tanh a \odot \sigma(b)

    v starts as the image moved down by a row, h as the image moved right by a pixel, so that all that
    follows may look at its own place. Order: rows from the top, in a row from the left, and in a pixel
    channel after channel, which lie side by side as if they were narrow pixels.

    Args:
        shape: channels, height and width of the image; D is their product.
        channels: width of the hidden layers.
        layers: number of gated layers L.
        values: number m of levels 0, ..., m - 1.
        reach: how many pixels farther a layer sees; all earlier ones from L * reach >= max(H, W C) - 1 on.

    Raises:
        ValueError: if a size is below 1, values < 2, or x is not a batch of D whole numbers from 0 to m - 1.

    Source: van den Oord et al. (2016), Conditional Image Generation with PixelCNN Decoders, section 2.
    Departs from it: moved images in place of masks; residual connections in both stacks.
    """

    def __init__(
        self, shape: tuple[int, int, int], channels: int, layers: int, values: int = 2, reach: int = 2
    ):
        if len(shape) != 3:
            raise ValueError(f"PixelCNN needs a shape (C, H, W), got {tuple(shape)}.")
        _require_positive("PixelCNN", **dict(zip("CHW", shape, strict=True)))
        _require_positive("PixelCNN", channels=channels, layers=layers, reach=reach)
        dim = math.prod(shape)
        super().__init__(dim, torch.arange(dim).view(shape).permute(1, 2, 0).flatten().tolist(), values)
        self.shape = tuple(shape)
        self.first_v, self.first_h = nn.Conv2d(1, channels, 1), nn.Conv2d(1, channels, 1)
        self.layers = nn.ModuleList(_GatedLayer(channels, reach) for _ in range(layers))
        self.head = nn.Sequential(
            nn.ReLU(), nn.Conv2d(channels, channels, 1), nn.ReLU(), nn.Conv2d(channels, self.outputs, 1)
        )

    def _logits(self, x):
        C, H, W = self.shape
        image = x.view(-1, C, H, W).permute(0, 2, 3, 1).reshape(-1, 1, H, W * C)
        image = 2 * image / (self.values - 1) - 1
        v = self.first_v(F.pad(image, (0, 0, 1, -1)))
        h = self.first_h(F.pad(image, (1, -1, 0, 0)))
        for layer in self.layers:
            v, h = layer(v, h)
        logits = self.head(h).view(-1, self.outputs, H, W, C).permute(0, 4, 2, 3, 1)  # (N, C, H, W, outputs)
        return logits.reshape(len(x), self.dim, -1).squeeze(-1)


class _Block(nn.Module):
    """Causal self-attention, then a network at each place; both add to what is there."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.join = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width)
        self.mlp = MLP(width, (4 * width,), width, activation=nn.GELU)

    def forward(self, h):
        qkv = self.qkv(self.before_attention(h)).unflatten(-1, (3, self.heads, -1))  # (N, D, 3, heads, w)
        q, k, v = qkv.permute(2, 0, 3, 1, 4)
        attention = F.scaled_dot_product_attention(q, k, v, is_causal=True)  # (N, heads, D, w)
        h = h + self.join(attention.transpose(1, 2).flatten(-2))
        return h + self.mlp(self.before_mlp(h))


class CausalTransformer(_Discrete):
    r"""Attention to the coordinates before: place d reads x_{d-1}, and attends to places 1, ..., d.

    .. math:: h_d = E_{x_{d-1}} + P_d, \quad h \leftarrow h + \text{attention}(\text{norm}(h)), \quad
        h \leftarrow h + \text{MLP}(\text{norm}(h)), \quad \ell_d = V \, \text{norm}(h_d) + b

    where x_0 is a value of its own.

    Args:
        dim: number of coordinates D.
        width: width of the hidden layers, a multiple of the number of heads.
        heads: attention heads of each layer.
        layers: number of layers L.
        values: number m of values 0, ..., m - 1.

    Raises:
        ValueError: if a size is below 1, values < 2, width not a multiple of heads, or x is not a batch of D
            whole numbers from 0 to m - 1.

    Source: Vaswani et al. (2017), Attention Is All You Need, section 3, the decoder alone. Departs from
    it: norms before the sums, learned places, GELU.
    """

    def __init__(self, dim: int, width: int, heads: int, layers: int, values: int = 2):
        super().__init__(dim, None, values)
        _require_positive("CausalTransformer", width=width, heads=heads, layers=layers)
        if width % heads:
            raise ValueError(
                f"CausalTransformer needs a width that is a multiple of heads, got width {width} and "
                f"heads {heads}."
            )
        self.embedding = nn.Embedding(values + 1, width)
        self.places = nn.Parameter(0.1 * torch.randn(dim, width))
        self.blocks = nn.Sequential(*(_Block(width, heads) for _ in range(layers)))
        self.head = nn.Sequential(nn.LayerNorm(width), nn.Linear(width, self.outputs))

    def _logits(self, x):
        self._require_values(x)
        before = F.pad(x[:, :-1].long(), (1, 0), value=self.values)  # a value of its own before the first
        return self.head(self.blocks(self.embedding(before) + self.places)).squeeze(-1)


def _require_positive(name: str, **sizes: int) -> None:
    if min(sizes.values()) < 1:
        got = ", ".join(f"{size} {number}" for size, number in sizes.items())
        raise ValueError(f"{name} needs sizes >= 1, got {got}.")
