"""What the matching module refuses, and that it says what was needed and what came."""

import math

import pytest
import torch
from batches import FORMS, GOOD
from torch import nn

from gmlib.matching import AAE, WAE, WAEGAN
from gmlib.nn import MLP
from gmlib.train import fit_adversarial


def networks():
    return MLP(3, (), 2), MLP(2, (), 3)


def models():
    return [WAE(*networks(), 1.0), WAEGAN(*networks(), MLP(2, (), 1), 1.0), AAE(*networks(), MLP(2, (), 1))]


LOSSES = [
    (model, loss)
    for model in models()
    for loss in ("loss", "discriminator_loss", "generator_loss")
    if hasattr(model, loss)
]


@pytest.mark.parametrize(("x", "message"), FORMS)
@pytest.mark.parametrize(("model", "loss"), LOSSES)
def test_a_bad_batch(model, loss, x, message):
    with pytest.raises(ValueError, match=f"{type(model).__name__} needs .*{message}"):
        getattr(model, loss)(x)


@pytest.mark.parametrize(("model", "loss"), LOSSES)
def test_a_condition_where_none_belongs(model, loss):
    with pytest.raises(ValueError, match=f"{type(model).__name__} takes no condition, got one"):
        getattr(model, loss)(GOOD, torch.tensor([0, 1]))
    with pytest.raises(ValueError, match=f"{type(model).__name__} takes no condition, got one"):
        model.sample(2, torch.tensor([0, 1]))


ADVERSARIAL = [(model, loss) for model, loss in LOSSES if loss != "loss"]


@pytest.mark.parametrize(
    ("fake", "got"),
    [
        (GOOD, r"one of \(2, 3\)"),
        (GOOD[:1, :2], r"one of \(1, 2\)"),
        (GOOD[0, :2], r"one of \(2,\)"),
        ([[0.0] * 2] * 2, "list"),
    ],
)
@pytest.mark.parametrize(("model", "loss"), ADVERSARIAL)
def test_a_fake_of_another_batch(model, loss, fake, got):
    name = type(model).__name__
    with pytest.raises(ValueError, match=rf"^{name} needs a fake of shape \(2, 2\), got {got}"):
        getattr(model, loss)(GOOD, None, fake)


@pytest.mark.parametrize(("model", "loss"), ADVERSARIAL)
def test_a_good_fake_makes_nothing_else_good(model, loss):
    name = type(model).__name__
    with pytest.raises(ValueError, match=f"^{name} needs finite x"):
        getattr(model, loss)(GOOD * math.nan, None, GOOD[:, :2])
    with pytest.raises(ValueError, match=f"^{name} takes no condition, got one"):
        getattr(model, loss)(GOOD, torch.tensor([0, 1]), GOOD[:, :2])


@pytest.mark.parametrize("model", models()[1:])
def test_no_fake_of_a_bad_batch(model):
    with pytest.raises(ValueError, match="needs finite x"):
        model.fake(GOOD * math.nan)
    with pytest.raises(ValueError, match="takes no condition, got one"):
        model.fake(GOOD, torch.tensor([0, 1]))


@pytest.mark.parametrize("model", models())
def test_bad_codes_and_counts(model):
    with pytest.raises(ValueError, match=r"decode needs x of shape \(N, 2\).*got \(2, 3\)"):
        model.decode(GOOD)
    with pytest.raises(ValueError, match="decode needs finite x"):
        model.decode(GOOD[:, :2] * math.nan)
    with pytest.raises(ValueError, match="n >= 1 draws, got 0"):
        model.sample(0)


def test_one_row_alone():
    with pytest.raises(ValueError, match="mmd needs 2 points or more in each sample, got 1"):
        WAE(*networks(), 1.0).loss(GOOD[:1])


@pytest.mark.parametrize("bandwidth", [0.0, -1.0, math.inf])
def test_a_bandwidth_that_is_none(bandwidth):
    with pytest.raises(ValueError, match=f"mmd needs a finite bandwidth > 0, got {bandwidth}"):
        WAE(*networks(), 1.0, bandwidth).loss(GOOD)


@pytest.mark.parametrize("weight", [-1.0, math.nan, math.inf])
def test_weights(weight):
    with pytest.raises(ValueError, match=f"WAE needs a finite weight >= 0, got {weight}"):
        WAE(*networks(), weight)
    with pytest.raises(ValueError, match=f"WAEGAN needs a finite weight >= 0, got {weight}"):
        WAEGAN(*networks(), MLP(2, (), 1), weight)


@pytest.mark.parametrize("sigma", [0.0, -1.0, math.nan, math.inf])
def test_sigmas(sigma):
    with pytest.raises(ValueError, match=f"AAE needs a finite sigma > 0, got {sigma}"):
        AAE(*networks(), MLP(2, (), 1), sigma)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [(MLP(3, (), 3), MLP(2, (), 3)), (MLP(3, (), 1), MLP(2, (), 3)), (MLP(3, (), 2), MLP(2, (), 4))],
)
def test_widths_that_do_not_fit(encoder, decoder):
    message = f"WAE needs an encoder with 2 or 4 outputs and a decoder with 3, got {encoder.outputs} and"
    with pytest.raises(ValueError, match=message):
        WAE(encoder, decoder, 1.0)


@pytest.mark.parametrize("told", [MLP(3, (), 1), MLP(2, (), 2)])
def test_discriminators_that_do_not_fit(told):
    message = f"AAE needs a discriminator with 2 inputs and 1 output, got {told.inputs} and {told.outputs}"
    with pytest.raises(ValueError, match=message):
        AAE(*networks(), told)


def test_networks_that_do_not_state_their_widths():
    encoder, decoder = networks()
    for parts in [(nn.Linear(3, 2), decoder), (encoder, nn.Linear(2, 3))]:
        with pytest.raises(ValueError, match=r"WAE needs networks that state their `inputs`.*got Linear"):
            WAE(*parts, 1.0)
    with pytest.raises(ValueError, match=r"WAEGAN needs networks that state their `inputs`.*got Linear"):
        WAEGAN(encoder, decoder, nn.Linear(2, 1), 1.0)


def with_frozen(player):
    model = models()[1]
    for parameter in model.players()[player]:
        parameter.requires_grad_(False)
    return model


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model": models()[0]}, "needs an Adversarial model, got WAE"),
        ({"model": with_frozen(0)}, "needs a discriminator with parameters to train, got WAEGAN without"),
        ({"model": with_frozen(1)}, "needs a generator with parameters to train, got WAEGAN without"),
        ({"x": GOOD[0]}, r"needs x of shape \(N, D\)"),
        ({"x": GOOD * math.nan}, "needs finite x"),
        ({"condition": GOOD[:1]}, "needs 2 conditions, got 1"),
        ({"steps": 0}, "needs steps >= 1, got 0"),
        ({"batch_size": 0}, "needs batch_size >= 1, got 0"),
        ({"discriminator_steps": 0}, "needs discriminator_steps >= 1, got 0"),
        ({"checkpoint_every": 0}, "needs checkpoint_every >= 1, got 0"),
        ({"lr": 0.0, "discriminator_lr": 0.1}, "needs lr > 0, got 0.0"),
        ({"discriminator_lr": 0.0}, "needs discriminator_lr > 0, got 0.0"),
        ({"discriminator_lr": math.nan}, "needs discriminator_lr > 0, got nan"),
        ({"device": "no-such-device"}, "needs a device that exists, got 'no-such-device'"),
    ],
)
def test_fit_adversarial(change, message):
    arguments = {"model": models()[1], "x": GOOD, "steps": 1, "batch_size": 2, "lr": 0.1} | change
    with pytest.raises(ValueError, match=f"fit_adversarial {message}"):
        fit_adversarial(**arguments, rng=torch.Generator())
