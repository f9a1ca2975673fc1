"""Tables and their counts against enumeration, torch.distributions and each other."""

import itertools
import math

import pytest
import torch
from torch.distributions import Categorical

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

SHAPES = [(1, 1), (1, 5), (3, 1), (3, 2), (2, 3), (5, 2)]  # dim and values


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def states(dim: int, values: int = 2):
    return torch.tensor(list(itertools.product(range(values), repeat=dim)), dtype=torch.float64)


def randomised(model):
    rng = generator(3)
    with torch.no_grad():
        for p in model.double().parameters():
            p.copy_(torch.randn(p.shape, generator=rng, dtype=p.dtype))
    return model


def probabilities(model):
    with torch.no_grad():
        return model.log_prob(states(model.dim, model.values)).exp()


def rank(model):
    """In how many directions the parameters move the log-probabilities."""
    parameters = [p for p in randomised(model).parameters() if p.numel()]
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(log_p, parameters, retain_graph=True)])
        for log_p in model.log_prob(states(model.dim, model.values))
    ]
    return int(torch.linalg.matrix_rank(torch.stack(rows)))


@pytest.mark.parametrize(("dim", "values"), SHAPES)
def test_formulas_models_and_geometry_agree_on_the_count(dim, values):
    full = BayesianNetwork([range(d) for d in range(dim)], values)
    apart = BayesianNetwork([()] * dim, values)
    table = JointTable(dim, values)
    assert table.free_parameters() == parameters_joint(dim, values) == values**dim - 1
    assert full.free_parameters() == parameters_chain_rule(dim, values) == values**dim - 1
    assert apart.free_parameters() == parameters_independent(dim, values)
    for order in range(dim):
        chain = MarkovChain(dim, order, values)
        assert chain.free_parameters() == parameters_markov(dim, order, values)
        if values > 1:
            assert rank(chain) == chain.free_parameters()
    if values > 1:
        assert [rank(m) for m in (table, full, apart)] == [values**dim - 1] * 2 + [apart.free_parameters()]


def test_counts_known_by_heart():
    assert parameters_joint(3, 256) == 16_777_215
    assert parameters_joint(784) == parameters_chain_rule(784) == parameters_markov(784, 783) == 2**784 - 1
    assert parameters_independent(784) == parameters_markov(784, 0) == 784
    assert [parameters_markov(n, 1) for n in (2, 5, 784)] == [3, 9, 1567]
    assert parameters_markov(4, 2, 3) == 2 + 6 + 18 + 18
    assert (parameters_joint(2, 6), parameters_independent(2, 6), parameters_chain_rule(2, 6)) == (35, 10, 35)


def test_counting_takes_no_memory_on_the_meta_device():
    with torch.device("meta"):
        assert JointTable(3, 256).free_parameters() == 16_777_215


def test_parents_of_a_chain():
    assert MarkovChain(4, 2).parents == ((), (0,), (0, 1), (1, 2))
    assert IndependentBernoulli(3).parents == ((), (), ())
    assert (CategoricalTable(7).dim, CategoricalTable(7).values) == (1, 7)


@pytest.mark.parametrize(
    "model",
    [JointTable(3), JointTable(2, 3), CategoricalTable(5), BayesianNetwork([(1, 2), (2,), ()], 3)],
    ids=["binary", "ternary", "die", "network"],
)
def test_a_model_starts_uniform(model):
    p = probabilities(model.double())
    torch.testing.assert_close(p, torch.full_like(p, 1 / len(p)), rtol=1e-6, atol=0)


def test_a_die_is_coins_tossed_in_turn():
    die = randomised(CategoricalTable(4))
    a, b, c = die.log_odds[0][0].sigmoid().tolist()
    expected = torch.tensor([1 - a, a * (1 - b), a * b * (1 - c), a * b * c], dtype=torch.float64)
    torch.testing.assert_close(probabilities(die), expected)


def test_a_network_is_the_product_of_its_rows():
    """The child comes before its parents, and the first parent leads."""
    network = randomised(BayesianNetwork([(2, 1), (), ()], 3))
    rows = [
        torch.stack([torch.tensor(_stop(row)) for row in table.tolist()]).double()
        for table in network.log_odds
    ]
    for x, p in zip(states(3, 3).long().tolist(), probabilities(network), strict=True):
        expected = rows[0][3 * x[2] + x[1], x[0]] * rows[1][0, x[1]] * rows[2][0, x[2]]
        torch.testing.assert_close(p, expected, rtol=1e-6, atol=0)


def _stop(eta):
    """The probabilities of a die of three sides from two log-odds."""
    go = [1 / (1 + math.exp(-value)) for value in eta]
    return [1 - go[0], go[0] * (1 - go[1]), go[0] * go[1]]


def test_a_table_reads_its_configurations_as_numbers():
    table = randomised(JointTable(2, 3))
    p = probabilities(table)
    die = randomised(CategoricalTable(9))
    torch.testing.assert_close(p, probabilities(die))
    torch.testing.assert_close(table.log_prob(torch.tensor([[1.0, 2.0]]).double()).exp().item(), p[5].item())


@pytest.mark.parametrize("pseudo_count", [0.0, 0.5])
@pytest.mark.parametrize("values", [2, 3])
def test_fits_are_frequencies(values, pseudo_count):
    x = randomised(JointTable(3, values)).sample(60, rng=generator())
    cells = (x @ torch.tensor([values**2, values, 1], dtype=torch.float64)).long()
    counts = cells.bincount(minlength=values**3) + pseudo_count
    expected = (counts / counts.sum()).double()
    table = JointTable(3, values).double().fit_counts(x, pseudo_count)
    torch.testing.assert_close(probabilities(table), expected)
    if pseudo_count == 0:
        full = BayesianNetwork([(1, 2), (2,), ()], values).double().fit_counts(x)
        torch.testing.assert_close(probabilities(full), expected)


def test_rows_of_a_network_are_frequencies_given_the_parents():
    x = randomised(JointTable(3)).sample(500, rng=generator())
    network = BayesianNetwork([(1,), (), ()]).double().fit_counts(x, pseudo_count=2)
    for parent in (0, 1):
        chosen = x[x[:, 1] == parent, 0]
        expected = (chosen.sum() + 2) / (len(chosen) + 4)
        torch.testing.assert_close(network.log_odds[0][parent, 0].detach().sigmoid(), expected)


def test_a_fit_lowers_the_loss_to_the_entropy():
    x = randomised(JointTable(3)).sample(200, rng=generator())
    frequency = (x @ torch.tensor([4.0, 2.0, 1.0]).double()).long().bincount(minlength=8) / 200
    model = JointTable(3).double().fit_counts(x)
    torch.testing.assert_close(
        model.loss(x).item(), Categorical(probs=frequency.double()).entropy().item(), rtol=1e-6, atol=0
    )


def test_what_was_not_seen_is_impossible_and_never_nan():
    x = torch.tensor([[0.0, 1.0, 1.0]] * 3).double()
    for model in (JointTable(3), MarkovChain(3, 1), IndependentBernoulli(3), MarkovChain(3, 2)):
        fitted = model.double().fit_counts(x)
        log_p = fitted.log_prob(states(3))
        assert log_p[3] == 0
        assert (log_p[[0, 1, 2, 4, 5, 6, 7]] == -math.inf).all()
        assert torch.equal(fitted.sample(20, rng=generator()), x[:1].expand(20, -1))
        log_p[3].backward()
        assert not any(p.grad.isnan().any() for p in fitted.parameters())


@pytest.mark.parametrize("side", range(4))
def test_a_die_that_always_falls_alike(side):
    x = torch.tensor([[float(side)]])
    die = CategoricalTable(4).double().fit_counts(x.double())
    assert probabilities(die).tolist() == [float(j == side) for j in range(4)]
    smooth = CategoricalTable(4).double().fit_counts(x.double(), pseudo_count=1)
    torch.testing.assert_close(probabilities(smooth).max().item(), 2 / 5)


def test_a_row_without_counts_becomes_uniform():
    x = torch.tensor([[0.0, 2.0], [0.0, 1.0]]).double()
    network = randomised(BayesianNetwork([(), (0,)], 3)).fit_counts(x)
    rows = [Categorical(torch.tensor(_stop(row))).probs for row in network.log_odds[1][1:].tolist()]
    for row in rows:
        torch.testing.assert_close(row, torch.full((3,), 1 / 3))


def test_one_value_leaves_nothing_to_choose():
    x = torch.zeros(2, 3)
    for model in (JointTable(3, 1), MarkovChain(3, 1, 1)):
        assert model.free_parameters() == 0
        assert model.fit_counts(x).log_prob(x).tolist() == [0.0, 0.0]
        assert model.sample(2, rng=generator()).tolist() == x.tolist()


def test_samples_visit_parents_first():
    """A copy of a copy of a coin, listed in the wrong order."""
    network = BayesianNetwork([(1,), (2,), ()])
    with torch.no_grad():
        for table in network.log_odds[:2]:
            table.copy_(torch.tensor([[-math.inf], [math.inf]]))
    x = network.sample(200, rng=generator())
    assert (x[:, 0] == x[:, 2]).all()
    assert (x[:, 1] == x[:, 2]).all()
    assert 60 < x[:, 0].sum() < 140


def test_a_fit_returns_the_model_without_a_graph():
    model = MarkovChain(3, 1)
    assert model.fit_counts(states(3).float()) is model
    assert all(p.requires_grad and p.grad_fn is None for p in model.parameters())


def test_a_table_of_2_to_the_24_entries_is_the_largest():
    with torch.device("meta"):
        assert JointTable(24).free_parameters() == 2**24 - 1
        with pytest.raises(ValueError, match=r"at most 2\^24 entries, got 33554432"):
            JointTable(25)
