"""Densities by change of variables: invertible maps from data x to noise z, whose volume change is known."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F
from torchdiffeq import odeint

from gmlib.base import (
    Density,
    Sampler,
    Trainable,
    require_count,
    require_levels,
    require_no_condition,
    require_points,
)
from gmlib.nn import MLP, MaskedLinear, bernoulli, made_masks, normal, uniform
from gmlib.ode import transport

BOUND = 2.0  # of the logarithm of a scale that a network asks for


class Transform(nn.Module, ABC):
    """An invertible map of points in D dimensions, with the log of its volume change.

    Args:
        dim: number of coordinates D.

    Raises:
        ValueError: if dim < `LEAST`, or the points are no finite (N, D) batch.
    """

    LEAST = 1

    def __init__(self, dim: int):
        super().__init__()
        if dim < self.LEAST:
            raise ValueError(f"{type(self).__name__} needs dim >= {self.LEAST}, got {dim}.")
        self.dim = dim

    def encode(self, x: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, " N"]]:
        """z and log|det dz/dx|, from data to noise."""
        require_points(x, self.dim, f"{type(self).__name__}.encode")
        return self._encode(x)

    def decode(self, z: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The x that `encode` takes to z."""
        require_points(z, self.dim, f"{type(self).__name__}.decode")
        return self._decode(z)

    @abstractmethod
    def _encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """`encode` of points that have been looked at."""

    @abstractmethod
    def _decode(self, z: Tensor) -> Tensor:
        """`decode` of points that have been looked at."""


class Affine(Transform):
    r"""Shift and scale of each coordinate; it starts as the identity.

    .. math:: z = (x - m) / s, \quad \text{ladj} = -\sum_d \log s_d
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self.m, self.log_s = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def _encode(self, x):
        return (x - self.m) * (-self.log_s).exp(), -self.log_s.sum().expand(len(x))

    def _decode(self, z):
        return z * self.log_s.exp() + self.m


class LinearLU(Transform):
    r"""A linear map as the product of two triangles; it starts as the identity.

    .. math:: z = L U x + b, \quad \text{ladj} = \sum_d \log U_{dd}, \quad L_{dd} = 1, \quad U_{dd} > 0

    Source: Kingma and Dhariwal (2018), Glow: Generative Flow with Invertible 1x1 Convolutions, section 3.2.
    Departs from it: no permutation, and all determinants are positive.
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self.lower, self.upper = nn.Parameter(torch.zeros(dim, dim)), nn.Parameter(torch.zeros(dim, dim))
        self.log_diagonal, self.b = nn.Parameter(torch.zeros(dim)), nn.Parameter(torch.zeros(dim))

    def _triangles(self):
        one = torch.eye(self.dim).to(self.b)
        return self.lower.tril(-1) + one, self.upper.triu(1) + self.log_diagonal.exp().diag()

    def _encode(self, x):
        lower, upper = self._triangles()
        return x @ (lower @ upper).T + self.b, self.log_diagonal.sum().expand(len(x))

    def _decode(self, z):
        lower, upper = self._triangles()
        y = torch.linalg.solve_triangular(lower, (z - self.b).T, upper=False, unitriangular=True)
        return torch.linalg.solve_triangular(upper, y, upper=True).T


class Permutation(Transform):
    """Coordinates in another order: z_i is x's coordinate order[i].

    Raises:
        ValueError: if the order is not one of all coordinates.
    """

    def __init__(self, order: Sequence[int]):
        super().__init__(len(order))
        if sorted(order) != list(range(len(order))):
            raise ValueError(f"Permutation needs an order of 0 to {len(order) - 1}, got {list(order)}.")
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("inverse", torch.tensor(order).argsort())

    def _encode(self, x):
        return x[:, self.order], x.new_zeros(len(x))

    def _decode(self, z):
        return z[:, self.inverse]


class Planar(Transform):
    r"""Moves points along one direction u, by an amount that depends on their place along another, w.

    .. math:: z = x + \hat u \tanh(w^\top x + b), \quad
        \text{ladj} = \log \left( 1 + w^\top \hat u \, (1 - \tanh^2(w^\top x + b)) \right)

    with :math:`\hat u = u + (-1 + \log(1 + e^{w^\top u}) - w^\top u) \, w / \|w\|^2`, so that
    :math:`w^\top \hat u > -1` and the map has an inverse: the place along w is found by bisection.

    Source: Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, section 4.1 and
    appendix A.1. Departs from it: the explicit direction is from data to noise.
    """

    def __init__(self, dim: int):
        super().__init__(dim)
        self.w = nn.Parameter(torch.randn(dim) / dim**0.5)
        self.u = nn.Parameter(0.1 * torch.randn(dim))
        self.b = nn.Parameter(torch.zeros(()))

    def direction(self) -> Float[Tensor, " D"]:
        """The direction that points move in, u corrected so that the map has an inverse."""
        along = self.w @ self.u
        return self.u + (F.softplus(along) - 1 - along) * self.w / self.w.square().sum()

    def _encode(self, x):
        u = self.direction()
        h = (x @ self.w + self.b).tanh()
        return x + h.unsqueeze(-1) * u, torch.log1p(self.w @ u * (1 - h.square()))

    def _decode(self, z):
        u = self.direction()
        target, step = z @ self.w, self.w @ u
        low, high = target - step.abs(), target + step.abs()
        for _ in range(-torch.finfo(z.dtype).bits, 0):  # each halving is one more bit
            middle = 0.5 * (low + high)
            above = middle + step * (middle + self.b).tanh() > target
            low, high = torch.where(above, low, middle), torch.where(above, middle, high)
        return z - (0.5 * (low + high) + self.b).tanh().unsqueeze(-1) * u


class _Tanh(nn.Tanh):
    """In place. Smooth, so that the density is; bounded, so that rounding of far points stays harmless."""

    def forward(self, x):
        return x.tanh_()


class _Coupling(Transform):
    """One half of the coordinates stays and tells a network how to move the others."""

    LEAST = 2
    per_coordinate: int  # numbers that the network gives for each coordinate that moves

    def __init__(self, dim: int, hidden: tuple[int, ...], flip: bool = False, per_coordinate: int = 2):
        super().__init__(dim)
        self.flip, self.halves = flip, (dim // 2, dim - dim // 2)
        stays, moves = self.halves[::-1] if flip else self.halves
        self.network = MLP(stays, hidden, moves * per_coordinate, activation=_Tanh)
        with torch.no_grad():
            self.network[-1].weight.zero_()
            self.network[-1].bias.zero_()

    def _split(self, x):
        first, second = x.split(self.halves, -1)
        return (second, first) if self.flip else (first, second)

    def _join(self, stays, moves):
        return torch.cat((moves, stays) if self.flip else (stays, moves), -1)


class Coupling(_Coupling):
    r"""One half of the coordinates stays and tells a network how to shift and scale the others.

    .. math:: z_a = x_a, \quad z_b = x_b \, e^{s(x_a)} + t(x_a), \quad \text{ladj} = \sum_{d \in b} s_d(x_a)

    It starts as the identity. s is twice the tanh of the network's output, so that no scale overflows.

    Args:
        dim: number of coordinates D; a is the first D // 2 of them.
        hidden: widths of the network's hidden layers.
        flip: whether b is the first D // 2 coordinates instead.

    Raises:
        ValueError: if dim < 2 or a width is below 1.

    Source: Dinh, Sohl-Dickstein and Bengio (2017), Density Estimation Using Real NVP, section 3.2.
    Departs from it: halves in place of checkerboards, a dense network with tanh, no batch normalisation.
    """

    def _scale_and_shift(self, stays):
        raw, t = self.network(stays).chunk(2, -1)
        return BOUND * raw.tanh(), t

    def _encode(self, x):
        stays, moves = self._split(x)
        s, t = self._scale_and_shift(stays)
        return self._join(stays, torch.addcmul(t, moves, s.exp())), s.sum(-1)

    def _decode(self, z):
        stays, moves = self._split(z)
        s, t = self._scale_and_shift(stays)
        return self._join(stays, (moves - t) * (-s).exp())


class SplineCoupling(_Coupling):
    r"""One half of the coordinates stays and tells a network by which splines the others move.

    .. math:: z_a = x_a, \quad z_d = g_{\phi_d(x_a)}(x_d) \text{ for } d \in b, \quad
        \text{ladj} = \sum_{d \in b} \log g'_{\phi_d(x_a)}(x_d)

    g is `rational_quadratic`. It starts as the identity.

    Args:
        dim, hidden, flip: as for `Coupling`.
        bins: number of pieces K of each spline.
        bound: half the width of the interval in which points move.

    Raises:
        ValueError: if dim < 2, a width or bins is below 1, or bound is not positive.

    Source: Durkan, Bekasov, Murray and Papamakarios (2019), Neural Spline Flows, section 3. Departs from it:
    a dense network with tanh; widths and heights of a curve differ by e^2 at most, slopes at knots by e^4.
    """

    def __init__(
        self, dim: int, hidden: tuple[int, ...], flip: bool = False, bins: int = 8, bound: float = 5.0
    ):
        if bins < 1 or not 0 < bound < math.inf:
            raise ValueError(f"SplineCoupling needs bins >= 1 and bound > 0, got {bins} and {bound}.")
        super().__init__(dim, hidden, flip, 3 * bins - 1)
        self.bins, self.bound = bins, bound

    def _move(self, points, inverse):
        stays, moves = self._split(points)
        raw = self.network(stays).unflatten(-1, (-1, moves.shape[-1]))
        moved, log_slope = rational_quadratic(moves, raw, self.bound, inverse)
        return self._join(stays, moved), log_slope.sum(-1)

    def _encode(self, x):
        return self._move(x, inverse=False)

    def _decode(self, z):
        return self._move(z, inverse=True)[0]


def rational_quadratic(
    x: Float[Tensor, "N D"], raw: Float[Tensor, "N P D"], bound: float, inverse: bool = False
) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
    r"""An increasing curve through K + 1 knots, and the log of its slope; the identity outside the bounds.

    .. math:: \xi = \frac{x - x_k}{x_{k+1} - x_k}, \quad s = \frac{y_{k+1} - y_k}{x_{k+1} - x_k}, \quad
        g(x) = y_k + \frac{(y_{k+1} - y_k)(s \xi^2 + \delta_k \xi (1 - \xi))}
        {s + (\delta_{k+1} + \delta_k - 2 s) \xi (1 - \xi)}

    Args:
        x: points.
        raw: for each, P = 3K - 1 numbers: K of the widths, K of the heights, K - 1 of the slopes at the
            inner knots. Zeros give the identity.
        bound: the knots run from (-bound, -bound) to (bound, bound), where the slope is 1.
        inverse: whether to go from g(x) back to x; the slope is then that of the inverse.

    Raises:
        ValueError: if P is not 3K - 1 for some K >= 1.

    Source: Durkan, Bekasov, Murray and Papamakarios (2019), Neural Spline Flows, section 3.1 and equation 8.
    """
    K, left = divmod(raw.shape[1] + 1, 3)
    if left:
        raise ValueError(f"rational_quadratic needs 3K - 1 numbers for each point, got {raw.shape[1]}.")
    raw = BOUND * raw.tanh()
    share = (raw[:, : 2 * K] / 2).unflatten(1, (2, K)).softmax(2)  # of widths and heights, (N, 2, K, D)
    inner = bound * (2 * share[:, :, :-1].cumsum(2) - 1)
    knots = F.pad(F.pad(inner, (0, 0, 1, 0), value=-bound), (0, 0, 0, 1), value=bound)  # (N, 2, K + 1, D)
    slopes = F.pad(raw[:, 2 * K :].exp(), (0, 0, 1, 1), value=1.0)
    inside = x.clamp(-bound, bound)
    k = (inside.unsqueeze(1) >= knots[:, int(inverse), 1:-1]).sum(1, keepdim=True)  # (N, 1, D)
    pair = torch.cat([k, k + 1], 1)
    (x0, x1), (y0, y1) = (axis.gather(1, pair).unbind(1) for axis in knots.unbind(1))
    d0, d1 = slopes.gather(1, pair).unbind(1)
    width, height = x1 - x0, y1 - y0
    s = height / width
    bend = d0 + d1 - 2 * s
    if inverse:
        rise = inside - y0
        a, b, c = height * (s - d0) + rise * bend, height * d0 - rise * bend, -s * rise
        xi = 2 * c / (-b - (b.square() - 4 * a * c).sqrt())
    else:
        xi = (inside - x0) / width
    rest = xi * (1 - xi)
    bottom = s + bend * rest
    log_slope = 2 * s.log() + (d1 * xi.square() + 2 * s * rest + d0 * (1 - xi).square()).log()
    log_slope = log_slope - 2 * bottom.log()
    if inverse:
        return xi * width + x0 + (x - inside), -log_slope
    return y0 + height * (s * xi.square() + d0 * rest) / bottom + (x - inside), log_slope


class Autoregressive(Transform):
    r"""Each coordinate is shifted and scaled by what a masked network reads from those before it.

    .. math:: z_d = (x_d - m_d(x_{<d})) \, e^{-s_d(x_{<d})}, \quad \text{ladj} = -\sum_d s_d(x_{<d})

    `encode` takes one pass through the network, `decode` D. It starts as the identity; s is bounded as in
    `Coupling`.

    Args:
        dim: number of coordinates D.
        hidden: widths of the network's hidden layers.
        order: the coordinates, the first one first; by default 0, ..., D - 1.

    Raises:
        ValueError: if dim or a width is below 1, or the order is not one of all coordinates.

    Source: Papamakarios, Pavlakou and Murray (2017), Masked Autoregressive Flow for Density Estimation,
    section 3.1.
    """

    def __init__(self, dim: int, hidden: tuple[int, ...], order: Sequence[int] | None = None):
        super().__init__(dim)
        self.order = tuple(range(dim) if order is None else order)
        if sorted(self.order) != list(range(dim)):
            raise ValueError(f"Autoregressive needs an order of 0 to {dim - 1}, got {list(self.order)}.")
        *masks, last, _ = made_masks(self.order, hidden)
        layers: list[nn.Module] = []
        for mask in (*masks, last.repeat(2, 1)):
            layers += [MaskedLinear(*mask.T.shape, mask), _Tanh()]
        self.network = nn.Sequential(*layers[:-1])
        with torch.no_grad():
            self.network[-1].weight.zero_()

    def _shift_and_scale(self, x):
        m, raw = self.network(x).chunk(2, -1)
        return m, BOUND * raw.tanh()

    def _encode(self, x):
        m, s = self._shift_and_scale(x)
        return (x - m) * (-s).exp(), -s.sum(-1)

    def _decode(self, z):
        x, d = torch.zeros_like(z), torch.arange(self.dim, device=z.device)
        for present in self.order:
            m, s = self._shift_and_scale(x)
            x = torch.where(d == present, z * s.exp() + m, x)
        return x


class Flow(Density):
    r"""A density that a chain of transforms takes to the standard normal.

    .. math:: \log p(x) = \log \mathcal N(z; 0, I_D) + \sum_l \text{ladj}_l, \quad z = f_L(\cdots f_1(x))

    Args:
        transforms: f_1, ..., f_L, from data to noise.

    Raises:
        ValueError: if there is no transform, their dimensions differ, or x is not a finite (N, D) batch.

    Source: Rezende and Mohamed (2015), Variational Inference with Normalizing Flows, section 3.
    """

    measure = "lebesgue"

    def __init__(self, transforms: Sequence[Transform]):
        super().__init__()
        dims = [transform.dim for transform in transforms]
        if len(set(dims)) != 1:
            raise ValueError(f"{type(self).__name__} needs transforms of one dimension, got {dims}.")
        self.dim = dims[0]
        self.transforms = nn.ModuleList(transforms)

    def states(self, x: Float[Tensor, "N D"]) -> list[tuple[Float[Tensor, "N D"], Float[Tensor, " N"]]]:
        """The L + 1 stations from x to z, each with log|det| of the way; in reverse, those of a draw."""
        require_points(x, self.dim, type(self).__name__)
        states = [(x, x.new_zeros(len(x)))]
        for transform in self.transforms:
            y, ladj = transform._encode(states[-1][0])
            states.append((y, states[-1][1] + ladj))
        return states

    def encode(self, x: Float[Tensor, "N D"]) -> tuple[Float[Tensor, "N D"], Float[Tensor, " N"]]:
        """z and log|det dz/dx|."""
        return self.states(x)[-1]

    def decode(self, z: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """The x that `encode` takes to z."""
        require_points(z, self.dim, f"{type(self).__name__}.decode")
        for transform in reversed(self.transforms):
            z = transform._decode(z)
        return z

    def log_prob(self, x):
        """log p(x) in nats, exact."""
        z, ladj = self.encode(x)
        return _log_normal(z) + ladj

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        require_count(n, type(self).__name__)
        require_no_condition(condition, type(self).__name__)
        return self.decode(normal((n, self.dim), rng, like=_like(self)))


class RealNVP(Flow):
    r"""Affine couplings, whose halves take turns.

    Args:
        dim: number of coordinates D.
        layers: number of couplings L.
        hidden: widths of the hidden layers of each coupling's network.

    Raises:
        ValueError: if dim < 2, or layers or a width is below 1.

    Source and departures: see `Coupling`.
    """

    def __init__(self, dim: int, layers: int, hidden: tuple[int, ...]):
        super().__init__([Coupling(dim, hidden, flip=bool(layer % 2)) for layer in range(layers)])


class SplineFlow(Flow):
    r"""Spline couplings, whose halves take turns.

    Args:
        dim, layers, hidden: as for `RealNVP`.
        bins, bound: as for `SplineCoupling`.

    Raises:
        ValueError: if dim < 2, layers, a width or bins is below 1, or bound is not positive.

    Source: see `SplineCoupling`.
    """

    def __init__(self, dim: int, layers: int, hidden: tuple[int, ...], bins: int = 8, bound: float = 5.0):
        flips = [bool(layer % 2) for layer in range(layers)]
        super().__init__([SplineCoupling(dim, hidden, flip, bins, bound) for flip in flips])


class MAF(Flow):
    r"""Masked autoregressive transforms, whose order is 0, ..., D - 1 and its reverse in turn.

    Args:
        dim: number of coordinates D.
        layers: number of transforms L.
        hidden: widths of the hidden layers of each transform's network.

    Raises:
        ValueError: if dim, layers or a width is below 1.

    Source: see `Autoregressive`.
    """

    def __init__(self, dim: int, layers: int, hidden: tuple[int, ...]):
        orders = [range(dim)[:: -1 if layer % 2 else 1] for layer in range(layers)]
        super().__init__([Autoregressive(dim, hidden, order) for order in orders])


class ContinuousFlow(Trainable, Sampler):
    r"""Points that a network's velocity field carries from data (t = 0) to the standard normal (t = 1).

    .. math:: \frac{dx}{dt} = v(x, t), \quad \log p(x_0) = \log \mathcal N(x_1; 0, I_D)
        + \int_0^1 \operatorname{tr} \frac{\partial v}{\partial x} \, dt

    It is no `Density`: a solver takes the integrals, within a tolerance (dopri5, for which rtol is the
    relative and the absolute tolerance of a step). `loss` is the mean of -log_prob_hutchinson at `RTOL`, in
    nats up to the solver's error.

    Args:
        dim: number of coordinates D.
        hidden: widths of the hidden layers of v.

    Raises:
        ValueError: if dim or a width is below 1, rtol is not positive, or x is not a finite (N, D) batch.

    Source: Grathwohl, Chen, Bettencourt, Sutskever and Duvenaud (2019), FFJORD: Free-Form Continuous
    Dynamics for Scalable Reversible Generative Models, section 3. Departs from it: the gradient goes
    through the solver's steps; signs of noise in place of normal noise in the trace.
    """

    RTOL = 1e-4

    def __init__(self, dim: int, hidden: tuple[int, ...]):
        super().__init__()
        if dim < 1:
            raise ValueError(f"ContinuousFlow needs dim >= 1, got {dim}.")
        self.dim = dim
        self.network = MLP(dim + 1, hidden, dim, activation=nn.Tanh)

    def velocity(self, t: Float[Tensor, ""], x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """v(x, t)."""
        return self.network(torch.cat([x, t.expand(len(x), 1)], -1))

    def encode(
        self, x: Float[Tensor, "N D"], rtol: float = RTOL
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, " N"]]:
        """z and log|det dz/dx|, the latter from the exact trace, which costs D derivatives."""
        self._require(x, rtol, "encode")
        return transport(self.velocity, x, 0.0, 1.0, rtol)

    def decode(self, z: Float[Tensor, "N D"], rtol: float = RTOL) -> Float[Tensor, "N D"]:
        """The x that `encode` takes to z."""
        self._require(z, rtol, "decode")
        return odeint(self.velocity, z, z.new_tensor([1.0, 0.0]), rtol=rtol, atol=rtol)[-1]

    def log_prob_ode(self, x: Float[Tensor, "N D"], rtol: float = RTOL) -> Float[Tensor, " N"]:
        """log p(x) in nats, up to the solver's error."""
        z, ladj = self.encode(x, rtol)
        return _log_normal(z) + ladj

    def log_prob_hutchinson(
        self, x: Float[Tensor, "N D"], rng: torch.Generator | None = None, rtol: float = RTOL
    ) -> Float[Tensor, " N"]:
        r"""Estimate of log p(x) in nats from one draw of signs for each x, unbiased up to the solver's error.

        .. math:: \operatorname{tr} J = \mathbb E[\varepsilon^\top J \varepsilon], \quad
            \varepsilon_d = \pm 1 \text{ with equal probability}
        """
        self._require(x, rtol, "log_prob_hutchinson")
        eps = 2 * bernoulli(torch.full_like(x, 0.5), rng) - 1
        z, ladj = transport(self.velocity, x, 0.0, 1.0, rtol, eps.unsqueeze(0))
        return _log_normal(z) + ladj

    def loss(self, x, condition=None, *, rng=None):
        require_no_condition(condition, "ContinuousFlow")
        return -self.log_prob_hutchinson(x, rng).mean()

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        require_count(n, "ContinuousFlow")
        require_no_condition(condition, "ContinuousFlow")
        return self.decode(normal((n, self.dim), rng, like=_like(self)))

    def _require(self, x, rtol, method):
        require_points(x, self.dim, f"ContinuousFlow.{method}")
        if not rtol > 0:
            raise ValueError(f"ContinuousFlow needs rtol > 0, got {rtol}.")


class LogisticNormalNoise(nn.Module):
    r"""Noise on (0, 1)^D that depends on x, for `Dequantized`.

    .. math:: u = \sigma(\mu(x) + e^{s(x)} \varepsilon), \quad \varepsilon \sim \mathcal N(0, I_D)

    s is bounded as in `Coupling`.

    Args:
        dim: number of coordinates D.
        hidden: widths of the hidden layers of the network that gives mu and s.
        scale: what x is divided by before the network reads it.

    Raises:
        ValueError: if dim or a width is below 1, or scale is not positive.

    Source: Ho, Chen, Srinivas, Duan and Abbeel (2019), Flow++: Improving Flow-Based Generative Models with
    Variational Dequantization and Architecture Design, section 3.1. Departs from it: one Gaussian layer in
    place of a flow of several.
    """

    def __init__(self, dim: int, hidden: tuple[int, ...], scale: float = 1.0):
        super().__init__()
        if not scale > 0:
            raise ValueError(f"LogisticNormalNoise needs scale > 0, got {scale}.")
        self.scale, self.network = scale, MLP(dim, hidden, 2 * dim)

    def draw(
        self, x: Float[Tensor, "N D"], rng: torch.Generator | None
    ) -> tuple[Float[Tensor, "N D"], Float[Tensor, " N"]]:
        """u and log q(u | x)."""
        mu, raw = self.network(x / self.scale).chunk(2, -1)
        s, eps = BOUND * raw.tanh(), normal(x.shape, rng, like=x)
        y = mu + s.exp() * eps
        return y.sigmoid(), _log_normal(eps) - (s + F.logsigmoid(y) + F.logsigmoid(-y)).sum(-1)


class Dequantized(Trainable, Sampler):
    r"""A flow made a model of whole numbers 0, ..., m - 1 by noise u that fills the unit cells above them.

    .. math:: \operatorname{ELBO}(x) = \log p(y) + D \log \tfrac2m - \log q(u \mid x), \quad
        y = \tfrac2m (x + u) - 1, \quad u \sim q(u \mid x)

    One draw of u for each x, uniform on [0, 1)^D with q = 1 unless there is a noise model: an unbiased
    estimate of a lower bound on log P(x), where P(x) is the flow's mass in the cell of x, in nats. It is no
    `Density`: P(x) itself is out of reach. `loss` is the mean of -ELBO. `sample` draws a point and says which
    cell it lies in; P has mass on all whole numbers, so a draw may lie outside 0, ..., m - 1.

    Args:
        flow: the density p of points that lie in [-1, 1)^D for data; it states its `dim`.
        levels: the number m of levels.
        noise: a model of q(u | x) such as `LogisticNormalNoise`; by default u is uniform and q is 1.

    Raises:
        ValueError: if levels < 2, or x is not an (N, D) batch of levels.

    Source: Theis, van den Oord and Bethge (2016), A Note on the Evaluation of Generative Models, section 3.1;
    Ho, Chen, Srinivas, Duan and Abbeel (2019), Flow++, section 3.1.
    """

    def __init__(self, flow: Density, levels: int, noise: nn.Module | None = None):
        super().__init__()
        if levels < 2:
            raise ValueError(f"Dequantized needs levels >= 2, got {levels}.")
        self.flow, self.levels, self.noise = flow, levels, noise

    def elbo(self, x: Float[Tensor, "N D"], *, rng: torch.Generator | None = None) -> Float[Tensor, " N"]:
        """The bound from one draw of u for each x, in nats."""
        require_points(x, self.flow.dim, "Dequantized")
        require_levels(x, self.levels, "Dequantized")
        if self.noise is None:
            u, log_q = uniform(x.shape, rng, like=x), 0.0
        else:
            u, log_q = self.noise.draw(x, rng)
        y = (x + u) * (2 / self.levels) - 1
        return self.flow.log_prob(y) + self.flow.dim * math.log(2 / self.levels) - log_q

    def loss(self, x, condition=None, *, rng=None):
        require_no_condition(condition, "Dequantized")
        return -self.elbo(x, rng=rng).mean()

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        require_count(n, "Dequantized")
        require_no_condition(condition, "Dequantized")
        return ((self.flow.sample(n, rng=rng) + 1) * (self.levels / 2)).floor()


def _log_normal(z: Float[Tensor, "N D"]) -> Float[Tensor, " N"]:
    """log N(z; 0, I_D)."""
    return -0.5 * z.square().sum(-1) - 0.5 * z.shape[-1] * math.log(2 * math.pi)


def _like(model: nn.Module) -> Tensor:
    """A tensor that says in which dtype and on which device a model is."""
    return next(model.parameters())
