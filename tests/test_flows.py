"""Flows against autograd's Jacobians, closed forms, quadrature and slower computations."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.autograd.functional import jacobian
from torch.distributions import MultivariateNormal, Normal

from gmlib.flows import (
    BOUND,
    MAF,
    Affine,
    Autoregressive,
    ContinuousFlow,
    Coupling,
    Dequantized,
    Flow,
    LinearLU,
    LogisticNormalNoise,
    Permutation,
    Planar,
    RealNVP,
    SplineCoupling,
    SplineFlow,
    rational_quadratic,
)
from gmlib.train import fit

TRANSFORMS = {
    "Affine": lambda: Affine(3),
    "LinearLU": lambda: LinearLU(3),
    "Permutation": lambda: Permutation([1, 2, 0]),
    "Planar": lambda: Planar(3),
    "Coupling": lambda: Coupling(3, (8, 8)),
    "Coupling-flip": lambda: Coupling(3, (8, 8), flip=True),
    "SplineCoupling": lambda: SplineCoupling(3, (8,), bins=4, bound=3.0),
    "SplineCoupling-flip": lambda: SplineCoupling(3, (8,), flip=True),
    "Autoregressive": lambda: Autoregressive(3, (8, 8)),
    "Autoregressive-order": lambda: Autoregressive(3, (8,), [1, 2, 0]),
}
FLOWS = {
    "Flow": lambda: Flow([Affine(3), Planar(3), Permutation([1, 2, 0]), LinearLU(3), Planar(3)]),
    "RealNVP": lambda: RealNVP(3, 4, (8,)),
    "SplineFlow": lambda: SplineFlow(3, 4, (8,), bins=5),
    "MAF": lambda: MAF(3, 3, (8,)),
}
ALL = TRANSFORMS | FLOWS


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(model, scale: float = 0.4):
    rng = generator(3)
    with torch.no_grad():
        for p in model.double().parameters():
            p += scale * torch.randn(p.shape, generator=rng, dtype=p.dtype)
    return model


def points(n: int = 60, dim: int = 3, scale: float = 2.0) -> torch.Tensor:
    return scale * torch.randn(n, dim, generator=generator(1), dtype=torch.float64)


def jacobians(f, x):
    """df(x)/dx for each row of x, since rows do not meet: (N, D, D)."""
    return jacobian(lambda x: f(x).sum(0), x).transpose(0, 1)


# Every transform


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("name", ALL)
def test_decode_inverts_encode_and_encode_inverts_decode(name, scale):
    model, x = randomised(ALL[name]()), points(scale=scale)
    torch.testing.assert_close(model.decode(model.encode(x)[0]), x, rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(model.encode(model.decode(x))[0], x, rtol=1e-10, atol=1e-10)
    model, x = model.float(), x.float()
    error = (model.decode(model.encode(x)[0]) - x).abs() / (1 + x.abs())
    assert error.max() < 1e-4


@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("name", ALL)
def test_ladj_is_the_log_determinant_of_the_jacobian(name, scale):
    model, x = randomised(ALL[name]()), points(scale=scale)
    z, ladj = model.encode(x)
    assert z.shape == x.shape
    assert ladj.shape == (60,)
    torch.testing.assert_close(ladj, torch.linalg.slogdet(jacobians(lambda x: model.encode(x)[0], x))[1])


@pytest.mark.parametrize("name", sorted(ALL.keys() - {"Permutation"}))
def test_a_start_that_moves_little(name):
    model = ALL[name]().double()
    z, ladj = model.encode(points())
    far = 2.0 if name in ("Planar", "Flow") else 1e-12
    x = points()[:, [1, 2, 0]] if name == "Flow" else points()
    assert (z - x).abs().max() < far
    assert ladj.abs().max() < far


@pytest.mark.parametrize("name", ALL)
def test_extreme_points_stay_finite(name):
    x = torch.cat([points(scale=1e6), points(scale=1e-6), torch.zeros(1, 3).double()]).float()
    model = randomised(ALL[name]()).float()
    for values in (*model.encode(x), model.decode(x)):
        assert values.isfinite().all()


def test_networks_ask_for_bounded_scales():
    coupling, masked = randomised(Coupling(2, (8,)), 1e3), randomised(Autoregressive(2, (8,)), 1e3)
    for model, most in ((coupling, BOUND), (masked, 2 * BOUND)):
        ladj = model.encode(points(dim=2))[1].abs()
        assert 0.9 * BOUND < ladj.max() <= most


@pytest.mark.parametrize(
    "x",
    [
        torch.full((1, 3), 0.7),
        torch.linspace(-2, 2, 50)[:, None] * torch.tensor([[1.0, -2.0, 0.5]]),
        torch.cat([torch.randn(50, 2, generator=generator()), torch.full((50, 1), 3.0)], 1),
        1e4 * torch.randn(50, 3, generator=generator()),
        1e-6 * torch.randn(50, 3, generator=generator()),
    ],
    ids=["one point", "a line", "a constant column", "large", "small"],
)
@pytest.mark.parametrize("name", FLOWS)
def test_training_on_odd_data_stays_finite(name, x):
    model = FLOWS[name]()
    losses = fit(model, x, steps=60, batch_size=50, lr=1e-2, rng=generator())
    assert torch.tensor(losses).isfinite().all()
    assert all(p.isfinite().all() for p in model.parameters())
    assert losses[-1] < losses[0] or name == "SplineFlow"  # which moves no point beyond its bounds


# One transform after the other


def test_affine_and_linear_are_gaussians():
    affine, linear = randomised(Affine(3)), randomised(LinearLU(3))
    s, x = affine.log_s.exp(), points()
    torch.testing.assert_close(Flow([affine]).log_prob(x), Normal(affine.m, s).log_prob(x).sum(-1))
    W = jacobians(lambda x: linear.encode(x)[0], x)[0]
    inverse = torch.linalg.inv(W)
    gaussian = MultivariateNormal(-inverse @ linear.b, inverse @ inverse.T)
    torch.testing.assert_close(Flow([linear]).log_prob(x), gaussian.log_prob(x))


def test_linear_is_the_product_of_two_triangles():
    linear = randomised(LinearLU(3))
    W = linear.encode(torch.eye(3).double())[0].T - linear.b[:, None]
    for i in range(1, 4):  # minors of a product of a unit lower and an upper triangle
        torch.testing.assert_close(torch.det(W[:i, :i]), linear.log_diagonal[:i].sum().exp())
    assert (W.tril(-1).abs() > 1e-3).sum() == 3


def test_a_permutation_puts_coordinate_order_i_at_place_i():
    x = torch.tensor([[10.0, 11.0, 12.0]])
    assert Permutation([1, 2, 0]).encode(x)[0].tolist() == [[11.0, 12.0, 10.0]]
    assert Permutation([1, 2, 0]).decode(x).tolist() == [[12.0, 10.0, 11.0]]


@pytest.mark.parametrize("along", [-50.0, -3.0, 0.0, 2.0])
def test_a_planar_map_has_an_inverse_whatever_u_is(along):
    planar = Planar(2).double()
    w = torch.tensor([0.6, -0.8]).double()
    with torch.no_grad():
        planar.w.copy_(2 * w)
        planar.u.copy_(along / 2 * w + torch.tensor([0.8, 0.6]).double())
        planar.b.fill_(0.3)
    u = planar.direction()
    torch.testing.assert_close(planar.w @ u, torch.tensor(along).double().exp().log1p() - 1)
    torch.testing.assert_close(u @ torch.tensor([0.8, 0.6]).double(), torch.tensor(1.0).double())
    x = points(dim=2)
    z, ladj = planar.encode(x)
    torch.testing.assert_close(z, x + (x @ planar.w + 0.3).tanh()[:, None] * u)
    assert ladj.isfinite().all()
    if along > -50:
        torch.testing.assert_close(planar.decode(z), x)


def test_planar_maps_start_along_a_direction_of_length_about_one():
    assert 0.85 < Planar(400).w.norm() < 1.15


def test_bisection_is_right_to_rounding():
    planar, z = randomised(Planar(3)), points(200)
    again = planar.encode(planar.decode(z))[0]
    assert (again - z).abs().max() < 4e-15 * (1 + z.abs().max())


@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("make", [Coupling, SplineCoupling])
@pytest.mark.parametrize("dim", [2, 5])
def test_a_coupling_leaves_one_half_and_moves_each_of_the_others_alone(make, flip, dim):
    model, x = randomised(make(dim, (8,), flip=flip)), points(dim=dim)
    J = jacobians(lambda x: model.encode(x)[0], x)
    stays = torch.arange(dim) < dim // 2
    stays = ~stays if flip else stays
    torch.testing.assert_close(model.encode(x)[0][:, stays], x[:, stays], rtol=0, atol=0)
    among = J[:, ~stays][:, :, ~stays]
    off = ~torch.eye(int((~stays).sum()), dtype=torch.bool)
    assert (among[:, off] == 0).all()
    assert (J[:, ~stays][:, :, stays].abs().amax(0) > 1e-6).all(), "each reads the whole half that stays"


def test_a_coupling_is_a_conditional_gaussian():
    model, x = randomised(Coupling(3, (4,))), points()
    raw, t = model.network(x[:, :1]).chunk(2, -1)
    z = x.clone()
    z[:, 1:] = x[:, 1:] * (2 * raw.tanh()).exp() + t
    torch.testing.assert_close(model.encode(x)[0], z)


def test_halves_take_turns():
    for flow in (RealNVP(3, 3, (4,)), SplineFlow(3, 3, (4,))):
        assert [coupling.flip for coupling in flow.transforms] == [False, True, False]
    assert [layer.order for layer in MAF(3, 2, (4,)).transforms] == [(0, 1, 2), (2, 1, 0)]
    spline = SplineFlow(2, 1, (4,), bins=3, bound=1.5).transforms[0]
    assert (spline.bins, spline.bound) == (3, 1.5)


@pytest.mark.parametrize("order", [[0, 1, 2, 3], [2, 0, 3, 1]])
def test_autoregressive_transforms_have_a_triangular_jacobian(order):
    model, x = randomised(Autoregressive(4, (12, 12), order)), points(dim=4)
    J = jacobians(lambda x: model.encode(x)[0], x)[:, order][:, :, order]
    assert (J.triu(1) == 0).all()
    assert (J.tril(-1) != 0).sum() == 60 * 6
    m, raw = model.network(x).chunk(2, -1)
    scale = (2 * raw.tanh()).exp()
    torch.testing.assert_close(J.diagonal(dim1=1, dim2=2), 1 / scale[:, order])
    torch.testing.assert_close(model.encode(x)[0], (x - m) / scale)


def test_a_gradient_goes_through_every_inverse():
    for name, make in TRANSFORMS.items():
        if not name.startswith("Planar"):  # whose bisection has none
            model, z = randomised(make()), points(8)
            J = jacobians(model.decode, z) @ jacobians(lambda x, m=model: m.encode(x)[0], model.decode(z))
            torch.testing.assert_close(J, torch.eye(3).double().expand(8, 3, 3))


# Splines


def curve(bins: int = 5, rows: int = 4):
    return 1.5 * torch.randn(rows, 3 * bins - 1, 1, generator=generator(2), dtype=torch.float64)


def at(raw, x, inverse=False):
    """The curve of each row of raw at all x: (rows, len(x)) twice."""
    rows, n = len(raw), len(x)
    y, log_slope = rational_quadratic(x.repeat(rows)[:, None], raw.repeat_interleave(n, 0), 3.0, inverse)
    return y.reshape(rows, n), log_slope.reshape(rows, n)


def by_hand(raw, x):
    """The knots, and the curve by Gregory and Delbourgo's formula, for one row of numbers and one point."""
    K = (len(raw) + 1) // 3
    bounded = [2 * math.tanh(r) for r in raw]
    knots = []
    for part in (bounded[:K], bounded[K : 2 * K]):
        weights = [math.exp(r / 2) for r in part]
        knots.append([-3 + 6 * share / sum(weights) for share in itertools.accumulate(weights, initial=0)])
    d = [1.0, *map(math.exp, bounded[2 * K :]), 1.0]
    (xs, ys), k = knots, 0
    while k < K - 1 and x >= xs[k + 1]:
        k += 1
    w, h = xs[k + 1] - xs[k], ys[k + 1] - ys[k]
    t, s = (x - xs[k]) / w, h / w
    top = h * (s * t**2 + d[k] * t * (1 - t))
    return ys[k] + top / (s + (d[k] + d[k + 1] - 2 * s) * t * (1 - t))


def test_splines_are_the_formula_of_the_paper():
    raw, x = curve(), torch.linspace(-2.9, 2.9, 23, dtype=torch.float64)
    y, _ = at(raw, x)
    expected = [[by_hand(row.flatten().tolist(), point) for point in x.tolist()] for row in raw]
    torch.testing.assert_close(y, torch.tensor(expected).double())


@pytest.mark.parametrize("bins", [1, 2, 8])
def test_splines_rise_and_their_slope_is_the_derivative(bins):
    raw = curve(bins)
    x = torch.linspace(-3.5, 3.5, 4_001, dtype=torch.float64)
    h = 1e-6
    (low, _), (y, log_slope), (high, _) = at(raw, x - h), at(raw, x), at(raw, x + h)
    assert (y.diff() > 0).all()
    torch.testing.assert_close(log_slope.exp(), (high - low) / (2 * h), rtol=1e-4, atol=1e-5)
    assert (log_slope.diff().abs() < 0.5).all(), "the slope has no jump, not even at the edges"
    back, minus = at(raw, x, inverse=True)
    torch.testing.assert_close(at(raw, back[0])[0][0], x)
    torch.testing.assert_close(minus[0], -at(raw, back[0])[1][0], atol=1e-7, rtol=1e-7)


def test_splines_are_the_identity_outside_and_with_zeros():
    outside = torch.tensor([-1e4, -3.0, 3.0, 5.0, 1e4]).double()
    for inverse in (False, True):
        y, log_slope = at(curve(), outside, inverse)
        torch.testing.assert_close(y, outside.expand(4, -1))
        assert log_slope.abs().max() < 1e-12
        x = torch.linspace(-4, 4, 99, dtype=torch.float64)
        y, log_slope = at(torch.zeros(1, 14, 1).double(), x, inverse)
        torch.testing.assert_close(y[0], x)
        assert log_slope.abs().max() < 1e-12


# Flows


@pytest.mark.parametrize("name", FLOWS)
def test_states_step_from_x_to_z(name):
    flow, x = randomised(FLOWS[name]()), points()
    states = flow.states(x)
    assert len(states) == len(flow.transforms) + 1
    assert torch.equal(states[0][0], x)
    assert (states[0][1] == 0).all()
    for (start, ladj), (end, further), transform in zip(states, states[1:], flow.transforms, strict=False):
        z, step = transform.encode(start)
        assert torch.equal(z, end)
        torch.testing.assert_close(further, ladj + step)
    z, ladj = flow.encode(x)
    assert torch.equal(z, states[-1][0])
    assert torch.equal(ladj, states[-1][1])
    torch.testing.assert_close(flow.log_prob(x), ladj + Normal(0, 1).log_prob(z).sum(-1))


@pytest.mark.parametrize("name", FLOWS)
def test_samples_are_decoded_noise(name):
    flow = randomised(FLOWS[name]())
    z = torch.randn(5, 3, generator=generator(2), dtype=torch.float64)
    torch.testing.assert_close(flow.sample(5, rng=generator(2)), flow.decode(z))


# Continuous flows


class LinearField(ContinuousFlow):
    """v(x, t) = A x, whose flow is the matrix exponential."""

    def __init__(self, A):
        super().__init__(len(A), (1,))
        self.A = A

    def velocity(self, t, x):
        return x @ self.A.T


A = torch.tensor([[0.3, -1.2, 0.1], [0.9, 0.2, -0.4], [0.5, 0.7, -1.1]], dtype=torch.float64)


def test_a_linear_field_is_a_matrix_exponential():
    flow, x = LinearField(A), points(20)
    z, ladj = flow.encode(x, 1e-9)
    torch.testing.assert_close(z, x @ torch.linalg.matrix_exp(A).T, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(ladj, torch.full((20,), A.trace().item()).double())
    torch.testing.assert_close(flow.decode(z, 1e-9), x, atol=1e-6, rtol=1e-6)
    inverse = torch.linalg.matrix_exp(-A)
    gaussian = MultivariateNormal(torch.zeros(3).double(), inverse @ inverse.T)
    torch.testing.assert_close(flow.log_prob_ode(x, 1e-9), gaussian.log_prob(x), atol=1e-6, rtol=1e-6)


def test_a_smaller_tolerance_is_a_smaller_error():
    flow, x = LinearField(3 * A), points(20)
    z = x @ torch.linalg.matrix_exp(3 * A).T
    errors = [(flow.encode(x, rtol)[0] - z).abs().max() for rtol in (1e-2, 1e-4, 1e-8)]
    assert errors[0] > 10 * errors[1] > 1000 * errors[2]
    backwards = [(flow.decode(z, rtol) - x).abs().max() for rtol in (1e-2, 1e-8)]
    assert backwards[0] > 1000 * backwards[1]


def test_hutchinson_is_unbiased():
    flow, x = LinearField(A), points(1).expand(4_000, -1)
    draws = flow.log_prob_hutchinson(x, generator(), 1e-6)
    exact = flow.log_prob_ode(x[:1], 1e-6)
    standard_error = draws.std() / len(draws) ** 0.5
    assert 0 < standard_error < 0.05
    assert abs(draws.mean() - exact) < 4 * standard_error
    signs = A - A.diag().diag()  # the estimate of one draw is tr A plus e_i A_ij e_j over i != j
    values = {s @ signs @ s for s in torch.cartesian_prod(*[torch.tensor([-1.0, 1.0]).double()] * 3)}
    far = torch.stack([(draws - exact - value).abs() for value in values]).amin(0)
    assert far.max() < 1e-5


def test_the_exact_trace_is_that_of_the_jacobian():
    flow, x = randomised(ContinuousFlow(2, (8,))), points(6, dim=2)
    J = jacobians(lambda x: flow.encode(x, 1e-8)[0], x)
    torch.testing.assert_close(flow.encode(x, 1e-8)[1], torch.linalg.slogdet(J)[1], atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(flow.log_prob_ode(x), flow.log_prob_ode(x, 1e-9), atol=1e-3, rtol=0)


def test_the_field_depends_on_time_and_place():
    flow, x = randomised(ContinuousFlow(2, (8,))), points(6, dim=2)
    now, later = (flow.velocity(torch.tensor(t).double(), x) for t in (0.2, 0.7))
    assert (now - later).abs().min() > 1e-6
    torch.testing.assert_close(now, flow.network(torch.cat([x, torch.full((6, 1), 0.2).double()], 1)))


def test_the_loss_is_minus_the_mean_of_the_estimate():
    flow, x = randomised(ContinuousFlow(2, (8,))), points(6, dim=2)
    estimate = flow.log_prob_hutchinson(x, generator(4), 1e-4)
    torch.testing.assert_close(flow.loss(x, rng=generator(4)), -estimate.mean())
    z = torch.randn(5, 2, generator=generator(2), dtype=torch.float64)
    torch.testing.assert_close(flow.sample(5, rng=generator(2)), flow.decode(z, 1e-4))


# Dequantisation


def levels(n: int) -> torch.Tensor:
    """All pairs of n levels."""
    return torch.cartesian_prod(*[torch.arange(n).double()] * 2)


def cell_masses(flow, m: int, n: int = 40) -> torch.Tensor:
    """log P of all pairs of m levels, by Gauss's rule over each cell of the flow's plane."""
    nodes, weights = map(torch.tensor, np.polynomial.legendre.leggauss(n))
    u, w = (nodes + 1) / 2, weights / 2
    grid, weight = torch.cartesian_prod(u, u), torch.cartesian_prod(w, w).prod(-1)
    y = 2 / m * (levels(m)[:, None] + grid) - 1
    log_p = flow.log_prob(y.reshape(-1, 2)).reshape(m * m, -1) + 2 * math.log(2 / m)
    return (log_p + weight.log()).logsumexp(-1)


@pytest.mark.parametrize("noise", [None, LogisticNormalNoise], ids=["uniform", "variational"])
def test_elbo_is_a_bound_on_the_mass_of_a_cell(noise):
    flow, x = randomised(RealNVP(2, 2, (4,)), 0.2), levels(3)
    model = Dequantized(flow, 3, noise and randomised(noise(2, (4,), 2.0), 0.1))
    with torch.no_grad():
        exact = cell_masses(flow, 3)
        draws = model.elbo(x.repeat(20_000, 1), rng=generator()).reshape(-1, 9)
    standard_error = draws.std(0) / len(draws) ** 0.5
    assert (draws.mean(0) + 8 * standard_error < exact).all()
    if noise is None:  # the estimate of P(x) itself has no bias, and a finite variance
        p = (draws - exact).exp()
        assert ((p.mean(0) - 1).abs() < 5 * p.std(0) / len(p) ** 0.5).all()


def test_elbo_with_a_noise_model_is_that_of_its_draw():
    flow, noise, x = randomised(MAF(2, 2, (4,))), randomised(LogisticNormalNoise(2, (4,))), levels(3)
    u, log_q = noise.draw(x, generator(5))
    log_p = flow.log_prob(2 * (x + u) / 3 - 1) + 2 * math.log(2 / 3)
    torch.testing.assert_close(Dequantized(flow, 3, noise).elbo(x, rng=generator(5)), log_p - log_q)


class Flat(Affine):
    """The uniform density on (-1, 1)^D, through the normal's distribution function."""

    def _encode(self, x):
        z = Normal(0, 1).icdf((x + 1) / 2)
        return z, -(Normal(0, 1).log_prob(z) + math.log(2)).sum(-1)


def test_the_bound_is_tight_where_the_density_is_flat():
    model = Dequantized(Flow([Flat(2)]), 5)
    log_p = torch.full((25,), -2 * math.log(5)).double()
    torch.testing.assert_close(model.elbo(levels(5), rng=generator()), log_p)
    torch.testing.assert_close(model.loss(levels(5), rng=generator()), -log_p.mean())


def test_draws_have_the_masses_of_the_cells():
    flow = Flow([Affine(2).double()])
    with torch.no_grad():
        flow.transforms[0].m.copy_(torch.tensor([0.3, -0.5]))
        flow.transforms[0].log_s.copy_(torch.tensor([0.2, -0.4]))
        x = Dequantized(flow, 4).sample(20_000, rng=generator())
        p = cell_masses(flow, 4).exp()
    assert (x < 0).any()
    assert (x > 3).any(), "what lies outside stays there"
    counts = torch.stack([(x == row).all(-1).sum() for row in levels(4)])
    expected = 20_000 * p
    assert (((counts - expected).square() / (expected * (1 - p))) < 4.5**2).all()


def test_noise_has_the_density_that_it_says():
    noise, n = randomised(LogisticNormalNoise(1, (4,), 2.0)), 20_000
    x = torch.full((n, 1), 3.0).double()
    with torch.no_grad():
        u, log_q = noise.draw(x, generator())
        mu, raw = noise.network(x / 2).chunk(2, -1)
    assert ((u > 0) & (u < 1)).all()
    logit, eps = u.logit(), torch.randn(n, 1, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(logit, mu + (2 * raw.tanh()).exp() * eps)
    by_change = Normal(mu, (2 * raw.tanh()).exp()).log_prob(logit) - (u * (1 - u)).log()
    torch.testing.assert_close(log_q, by_change.sum(-1))
    inverse = (-log_q).exp()  # its mean is the length of (0, 1)
    assert abs(inverse.mean() - 1) < 5 * inverse.std() / n**0.5


def test_extreme_noise_is_finite():
    noise = randomised(LogisticNormalNoise(2, (4,)), 30.0).float()
    u, log_q = noise.draw(levels(4).float(), generator())
    assert log_q.isfinite().all()
    assert u.isfinite().all()
