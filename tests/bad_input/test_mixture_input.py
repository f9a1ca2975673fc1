"""What the module of mixtures refuses, and that it says what was needed and what came."""

import pytest
import torch
from batches import FORMS, GOOD, VALUES

from gmlib.mixture import BernoulliMixture, GaussianMixture, em_step

MODELS = [GaussianMixture(3, 2), GaussianMixture(3, 2, "tied"), BernoulliMixture(3, 2)]
each_model = pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
HALVES = torch.full((2, 2), 0.5)


@each_model
@pytest.mark.parametrize(("x", "message"), FORMS)
@pytest.mark.parametrize("method", ["log_prob", "log_joint", "responsibilities", "loss", "__call__"])
def test_a_bad_batch(method, model, x, message):
    with pytest.raises(ValueError, match=f"{type(model).__name__} needs .*{message}"):
        getattr(model, method)(x)


@each_model
@pytest.mark.parametrize(("x", "message"), FORMS)
def test_a_bad_batch_to_fit(model, x, message):
    with pytest.raises(ValueError, match=f"{type(model).__name__} needs .*{message}"):
        model.maximize(x, HALVES)
    with pytest.raises(ValueError, match=f"{type(model).__name__} needs .*{message}"):
        em_step(model, x)


@pytest.mark.parametrize(("x", "message"), VALUES)
def test_values_that_are_no_coins(x, message):
    model = BernoulliMixture(3, 2)
    for call in (model.log_prob, model.responsibilities, lambda x: em_step(model, x)):
        with pytest.raises(ValueError, match=f"BernoulliMixture needs {message}"):
            call(x)


@each_model
@pytest.mark.parametrize(
    ("r", "message"),
    [
        (HALVES[:1], r"responsibilities of shape \(2, 2\), got \(1, 2\)"),
        (HALVES[:, :1], r"responsibilities of shape \(2, 2\), got \(2, 1\)"),
        (HALVES[0], r"responsibilities of shape \(2, 2\), got \(2,\)"),
        (2 * HALVES, "responsibilities >= 0 whose rows sum to 1"),
        (torch.tensor([[2.0, -1.0], [0.5, 0.5]]), "responsibilities >= 0 whose rows sum to 1"),
        (HALVES * torch.nan, "responsibilities >= 0 whose rows sum to 1"),
        (torch.eye(2)[[0, 0]], "got none for component 1: take fewer components, or another start"),
    ],
)
def test_bad_responsibilities(model, r, message):
    with pytest.raises(ValueError, match=f"{type(model).__name__} needs .*{message}"):
        model.maximize(GOOD, r, 0.0)


@each_model
@pytest.mark.parametrize("floor", [-1.0, float("nan"), float("inf")])
def test_a_floor_that_is_none(model, floor):
    with pytest.raises(ValueError, match=f"a finite floor >= 0, got {floor}"):
        em_step(model, GOOD, floor)
    with pytest.raises(ValueError, match=f"a finite floor >= 0, got {floor}"):
        model.maximize(GOOD, HALVES, floor)


def test_a_covariance_without_a_floor():
    with pytest.raises(ValueError, match=r"that is not, of component 0 with floor 0.0: take a larger"):
        GaussianMixture(3, 2).maximize(GOOD, HALVES, 0.0)
    with pytest.raises(ValueError, match=r"of component 1 with floor 0.0: take a larger floor, fewer"):
        GaussianMixture(3, 2, "spherical").maximize(
            torch.cat([GOOD, GOOD[:1] + 1]), torch.eye(2)[[0, 0, 1]], 0.0
        )


def test_coins_without_a_floor():
    with pytest.raises(ValueError, match=r"floor > 0 where a component's coin always falls alike, got 0.0"):
        BernoulliMixture(3, 2).maximize(GOOD[[0, 0]], HALVES, 0.0)


def test_a_start_too_far_away():
    with pytest.raises(ValueError, match="positive density for every row of x"):
        em_step(GaussianMixture(3, 2), GOOD * 1e30)


@pytest.mark.parametrize("make", [GaussianMixture, BernoulliMixture])
@pytest.mark.parametrize(("dim", "components"), [(0, 1), (1, 0), (-1, 2)])
def test_sizes(make, dim, components):
    with pytest.raises(
        ValueError,
        match=f"{make.__name__} needs dim >= 1 and .* got dim {dim} and components {components}",
    ):
        make(dim, components)


def test_a_covariance_that_is_none():
    with pytest.raises(ValueError, match=r"GaussianMixture needs a covariance among .*, got 'diag'"):
        GaussianMixture(2, 2, "diag")


@each_model
def test_draws_and_conditions(model):
    with pytest.raises(ValueError, match="n >= 1 draws, got 0"):
        model.sample(0)
    with pytest.raises(ValueError, match="takes no condition"):
        model.sample(1, torch.zeros(1))
    with pytest.raises(ValueError, match="takes no condition"):
        model.loss(GOOD, torch.zeros(2))
