"""Checks that an equation holds. Each prints one line that never changes from run to run, or raises.

Sides are float64 or whole numbers: torch tensors, numpy arrays, python numbers, or lists of them. Both
sides come by independent routes. What can be judged and is wrong raises `CheckFailed`, and so does what
has no power to fail; a call that makes no sense raises `ValueError`.
"""

import contextlib
import io
import math
import re
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from gmlib import smoke
from gmlib.nn import uniform

Number = int | float
RADII = (0.5, 0.1, 0.01, 0.001)  # of the perturbations of an optimum, in units of its coordinates


class CheckFailed(AssertionError):
    """An equation's two sides do not agree as claimed."""

    def __init__(self, label: str, reason: str):
        super().__init__(f"{label} failed: {reason}")


def equal(label: str, left, right, *, tolerance: Number = 1e-9) -> None:
    r"""Checks that two sides are equal, element by element; whole numbers exactly.

    .. math:: |l_i - r_i| \le \text{tolerance} \cdot \max(1, |r_i|)

    Raises:
        CheckFailed: if an element differs or is NaN.
        ValueError: if the sides are empty, of different shape, the same object, neither float64 nor
            whole, or so small that the tolerance hides them (an exact zero goes on the right).
    """
    _require_label(label, "eq", "err")
    if not 0 <= tolerance <= 1e-4:
        raise ValueError(f"{label} needs a tolerance in [0, 1e-4], got {tolerance}.")
    left, right = _sides(label, left=left, right=right)
    _require_equal(label, left, right, tolerance, ("left", "right"))
    how = "equal" if tolerance == 1e-9 else f"equal to {tolerance:g}"
    _say("✓", label, f"{how} on {_values(left.size)}")


def estimate(label: str, draws, exact, within: Number) -> None:
    r"""Checks that a Monte Carlo mean, over the first axis, is `exact`, with the power to miss it.

    .. math:: |\bar d - e| \le 4 s, \quad 8 s < \text{within},
        \quad s^2 = \frac{1}{n (n - 1)} \sum_i (d_i - \bar d)^2

    Raises:
        CheckFailed: if the mean is off, draws are not finite or constant, the standard error s is too
            large, or the tails too heavy to trust it: the hundredth of the draws farthest from the
            mean carries over 20 % of all deviation.
        ValueError: if there are fewer than 100 draws or the shapes do not fit.
    """
    _require_label(label, "eq", "err")
    draws = _array(label, "draws", draws).astype(float)
    exact = _array(label, "exact", exact).astype(float)
    if (
        draws.ndim == 0
        or len(draws) < 100
        or draws[0].shape != exact.shape
        or exact.size == 0
        or not within > 0
    ):
        raise ValueError(
            f"{label} needs within > 0 and 100 draws or more, each of the shape of exact, "
            f"got within {within}, draws {draws.shape} and exact {exact.shape}."
        )
    if not np.isfinite(draws).all():
        raise CheckFailed(label, "a draw is NaN or infinite")
    _require_light_tails(label, draws)
    mean, error = draws.mean(0), draws.std(0, ddof=1) / math.sqrt(len(draws))
    if not (8 * error < within).all():
        raise CheckFailed(label, f"too few draws: 8 standard errors are {8 * error.max():g} >= {within:g}")
    if not (np.abs(mean - exact) <= 4 * error).all():
        worst = _worst(np.abs(mean - exact) / error)
        raise CheckFailed(
            label,
            f"the mean is {mean[worst]:g} with standard error {error[worst]:g}, "
            f"exact is {exact[worst]:g}{_at(worst)}",
        )
    _say("✓", label, f"estimated within {within:g} from {len(draws):,} draws")


def bound(label: str, lower, upper, *, tight=None, strict: bool = False, standard_error=None) -> None:
    r"""Checks that a bound holds everywhere, and is tight where it is said to be (or strict everywhere).

    .. math:: l_i \le u_i, \qquad l_i = u_i \text{ if } i \text{ is tight}, \qquad l_i < u_i \text{ if strict}

    Equal means to 1e-9 as in `equal`, and strict means not so equal. Sides that are Monte Carlo means,
    with the standard error of their difference, are strict if they differ by more than 8 of it.

    Args:
        tight: a mask of the sides' shape, or an index into them.

    Raises:
        CheckFailed: if an element breaks the bound, or is not tight or strict as claimed.
        ValueError: as `equal`; unless exactly one of tight and strict is given; if the mask is empty.
    """
    _require_label(label, "eq", "err")
    if (tight is not None) == strict or (standard_error is not None and not strict):
        raise ValueError(f"{label} needs either tight or strict=True; standard_error goes with strict.")
    names = ("lower", "upper")
    lower, upper = _sides(label, lower=lower, upper=upper)
    close = _close(lower, upper, 1e-9)
    if strict:
        margin = 0 if standard_error is None else 8 * _standard_error(label, standard_error, lower.shape)
        _require_all(label, (lower + margin < upper) & ~close, lower, upper, names)
        _say("✓", label, f"bound holds strictly on {_values(lower.size)}")
    else:
        mask = _mask(label, tight, lower.shape)
        _require_all(label, (lower <= upper) | close, lower, upper, names)
        _require_equal(label, lower[mask], upper[mask], 1e-9, names)
        _say("✓", label, f"bound holds on {_values(lower.size)}, tight on {mask.sum():,}")


def limit(label: str, sizes, errors, order: Number, *, below: Number) -> None:
    r"""Checks that an error vanishes like a power of a size, such as a number of draws or a step's length.

    .. math:: \text{error} \propto \text{size}^{\text{order}}

    The fitted slope of log error against log size is within 0.1 of the order, and the smallest error
    is below `below`.

    Raises:
        CheckFailed: if the order is another, or the smallest error is too large.
        ValueError: unless there are 3 or more different sizes, spanning a factor of 4, one error for
            each, and the order is not 0.
    """
    _require_label(label, "eq", "err")
    sizes, errors = (side.astype(float) for side in _sides(label, sizes=sizes, errors=errors))
    spread = sizes.ndim == 1 and len(np.unique(sizes)) >= 3 and 0 < 4 * sizes.min() <= sizes.max()
    if not spread or order == 0:
        raise ValueError(
            f"{label} needs 3 sizes or more that span a factor of 4, and order != 0, got {sizes} and {order}."
        )
    if not (np.isfinite(errors) & (errors > 0)).all():
        raise CheckFailed(label, f"errors are not all positive and finite: {errors}")
    slope = np.polyfit(np.log(sizes), np.log(errors), 1)[0]
    if not abs(slope - order) <= 0.1:
        raise CheckFailed(label, f"error falls as size^{slope:.2f}, not as size^{order:g}")
    if not errors.min() < below:
        raise CheckFailed(label, f"the smallest error is {errors.min():g}, not below {below:g}")
    _say("✓", label, f"error falls as size^{order:g} over {len(sizes)} sizes")


def optimum(
    label: str, f: Callable[[Tensor], Tensor], at, *, maximize: bool = False, rng: torch.Generator
) -> None:
    r"""Checks that f has its minimum (or maximum) at a point.

    .. math:: \nabla f(a) = 0, \qquad \nabla^2 f(a) \succeq 0, \qquad f(a + \delta) > f(a)

    for 100 random delta, elementwise up to 0.5, 0.1, 0.01 and 0.001 of a. A gradient counts as 0 if it
    is below a thousandth of the gradient at the last, nearest perturbation.

    Args:
        f: maps a float64 tensor of the shape of `at` to a scalar, twice differentiable by autograd.

    Raises:
        CheckFailed: if the gradient does not vanish, f curves the wrong way (a saddle), or a
            perturbation is no worse.
        ValueError: if f is not such a function.
    """
    _require_label(label, "eq", "err")
    at = torch.tensor(_array(label, "at", at).astype(float))
    name, sign = ("maximum", -1) if maximize else ("minimum", 1)
    value, gradient = _value_and_gradient(label, f, at)
    scale = at.abs().clamp_min(1e-3 * at.abs().max() if at.any() else 1.0)
    for radius in np.repeat(RADII, 100 // len(RADII)):
        delta = radius * scale * (2 * uniform(at.shape, rng, like=at) - 1)
        perturbed, nearby = _value_and_gradient(label, f, at + delta)
        if not sign * perturbed > sign * value:
            raise CheckFailed(label, f"f is {value:.12g} at the {name} but {perturbed:.12g} near it")
    if not gradient.abs().max() <= 1e-3 * nearby.abs().max():
        worst = _worst(gradient.abs().numpy())
        raise CheckFailed(label, f"the gradient at the {name} is {gradient[worst]:g}{_at(worst)}, not 0")
    hessian = torch.autograd.functional.hessian(f, at).reshape(at.numel(), at.numel())
    curvature = torch.linalg.eigvalsh(sign * hessian)
    if not curvature[0] >= -1e-6 * curvature.abs().max():
        raise CheckFailed(label, f"a saddle, no {name}: f curves by {sign * curvature[0]:g} in one direction")
    _say("✓", label, f"{name} confirmed by 100 perturbations")


def refute(label: str, source, ours, reference) -> None:
    r"""Checks that our correction agrees with an independent reference, and a source's formula does not.

    .. math:: o_i = r_i \text{ for all } i, \qquad |s_i - r_i| > 10^{-3} \max(1, |r_i|) \text{ for some } i

    Whole numbers agree exactly or not at all.

    Raises:
        CheckFailed: if ours is wrong, or the source is NaN or right.
        ValueError: as `equal`.
    """
    _require_label(label, "err")
    ours, right = _sides(label, ours=ours, reference=reference)
    _require_equal(label, ours, right, 1e-9, ("ours", "reference"))
    source, right = _sides(label, source=source, reference=reference)
    if (source != source).any():
        raise CheckFailed(label, "the source's value is NaN: that refutes nothing")
    missed = int((~_close(source, right, 1e-3)).sum())
    if missed == 0:
        raise CheckFailed(label, "the source agrees with the reference everywhere")
    some = "" if missed == source.size else f"{missed:,} of "
    _say("✓", label, f"source refuted on {some}{_values(source.size)}")


def reached(label: str, value, target: Number, *, at_least: bool = False) -> None:
    """Checks a training outcome: value <= target, or >= with at_least. A smoke run does not judge it.

    Raises:
        CheckFailed: if the target is missed or the value is NaN.
    """
    _require_label(label, "fig", "tab")
    value, name = float(value), "at least" if at_least else "at most"
    if smoke():
        _say("·", label, "not judged (smoke run)")
    elif value >= target if at_least else value <= target:
        _say("✓", label, f"reached: {name} {target}")
    else:
        raise CheckFailed(label, f"the outcome is {value:g}, not {name} {target}")


def exercise(label: str, judge: Callable[[object], bool], answer) -> None:
    """Tells whether an exercise's answer is right: whether `judge(answer)` is True. Never raises."""
    _require_label(label, "ex")
    solved = False
    with contextlib.suppress(Exception), contextlib.redirect_stdout(io.StringIO()):
        solved = np.asarray(judge(answer)).tolist() is True
    _say(*("✓", label, "solved") if solved else ("○", label, "not solved yet"))


def _say(mark: str, label: str, words: str) -> None:
    print(f"{mark} {label}  {words}")


def _values(n: int) -> str:
    return f"{n:,} value{'s' * (n != 1)}"


def _at(index: tuple[int, ...]) -> str:
    return f" at {list(index)}" if index else ""


def _require_label(label: str, *kinds: str) -> None:
    if not re.fullmatch(rf"({'|'.join(kinds)})-[a-z0-9-]+", label):
        raise ValueError(f"This check needs a label that starts with {'- or '.join(kinds)}-, got {label!r}.")


def _array(label: str, name: str, side) -> np.ndarray:
    if isinstance(side, list | tuple):
        return np.stack([_array(label, name, element) for element in side]) if side else np.array([])
    array = side.detach().cpu().numpy() if isinstance(side, Tensor) else np.asarray(side)
    big = array.dtype == object and all(type(number) is int for number in array.flat)
    if not (big or array.dtype.kind in "iub" or array.dtype == np.float64):
        raise ValueError(f"{label} needs {name} in float64 or whole numbers, got {array.dtype}.")
    return array


def _sides(label: str, **sides) -> tuple[np.ndarray, np.ndarray]:
    """Two named sides as arrays that can be compared: of floats, or both of python's exact integers."""
    names = " and ".join(sides)
    a, b = sides.values()
    left, right = (_array(label, name, side) for name, side in sides.items())
    same_memory = left.ctypes.data == right.ctypes.data and left.strides == right.strides
    if (a is b and not isinstance(a, int)) or same_memory:
        raise ValueError(f"{label} needs two sides found independently, got one object as {names}.")
    if left.shape != right.shape or left.size == 0:
        raise ValueError(f"{label} needs {names} alike in shape, not empty, got {left.shape}, {right.shape}.")
    dtype = float if np.float64 in (left.dtype, right.dtype) else object
    return left.astype(dtype), right.astype(dtype)


def _close(left: np.ndarray, right: np.ndarray, tolerance: Number) -> np.ndarray | np.bool_:
    same = left == right
    if left.dtype == object:
        return same
    with np.errstate(invalid="ignore", over="ignore"):
        near = np.abs(left - right) <= tolerance * np.maximum(1, np.abs(right))
    return same | (near & np.isfinite(left) & np.isfinite(right))


def _require_equal(label: str, left, right, tolerance: Number, names: tuple[str, str]) -> None:
    if right.dtype != object and 0 < np.abs(right).max() < 1000 * tolerance:
        raise ValueError(f"{label} needs {names[1]} to be 0 or far above the tolerance {tolerance:g}.")
    _require_all(label, _close(left, right, tolerance), left, right, names)


def _require_all(label: str, ok, left, right, names: tuple[str, str]) -> None:
    """Raises with the worst element unless all are ok."""
    if ok.all():
        return
    with np.errstate(all="ignore"):
        gap = 1.0 if left.dtype == object else np.abs(left - right) / np.maximum(1, np.abs(right))
    worst = _worst(np.where(ok, -1.0, gap))
    raise CheckFailed(
        label,
        f"{names[0]} is {left[worst]} and {names[1]} is {right[worst]}{_at(worst)}, "
        f"the worst of {(~ok).sum():,} wrong among {_values(left.size)}",
    )


def _require_light_tails(label: str, draws: np.ndarray) -> None:
    mean = draws.mean(0)
    deviation = np.sort(np.abs(draws - mean), axis=0)
    if (deviation[-1] <= 1e-12 * np.maximum(1, np.abs(mean))).any():
        raise CheckFailed(label, "the draws are constant: nothing is estimated")
    share = (deviation[-(len(draws) // 100) :].sum(0) / deviation.sum(0)).max()
    if share > 0.2:
        raise CheckFailed(label, f"heavy tails: 1 % of the draws carry {share:.0%} of the deviation")


def _worst(gap: np.ndarray | float) -> tuple[int, ...]:
    gap = np.asarray(np.nan_to_num(gap, nan=np.inf, posinf=np.inf))
    return tuple(int(i) for i in np.unravel_index(gap.argmax(), gap.shape))


def _mask(label: str, tight, shape: tuple[int, ...]) -> np.ndarray:
    mask = np.zeros(shape, bool)
    try:
        mask[tight.detach().cpu().numpy() if isinstance(tight, Tensor) else tight] = True
    except IndexError as error:
        raise ValueError(f"{label} needs tight to fit shape {shape}: {error}.") from None
    if not mask.any():
        raise ValueError(f"{label} needs a bound that is tight somewhere, got an empty mask.")
    return mask


def _standard_error(label: str, error, shape: tuple[int, ...]) -> np.ndarray:
    error = _array(label, "standard_error", error)
    if error.shape != shape or not ((error > 0) & np.isfinite(error)).all():
        raise ValueError(f"{label} needs finite standard errors > 0 of shape {shape}, got {error}.")
    return error


def _value_and_gradient(label: str, f, at: Tensor) -> tuple[float, Tensor]:
    at = at.clone().requires_grad_()
    value = f(at)
    scalar = isinstance(value, Tensor) and value.shape == () and value.dtype == at.dtype
    if not scalar or not value.requires_grad:
        raise ValueError(f"{label} needs f to map a float64 tensor to a scalar tensor of it, got {value!r}.")
    return value.item(), torch.autograd.grad(value, at)[0]
