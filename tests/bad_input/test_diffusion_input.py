"""What the diffusion module refuses, and that it says what was needed and what came."""

import math

import pytest
import torch
from batches import FORMS, GOOD
from torch import nn

from gmlib.diffusion import (
    Diffusion,
    FlowMatching,
    Schedule,
    convert,
    ddim_step,
    ddpm_step,
    ideal_denoiser,
    mixture_denoiser,
)
from gmlib.nn import MLP, TimeMLP

SCHEDULE = Schedule(torch.tensor([0.1, 0.2, 0.3]))
CLASSES = torch.tensor([0, 1])


def diffusion(classes=0):
    return Diffusion(TimeMLP(3, (), classes), SCHEDULE, classes=classes)


def flow_matching(classes=0):
    return FlowMatching(TimeMLP(3, (), classes), classes=classes)


MODELS = pytest.mark.parametrize("make", [diffusion, flow_matching])
METHODS = [
    (diffusion, "loss"),
    (diffusion, "elbo"),
    (diffusion, "elbo_terms"),
    (diffusion, "log_prob_ode"),
    (diffusion, "denoise"),
    (flow_matching, "loss"),
    (flow_matching, "log_prob_ode"),
    (flow_matching, "velocity"),
]


def call(make, method, x, *condition):
    time = [1] if method in ("denoise", "velocity") else []
    return getattr(make(2 if condition else 0), method)(x, *time, *condition)


@pytest.mark.parametrize(("x", "message"), FORMS)
@pytest.mark.parametrize(("make", "method"), METHODS)
def test_a_bad_batch(make, method, x, message):
    with pytest.raises(ValueError, match=message):
        call(make, method, x)


@pytest.mark.parametrize(("x", "message"), FORMS[:6])
def test_a_bad_batch_for_the_lines_to_it(x, message):
    with pytest.raises(ValueError, match=f"FlowMatching.path needs .*{message}"):
        flow_matching().path(x)


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (torch.tensor([0]), r"needs 2 labels of int64, got torch.int64 of shape \(1,\)"),
        (torch.tensor([0.0, 1.0]), r"needs 2 labels of int64, got torch.float32 of shape \(2,\)"),
        (torch.tensor([0, 2]), r"needs labels from 0 to 1, got 0 to 2"),
        (torch.tensor([-1, 0]), r"needs labels from 0 to 1, got -1 to 0"),
    ],
)
@pytest.mark.parametrize(("make", "method"), METHODS)
def test_a_bad_condition(make, method, condition, message):
    with pytest.raises(ValueError, match=message):
        call(make, method, GOOD, condition)
    with pytest.raises(ValueError, match=message):
        make(2).sample(2, condition)


@MODELS
def test_conditions_and_guidance_where_none_belong_or_one_is_missing(make):
    name = type(make()).__name__
    for method in ("loss", "log_prob_ode"):
        with pytest.raises(ValueError, match=f"{name} without classes takes no condition, got one"):
            getattr(make(), method)(GOOD, CLASSES)
    with pytest.raises(ValueError, match=f"{name} without classes takes no condition, got one"):
        make().sample(2, CLASSES)
    with pytest.raises(ValueError, match=f"{name} needs a condition to learn from, got none"):
        make(2).loss(GOOD)
    with pytest.raises(ValueError, match=f"{name} needs a condition for guidance 1.5, got none"):
        make(2).sample(2, guidance=1.5)


@MODELS
@pytest.mark.parametrize("n", [0, -1])
def test_no_draws(make, n):
    with pytest.raises(ValueError, match=f"n >= 1 draws, got {n}"):
        make().sample(n)


@pytest.mark.parametrize("steps", [0, -1, 4])
def test_steps_of_diffusion(steps):
    with pytest.raises(ValueError, match=f"Diffusion needs steps from 1 to 3, got {steps}"):
        diffusion().sample(2, steps=steps)


@pytest.mark.parametrize(("steps", "order"), [(0, 2), (-1, 1), (5, 0), (5, 3)])
def test_steps_of_flow_matching(steps, order):
    message = f"FlowMatching needs steps >= 1 and order 1 or 2, got {steps} and {order}"
    with pytest.raises(ValueError, match=message):
        flow_matching().sample(2, steps=steps, order=order)


@pytest.mark.parametrize("rtol", [0.0, -1.0, math.nan])
@MODELS
def test_tolerances(make, rtol):
    with pytest.raises(ValueError, match=f"needs rtol > 0, got {rtol}"):
        make().log_prob_ode(GOOD, rtol=rtol)


@MODELS
@pytest.mark.parametrize("drop", [-0.1, 1.0, math.nan])
def test_dropped_conditions(make, drop):
    name, network = type(make()).__name__, TimeMLP(3, (), 2)
    rest = {"schedule": SCHEDULE} if name == "Diffusion" else {}
    with pytest.raises(ValueError, match=rf"{name} needs drop_condition in \[0, 1\), got {drop}"):
        type(make())(network, classes=2, drop_condition=drop, **rest)


@pytest.mark.parametrize(
    ("network", "classes"), [(TimeMLP(3, ()), 2), (TimeMLP(3, (), 2), 0), (MLP(2, (), 3), -1)]
)
def test_widths_that_do_not_fit(network, classes):
    message = f"needs a network with inputs for its outputs and classes, got {classes} classes"
    with pytest.raises(ValueError, match=f"Diffusion {message}, {network.inputs} inputs and 3 outputs"):
        Diffusion(network, SCHEDULE, classes=classes)
    with pytest.raises(ValueError, match=f"FlowMatching {message}"):
        FlowMatching(network, classes=classes)


def test_networks_that_do_not_state_their_widths():
    with pytest.raises(ValueError, match=r"Diffusion needs networks that state their `inputs`.*got Linear"):
        Diffusion(nn.Linear(3, 3), SCHEDULE)


@pytest.mark.parametrize(("dim", "classes"), [(0, 0), (2, -1)])
def test_widths_of_the_network(dim, classes):
    with pytest.raises(ValueError, match=f"TimeMLP needs dim >= 1 and classes >= 0, got {dim} and {classes}"):
        TimeMLP(dim, (), classes)
    with pytest.raises(ValueError, match="MLP needs widths >= 1"):
        TimeMLP(2, (0,))


@pytest.mark.parametrize("kind", ["eps", "", None])
def test_kinds(kind):
    with pytest.raises(ValueError, match=f"Diffusion needs one of .*'velocity'.*got {kind!r}"):
        Diffusion(TimeMLP(3, ()), SCHEDULE, predicts=kind)
    for given, wanted in [(kind, "data"), ("data", kind)]:
        with pytest.raises(ValueError, match=f"convert needs one of .*got {kind!r}"):
            convert(GOOD, GOOD, 1, SCHEDULE, given, wanted)


@pytest.mark.parametrize("beta", [[], [0.0, 0.5], [0.5, 1.0], [-0.1], [math.nan], [[0.1, 0.2]]])
def test_betas(beta):
    with pytest.raises(ValueError, match=r"Schedule needs T >= 1 numbers beta in \(0, 1\), got tensor"):
        Schedule(torch.tensor(beta))


@pytest.mark.parametrize("T", [0, -5])
def test_schedules_without_times(T):
    for make in (Schedule.linear, Schedule.cosine):
        with pytest.raises(ValueError, match="Schedule needs T >= 1"):
            make(T)


def test_a_linear_schedule_that_is_too_short():
    with pytest.raises(ValueError, match=r"Schedule needs T >= 1 numbers beta in \(0, 1\)"):
        Schedule.linear(20)


@pytest.mark.parametrize("t", [-1, 4, 3.5, math.nan, torch.tensor([1, 4]), torch.tensor([[1], [2]])])
def test_times(t):
    with pytest.raises(ValueError, match=r"Schedule needs times \(\) or \(N,\) from 0 to 3, got"):
        SCHEDULE.snr(t)


@pytest.mark.parametrize("t", [0, 4, torch.tensor([0, 1])])
def test_times_with_noise(t):
    for refused in (
        lambda: SCHEDULE.posterior(GOOD, GOOD, t),
        lambda: convert(GOOD, GOOD, t, SCHEDULE, "noise", "data"),
        lambda: ddpm_step(GOOD, GOOD, t, SCHEDULE, GOOD),
        lambda: ideal_denoiser(GOOD, t, SCHEDULE, GOOD),
        lambda: diffusion().denoise(GOOD, t),
    ):
        with pytest.raises(ValueError, match=r"needs times .* from 1 to 3, got"):
            refused()


@pytest.mark.parametrize("t", [-0.1, 1.1, math.nan, torch.tensor([0.5, 2.0])])
def test_times_of_flow_matching(t):
    with pytest.raises(ValueError, match="FlowMatching needs times from 0 to 1, got"):
        flow_matching().velocity(GOOD, t)


@pytest.mark.parametrize(("t", "s"), [(1, 1), (1, 2), (torch.tensor([2, 1]), torch.tensor([1, 1]))])
def test_steps_that_lead_nowhere(t, s):
    with pytest.raises(ValueError, match="ddim_step needs s < t, got s = "):
        ddim_step(GOOD, GOOD, t, s, SCHEDULE, 0.0)


@pytest.mark.parametrize("eta", [-0.1, 1.1, math.nan, 0.5])
def test_noise_of_a_step(eta):
    message = rf"ddim_step needs eta in \[0, 1\], and noise unless eta is 0, got {eta} and None"
    with pytest.raises(ValueError, match=message):
        ddim_step(GOOD, GOOD, 2, 1, SCHEDULE, eta)


def test_points_that_do_not_match():
    other, three = GOOD[:1], torch.tensor([1, 2, 3])
    for name, refused in [
        ("ddpm_step", lambda: ddpm_step(GOOD, GOOD, 1, SCHEDULE, other)),
        ("Schedule.posterior", lambda: ddpm_step(GOOD, other, 1, SCHEDULE, GOOD)),
        ("ddim_step", lambda: ddim_step(GOOD, other, 2, 1, SCHEDULE, 0.0)),
        ("ddim_step", lambda: ddim_step(GOOD, GOOD, 2, 1, SCHEDULE, 1.0, other)),
        ("ddim_step", lambda: ddim_step(GOOD, GOOD, three, 0, SCHEDULE, 0.0)),
        ("ddim_step", lambda: ddim_step(GOOD, GOOD, 3, three - 1, SCHEDULE, 0.0)),
        ("convert", lambda: convert(GOOD, other, 1, SCHEDULE, "noise", "data")),
        ("convert", lambda: convert(GOOD[0], GOOD[0], 1, SCHEDULE, "noise", "data")),
        ("Schedule.marginal", lambda: SCHEDULE.marginal(GOOD, three)),
        ("ideal_denoiser", lambda: ideal_denoiser(GOOD, three, SCHEDULE, GOOD)),
        ("FlowMatching.velocity", lambda: flow_matching().velocity(GOOD, three / 3)),
    ]:
        with pytest.raises(ValueError, match=f"^{name} needs points .* of one shape and one time or N, got"):
            refused()


def test_data_and_mixtures_of_another_dimension():
    with pytest.raises(ValueError, match=r"ideal_denoiser needs x of shape \(N, 3\).*got \(2, 2\)"):
        ideal_denoiser(GOOD, 1, SCHEDULE, GOOD[:, :2])
    pi, mu, Sigma = torch.full((2,), 0.5), torch.zeros(2, 3), torch.eye(3).expand(2, -1, -1)
    for bad in [(pi[:1], mu, Sigma), (pi, mu[:, :2], Sigma), (pi, mu, Sigma[0])]:
        with pytest.raises(
            ValueError, match=r"mixture_denoiser needs \d means and covariances in 3 dimensions"
        ):
            mixture_denoiser(GOOD, 1, SCHEDULE, *bad)
