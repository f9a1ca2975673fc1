"""What the flows refuse, and that they say what was needed and what came."""

import pytest
import torch
from batches import FORMS, GOOD, VALUES

from gmlib.flows import (
    MAF,
    Affine,
    Autoregressive,
    ContinuousFlow,
    Coupling,
    Dequantized,
    Flow,
    LinearLU,
    LogisticNormalNoise,
    Permutation,
    Planar,
    RealNVP,
    SplineCoupling,
    SplineFlow,
    rational_quadratic,
)

TRANSFORMS = {
    "Affine": lambda: Affine(3),
    "LinearLU": lambda: LinearLU(3),
    "Permutation": lambda: Permutation([1, 2, 0]),
    "Planar": lambda: Planar(3),
    "Coupling": lambda: Coupling(3, (4,)),
    "SplineCoupling": lambda: SplineCoupling(3, (4,)),
    "Autoregressive": lambda: Autoregressive(3, (4,)),
}
FLOWS = {
    "Flow": lambda: Flow([Affine(3), Planar(3)]),
    "RealNVP": lambda: RealNVP(3, 2, (4,)),
    "SplineFlow": lambda: SplineFlow(3, 2, (4,)),
    "MAF": lambda: MAF(3, 2, (4,)),
}


@pytest.mark.parametrize(("x", "message"), FORMS)
@pytest.mark.parametrize("name", TRANSFORMS | FLOWS)
def test_a_bad_batch(name, x, message):
    model = (TRANSFORMS | FLOWS)[name]()
    calls = [model.encode, model.decode]
    if name in FLOWS:
        calls += [model.states, model.log_prob, model.loss]
    for call in calls:
        with pytest.raises(ValueError, match=rf"{name}(\.encode|\.decode|) needs .*{message}"):
            call(x)


@pytest.mark.parametrize(("x", "message"), FORMS)
def test_a_bad_batch_for_a_continuous_flow(x, message):
    model = ContinuousFlow(3, (4,))
    for call in (model.encode, model.decode, model.log_prob_ode, model.log_prob_hutchinson, model.loss):
        with pytest.raises(ValueError, match=f"ContinuousFlow.*needs .*{message}"):
            call(x)


@pytest.mark.parametrize("rtol", [0.0, -1e-3, float("nan")])
def test_a_tolerance_that_is_none(rtol):
    model = ContinuousFlow(3, (4,))
    calls = [model.encode, model.decode, model.log_prob_ode]
    for call in [*calls, lambda x, rtol: model.log_prob_hutchinson(x, None, rtol)]:
        with pytest.raises(ValueError, match=f"ContinuousFlow needs rtol > 0, got {rtol}"):
            call(GOOD, rtol)


@pytest.mark.parametrize(("x", "message"), FORMS + VALUES)
def test_a_bad_batch_of_levels(x, message):
    model = Dequantized(RealNVP(3, 2, (4,)), 2)
    for call in (model.elbo, model.loss):
        with pytest.raises(ValueError, match=f"Dequantized needs .*{message}"):
            call(x)


@pytest.mark.parametrize("name", [*FLOWS, "ContinuousFlow", "Dequantized"])
def test_what_is_asked_of_every_model(name):
    if name == "Dequantized":
        model = Dequantized(RealNVP(3, 2, (4,)), 2)
    else:
        model = FLOWS[name]() if name in FLOWS else ContinuousFlow(3, (4,))
    for n in (0, -1):
        with pytest.raises(ValueError, match=f"{name} needs n >= 1 draws, got {n}"):
            model.sample(n)
    for call in (lambda: model.sample(2, torch.zeros(2)), lambda: model.loss(GOOD, torch.zeros(2))):
        with pytest.raises(ValueError, match=f"{name} takes no condition, got one"):
            call()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Affine(0), "Affine needs dim >= 1, got 0"),
        (lambda: Planar(-1), "Planar needs dim >= 1, got -1"),
        (lambda: Permutation([]), "Permutation needs dim >= 1, got 0"),
        (lambda: Permutation([1, 2]), r"Permutation needs an order of 0 to 1, got \[1, 2\]"),
        (lambda: Coupling(1, (4,)), "Coupling needs dim >= 2, got 1"),
        (lambda: Coupling(2, (0,)), "MLP needs widths >= 1"),
        (lambda: SplineCoupling(1, (4,)), "SplineCoupling needs dim >= 2, got 1"),
        (lambda: SplineCoupling(2, (4,), bins=0), "bins >= 1 and bound > 0, got 0 and 5.0"),
        (lambda: SplineFlow(2, 1, (4,), bound=0.0), "bins >= 1 and bound > 0, got 8 and 0.0"),
        (lambda: SplineFlow(2, 1, (4,), bound=float("inf")), "bins >= 1 and bound > 0, got 8 and inf"),
        (lambda: Autoregressive(0, (4,)), "Autoregressive needs dim >= 1, got 0"),
        (lambda: Autoregressive(2, (0,)), "made_masks needs widths >= 1"),
        (lambda: Autoregressive(2, (4,), [0, 0]), r"Autoregressive needs an order of 0 to 1, got \[0, 0\]"),
        (lambda: RealNVP(2, 0, (4,)), r"RealNVP needs transforms of one dimension, got \[\]"),
        (lambda: Flow([Affine(2), Affine(3)]), r"Flow needs transforms of one dimension, got \[2, 3\]"),
        (lambda: ContinuousFlow(0, (4,)), "ContinuousFlow needs dim >= 1, got 0"),
        (lambda: Dequantized(RealNVP(2, 1, (4,)), 1), "Dequantized needs levels >= 2, got 1"),
        (lambda: LogisticNormalNoise(2, (4,), 0.0), "LogisticNormalNoise needs scale > 0, got 0.0"),
        (lambda: rational_quadratic(torch.zeros(2, 1), torch.zeros(2, 7, 1), 5.0), "3K - 1 numbers.*, got 7"),
        (lambda: rational_quadratic(torch.zeros(2, 1), torch.zeros(2, 0, 1), 5.0), "3K - 1 numbers.*, got 0"),
    ],
)
def test_sizes_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()
