"""What the games of two networks refuse, and that they say what was needed and what came."""

import math

import pytest
import torch
from batches import FORMS, GOOD
from torch import nn

from gmlib.gan import GAN, WGAN
from gmlib.nn import MLP

Y = torch.tensor([0, 1])
both = pytest.mark.parametrize("make", [GAN, WGAN])
losses = pytest.mark.parametrize("loss", ["discriminator_loss", "generator_loss"])


def plain(make):
    return make(MLP(2, (), 3), MLP(3, (), 1))


def conditional(make):
    return make(MLP(4, (), 3), MLP(5, (), 1), classes=2)


@both
@losses
@pytest.mark.parametrize(("x", "message"), FORMS)
def test_a_bad_batch(make, loss, x, message):
    for model, condition in [(plain(make), None), (conditional(make), Y)]:
        with pytest.raises(ValueError, match=f"^{make.__name__} needs .*{message}"):
            getattr(model, loss)(x, condition)


@both
@losses
@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (None, "2 labels of int64, got NoneType"),
        ([0, 1], "2 labels of int64, got list"),
        (Y[:1], r"2 labels of int64, got torch.int64 of shape \(1,\)"),
        (Y[:, None], r"2 labels of int64, got torch.int64 of shape \(2, 1\)"),
        (Y.float(), r"2 labels of int64, got torch.float32 of shape \(2,\)"),
        (Y.bool(), r"2 labels of int64, got torch.bool of shape \(2,\)"),
        (Y + 1, "labels from 0 to 1, got 1 to 2"),
        (Y - 1, "labels from 0 to 1, got -1 to 0"),
    ],
)
def test_a_bad_condition(make, loss, condition, message):
    with pytest.raises(ValueError, match=f"^{make.__name__} needs {message}"):
        getattr(conditional(make), loss)(GOOD, condition)
    with pytest.raises(ValueError, match=f"^{make.__name__} needs {message}"):
        conditional(make).sample(2, condition)


@both
@losses
def test_a_condition_where_none_belongs(make, loss):
    with pytest.raises(ValueError, match=f"^{make.__name__} takes no condition, got one"):
        getattr(plain(make), loss)(GOOD, Y)
    with pytest.raises(ValueError, match=f"^{make.__name__} takes no condition, got one"):
        plain(make).sample(2, Y)


@both
@losses
@pytest.mark.parametrize(
    ("fake", "got"),
    [
        (GOOD[:1], r"one of \(1, 3\)"),
        (GOOD[:, :2], r"one of \(2, 2\)"),
        (GOOD[0], r"one of \(3,\)"),
        (GOOD[None], r"one of \(1, 2, 3\)"),
        ([[0.0] * 3] * 2, "list"),
    ],
)
def test_a_fake_of_another_batch(make, loss, fake, got):
    for model, condition in [(plain(make), None), (conditional(make), Y)]:
        with pytest.raises(ValueError, match=rf"^{make.__name__} needs a fake of shape \(2, 3\), got {got}"):
            getattr(model, loss)(GOOD, condition, fake)


@both
@losses
def test_a_good_fake_makes_nothing_else_good(make, loss):
    with pytest.raises(ValueError, match=f"^{make.__name__} needs finite x"):
        getattr(plain(make), loss)(GOOD * math.nan, None, GOOD)
    with pytest.raises(ValueError, match=f"^{make.__name__} takes no condition, got one"):
        getattr(plain(make), loss)(GOOD, Y, GOOD)
    with pytest.raises(ValueError, match=f"^{make.__name__} needs 2 labels of int64, got NoneType"):
        getattr(conditional(make), loss)(GOOD, None, GOOD)


@both
def test_no_fake_of_a_bad_batch(make):
    with pytest.raises(ValueError, match=f"^{make.__name__} needs finite x"):
        plain(make).fake(GOOD * math.nan)
    with pytest.raises(ValueError, match=f"^{make.__name__} takes no condition, got one"):
        plain(make).fake(GOOD, Y)
    with pytest.raises(ValueError, match=f"^{make.__name__} needs 2 labels of int64, got NoneType"):
        conditional(make).fake(GOOD)


@both
@pytest.mark.parametrize("n", [0, -1])
def test_no_draws(make, n):
    with pytest.raises(ValueError, match=f"^{make.__name__} needs n >= 1 draws, got {n}"):
        plain(make).sample(n)


@both
@pytest.mark.parametrize("penalty", [-1.0, math.nan, math.inf])
def test_penalties_that_are_none(make, penalty):
    with pytest.raises(ValueError, match=f"^{make.__name__} needs a finite penalty >= 0, got {penalty}"):
        make(MLP(2, (), 3), MLP(3, (), 1), penalty=penalty)


@both
@pytest.mark.parametrize("classes", [0, -1])
def test_no_classes(make, classes):
    with pytest.raises(ValueError, match=f"^{make.__name__} needs classes >= 1 or None, got {classes}"):
        make(MLP(2, (), 3), MLP(3, (), 1), classes=classes)


@both
@pytest.mark.parametrize(
    ("widths", "classes", "needed"),
    [
        ((2, 3, 4, 1), None, "1 inputs or more and a discriminator with 3 inputs and 1 output"),
        ((2, 3, 3, 2), None, "1 inputs or more and a discriminator with 3 inputs and 1 output"),
        ((4, 3, 3, 1), 2, "3 inputs or more and a discriminator with 5 inputs and 1 output"),
        ((2, 3, 5, 1), 2, "3 inputs or more and a discriminator with 5 inputs and 1 output"),
    ],
)
def test_widths_that_do_not_fit(make, widths, classes, needed):
    got = f"got {widths[0]} inputs, and {widths[2]} and {widths[3]}"
    with pytest.raises(ValueError, match=f"^{make.__name__} needs a generator with {needed}, {got}"):
        make(MLP(widths[0], (), widths[1]), MLP(widths[2], (), widths[3]), classes=classes)


@both
def test_networks_that_do_not_state_their_widths(make):
    for parts in [(nn.Linear(2, 3), MLP(3, (), 1)), (MLP(2, (), 3), nn.Linear(3, 1))]:
        with pytest.raises(ValueError, match=f"^{make.__name__} needs networks that state .*got Linear"):
            make(*parts)
