"""Tables of probabilities of whole-number vectors: how many numbers they need, and their fit by counting."""

from abc import abstractmethod
from collections.abc import Sequence
from graphlib import CycleError, TopologicalSorter

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from gmlib.base import Density, require_batch, require_count, require_levels, require_no_condition
from gmlib.nn import categorical, uniform

LARGEST = 2**24  # entries of one table: 64 MB in float32, and what torch.multinomial can draw from


def parameters_joint(dim: int, values: int = 2) -> int:
    r"""Free parameters of one table over all configurations of D variables with m values each, exact.

    .. math:: P = m^D - 1

    Raises:
        ValueError: if dim or values is below 1.
    """
    _require_sizes("parameters_joint", dim, values)
    return values**dim - 1


def parameters_independent(dim: int, values: int = 2) -> int:
    r"""Free parameters of D independent variables with m values each, exact.

    .. math:: P = D (m - 1)

    Raises:
        ValueError: if dim or values is below 1.
    """
    _require_sizes("parameters_independent", dim, values)
    return dim * (values - 1)


def parameters_chain_rule(dim: int, values: int = 2) -> int:
    r"""Free parameters of D conditional tables, each given all variables before it, exact.

    .. math:: P = \sum_{d=1}^D (m - 1) \, m^{d-1}

    Raises:
        ValueError: if dim or values is below 1.
    """
    _require_sizes("parameters_chain_rule", dim, values)
    return sum((values - 1) * values**before for before in range(dim))


def parameters_markov(dim: int, order: int, values: int = 2) -> int:
    r"""Free parameters of D conditional tables, each given the r variables just before it, exact.

    .. math:: P = m^r - 1 + (D - r) (m - 1) \, m^r

    Raises:
        ValueError: if dim or values is below 1, or order not in 0, ..., dim - 1.
    """
    _require_sizes("parameters_markov", dim, values)
    _require_order("parameters_markov", dim, order)
    return values**order - 1 + (dim - order) * (values - 1) * values**order


class _Tables(Density):
    r"""A density made of tables with rows of m probabilities, each row held as m - 1 log-odds.

    .. math:: \log p_j = \sum_{i < j} \log \sigma(\eta_i) + [j < m - 1] \log (1 - \sigma(\eta_j)),
        \quad j = 0, \dots, m - 1

    sigma(eta_j) is the probability to go on beyond value j once there: a die as coins tossed in turn.
    Log-odds of plus and minus infinity are probabilities 1 and 0.
    """

    measure = "counting"

    def __init__(self, dim: int, values: int):
        super().__init__()
        _require_sizes(type(self).__name__, dim, values)
        self.dim, self.values = dim, values

    def free_parameters(self) -> int:
        """How many free numbers the model holds, counted in its tensors."""
        return sum(parameter.numel() for parameter in self.parameters())

    @abstractmethod
    def fit_counts(self, x: Float[Tensor, "N D"], pseudo_count: int | float = 0.0) -> "_Tables":
        """Sets every table to the frequencies in x, and returns the model."""

    def _index(self, x: Float[Tensor, "N D"], columns: Sequence[int]) -> Int[Tensor, " N"]:
        """The number whose digits to base m are these columns, the first column leading."""
        index = torch.zeros(len(x), dtype=torch.int64, device=x.device)
        for column in columns:
            index = index * self.values + x[:, column].long()
        return index

    def _require_values(self, x: Float[Tensor, "N D"]) -> None:
        require_batch(x, self.dim, type(self).__name__)
        require_levels(x, self.values, type(self).__name__)

    def _require_pseudo_count(self, pseudo_count: int | float) -> None:
        if not 0 <= pseudo_count < float("inf"):
            raise ValueError(f"{type(self).__name__} needs a finite pseudo_count >= 0, got {pseudo_count}.")


class JointTable(_Tables):
    r"""One probability for each of the m^D configurations: it can be any distribution at all.

    .. math:: p(x) = \pi_{i(x)}, \quad i(x) = \sum_{d=1}^D x_d \, m^{D-d}

    It starts as the uniform distribution.

    Args:
        dim: number of variables D.
        values: number m of values 0, 1, ... of each.

    Raises:
        ValueError: if dim or values is below 1, the table has over 2^24 entries, or x is not a batch of
            D whole numbers from 0 to m - 1.
    """

    def __init__(self, dim: int, values: int = 2):
        super().__init__(dim, values)
        self.log_odds = nn.Parameter(_uniform(type(self).__name__, 1, values**dim)[0])

    def log_prob(self, x):
        self._require_values(x)
        return _log_probs(self.log_odds)[self._index(x, range(self.dim))]

    @torch.no_grad()
    def fit_counts(self, x, pseudo_count=0.0):
        r"""Sets the table to the frequencies in x, the fit of maximum likelihood, and returns the model.

        .. math:: \pi_i = \frac{c_i + a}{N + m^D a}

        Args:
            x: rows to count.
            pseudo_count: the number a that is added to each count c; at 0, what x lacks is impossible.

        Raises:
            ValueError: if x is not a batch of D whole numbers from 0 to m - 1, or a is negative.
        """
        self._require_values(x)
        self._require_pseudo_count(pseudo_count)
        counts = self._index(x, range(self.dim)).bincount(minlength=self.values**self.dim)
        self.log_odds.copy_(_log_odds(counts.double() + pseudo_count))
        return self

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        require_count(n, type(self).__name__)
        require_no_condition(condition, type(self).__name__)
        below = torch.cumsum(_log_probs(self.log_odds).double().exp(), 0)
        index = torch.searchsorted(below[:-1], below[-1] * uniform((n,), rng, like=below), right=True)
        digits = [index // self.values**power % self.values for power in reversed(range(self.dim))]
        return torch.stack(digits, -1).to(self.log_odds.dtype)


class BayesianNetwork(_Tables):
    r"""A product of conditional tables, one for each variable given its parents in a graph without cycles.

    .. math:: p(x) = \prod_{d=1}^D p(x_d \mid x_{\mathrm{pa}(d)})

    Each table has a row for every configuration of the parents, the first parent leading. It starts as
    the uniform distribution.

    Args:
        parents: for each variable the indices of its parents, from 0; an empty sequence for a root.
        values: number m of values 0, 1, ... of each variable.

    Raises:
        ValueError: if there is no variable or no value, a parent is not the index of another variable or is
            repeated, the graph has a cycle, a table has over 2^24 entries, or x is not a batch of D whole
            numbers from 0 to m - 1.

    Source: Koller and Friedman (2009), Probabilistic Graphical Models, section 3.2; fit by counting,
    section 17.2.
    """

    def __init__(self, parents: Sequence[Sequence[int]], values: int = 2):
        super().__init__(len(parents), values)
        name = type(self).__name__
        self.parents = tuple(tuple(group) for group in parents)
        for d, group in enumerate(self.parents):
            if len(set(group)) < len(group) or not set(group) <= set(range(self.dim)) - {d}:
                raise ValueError(
                    f"{name} needs distinct parents among the other variables from 0 to {self.dim - 1}, "
                    f"got {group} for variable {d}."
                )
        try:
            self.order = tuple(TopologicalSorter(dict(enumerate(self.parents))).static_order())
        except CycleError as error:
            raise ValueError(f"{name} needs a graph without cycles, got {error.args[1]}.") from None
        self.log_odds = nn.ParameterList(
            _uniform(name, values ** len(group), values) for group in self.parents
        )

    def log_prob(self, x):
        self._require_values(x)
        log_p = [
            _log_probs(table)[self._index(x, group), x[:, d].long()]
            for d, (group, table) in enumerate(zip(self.parents, self.log_odds, strict=True))
        ]
        return torch.stack(log_p, -1).sum(-1)

    @torch.no_grad()
    def fit_counts(self, x, pseudo_count=0.0):
        r"""Sets each table to the frequencies in x, the fit of maximum likelihood, and returns the model.

        .. math:: p(x_d = j \mid x_{\mathrm{pa}(d)} = u) = \frac{c_{u j} + a}{\sum_i c_{u i} + m a}

        A row without any count, which the likelihood does not see, becomes uniform.

        Args:
            x: rows to count.
            pseudo_count: the number a that is added to each count c.

        Raises:
            ValueError: if x is not a batch of D whole numbers from 0 to m - 1, or a is negative.
        """
        self._require_values(x)
        self._require_pseudo_count(pseudo_count)
        for d, (group, table) in enumerate(zip(self.parents, self.log_odds, strict=True)):
            cell = self._index(x, (*group, d))
            counts = cell.bincount(minlength=len(table) * self.values).view(-1, self.values)
            table.copy_(_log_odds(counts.double() + pseudo_count))
        return self

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        """Draws n rows, parents before their children, without a gradient."""
        require_count(n, type(self).__name__)
        require_no_condition(condition, type(self).__name__)
        x = torch.zeros(n, self.dim).to(next(self.parameters()))
        for d in self.order:
            rows = self._index(x, self.parents[d])
            x[:, d] = categorical(_log_probs(self.log_odds[d])[rows], rng).to(x.dtype)
        return x


class IndependentBernoulli(BayesianNetwork):
    r"""Independent coins, each with a bias of its own: a network without edges.

    .. math:: p(x) = \prod_{d=1}^D \sigma(\eta_d)^{x_d} (1 - \sigma(\eta_d))^{1 - x_d}

    Args:
        dim: number of coins D.

    Raises:
        ValueError: if dim is below 1, or x is not a batch of D zeros and ones.
    """

    def __init__(self, dim: int):
        super().__init__([()] * dim)


class CategoricalTable(BayesianNetwork):
    r"""A die with m sides, one variable: a network of one variable.

    .. math:: p(x = j) = \pi_j

    Args:
        values: number m of sides 0, 1, ....

    Raises:
        ValueError: if values is below 1 or over 2^24, or x is not a batch of one whole number below m each.
    """

    def __init__(self, values: int):
        super().__init__([()], values)


class MarkovChain(BayesianNetwork):
    r"""Each variable given the r variables just before it, with a table of its own for each position.

    .. math:: p(x) = \prod_{d=1}^D p(x_d \mid x_{\max(1, d - r)}, \dots, x_{d-1})

    Args:
        dim: number of variables D.
        order: number r of variables that the next one depends on, from 0 (independent) to D - 1 (any
            distribution).
        values: number m of values 0, 1, ... of each variable.

    Raises:
        ValueError: if dim or values is below 1, order not in 0, ..., dim - 1, a table has over 2^24
            entries, or x is not a batch of D whole numbers from 0 to m - 1.
    """

    def __init__(self, dim: int, order: int, values: int = 2):
        _require_sizes("MarkovChain", dim, values)
        _require_order("MarkovChain", dim, order)
        super().__init__([range(max(0, d - order), d) for d in range(dim)], values)


def _log_probs(log_odds: Float[Tensor, "*rows coins"]) -> Float[Tensor, "*rows sides"]:
    """The log-probabilities of rows of m from their m - 1 log-odds."""
    arrive = F.pad(F.logsigmoid(log_odds).cumsum(-1), (1, 0))  # log p(x >= j)
    stay = F.pad(F.logsigmoid(-log_odds), (0, 1))  # log p(x = j | x >= j)
    return arrive + stay


def _log_odds(counts: Float[Tensor, "*rows sides"]) -> Float[Tensor, "*rows coins"]:
    """The log-odds of rows in proportion to counts; uniform rows where there is no count."""
    counts = torch.where((counts > 0).any(-1, keepdim=True), counts, 1.0)
    beyond = counts.flip(-1).cumsum(-1).flip(-1)[..., 1:]  # of the values above j
    here = counts[..., :-1]
    return torch.where((here > 0) | (beyond > 0), beyond.log() - here.log(), 0.0)


def _uniform(name: str, rows: int, values: int) -> Float[Tensor, "rows coins"]:
    if rows * values > LARGEST:
        raise ValueError(f"{name} needs tables of at most 2^24 entries, got {rows * values}.")
    return _log_odds(torch.ones(rows, values))


def _require_sizes(name: str, dim: int, values: int) -> None:
    if dim < 1 or values < 1:
        raise ValueError(f"{name} needs dim >= 1 and values >= 1, got dim {dim} and values {values}.")


def _require_order(name: str, dim: int, order: int) -> None:
    if not 0 <= order < dim:
        raise ValueError(f"{name} needs 0 <= order < dim, got order {order} and dim {dim}.")
