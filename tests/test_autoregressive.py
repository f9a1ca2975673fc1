"""Autoregressive models: what depends on what, against enumeration, quadrature and slower forms."""

import itertools
import math

import pytest
import torch
from scipy.sparse.csgraph import minimum_spanning_tree
from sklearn.metrics import mutual_info_score
from torch.distributions import Categorical, MixtureSameFamily, Normal

from gmlib.autoregressive import (
    MADE,
    NADE,
    RNADE,
    CausalTransformer,
    LogisticAR,
    OrderAgnosticMADE,
    PixelCNN,
    _runs,
    _SparseNADE,
    tree_order,
)
from gmlib.base import Ensemble
from gmlib.data import digits

ORDER = [3, 1, 5, 0, 2, 4]
DISCRETE = {
    "LogisticAR": lambda: LogisticAR(4),
    "NADE": lambda: NADE(4, 3),
    "MADE": lambda: MADE(4, (6,), [2, 0, 3, 1], True),
    "PixelCNN": lambda: PixelCNN((2, 2, 1), 3, 1),
    "PixelCNN-levels": lambda: PixelCNN((1, 2, 2), 3, 1, values=3),
    "CausalTransformer": lambda: CausalTransformer(4, 4, 2, 1),
    "CausalTransformer-levels": lambda: CausalTransformer(4, 4, 2, 1, values=3),
}
MODELS = DISCRETE | {"RNADE": lambda: RNADE(4, 3, 2)}


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(model, scale: float = 1.0):
    rng = generator(3)
    with torch.no_grad():
        for p in model.double().parameters():
            p.copy_(scale * torch.randn(p.shape, generator=rng, dtype=p.dtype))
    return model


def states(dim: int, values: int = 2) -> torch.Tensor:
    return torch.tensor(list(itertools.product(range(values), repeat=dim)), dtype=torch.float64)


def coins(n: int, dim: int) -> torch.Tensor:
    return (torch.rand(n, dim, generator=generator(1), dtype=torch.float64) < 0.4).double()


def dependence(model, x) -> torch.Tensor:
    """Size of d logit_i / d x_j over the rows of x, with i and j in the model's order."""
    x = x.clone().requires_grad_()
    logits = model.logits(x).reshape(*x.shape, -1).square().sum((0, 2))
    rows = [torch.autograd.grad(logit, x, retain_graph=True)[0].abs().sum(0) for logit in logits]
    return torch.stack(rows)[list(model.order)][:, list(model.order)]


def assert_sees_all_before_and_nothing_else(model, x):
    size, before = dependence(model, x), torch.ones(model.dim, model.dim).tril(-1).bool()
    assert (size[~before] == 0).all()
    assert (size[before] > 0).all()


# What depends on what


@pytest.mark.parametrize("rng", [None, 7])
@pytest.mark.parametrize("direct", [False, True])
@pytest.mark.parametrize("hidden", [(60,), (60, 50), (60, 50, 70)])
@pytest.mark.parametrize("order", [None, ORDER, [5, 4, 3, 2, 1, 0]])
def test_made_sees_all_before_and_nothing_else(order, hidden, direct, rng):
    model = MADE(6, hidden, order, direct, None if rng is None else generator(rng)).double()
    assert model.order == tuple(order or range(6))
    assert_sees_all_before_and_nothing_else(model, coins(30, 6))


def test_direct_connections_alone_see_all_before():
    model = MADE(6, (1,), ORDER, direct=True).double()
    assert_sees_all_before_and_nothing_else(model, coins(30, 6))
    x = coins(5, 6)
    made = MADE(6, (4,), ORDER, direct=True).double()
    direct = x @ (made.direct.weight * made.direct.mask).T
    torch.testing.assert_close(made.logits(x), made.network(x) + direct)


@pytest.mark.parametrize("model", [LogisticAR(6), NADE(6, 5)], ids=["LogisticAR", "NADE"])
def test_recurrences_see_all_before_and_nothing_else(model):
    assert_sees_all_before_and_nothing_else(randomised(model), coins(9, 6))


@pytest.mark.parametrize("values", [2, 5])
@pytest.mark.parametrize(
    ("shape", "layers", "reach"),
    [((1, 6, 6), 3, 2), ((1, 4, 7), 2, 3), ((3, 3, 2), 5, 1), ((1, 1, 5), 2, 2), ((2, 4, 1), 1, 3)],
)
def test_pixelcnn_sees_all_before_and_has_no_blind_spot(shape, layers, reach, values):
    model = PixelCNN(shape, 6, layers, values, reach).double()
    assert_sees_all_before_and_nothing_else(model, (values - 1) * coins(20, model.dim))


def test_pixelcnn_sees_no_farther_than_it_says():
    model = PixelCNN((1, 6, 6), 6, 2, reach=2).double()  # 2 x 2 < 5
    size = dependence(model, coins(20, 36))
    assert size[6, 4] > 0
    assert size[6, 5] == 0, "the far end of the row above"


def test_pixelcnn_goes_by_pixels_and_in_a_pixel_by_channels():
    assert PixelCNN((2, 2, 3), 1, 1).order == (0, 6, 1, 7, 2, 8, 3, 9, 4, 10, 5, 11)


@pytest.mark.parametrize("values", [2, 3])
@pytest.mark.parametrize("layers", [1, 2])
def test_transformer_sees_all_before_and_nothing_else(layers, values):
    model = CausalTransformer(5, 8, 2, layers, values).double()
    x = coins(20, 5)
    changes = []
    for d in range(5):
        other = x.clone()
        other[:, d] = values - 1 - x[:, d]
        changes.append((model.logits(other) - model.logits(x)).reshape(20, 5, -1).abs().sum((0, 2)))
    before = torch.ones(5, 5).tril(-1).bool()
    size = torch.stack(changes, 1)
    assert (size[~before] == 0).all()
    assert (size[before] > 1e-4).all()


def test_an_order_is_not_its_inverse():
    """x_2 is a fair coin, x_0 its copy, x_1 the copy of x_0: the order 2, 0, 1, whose inverse is 1, 2, 0."""
    model = MADE(3, (1,), [2, 0, 1], direct=True).double()
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
        model.direct.weight[0, 2] = model.direct.weight[1, 0] = 1e4
        model.network[-1].bias[:2] = -5e3
    likely = torch.tensor([[0.0, 0, 0], [1, 1, 1]], dtype=torch.float64)
    torch.testing.assert_close(model.log_prob(likely), torch.full((2,), -math.log(2)).double())
    assert {tuple(row) for row in model.sample(50, rng=generator()).tolist()} == {(0, 0, 0), (1, 1, 1)}


# Densities


@pytest.mark.parametrize("name", DISCRETE)
def test_log_prob_is_the_sum_of_conditionals_and_its_mass_is_one(name):
    model = randomised(DISCRETE[name](), 0.5)
    x = states(model.dim, model.values)
    logits = model.logits(x)
    if model.values == 2:
        assert logits.shape == x.shape
        logits = torch.stack([torch.zeros_like(logits), logits], -1)
    assert logits.shape == (*x.shape, model.values)
    log_p = Categorical(logits=logits).log_prob(x).sum(-1)
    torch.testing.assert_close(model.log_prob(x), log_p)
    assert abs(model.log_prob(x).exp().sum() - 1) < 1e-9


TEN = {
    "LogisticAR": lambda: LogisticAR(10),
    "NADE": lambda: NADE(10, 6),
    "MADE": lambda: MADE(10, (12, 9), [7, 2, 9, 0, 4, 1, 8, 5, 3, 6], True, generator()),
    "PixelCNN": lambda: PixelCNN((1, 2, 5), 4, 2),
    "CausalTransformer": lambda: CausalTransformer(10, 8, 2, 2),
}


@pytest.mark.parametrize("name", TEN)
def test_all_1024_states_sum_to_one(name):
    model = randomised(TEN[name](), 0.7)
    with torch.no_grad():
        assert abs(model.log_prob(states(10)).exp().sum() - 1) < 1e-9


@pytest.mark.parametrize("name", DISCRETE)
@pytest.mark.parametrize("known", [0, 1, 3, 4])
def test_complete_keeps_what_is_known_and_draws_the_rest_given_it(name, known):
    model = randomised(DISCRETE[name](), 0.8)
    first = torch.tensor(model.order[:known], dtype=torch.int64)
    given, space = torch.tensor([1.0, 0, 1, 1]).double(), states(model.dim, model.values)
    n = 4_000
    draws = model.complete(given.expand(n, -1), known, rng=generator())
    assert (draws[:, first] == given[first]).all()
    with torch.no_grad():
        p = model.log_prob(space).exp() * (space[:, first] == given[first]).all(-1)
    p = p / p.sum()
    powers = model.values ** torch.arange(model.dim - 1, -1, -1)
    counts = (draws.long() @ powers).bincount(minlength=len(space))
    assert (counts[p == 0] == 0).all()
    expected = n * p
    chi_square = ((counts - expected).square() / expected)[p > 0].sum()
    degrees = int((p > 0).sum()) - 1
    assert chi_square <= degrees + 5 * math.sqrt(2 * degrees) + 1e-9


@pytest.mark.parametrize("name", MODELS)
def test_sampling_is_completing_nothing_and_leaves_the_rows_alone(name):
    model = randomised(MODELS[name]())
    x = coins(6, 4)
    before = x.clone()
    torch.testing.assert_close(
        model.complete(x, 0, rng=generator(5)), model.sample(6, rng=generator(5)), rtol=0, atol=0
    )
    assert torch.equal(model.complete(x, 4), before)
    model.complete(x, 2, rng=generator())
    assert torch.equal(x, before)
    junk = before.clone()
    junk[:, list(model.order[2:])] = 0.3
    again = [model.complete(rows, 2, rng=generator(5)) for rows in (before, junk)]
    assert torch.equal(*again), "what is not known is not looked at"


def test_logistic_computes_its_formula():
    model, x = randomised(LogisticAR(5)), coins(7, 5)
    logits = torch.zeros(7, 5).double()
    for d in range(5):
        logits[:, d] = model.b[d] + sum(model.W[d, j] * x[:, j] for j in range(d))
    torch.testing.assert_close(model.logits(x), logits)
    assert torch.equal(LogisticAR(5).logits(x.float()), torch.zeros(7, 5))


@pytest.mark.parametrize("values", [2, 5])
def test_pixelcnn_computes_its_formula(values):
    """By convolutions with centred kernels, whose later half is zero."""
    model = randomised(PixelCNN((1, 4, 5), 3, 2, values, reach=1), 0.5)
    x = (values - 1) * coins(6, 20)
    image = (x / ((values - 1) / 2) - 1).view(6, 1, 4, 5)
    above, left = torch.zeros_like(image), torch.zeros_like(image)
    above[:, :, 1:], left[..., 1:] = image[:, :, :-1], image[..., :-1]
    v, h = model.first_v(above), model.first_h(left)
    for layer in model.layers:
        down, right = torch.zeros(6, 3, 3, 3).double(), torch.zeros(6, 3, 3, 3).double()
        down[:, :, :2], right[:, :, 1:2, :2] = layer.down.weight, layer.right.weight
        u = torch.conv2d(v, down, layer.down.bias, padding=1)
        w = torch.conv2d(h, right, layer.right.bias, padding=1) + layer.across(u)
        h = h + layer.out(w[:, :3].tanh() / (1 + (-w[:, 3:]).exp()))
        v = v + u[:, :3].tanh() / (1 + (-u[:, 3:]).exp())
    logits = model.head(h).flatten(2).transpose(1, 2)
    torch.testing.assert_close(model.logits(x).view(6, 20, -1), logits)


@pytest.mark.parametrize("values", [2, 5])
def test_transformer_computes_its_formula(values):
    model, x = randomised(CausalTransformer(4, 6, 2, 2, values), 0.7), (values - 1) * coins(7, 4)
    before = torch.cat([torch.full((7, 1), values), x[:, :-1].long()], -1)
    h = model.embedding.weight[before] + model.places
    for block in model.blocks:
        q, k, v = (block.before_attention(h) @ block.qkv.weight.T).split(6, -1)
        heads = []
        for part in (slice(0, 3), slice(3, 6)):
            scores = q[..., part] @ k[..., part].mT / 3**0.5
            later = torch.ones(4, 4).triu(1).bool()
            heads.append(scores.masked_fill(later, -math.inf).softmax(-1) @ v[..., part])
        h = h + block.join(torch.cat(heads, -1))
        h = h + block.mlp(block.before_mlp(h))
    torch.testing.assert_close(model.logits(x).view(7, 4, -1), model.head(h))


# NADE, by the naive form


def naive(x, W, V, b, c):
    h = [(c + x[:, :d] @ W[:d]).sigmoid() for d in range(x.shape[1])]
    return torch.stack([h[d] @ V[d] + b[d] for d in range(x.shape[1])], -1)


def rows_of(kind: str) -> torch.Tensor:
    x = coins(5, 9)
    if kind == "empty columns":
        x[:, [0, 3, 4, 8]] = 0
    if kind == "all ones":
        x = torch.ones_like(x)
    if kind == "all zeros":
        x = torch.zeros_like(x)
    if kind == "real":
        x = torch.randn(5, 9, generator=generator(4), dtype=torch.float64)
    return x[:1] if kind == "one row" else x


KINDS = ["coins", "empty columns", "all ones", "all zeros", "real", "one row"]


@pytest.mark.parametrize("track", [False, True], ids=["sparse", "dense"])
@pytest.mark.parametrize("kind", KINDS)
def test_nade_is_its_naive_form(kind, track):
    model, x = randomised(NADE(9, 4)), rows_of(kind).requires_grad_(track)
    weight = torch.randn(x.shape, generator=generator(5), dtype=torch.float64)
    wanted = (model.W, model.V, model.b, model.c) + (x,) * track
    ours, theirs = model.logits(x), naive(x, model.W, model.V, model.b, model.c)
    torch.testing.assert_close(ours, theirs)
    for mine, other in zip(
        torch.autograd.grad((weight * ours).sum(), wanted),
        torch.autograd.grad((weight * theirs).sum(), wanted),
        strict=True,
    ):
        torch.testing.assert_close(mine, other)


@pytest.mark.parametrize("kind", KINDS)
def test_the_sparse_gradient_is_that_of_differences(kind):
    model, x = randomised(NADE(9, 4)), rows_of(kind)
    assert torch.autograd.gradcheck(
        lambda W, V, c: _SparseNADE.apply(x, W, V, c), (model.W, model.V, model.c)
    )


def test_a_backward_pass_can_be_repeated():
    model, x = randomised(NADE(9, 4)), rows_of("coins")
    loss = model.loss(x)
    first, second = (torch.autograd.grad(loss, list(model.parameters()), retain_graph=True) for _ in "12")
    assert all(torch.equal(a, b) for a, b in zip(first, second, strict=True))


def test_runs_end_where_a_hidden_state_changes():
    x = torch.tensor([[0.0, 1, 0, 0, 0, 1], [0, 1, 0, 0.5, 0, 0]])
    runs = [(start, stop, rows.tolist()) for start, stop, rows in _runs(x)]
    assert [run[:2] for run in runs] == [(0, 2), (2, 4), (4, 6)]
    assert [run[2] for run in runs[1:]] == [[0, 1], [1]]


def test_nade_holds_no_hidden_layer_for_its_gradient():
    model, x = NADE(100, 50), coins(64, 100).float()
    held = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: held.append(t.numel()) or t, lambda t: t):
        model.loss(x)
    assert sum(held) < 64 * 100 * 50 / 4


# RNADE


def test_rnade_is_a_mixture_of_gaussians_at_each_coordinate():
    model = randomised(RNADE(3, 4, 2))
    x = torch.randn(6, 3, generator=generator(), dtype=torch.float64)
    log_p = 0.0
    for d in range(3):
        a = model.c + x[:, :d] @ model.W[:d]
        log_pi, mu, sigma = (a.clamp(min=0) @ model.V[d] + model.b[d]).chunk(3, -1)
        parts = Normal(mu, (1 + sigma.exp()).log() + 1e-3)
        log_p = log_p + MixtureSameFamily(Categorical(logits=log_pi), parts).log_prob(x[:, d])
    torch.testing.assert_close(model.log_prob(x), log_p)
    assert all(part.shape == (6, 3, 2) for part in model.conditionals(x))


def test_rnade_starts_with_little_dependence():
    torch.manual_seed(0)
    model = RNADE(20, 100, 5)
    assert abs(model.V.std() * 100**0.5 - 0.1) < 0.002
    assert abs(model.b.std() - 1) < 0.2, "and with components apart"


def test_rnade_has_mass_one_at_each_coordinate():
    model = randomised(RNADE(3, 4, 3))
    x = torch.randn(1, 3, generator=generator(), dtype=torch.float64)
    step = 0.01
    line = torch.arange(-60, 60, step, dtype=torch.float64)
    rows = x.repeat(len(line), 1)
    rows[:, 2] = line
    with torch.no_grad():
        log_pi, mu, sigma = model.conditionals(rows)
        p = (log_pi + Normal(mu, sigma).log_prob(rows.unsqueeze(-1))).logsumexp(-1).exp()
    assert abs(p[:, 2].sum() * step - 1) < 1e-6


def test_rnade_draws_the_rest_given_what_is_known():
    model = randomised(RNADE(2, 4, 3))
    n = 20_000
    x = model.complete(torch.tensor([[0.75, 5.0]]).double().expand(n, -1), 1, rng=generator())
    assert (x[:, 0] == 0.75).all()
    log_pi, mu, sigma = (part[0, 1] for part in model.conditionals(x[:1]))
    mixture = MixtureSameFamily(Categorical(logits=log_pi), Normal(mu, sigma))
    place = mixture.cdf(x[:, 1]).detach().sort().values
    assert (place - (torch.arange(n) + 0.5) / n).abs().max() < 1.95 / n**0.5  # Kolmogorov, 1 in 1000


# One set of weights, many orders


@pytest.mark.parametrize("rng", [None, 7])
def test_at_an_order_it_is_the_made_of_that_order(rng):
    agnostic = randomised(OrderAgnosticMADE(6, (8, 7)))
    at = agnostic.at(ORDER, None if rng is None else generator(rng))
    made = MADE(6, (8, 7), ORDER, rng=None if rng is None else generator(rng)).double()
    with torch.no_grad():
        for mine, theirs in zip(made.parameters(), agnostic.parameters(), strict=True):
            mine.copy_(theirs)
    x = states(6)
    torch.testing.assert_close(at.log_prob(x), made.log_prob(x))
    torch.testing.assert_close(at.sample(9, rng=generator()), made.sample(9, rng=generator()))
    assert at.order == tuple(ORDER)
    at.network[0].weight.data.zero_()
    assert agnostic.made.network[0].weight.abs().sum() > 0, "a copy"


def test_orders_and_masks_are_drawn_for_each_loss():
    agnostic, x, rng = randomised(OrderAgnosticMADE(3, (4,))), coins(5, 3), generator()
    seen = set()
    for _ in range(60):
        loss = agnostic.loss(x, rng=rng)
        torch.testing.assert_close(loss, agnostic.made.loss(x))
        seen.add((agnostic.made.order, tuple(agnostic.made.network[0].mask.sum(1).tolist())))
    assert len({order for order, _ in seen}) == 6
    assert len(seen) > 20


def test_direct_connections_follow_the_order_too():
    made = randomised(MADE(6, (8,), direct=True)).reorder(ORDER)
    assert_sees_all_before_and_nothing_else(made, coins(30, 6))


def test_an_ensemble_averages_probabilities():
    agnostic = randomised(OrderAgnosticMADE(4, (8,)))
    models = [agnostic.at(order) for order in ([0, 1, 2, 3], [3, 1, 0, 2], [2, 3, 1, 0])]
    x = states(4)
    mean = torch.stack([model.log_prob(x).exp() for model in models]).mean(0)
    torch.testing.assert_close(Ensemble(models).log_prob(x).exp(), mean)
    assert abs(mean.sum() - 1) < 1e-9


def test_the_mean_of_logits_is_no_likelihood():
    models, x = [MADE(2, (1,), order, direct=True).double() for order in ([0, 1], [1, 0])], states(2)
    with torch.no_grad():
        for model in models:
            for p in model.parameters():
                p.fill_(3.0 * (p is model.direct.weight))
    logits = torch.stack([model.logits(x) for model in models]).mean(0)
    torch.testing.assert_close(logits, 1.5 * x.flip(1))
    mass = (x * logits - torch.nn.functional.softplus(logits)).sum(-1).exp().sum()
    assert abs(mass - 1) > 0.1
    assert abs(Ensemble(models).log_prob(x).exp().sum() - 1) < 1e-9


# Extremes


@pytest.mark.parametrize("name", DISCRETE)
def test_huge_logits_stay_finite(name):
    model = DISCRETE[name]()
    last = {"LogisticAR": "b", "NADE": "b", "MADE": "network.2.bias", "PixelCNN": "head.3.bias"}
    parameter = model.get_parameter(last.get(name.split("-")[0], "head.1.bias"))
    with torch.no_grad():
        parameter.copy_(1e4 * torch.tensor([1, -1, 0.5, -0.5])[: len(parameter)])
    x = states(4, model.values).float()
    log_p = model.log_prob(x)
    assert log_p.isfinite().all()
    assert log_p.max() > -1e-3, "one state is certain"
    assert log_p.min() < -5e3
    model.loss(x).backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert model.sample(3, rng=generator()).isfinite().all()


def test_nade_with_huge_weights_stays_finite():
    model, x = randomised(NADE(6, 4), 1e4).float(), coins(20, 6).float()
    loss = model.loss(x)
    loss.backward()
    assert loss.isfinite()
    assert all(p.grad.isfinite().all() for p in model.parameters())


ONE = {
    "LogisticAR": lambda d: LogisticAR(d),
    "NADE": lambda d: NADE(d, 3),
    "RNADE": lambda d: RNADE(d, 3, 2),
    "MADE": lambda d: MADE(d, (4, 3), direct=True),
    "OrderAgnosticMADE": lambda d: OrderAgnosticMADE(d, (4,)),
    "PixelCNN": lambda d: PixelCNN((1, 1, d), 3, 1),
    "CausalTransformer": lambda d: CausalTransformer(d, 4, 1, 1),
}


@pytest.mark.parametrize("name", ONE)
@pytest.mark.parametrize("x", [torch.tensor([[0.0], [1.0], [1.0]]), torch.zeros(3, 4), torch.ones(1, 4)])
def test_one_coordinate_and_equal_data_stay_finite(name, x):
    model, rng = ONE[name](x.shape[1]), generator()
    optimizer = torch.optim.Adam(model.parameters(), lr=0.1)
    for _ in range(60):
        optimizer.zero_grad()
        loss = model.loss(x, rng=rng)
        loss.backward()
        optimizer.step()
        assert loss.isfinite()
    if name != "OrderAgnosticMADE":
        assert model.log_prob(x).isfinite().all()
        assert model.sample(2, rng=rng).isfinite().all()
        if x.shape[1] == 1 and name != "RNADE":
            p = model.log_prob(torch.tensor([[0.0], [1.0]])).exp()
            torch.testing.assert_close(p, torch.tensor([1 / 3, 2 / 3]), rtol=0, atol=0.02)
        if x.shape[1] > 1:
            assert loss < (-5 if name == "RNADE" else 0.2), "equal rows are no surprise"


@pytest.mark.parametrize("root", [0, 7, 19])
def test_a_tree_order_follows_the_tree_of_most_information(root):
    x = digits(binary=True).train.x[:, 20:40]  # among them pixels that are never on
    information = torch.tensor([[mutual_info_score(a, b) for b in x.T] for a in x.T])
    order = tree_order(x, root)
    assert order[0] == root
    assert sorted(order) == list(range(20))
    shared = [information[order[:i], order[i]].max() for i in range(1, 20)]
    for i in range(1, 20):  # none of those that wait shares more
        assert information[order[:i]][:, order[i:]].max() <= shared[i - 1] + 1e-8
    assert sum(shared) == pytest.approx(-minimum_spanning_tree(-information.numpy()).sum(), abs=1e-6)


def test_a_tree_order_of_a_chain_is_the_chain():
    steps = torch.rand(5_000, 8) < 0.2
    chain = steps.cumsum(1).remainder(2).float()  # each is the one before it, but for a fifth
    places = torch.tensor([3, 6, 0, 7, 1, 5, 2, 4])
    assert tree_order(chain) == list(range(8))
    assert tree_order(chain[:, places.argsort()], int(places[0])) == places.tolist()


def test_a_tree_order_of_constants_is_an_order():
    assert tree_order(torch.tensor([[1.0, 0.0, 1.0]]), 2) == [2, 0, 1]
