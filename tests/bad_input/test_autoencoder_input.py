"""What the module of autoencoders refuses, and that it says what was needed and what came."""

import pytest
import torch
from batches import FORMS, GOOD
from torch import nn

from gmlib.autoencoder import Autoencoder, DenoisingAutoencoder, LinearAutoencoder
from gmlib.nn import MLP

MODELS = [
    Autoencoder(MLP(3, (), 2), MLP(2, (), 3)),
    Autoencoder(MLP(3, (), 2), MLP(2, (), 3), "cross_entropy"),
    LinearAutoencoder(3, 2),
    DenoisingAutoencoder(MLP(3, (), 2), MLP(2, (), 3), 0.5),
]
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)


@each_model
@pytest.mark.parametrize(("x", "message"), FORMS)
@pytest.mark.parametrize("method", ["encode", "reconstruct", "loss", "__call__"])
def test_a_bad_batch(method, model, x, message):
    with pytest.raises(ValueError, match=f"{type(model).__name__} needs .*{message}"):
        getattr(model, method)(x)


@pytest.mark.parametrize(("x", "message"), FORMS)
def test_a_bad_batch_to_score(x, message):
    with pytest.raises(ValueError, match=f"DenoisingAutoencoder needs .*{message}"):
        MODELS[3].score(x)


@each_model
@pytest.mark.parametrize(
    ("h", "message"), [(GOOD, r"shape \(N, 2\).*got \(2, 3\)"), (GOOD[:, :2] / 0, "finite x")]
)
def test_a_bad_code(model, h, message):
    with pytest.raises(ValueError, match=rf"{type(model).__name__}\.decode needs .*{message}"):
        model.decode(h)


@pytest.mark.parametrize(("x", "span"), [(GOOD + 0.1, "0.1 to 1.1"), (GOOD - 2 * GOOD[:1], "-2 to 1")])
def test_values_without_a_cross_entropy(x, span):
    with pytest.raises(ValueError, match=rf"needs x in \[0, 1\] .*, got values from {span}"):
        MODELS[1].loss(x)


@each_model
def test_a_condition(model):
    with pytest.raises(ValueError, match=f"{type(model).__name__} takes no condition"):
        model.loss(GOOD, torch.zeros(2))


@pytest.mark.parametrize("decoder", [MLP(2, (), 4), MLP(3, (), 3)])
def test_widths_that_do_not_fit(decoder):
    with pytest.raises(ValueError, match=f"needs a decoder from 2 to 3, .* from {decoder.inputs} to"):
        Autoencoder(MLP(3, (), 2), decoder)


def test_networks_that_do_not_state_their_widths():
    for networks in ((nn.Linear(3, 2), MLP(2, (), 3)), (MLP(3, (), 2), nn.Linear(2, 3))):
        with pytest.raises(ValueError, match=r"Autoencoder needs networks that state .*, got Linear"):
            Autoencoder(*networks)


@pytest.mark.parametrize("cost", ["absolute", None, "Squared"])
def test_a_cost_that_is_none(cost):
    with pytest.raises(ValueError, match=r"needs a cost among \('squared', 'cross_entropy'\), got"):
        Autoencoder(MLP(3, (), 2), MLP(2, (), 3), cost)


@pytest.mark.parametrize("sigma", [0.0, -1.0, float("nan"), float("inf")])
def test_a_sigma_that_is_none(sigma):
    with pytest.raises(ValueError, match=f"a finite sigma > 0, got {sigma}"):
        DenoisingAutoencoder(MLP(3, (), 2), MLP(2, (), 3), sigma)


@pytest.mark.parametrize(("dim", "hidden"), [(0, 1), (1, 0), (-1, 2)])
def test_sizes(dim, hidden):
    with pytest.raises(ValueError, match=f"LinearAutoencoder needs dim >= 1 .* got dim {dim} and hidden"):
        LinearAutoencoder(dim, hidden)


@pytest.mark.parametrize(("x", "hidden", "most"), [(GOOD, 3, 2), (GOOD, 0, 2), (GOOD.repeat(4, 1), 4, 3)])
def test_more_components_than_there_are(x, hidden, most):
    with pytest.raises(ValueError, match=f"needs 1 <= hidden <= {most}, .*, got {hidden}"):
        LinearAutoencoder.from_pca(x, hidden)


@pytest.mark.parametrize(("x", "message"), FORMS[2:])
def test_a_bad_batch_for_pca(x, message):
    with pytest.raises(ValueError, match=rf"from_pca needs .*({message}|shape \(N, D\))"):
        LinearAutoencoder.from_pca(x, 1)
