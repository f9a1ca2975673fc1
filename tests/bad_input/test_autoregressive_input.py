"""What the autoregressive models refuse, and that they say what was needed and what came."""

import pytest
import torch
from batches import FORMS, GOOD, VALUES

from gmlib.autoregressive import (
    MADE,
    NADE,
    RNADE,
    CausalTransformer,
    LogisticAR,
    OrderAgnosticMADE,
    PixelCNN,
    tree_order,
)
from gmlib.nn import CausalConv2d, MaskedLinear, made_masks

MODELS = {
    "LogisticAR": lambda: LogisticAR(3),
    "NADE": lambda: NADE(3, 2),
    "RNADE": lambda: RNADE(3, 2, 2),
    "MADE": lambda: MADE(3, (4,)),
    "PixelCNN": lambda: PixelCNN((1, 1, 3), 2, 1),
    "CausalTransformer": lambda: CausalTransformer(3, 2, 1, 1),
}


@pytest.mark.parametrize(("x", "message"), FORMS)
@pytest.mark.parametrize("name", MODELS)
def test_a_bad_batch(name, x, message):
    model = MODELS[name]()
    conditionals = model.conditionals if name == "RNADE" else model.logits
    for call in (model.log_prob, model.loss, conditionals, lambda x: model.complete(x, 1)):
        with pytest.raises(ValueError, match=f"{name} needs .*{message}"):
            call(x)


@pytest.mark.parametrize(("x", "message"), VALUES)
@pytest.mark.parametrize("name", sorted(MODELS.keys() - {"RNADE"}))
def test_values_that_are_none(name, x, message):
    model = MODELS[name]()
    for call in (model.log_prob, model.loss, lambda x: model.complete(x, 3)):
        with pytest.raises(ValueError, match=f"{name} needs {message}"):
            call(x)


@pytest.mark.parametrize(("x", "message"), [*FORMS[4:], *VALUES, (GOOD[0], r"shape \(N, D\)")])
def test_a_bad_batch_has_no_tree_order(x, message):
    with pytest.raises(ValueError, match=f"tree_order needs .*{message}"):
        tree_order(x)


@pytest.mark.parametrize("root", [-1, 3])
def test_a_tree_grows_from_a_coordinate(root):
    with pytest.raises(ValueError, match=f"tree_order needs a root from 0 to 2, got {root}"):
        tree_order(GOOD, root)


def test_a_transformer_reads_no_other_values():
    with pytest.raises(ValueError, match="CausalTransformer needs whole numbers from 0 to 1"):
        CausalTransformer(3, 2, 1, 1).logits(GOOD + 0.25)


def test_levels_that_are_none():
    for model in (PixelCNN((1, 1, 3), 2, 1, values=4), CausalTransformer(3, 2, 1, 1, values=4)):
        assert model.log_prob(3 * GOOD).shape == (2,)
        for x in (4 * GOOD, -GOOD, GOOD / 2):
            with pytest.raises(ValueError, match="whole numbers from 0 to 3, got values from"):
                model.log_prob(x)


@pytest.mark.parametrize("x", [batch for batch, _ in FORMS[:6]])
def test_a_bad_batch_for_all_orders(x):
    with pytest.raises(ValueError, match="MADE needs"):
        OrderAgnosticMADE(3, (4,)).loss(x)


@pytest.mark.parametrize("name", MODELS)
def test_what_is_asked_of_every_model(name):
    model = MODELS[name]()
    for known in (-1, 4):
        with pytest.raises(ValueError, match=f"{name} needs 0 <= known <= 3, got {known}"):
            model.complete(GOOD, known)
    for n in (0, -1):
        with pytest.raises(ValueError, match=f"{name} needs n >= 1 draws, got {n}"):
            model.sample(n)
    for call in (
        lambda: model.sample(2, torch.tensor([0, 1])),
        lambda: model.loss(GOOD, torch.tensor([0, 1])),
    ):
        with pytest.raises(ValueError, match=f"{name} takes no condition, got one"):
            call()


def test_no_condition_for_all_orders():
    with pytest.raises(ValueError, match="takes no condition, got one"):
        OrderAgnosticMADE(3, (4,)).loss(GOOD, torch.tensor([0, 1]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: LogisticAR(0), "LogisticAR needs sizes >= 1, got dim 0"),
        (lambda: NADE(0, 3), "NADE needs sizes >= 1, got dim 0"),
        (lambda: NADE(3, 0), "NADE needs sizes >= 1, got hidden 0"),
        (lambda: RNADE(3, 0, 2), "RNADE needs sizes >= 1, got hidden 0, components 2"),
        (lambda: RNADE(3, 2, -1), "RNADE needs sizes >= 1, got hidden 2, components -1"),
        (lambda: MADE(3, (4, 0)), r"made_masks needs widths >= 1, got \(4, 0\)"),
        (lambda: MADE(0, (4,)), "MADE needs sizes >= 1, got dim 0"),
        (lambda: OrderAgnosticMADE(0, (4,)), "MADE needs sizes >= 1, got dim 0"),
        (lambda: PixelCNN((1, 0, 3), 2, 1), "PixelCNN needs sizes >= 1, got C 1, H 0, W 3"),
        (lambda: PixelCNN((1, 3, 3), 0, 1), "PixelCNN needs sizes >= 1, got channels 0, layers 1, reach 2"),
        (lambda: PixelCNN((3, 3), 2, 1), r"PixelCNN needs a shape \(C, H, W\), got \(3, 3\)"),
        (lambda: PixelCNN((1, 3, 3), 2, 1, values=1), "PixelCNN needs values >= 2, got 1"),
        (lambda: PixelCNN((1, 3, 3), 2, 1, reach=0), "got channels 2, layers 1, reach 0"),
        (lambda: CausalTransformer(3, 4, 0, 1), "needs sizes >= 1, got width 4, heads 0, layers 1"),
        (lambda: CausalTransformer(3, 4, 3, 1), "a multiple of heads, got width 4 and heads 3"),
        (lambda: CausalTransformer(3, 4, 2, 1, values=0), "CausalTransformer needs values >= 2, got 0"),
        (lambda: CausalConv2d(0, 1, 1, rows=True), "channels >= 1 and reach >= 0, got 0 and 1 channels"),
        (lambda: CausalConv2d(1, 1, -1, rows=True), "and reach -1"),
        (lambda: MaskedLinear(2, 3, torch.ones(2, 3)), r"mask of shape \(3, 2\), got \(2, 3\)"),
        (lambda: made_masks([0, 1], (-1,)), r"made_masks needs widths >= 1, got \(-1,\)"),
    ],
)
def test_sizes_that_are_none(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("order", [[0, 1], [0, 1, 1], [1, 2, 3], [0, 1, 2, 3], []])
def test_orders_that_are_none(order):
    message = f"MADE needs an order of the coordinates 0 to 2, got {order}".replace("[", r"\[")
    for call in (lambda: MADE(3, (4,), order), lambda: OrderAgnosticMADE(3, (4,)).at(order)):
        with pytest.raises(ValueError, match=message):
            call()
