"""What the module of counting refuses, and that it says what was needed and what came."""

import pytest
import torch
from batches import FORMS, GOOD, VALUES

from gmlib.counting import (
    BayesianNetwork,
    CategoricalTable,
    IndependentBernoulli,
    JointTable,
    MarkovChain,
    parameters_chain_rule,
    parameters_independent,
    parameters_joint,
    parameters_markov,
)

MODELS = [JointTable(3), IndependentBernoulli(3), MarkovChain(3, 1), BayesianNetwork([(1,), (), ()])]
BATCHES = [*FORMS, *VALUES]


@pytest.mark.parametrize(("x", "message"), BATCHES)
@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("method", ["log_prob", "loss", "fit_counts"])
def test_a_bad_batch(method, model, x, message):
    with pytest.raises(ValueError, match=f"{type(model).__name__} needs .*{message}"):
        getattr(model, method)(x)


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
def test_draws_and_conditions(model):
    with pytest.raises(ValueError, match="n >= 1 draws, got 0"):
        model.sample(0)
    with pytest.raises(ValueError, match="takes no condition"):
        model.sample(1, torch.zeros(1))
    with pytest.raises(ValueError, match="takes no condition"):
        model.loss(GOOD, torch.zeros(2))


@pytest.mark.parametrize("model", MODELS, ids=lambda model: type(model).__name__)
@pytest.mark.parametrize("a", [-0.1, float("nan"), float("inf")])
def test_a_pseudo_count_that_is_none(model, a):
    with pytest.raises(ValueError, match=f"finite pseudo_count >= 0, got {a}"):
        model.fit_counts(GOOD, a)


@pytest.mark.parametrize(
    "make",
    [
        parameters_joint,
        parameters_independent,
        parameters_chain_rule,
        JointTable,
        lambda dim, values: parameters_markov(dim, 0, values),
        lambda dim, values: MarkovChain(dim, 0, values),
        lambda dim, values: BayesianNetwork([()] * dim, values),
    ],
)
@pytest.mark.parametrize(("dim", "values"), [(0, 2), (-1, 2), (2, 0)])
def test_sizes(make, dim, values):
    with pytest.raises(ValueError, match="needs dim >= 1 and values >= 1, got dim"):
        make(dim, values)


def test_sizes_of_the_simplest():
    with pytest.raises(ValueError, match="IndependentBernoulli needs dim >= 1"):
        IndependentBernoulli(0)
    with pytest.raises(ValueError, match="CategoricalTable needs dim >= 1 and values >= 1"):
        CategoricalTable(0)


@pytest.mark.parametrize("make", [parameters_markov, MarkovChain])
@pytest.mark.parametrize("order", [-1, 3, 4])
def test_orders(make, order):
    with pytest.raises(ValueError, match=f"needs 0 <= order < dim, got order {order} and dim 3"):
        make(3, order)


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ([(0,), ()], r"distinct parents among the other variables from 0 to 1, got \(0,\) for variable 0"),
        ([(1, 1), ()], r"distinct parents.*got \(1, 1\) for variable 0"),
        ([(), (2,)], r"distinct parents.*got \(2,\) for variable 1"),
        ([(), (-1,)], r"distinct parents.*got \(-1,\) for variable 1"),
        ([(1,), (0,)], r"a graph without cycles, got \["),
        ([(2,), (0,), (1,)], r"a graph without cycles, got \["),
        ([()] * 30 + [range(30)], r"tables of at most 2\^24 entries, got 2147483648"),
    ],
)
def test_parents(parents, message):
    with pytest.raises(ValueError, match=f"BayesianNetwork needs {message}"):
        BayesianNetwork(parents)
