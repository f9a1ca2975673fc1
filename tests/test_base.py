"""Promises are kept when a class is defined, and an ensemble averages probabilities."""

import math

import pytest
import torch
from laws.models import Coins, Gaussian
from torch import nn

from gmlib.base import Adversarial, Density, Ensemble, Sampler, Trainable


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def members(**changes):
    """The body of a class that would be a valid density but for the changes."""
    body = {"measure": "counting", "log_prob": lambda self, x: x.sum(-1), "sample": lambda self, n: None}
    return {**body, **changes}


def test_a_valid_density_can_be_defined():
    type("Fine", (Density,), members())()


def test_a_density_does_not_define_its_loss():
    with pytest.raises(TypeError, match="Bad needs the loss of Density"):
        type("Bad", (Density,), members(loss=lambda self, x: 0))


def test_a_density_does_not_inherit_another_loss():
    mixin = type("Mixin", (), {"loss": lambda self, x: 0})
    with pytest.raises(TypeError, match="Bad needs the loss of Density"):
        type("Bad", (mixin, Density), members())


def test_an_abstract_density_does_not_define_a_loss_either():
    with pytest.raises(TypeError, match="Bad needs the loss of Density"):
        type("Bad", (Density,), {"loss": lambda self, x: 0})


@pytest.mark.parametrize("measure", ["probability", None, 1])
def test_a_density_needs_a_measure(measure):
    with pytest.raises(TypeError, match="Bad needs measure 'counting' or 'lebesgue', got"):
        type("Bad", (Density,), members(measure=measure))


def test_a_density_needs_a_measure_at_all():
    body = members()
    del body["measure"]
    with pytest.raises(TypeError, match="got None"):
        type("Bad", (Density,), body)


def test_an_abstract_density_may_leave_it_to_its_subclasses():
    family = type("Family", (Density,), {})
    type("Member", (family,), members())()
    with pytest.raises(TypeError, match="measure"):
        type("Bad", (family,), members(measure="none"))


@pytest.mark.parametrize("promise", [Trainable, Sampler, Density, Adversarial])
def test_a_promise_alone_is_no_model(promise):
    with pytest.raises(TypeError, match="abstract"):
        promise()


def test_only_a_density_and_a_trainable_have_a_loss():
    assert issubclass(Density, Trainable)
    assert issubclass(Density, Sampler)
    assert not issubclass(Adversarial, Trainable)
    assert not issubclass(Sampler, Trainable)


def test_loss_of_a_density_is_minus_its_mean_log_prob():
    model, x = Gaussian().double(), torch.tensor([[0.5, -1.0], [2.0, 0.0], [0.0, 0.1]], dtype=torch.float64)
    exact = (x.square().sum(-1) / 2 + math.log(2 * math.pi)).mean()
    torch.testing.assert_close(model.loss(x), exact)
    torch.testing.assert_close(model(x), exact)


class TestEnsemble:
    def coins(self, *p):
        models = [Coins(2).double() for _ in p]
        for model, probability in zip(models, p, strict=True):
            nn.init.constant_(model.logits, math.log(probability / (1 - probability)))
        return models

    def test_averages_probabilities(self):
        x = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 1.0]], dtype=torch.float64)
        exact = torch.tensor([0.81 + 0.25, 0.09 + 0.25, 0.01 + 0.25], dtype=torch.float64) / 2
        torch.testing.assert_close(Ensemble(self.coins(0.1, 0.5)).log_prob(x).exp(), exact)

    def test_of_one_is_that_one(self):
        (model,) = models = self.coins(0.3)
        x = torch.tensor([[0.0, 1.0]], dtype=torch.float64)
        torch.testing.assert_close(Ensemble(models).log_prob(x), model.log_prob(x))

    def test_draws_each_row_from_one_of_its_models(self):
        draws = Ensemble(self.coins(1e-9, 1 - 1e-9)).sample(40_000, rng=generator())
        assert torch.equal(draws[:, 0], draws[:, 1])  # no row mixes two models
        standard_error = 0.5 / len(draws) ** 0.5
        assert abs(draws[:, 0].mean() - 1 / 2) < 4 * standard_error

    def test_rows_are_in_no_order(self):
        draws = Ensemble(self.coins(1e-9, 1 - 1e-9)).sample(40_000, rng=generator())[:, 0]
        alike = (draws[1:] == draws[:-1]).double()
        assert abs(alike.mean() - 1 / 2) < 4 * 0.5 / len(alike) ** 0.5

    def test_a_model_that_is_not_drawn_is_not_asked(self):
        assert Ensemble(self.coins(0.1, 0.2, 0.3, 0.4)).sample(1, rng=generator()).shape == (1, 2)

    def test_takes_the_measure_of_its_models(self):
        assert Ensemble(self.coins(0.1)).measure == "counting"
        assert Ensemble([Gaussian()]).measure == "lebesgue"
