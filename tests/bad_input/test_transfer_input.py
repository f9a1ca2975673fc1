"""What the module of learning across tasks refuses, and that it says what was needed and what came."""

import pytest
import torch
from batches import FORMS, GOOD
from sklearn.linear_model import LogisticRegression

from gmlib.nn import MLP
from gmlib.transfer import Classifier, DomainAdversarial, SemiSupervisedVAE, density_ratio, self_train
from gmlib.vae import BernoulliLikelihood

Y = torch.tensor([0, 1])


def vae(latent: int = 2, alpha: float = 1.0) -> SemiSupervisedVAE:
    networks = MLP(3, (), 2), MLP(5, (), 2 * latent), MLP(latent + 2, (), 3)
    return SemiSupervisedVAE(*networks, BernoulliLikelihood(), alpha)


def adversarial(strength: float = 1.0) -> DomainAdversarial:
    return DomainAdversarial(MLP(3, (), 4), MLP(4, (), 2), MLP(4, (), 1), strength)


MODELS = [Classifier(MLP(3, (), 4), MLP(4, (), 2)), adversarial(), vae()]
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)


@each_model
@pytest.mark.parametrize(("x", "message"), FORMS)
def test_a_bad_batch(model, x, message):
    with pytest.raises(ValueError, match=f"{type(model).__name__} needs .*{message}"):
        model.loss(x, torch.zeros(len(x), dtype=torch.int64))


@pytest.mark.parametrize(("x", "message"), FORMS)
def test_a_bad_batch_to_classify(x, message):
    for call in (MODELS[0].log_prob, MODELS[0].predict, vae().classify, vae().elbo_joint, vae().elbo):
        with pytest.raises(ValueError, match=message):
            call(x)


@each_model
@pytest.mark.parametrize(
    ("y", "message"),
    [
        (Y[:1], r"2 labels of int64, got torch.int64 of shape \(1,\)"),
        (Y[:, None], r"2 labels of int64, got torch.int64 of shape \(2, 1\)"),
        (Y.float(), r"2 labels of int64, got torch.float32 of shape \(2,\)"),
        (Y.int(), r"2 labels of int64, got torch.int32 of shape \(2,\)"),
        (Y.tolist(), "2 labels of int64, got list"),
        (Y + 1, r"labels from -?\d to 1, got 1 to 2"),
        (Y - 2, r"labels from -?\d to 1, got -2 to -1"),
    ],
)
def test_bad_labels(model, y, message):
    with pytest.raises(ValueError, match=f"{type(model).__name__} needs {message}"):
        model.loss(GOOD, y)


def test_no_labels():
    for model in MODELS[:2]:
        with pytest.raises(ValueError, match="2 labels of int64, got NoneType"):
            model.loss(GOOD)


def test_a_label_that_is_missing_where_all_are_needed():
    with pytest.raises(ValueError, match="Classifier needs labels from 0 to 1, got -1 to 0"):
        MODELS[0].loss(GOOD, Y - 1)
    with pytest.raises(ValueError, match="SemiSupervisedVAE needs labels from 0 to 1, got -1 to 0"):
        vae().sample(2, Y - 1)


def test_draws():
    with pytest.raises(ValueError, match="n >= 1 draws, got 0"):
        vae().sample(0)
    with pytest.raises(ValueError, match="3 labels of int64"):
        vae().sample(3, Y)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Classifier(MLP(3, (), 4), MLP(3, (), 2)), "Classifier needs networks .* got 3 to 4, 3 to 2"),
        (
            lambda: DomainAdversarial(MLP(3, (), 4), MLP(4, (), 2), MLP(4, (), 2), 1.0),
            "DomainAdversarial needs networks .* got 3 to 4, 4 to 2",
        ),
        (
            lambda: DomainAdversarial(MLP(3, (), 4), MLP(4, (), 2), MLP(3, (), 1), 1.0),
            "DomainAdversarial needs networks .* got 3 to 4, 3 to 1",
        ),
        (lambda: vae(latent=0), "widths >= 1"),
        (
            lambda: SemiSupervisedVAE(
                MLP(3, (), 2), MLP(5, (), 4), MLP(2, (), 3), BernoulliLikelihood(), 1.0
            ),
            "SemiSupervisedVAE needs networks .* got 3 to 2, 5 to 4, 2 to 3",
        ),
        (
            lambda: SemiSupervisedVAE(
                MLP(3, (), 2), MLP(4, (), 4), MLP(4, (), 3), BernoulliLikelihood(), 1.0
            ),
            "SemiSupervisedVAE needs networks",
        ),
        (
            lambda: SemiSupervisedVAE(
                MLP(3, (), 2), MLP(5, (), 4), MLP(4, (), 4), BernoulliLikelihood(), 1.0
            ),
            "SemiSupervisedVAE needs networks",
        ),
    ],
)
def test_widths_that_do_not_fit(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize("weight", [-1.0, float("inf"), float("nan")])
def test_weights_that_are_none(weight):
    with pytest.raises(ValueError, match=f"alpha >= 0, got {weight}"):
        vae(alpha=weight)
    with pytest.raises(ValueError, match=f"strength >= 0, got {weight}"):
        adversarial(weight)


@pytest.mark.parametrize(("x", "message"), FORMS)
def test_a_bad_batch_to_label_or_to_weigh(x, message):
    with pytest.raises(ValueError, match=f"self_train needs .*{message}"):
        self_train(LogisticRegression(), GOOD, Y, x, 0.5, 1)
    with pytest.raises(ValueError, match=f"density_ratio needs .*{message}"):
        density_ratio(LogisticRegression(), GOOD, x)
    ratio = density_ratio(LogisticRegression(), GOOD, GOOD)
    with pytest.raises(ValueError, match=f"density_ratio needs .*{message}"):
        ratio(x)


@pytest.mark.parametrize("x", [GOOD[0], GOOD[:0], GOOD.long(), GOOD * torch.nan])
def test_a_bad_batch_to_start_from(x):
    with pytest.raises(ValueError, match="self_train needs "):
        self_train(LogisticRegression(), x, Y, GOOD, 0.5, 1)
    with pytest.raises(ValueError, match="density_ratio needs "):
        density_ratio(LogisticRegression(), x, GOOD)


def test_labels_to_start_from():
    for y, message in [(Y[:1], "2 labels of int64"), (Y - 1, "labels from 0, got -1 to 0")]:
        with pytest.raises(ValueError, match=f"self_train needs {message}"):
            self_train(LogisticRegression(), GOOD, y, GOOD, 0.5, 1)


@pytest.mark.parametrize(("threshold", "rounds"), [(-0.1, 1), (1.0, 1), (float("nan"), 1), (0.5, 0)])
def test_a_threshold_or_rounds_that_are_none(threshold, rounds):
    with pytest.raises(ValueError, match=f"0 <= threshold < 1 <= rounds, got {threshold} and {rounds}"):
        self_train(LogisticRegression(), GOOD, Y, GOOD, threshold, rounds)


@pytest.mark.parametrize(
    "make",
    [
        lambda network: Classifier(network, MLP(4, (), 2)),
        lambda network: DomainAdversarial(MLP(3, (), 4), MLP(4, (), 2), network, 1.0),
        lambda network: SemiSupervisedVAE(network, MLP(5, (), 4), MLP(4, (), 3), BernoulliLikelihood(), 1.0),
    ],
)
def test_networks_without_widths(make):
    with pytest.raises(ValueError, match=r"needs networks that state their `inputs`.*got Linear"):
        make(torch.nn.Linear(3, 4))
