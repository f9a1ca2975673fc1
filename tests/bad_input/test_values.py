"""Bad input as users give it, shapes not enforced: each call says what it needs and what it got."""

import os
import subprocess
import sys

import pytest
import torch

from gmlib import base, data, nn, plot, train
from gmlib.base import Density, Ensemble


class Line(Density):
    """A one-parameter density of (N, 2), good enough to be misused."""

    measure = "lebesgue"

    def __init__(self):
        super().__init__()
        self.m = torch.nn.Parameter(torch.zeros(()))

    def log_prob(self, x):
        base.require_points(x, 2, "Line")
        return -(x - self.m).square().sum(-1)

    def sample(self, n, condition=None, *, rng=None):
        return torch.zeros(n, 2)


class Counts(Line):
    measure = "counting"


X = torch.zeros(6, 2)
NAN, INF = float("nan"), float("inf")


def with_value(value):
    x = X.clone()
    x[3, 1] = value
    return x


@pytest.mark.parametrize(
    ("x", "got"),
    [
        (X[0], r"\(2,\)"),
        (X[:, :1], r"\(6, 1\)"),
        (X.unsqueeze(0), r"\(1, 6, 2\)"),
        (X[:0], r"\(0, 2\)"),
        (X.long(), "torch.int64"),
        (X.bool(), "torch.bool"),
        (X.numpy(), "ndarray"),
        ([[0.0, 0.0]], "list"),
        (with_value(NAN), "NaN or infinity"),
        (with_value(INF), "NaN or infinity"),
        (with_value(-INF), "NaN or infinity"),
    ],
)
@pytest.mark.parametrize("call", [lambda x: Line().log_prob(x), lambda x: Line().loss(x)])
def test_points(x, got, call):
    with pytest.raises(ValueError, match=f"Line needs .*got {got}"):
        call(x)


@pytest.mark.parametrize("models", [[], [Line(), torch.nn.Linear(2, 2)], [Line(), Counts()]])
def test_ensemble_members(models):
    with pytest.raises(ValueError, match="Ensemble needs one"):
        Ensemble(models)


@pytest.mark.parametrize("n", [0, -1])
def test_ensemble_draws(n):
    with pytest.raises(ValueError, match=f"Ensemble needs n >= 1 draws, got {n}"):
        Ensemble([Line()]).sample(n)


def test_densities_take_no_condition():
    with pytest.raises(ValueError, match="Line takes no condition"):
        Line().loss(X, torch.zeros(6))
    with pytest.raises(ValueError, match="Ensemble takes no condition"):
        Ensemble([Line()]).sample(3, torch.zeros(3))


@pytest.mark.parametrize("widths", [(0, (3,), 1), (2, (3, 0), 1), (2, (), 0), (-1, (), 1)])
def test_mlp_widths(widths):
    with pytest.raises(ValueError, match="MLP needs widths >= 1, got"):
        nn.MLP(*widths)


@pytest.mark.parametrize("dropout", [-0.1, 1.0, NAN])
def test_mlp_dropout(dropout):
    with pytest.raises(ValueError, match=r"MLP needs dropout in \[0, 1\), got"):
        nn.MLP(2, (3,), 1, dropout=dropout)


@pytest.mark.parametrize("draw", [lambda p: nn.bernoulli(p, None), lambda p: data.binarize(p, None)])
@pytest.mark.parametrize("p", [1.1, -0.1, NAN])
def test_probabilities(draw, p):
    with pytest.raises(ValueError, match=r"bernoulli needs probabilities in \[0, 1\], got values from"):
        draw(with_value(p))


@pytest.mark.parametrize("logits", [with_value(NAN), with_value(INF), torch.full((2, 3), -INF)])
def test_logits(logits):
    with pytest.raises(ValueError, match="categorical needs logits whose softmax exists, got values from"):
        nn.categorical(logits, None)


@pytest.mark.parametrize(
    "toy",
    [data.two_moons, data.rings, data.ring_of_gaussians, data.checkerboard, data.spirals, data.pinwheel],
)
def test_toys_need_a_point(toy):
    with pytest.raises(ValueError, match=f"{toy.__name__} needs n >= 1 draws, got 0"):
        toy(0, rng=None)


def test_toys_need_a_mode():
    with pytest.raises(ValueError, match="ring_of_gaussians needs modes >= 1, got 0"):
        data.ring_of_gaussians(5, rng=None, modes=0)
    with pytest.raises(ValueError, match="pinwheel needs blades >= 1, got 0"):
        data.pinwheel(5, rng=None, blades=0)


@pytest.mark.parametrize("x", [X, torch.zeros(64), torch.zeros(2, 8, 8)])
def test_images_fit_their_shape(x):
    with pytest.raises(ValueError, match=r"images needs x of shape \(N, 64\)"):
        plot.images(plot.figure()[1], x)


class Sketch(torch.nn.Module):
    """Has parameters, promises nothing."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(()))


def frozen():
    model = Line()
    model.m.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": Sketch()}, "fit needs a Trainable model, got Sketch"),
        ({"model": frozen()}, "fit needs a model with parameters to train, got Line without"),
        ({"x": X[0]}, r"fit needs x of shape \(N, D\)"),
        ({"x": X[:0]}, r"fit needs x of shape \(N, D\)"),
        ({"x": X.long()}, "fit needs a tensor of floats, got torch.int64"),
        ({"x": X.tolist()}, "fit needs a tensor of floats, got list"),
        ({"x": with_value(NAN)}, "fit needs finite x"),
        ({"x": torch.zeros(4, 3)}, r"Line needs x of shape \(N, 2\)"),
        ({"steps": 0}, "fit needs steps >= 1, got 0"),
        ({"batch_size": 0}, "fit needs batch_size >= 1, got 0"),
        ({"validate_every": 0}, "fit needs validate_every >= 1, got 0"),
        ({"checkpoint_every": -1}, "fit needs checkpoint_every >= 1, got -1"),
        ({"lr": 0.0}, "fit needs lr > 0, got 0.0"),
        ({"lr": -1e-3}, "fit needs lr > 0, got -0.001"),
        ({"lr": NAN}, "fit needs lr > 0, got nan"),
        ({"lr": INF}, "fit needs lr > 0, got inf"),
        ({"condition": X[:5]}, "fit needs 6 conditions, got 5"),
        ({"condition": X}, "Line takes no condition"),
        ({"validation": X[:, :1]}, r"fit's validation needs x of shape \(N, 2\)"),
        ({"validation": with_value(INF)}, "fit's validation needs finite x"),
        ({"validation": X, "validation_condition": X[:1]}, "fit's validation needs 6 conditions, got 1"),
        ({"validation_condition": X}, "fit needs validation data for its conditions"),
        ({"device": "no-such-device"}, "fit needs a device that exists, got 'no-such-device'"),
        ({"device": "cuda:99"}, "fit needs a device that exists, got 'cuda:99'"),
    ],
)
def test_fit(change, message):
    arguments = {"model": Line(), "x": X, "steps": 2, "batch_size": 3, "lr": 0.1} | change
    with pytest.raises(ValueError, match=message):
        train.fit(**arguments, rng=torch.Generator())


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        ({"GMLIB_SMOKE": "yes"}, "GMLIB_SMOKE needs to be 0 or 1, got 'yes'"),
        ({"GMLIB_SMOKE": ""}, "GMLIB_SMOKE needs to be 0 or 1, got ''"),
        (
            {"GMLIB_DATA": "/no/such/folder"},
            "GMLIB_DATA needs to be an existing folder, got '/no/such/folder'",
        ),
        ({"GMLIB_DATA": __file__}, "GMLIB_DATA needs to be an existing folder"),
        ({"GMLIB_SMOKEY": "1"}, "gmlib needs environment variables among .*GMLIB_SMOKE.*, got GMLIB_SMOKEY"),
    ],
)
def test_environment(variables, message):
    result = _import(variables)
    assert result.returncode == 1
    assert "ValueError" in result.stderr
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(result.stderr)


@pytest.mark.parametrize(
    ("variables", "smoke"),
    [({}, "False"), ({"GMLIB_SMOKE": "0"}, "False"), ({"GMLIB_SMOKE": "1", "GMLIB_DATA": "."}, "True")],
)
def test_environment_that_is_good(variables, smoke):
    assert _import(variables).stdout.strip() == smoke


def _import(variables):
    clean = {name: value for name, value in os.environ.items() if not name.startswith("GMLIB_")}
    command = [sys.executable, "-c", "import gmlib; print(gmlib.smoke())"]
    return subprocess.run(command, env=clean | variables, capture_output=True, text=True)


def test_shapes_are_not_enforced_here():
    """This folder runs as users run gmlib. In a process with the shape checks it would test those."""
    assert not any("jaxtyping" in type(finder).__module__ for finder in sys.meta_path)
