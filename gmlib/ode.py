"""Points that a velocity field carries, and how much their density changes on the way."""

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import vjp
from torchdiffeq import odeint


def transport(
    velocity: Callable[[Tensor, Tensor], Tensor],
    x: Float[Tensor, "N D"],
    start: float,
    end: float,
    rtol: float,
    directions: Float[Tensor, "K N D"] | None = None,
) -> tuple[Float[Tensor, "N D"], Float[Tensor, " N"]]:
    r"""Where the field takes x from one time to another, and log|det| of the way.

    .. math:: \frac{dx}{dt} = v(t, x), \quad
        \text{ladj} = \int_{\text{start}}^{\text{end}} \operatorname{tr} \frac{\partial v}{\partial x} \, dt

    by dopri5, for which rtol is the relative and the absolute tolerance of a step.

    Args:
        velocity: v(t, x), for a time t that is a tensor without axes.
        x: points at the time `start`.
        directions: K for each point, with the sum of e . J e over them in place of the trace of J; by
            default all D unit vectors, which make it the trace, at the cost of D derivatives.

    Raises:
        ValueError: if rtol is not positive.

    Source: Chen, Rubanova, Bettencourt and Duvenaud (2018), Neural Ordinary Differential Equations,
    theorem 1.
    """
    if not rtol > 0:
        raise ValueError(f"transport needs rtol > 0, got {rtol}.")
    if directions is None:
        directions = torch.eye(x.shape[1]).to(x).unsqueeze(1).expand(-1, len(x), -1)

    def change(t, state):
        v, pull = vjp(partial(velocity, t), state[0])
        return v, sum((pull(e)[0] * e).sum(-1) for e in directions)

    times = x.new_tensor([start, end])
    moved, ladj = odeint(change, (x, x.new_zeros(len(x))), times, rtol=rtol, atol=rtol)
    return moved[-1], ladj[-1]
