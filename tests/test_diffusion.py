"""Gaussian data, for which all is exact, against matrix algebra; denoisers against sums and quadrature."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal, Normal

from gmlib.diffusion import (
    KINDS,
    Diffusion,
    FlowMatching,
    Schedule,
    convert,
    ddim_step,
    ddpm_step,
    ideal_denoiser,
    mixture_denoiser,
)
from gmlib.nn import TimeMLP, normal
from gmlib.train import fit

BETA = torch.tensor([0.05, 0.2, 0.1, 0.4, 0.3], dtype=torch.float64)
ALPHA_BAR = np.cumprod(1 - np.array([0, 0.05, 0.2, 0.1, 0.4, 0.3]))  # at the times 0, ..., 5
SCHEDULE = Schedule(BETA)
MEAN, SPREAD = torch.tensor([[0.7, -1.1], [0.5, 1.6]], dtype=torch.float64)  # Gaussian data in the plane


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def points(n, dim=2, seed=1):
    return torch.randn(n, dim, generator=generator(seed), dtype=torch.float64)


def close(a, b, tolerance=1e-10):
    exact = torch.as_tensor(b, dtype=torch.float64)
    torch.testing.assert_close(torch.as_tensor(a).double(), exact, rtol=tolerance, atol=tolerance)


def chain():
    """Mean (per unit of x_0) and covariance of x_1, ..., x_5 given x_0, from the noise of each step."""
    beta, T = BETA.numpy(), len(BETA)
    factor = np.ones(T)
    noise = np.zeros((T, T))  # of each state, from each step's noise
    for t in range(T):
        factor[t] = (factor[t - 1] if t else 1) * math.sqrt(1 - beta[t])
        noise[t] = noise[t - 1] * math.sqrt(1 - beta[t])
        noise[t, t] = math.sqrt(beta[t])
    return factor, noise @ noise.T


def condition_on(x_0, x_t, s, t):
    """Mean and variance of x_s given x_t and x_0, for s < t, by the joint Gaussian."""
    factor, covariance = chain()
    if s == 0:
        return x_0, 0.0
    gain = covariance[s - 1, t - 1] / covariance[t - 1, t - 1]
    mean = factor[s - 1] * x_0 + gain * (x_t - factor[t - 1] * x_0)
    return mean, covariance[s - 1, s - 1] - gain * covariance[s - 1, t - 1]


class TestSchedule:
    def test_alpha_bar_is_the_product(self):
        close(SCHEDULE.alpha_bar, ALPHA_BAR)
        close(SCHEDULE.beta, BETA)
        assert SCHEDULE.T == 5

    @pytest.mark.parametrize("T", [25, 1000])
    def test_linear(self, T):
        beta = np.array([1e-4 + (0.02 - 1e-4) * i / (T - 1) for i in range(T)]) * 1000 / T
        schedule = Schedule.linear(T)
        close(schedule.alpha_bar[1:], np.cumprod(1 - beta), 1e-5)
        close(schedule.beta, beta, 1e-5)

    def test_cosine(self):
        f = [math.cos((t / 50 + 0.008) / 1.008 * math.pi / 2) ** 2 for t in range(51)]
        beta = [min(1 - after / before, 0.999) for before, after in itertools.pairwise(f)]
        close(Schedule.cosine(50).beta, np.array(beta), 1e-5)
        close(Schedule.cosine(50).alpha_bar[:-1], np.array(f[:-1]) / f[0], 1e-5)
        assert beta[-1] == 0.999

    def test_loses_no_digits_in_float32(self):
        exact = 1 - np.cumprod(1 - np.full(3000, 1e-4))
        sigma = Schedule(torch.full((3000,), 1e-4)).levels(torch.arange(1, 3001))[1].squeeze(-1)
        close(sigma.square(), exact, 1e-6)

    def test_keeps_the_dtype_of_beta_and_moves_with_a_model(self):
        assert Schedule(BETA.float()).log_alpha_bar.dtype == torch.float32
        model = Diffusion(TimeMLP(2, ()), Schedule(BETA)).float()
        assert model.schedule.log_alpha_bar.dtype == torch.float32
        assert "schedule.log_alpha_bar" in model.state_dict()

    @pytest.mark.parametrize("t", range(6))
    def test_marginal_is_that_of_the_chain(self, t):
        factor, covariance = chain()
        mean, sigma = SCHEDULE.marginal(points(3), t)
        close(mean, points(3) * (factor[t - 1] if t else 1))
        close(sigma.square(), covariance[t - 1, t - 1] if t else 0.0)
        close(SCHEDULE.snr(t), ALPHA_BAR[t] / (1 - ALPHA_BAR[t]) if t else math.inf)

    def test_marginal_is_that_of_simulated_steps(self):
        rng, x_0 = generator(), torch.full((50_000, 1), 1.3, dtype=torch.float64)
        x = x_0
        for t in range(1, 6):
            x = (1 - BETA[t - 1]).sqrt() * x + BETA[t - 1].sqrt() * normal(x.shape, rng, like=x)
            mean, sigma = SCHEDULE.marginal(x_0, t)
            error = sigma.item() / 50_000**0.5
            assert abs(x.mean() - mean[0]) < 4 * error
            assert abs(x.std() - sigma) < 4 * error

    @pytest.mark.parametrize("t", range(1, 6))
    def test_posterior_is_the_conditional_of_the_joint_gaussian(self, t):
        x_0, x_t = points(3, seed=1), points(3, seed=2)
        mean, variance = SCHEDULE.posterior(x_0, x_t, t)
        exact_mean, exact_variance = condition_on(x_0, x_t, t - 1, t)
        close(mean, exact_mean)
        close(variance, exact_variance)

    def test_a_time_for_each_row_is_that_row_alone(self):
        x_0, x_t, t = points(5, seed=1), points(5, seed=2), torch.tensor([3, 1, 5, 2, 4])
        answers = [*SCHEDULE.marginal(x_0, t), *SCHEDULE.posterior(x_0, x_t, t), SCHEDULE.snr(t)]
        for i in range(5):
            row, time = slice(i, i + 1), t[i].item()
            alone = [
                *SCHEDULE.marginal(x_0[row], time),
                *SCHEDULE.posterior(x_0[row], x_t[row], time),
                SCHEDULE.snr(time),
            ]
            for many, one in zip(answers, alone, strict=True):
                close(many[i].squeeze(), one.squeeze())

    def test_log_alpha_bar_is_linear_between_whole_times(self):
        for t in (0.0, 0.3, 1.0, 3.75, 5.0):
            expected = np.interp(t, range(6), np.log(ALPHA_BAR))
            close(SCHEDULE.at(t), expected)
            close(
                SCHEDULE.at(torch.tensor([t, 2.0], dtype=torch.float64)),
                np.array([[expected], [math.log(ALPHA_BAR[2])]]),
            )
            close(SCHEDULE.when(torch.tensor(expected, dtype=torch.float64)), t)


def mixed(t):
    """x_0, noise and x_t, and all four kinds of prediction."""
    x_0, noise = points(4, seed=1), points(4, seed=2)
    alpha, sigma = math.sqrt(ALPHA_BAR[t]), math.sqrt(1 - ALPHA_BAR[t])
    x_t = alpha * x_0 + sigma * noise
    mean = (alpha * x_0).detach()
    at = x_t.clone().requires_grad_()
    (score,) = torch.autograd.grad(Normal(mean, sigma).log_prob(at).sum(), at)
    kinds = {"noise": noise, "data": x_0, "score": score, "velocity": alpha * noise - sigma * x_0}
    return x_t, kinds


class TestConvert:
    @pytest.mark.parametrize("t", [1, 4])
    @pytest.mark.parametrize("given", KINDS)
    @pytest.mark.parametrize("wanted", KINDS)
    def test_every_kind_to_every_kind(self, given, wanted, t):
        x_t, kinds = mixed(t)
        close(convert(kinds[given], x_t, t, SCHEDULE, given, wanted), kinds[wanted])

    def test_velocity_is_the_derivative_in_the_angle(self):
        """x = cos(phi) x_0 + sin(phi) noise, where cos(phi)^2 = alpha_bar."""
        x_t, kinds = mixed(3)
        phi = torch.tensor(math.acos(math.sqrt(ALPHA_BAR[3])), dtype=torch.float64)

        def at(phi):
            return phi.cos() * kinds["data"] + phi.sin() * kinds["noise"]

        close(at(phi), x_t)
        derivative = torch.autograd.functional.jacobian(at, phi)
        close(convert(kinds["noise"], x_t, 3, SCHEDULE, "noise", "velocity"), derivative)

    def test_a_time_for_each_row(self):
        x_t, prediction, t = points(5, seed=1), points(5, seed=2), torch.tensor([3, 1, 5, 2, 4])
        together = convert(prediction, x_t, t, SCHEDULE, "velocity", "score")
        for i in range(5):
            row = slice(i, i + 1)
            alone = convert(prediction[row], x_t[row], t[i].item(), SCHEDULE, "velocity", "score")
            close(together[row], alone)


class TestSteps:
    x_t, x_0, noise = points(4, seed=1), points(4, seed=2), points(4, seed=3)

    @pytest.mark.parametrize("t", range(1, 6))
    def test_ddpm_draws_from_the_posterior(self, t):
        mean, variance = condition_on(self.x_0, self.x_t, t - 1, t)
        x = ddpm_step(self.x_t, self.x_0, t, SCHEDULE, self.noise)
        close(x, mean + math.sqrt(variance) * self.noise)

    @pytest.mark.parametrize(("t", "s"), [(t, s) for t in range(1, 6) for s in range(t)])
    def test_ddim_with_eta_one_draws_from_the_posterior(self, t, s):
        mean, variance = condition_on(self.x_0, self.x_t, s, t)
        x = ddim_step(self.x_t, self.x_0, t, s, SCHEDULE, 1.0, self.noise)
        close(x, mean + math.sqrt(variance) * self.noise)

    @pytest.mark.parametrize("t", range(1, 6))
    def test_ddim_with_eta_one_and_all_times_is_ddpm(self, t):
        x = ddim_step(self.x_t, self.x_0, t, t - 1, SCHEDULE, 1.0, self.noise)
        close(x, ddpm_step(self.x_t, self.x_0, t, SCHEDULE, self.noise))

    @pytest.mark.parametrize("eta", [0.0, 0.3, 0.8])
    def test_ddim_is_equation_12_of_its_paper(self, eta):
        for t, s in [(4, 2), (3, 0)]:
            a_t, a_s = ALPHA_BAR[t], ALPHA_BAR[s]
            sigma = eta * math.sqrt((1 - a_s) / (1 - a_t)) * math.sqrt(1 - a_t / a_s)  # its equation 16
            direction = (self.x_t - math.sqrt(a_t) * self.x_0) / math.sqrt(1 - a_t)
            x = math.sqrt(a_s) * self.x_0 + math.sqrt(1 - a_s - sigma**2) * direction + sigma * self.noise
            close(ddim_step(self.x_t, self.x_0, t, s, SCHEDULE, eta, self.noise), x)

    def test_ddim_with_eta_zero_reads_no_noise(self):
        alone = ddim_step(self.x_t, self.x_0, 4, 2, SCHEDULE, 0.0)
        assert torch.equal(ddim_step(self.x_t, self.x_0, 4, 2, SCHEDULE, 0.0, self.noise), alone)
        close(ddim_step(self.x_t, self.x_0, 5, 0, SCHEDULE, 0.0), self.x_0)

    def test_a_time_for_each_row(self):
        t, s = torch.tensor([3, 1, 5, 2]), torch.tensor([1, 0, 4, 0])
        ddpm = ddpm_step(self.x_t, self.x_0, t, SCHEDULE, self.noise)
        ddim = ddim_step(self.x_t, self.x_0, t, s, SCHEDULE, 0.6, self.noise)
        for i in range(4):
            row, at, to = slice(i, i + 1), t[i].item(), s[i].item()
            x_t, x_0, noise = self.x_t[row], self.x_0[row], self.noise[row]
            close(ddpm[row], ddpm_step(x_t, x_0, at, SCHEDULE, noise))
            close(ddim[row], ddim_step(x_t, x_0, at, to, SCHEDULE, 0.6, noise))


class TestDenoisers:
    weights = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64)
    means = points(3, seed=5) * 2
    roots = torch.randn(3, 2, 2, generator=generator(6), dtype=torch.float64)
    covariances = roots @ roots.mT + 0.05 * torch.eye(2, dtype=torch.float64)

    @pytest.mark.parametrize("t", [1, 3, 5])
    def test_ideal_is_a_weighted_mean_written_out(self, t):
        data, x_t = points(7, 3, seed=4), points(4, 3, seed=5)
        alpha, variance = math.sqrt(ALPHA_BAR[t]), 1 - ALPHA_BAR[t]
        for x, found in zip(x_t.numpy(), ideal_denoiser(x_t, t, SCHEDULE, data), strict=True):
            w = [math.exp(-sum((x - alpha * d) ** 2) / (2 * variance)) for d in data.numpy()]
            close(found, sum(a * d for a, d in zip(w, data.numpy(), strict=True)) / sum(w))

    def test_ideal_of_a_point_far_away_is_its_nearest_neighbour(self):
        data = torch.tensor([[0.0, 0.0], [1.0, 0.0]])
        x_t = torch.tensor([[1000.0, 5.0], [-1000.0, 5.0]])
        close(ideal_denoiser(x_t, 1, Schedule(BETA.float()), data), data.flip(0))

    @pytest.mark.parametrize("t", [1, 2.5, 5])
    def test_mixture_is_tweedies_formula(self, t):
        alpha, sigma = (level.item() for level in SCHEDULE.levels(t))
        x_t = points(6, seed=7).requires_grad_()
        eye = torch.eye(2, dtype=torch.float64)
        noisy = MultivariateNormal(alpha * self.means, alpha**2 * self.covariances + sigma**2 * eye)
        log_p = MixtureSameFamily(Categorical(self.weights), noisy).log_prob(x_t)
        (score,) = torch.autograd.grad(log_p.sum(), x_t)
        found = mixture_denoiser(x_t, t, SCHEDULE, self.weights, self.means, self.covariances)
        close(found, (x_t + sigma**2 * score) / alpha)

    @pytest.mark.parametrize("t", [1, 3])
    def test_mixture_is_a_ratio_of_integrals(self, t):
        alpha, sigma = math.sqrt(ALPHA_BAR[t]), math.sqrt(1 - ALPHA_BAR[t])
        mu, spread = self.means[:, :1], torch.tensor([0.3, 1.0, 0.6], dtype=torch.float64)
        line = torch.linspace(-15, 15, 60_001, dtype=torch.float64)
        p = MixtureSameFamily(Categorical(self.weights), Normal(mu[:, 0], spread)).log_prob(line).exp()
        x_t = points(5, 1, seed=8)
        q = Normal(alpha * line, sigma).log_prob(x_t).exp() * p
        found = mixture_denoiser(x_t, t, SCHEDULE, self.weights, mu, spread.square()[:, None, None])
        close(found[:, 0], (q * line).sum(-1) / q.sum(-1), 1e-8)

    def test_a_time_for_each_row(self):
        x_t, t = points(5, seed=9), torch.tensor([3, 1, 5, 2, 4])
        mixture = (self.weights, self.means, self.covariances)
        for denoiser, of in ((mixture_denoiser, mixture), (ideal_denoiser, (self.means,))):
            together = denoiser(x_t, t, SCHEDULE, *of)
            for i in range(5):
                close(together[i : i + 1], denoiser(x_t[i : i + 1], t[i].item(), SCHEDULE, *of))

    def test_narrow_components_are_points(self):
        x_t, equal = points(5, seed=9), torch.full((3,), 1 / 3, dtype=torch.float64)
        found = mixture_denoiser(x_t, 2, SCHEDULE, equal, self.means, torch.zeros_like(self.covariances))
        close(found, ideal_denoiser(x_t, 2, SCHEDULE, self.means))

    def test_without_noise_there_is_nothing_to_remove(self):
        x = points(5, seed=9)
        close(mixture_denoiser(x, 0, SCHEDULE, self.weights, self.means, self.covariances), x)


class Exact(nn.Module):
    """The perfect network for N(m, s^2) data in the plane, m the first mean plus the label's shift."""

    def __init__(self, kind="noise", classes=0):
        super().__init__()
        self.inputs, self.outputs, self.kind = 2 + classes, 2, kind
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.seen = []

    def forward(self, x, time, label):
        self.seen.append((x, time, label))
        t = time * SCHEDULE.T
        alpha, sigma = SCHEDULE.levels(t)
        mean = MEAN + (label * torch.arange(1.0, label.shape[1] + 1).double()).sum(-1, keepdim=True)
        gain = alpha * SPREAD**2 / (alpha**2 * SPREAD**2 + sigma**2)
        x_0 = mean + gain * (x - alpha * mean)
        return self.scale * convert(x_0, x, t, SCHEDULE, "data", self.kind)


def exact_model(kind="noise", classes=0, drop_condition=0.1):
    network = Exact(kind, classes)
    return Diffusion(network, SCHEDULE, predicts=kind, classes=classes, drop_condition=drop_condition)


def estimate(x_t, t, mean=MEAN):
    """E[x_0 | x_t], by the regression of x_0 on x_t."""
    a = math.sqrt(ALPHA_BAR[t])
    return mean + a * SPREAD**2 / (a**2 * SPREAD**2 + 1 - ALPHA_BAR[t]) * (x_t - a * mean)


def assert_mean(draws, exact):
    error = draws.std(0) / len(draws) ** 0.5
    assert ((draws.mean(0) - torch.as_tensor(exact)).abs() < 4 * error).all()


class TestLoss:
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_a_loop_written_out(self, kind):
        torch.manual_seed(0)
        model, x = Diffusion(TimeMLP(2, (5,)).double(), SCHEDULE, predicts=kind), points(6)
        rng = generator(9)
        t = 1 + (5 * torch.rand(6, generator=rng, dtype=torch.float64)).floor().long()
        noise = torch.randn(6, 2, generator=rng, dtype=torch.float64)
        total = 0.0
        for row, at, eps in zip(x, t.tolist(), noise, strict=True):
            a, s = math.sqrt(ALPHA_BAR[at]), math.sqrt(1 - ALPHA_BAR[at])
            x_t = a * row + s * eps
            target = {"noise": eps, "data": row, "score": -eps / s, "velocity": a * eps - s * row}[kind]
            time, label = torch.tensor([at / 5], dtype=torch.float64), torch.empty(1, 0).double()
            error = (model.network(x_t[None], time, label)[0] - target).square().sum()
            total += error * (s**2 if kind == "score" else 1)
        close(model.loss(x, rng=generator(9)), total / 6)

    def test_times_are_uniform_on_one_to_t(self):
        model = exact_model()
        model.loss(points(50_000), rng=generator())
        counts = (model.network.seen[-1][1] * 5).round().long().bincount(minlength=6)
        assert counts[0] == 0
        assert len(counts) == 6
        assert ((counts[1:] - 10_000).abs() < 4 * (50_000 * 0.2 * 0.8) ** 0.5).all()

    @pytest.mark.parametrize("kind", KINDS)
    def test_is_lowest_for_the_exact_denoiser(self, kind):
        """Its gradient is 0 there; of the score, weighted, it is the noise's."""
        model, slopes, rng = exact_model(kind), [], generator()
        for _ in range(200):
            x = MEAN + SPREAD * normal((100, 2), rng, like=MEAN)
            slopes.append(torch.autograd.grad(model.loss(x, rng=rng), [model.network.scale])[0])
        assert_mean(torch.stack(slopes), 0.0)
        model.network.scale.data.fill_(1.1)
        x = MEAN + SPREAD * normal((20_000, 2), rng, like=MEAN)
        (slope,) = torch.autograd.grad(model.loss(x, rng=rng), [model.network.scale])
        assert slope > 0.01

    def test_drops_conditions(self):
        model, condition = exact_model(classes=3, drop_condition=0.2), torch.arange(3000) % 3
        model.loss(points(3000), condition, rng=generator())
        label = model.network.seen[-1][2]
        kept = label.sum(-1) == 1
        assert abs((~kept).sum() - 600) < 4 * (3000 * 0.2 * 0.8) ** 0.5
        assert torch.equal(label[~kept], torch.zeros_like(label[~kept]))
        assert torch.equal(label[kept].argmax(-1), condition[kept])

    def test_training_comes_close_to_the_data(self):
        torch.manual_seed(0)
        x = (MEAN + SPREAD * points(1000)).float()
        model = Diffusion(TimeMLP(2, (32,)), Schedule.linear(30))
        fit(model, x, steps=600, batch_size=100, lr=5e-3, rng=generator())
        draws = model.sample(2000, rng=generator(1)).double()
        assert ((draws.mean(0) - MEAN).abs() < 0.25 * SPREAD).all()
        assert ((draws.std(0) / SPREAD).log().abs() < 0.25).all()


class TestDenoise:
    @pytest.mark.parametrize("kind", KINDS)
    def test_is_the_exact_mean_for_every_kind(self, kind):
        for t in (1, 3, 5):
            close(exact_model(kind).denoise(points(4), t).detach(), estimate(points(4), t))

    @pytest.mark.parametrize("kind", KINDS)
    def test_guidance_is_in_the_noise(self, kind):
        model, x_t, condition, w, t = exact_model(kind, 3), points(4), torch.tensor([0, 2, 1, 1]), 1.7, 3
        a, s = math.sqrt(ALPHA_BAR[t]), math.sqrt(1 - ALPHA_BAR[t])
        shift = 1 + condition[:, None]
        eps = [(x_t - a * estimate(x_t, t, mean)) / s for mean in (MEAN + shift, MEAN)]
        guided = (1 + w) * eps[0] - w * eps[1]
        close(model.denoise(x_t, t, condition, w).detach(), (x_t - s * guided) / a)
        close(model.denoise(x_t, t, condition).detach(), estimate(x_t, t, MEAN + shift))
        close(model.denoise(x_t, t).detach(), estimate(x_t, t))

    def test_to_data(self):
        x_t, kinds = mixed(4)
        close(exact_model("velocity").to_data(kinds["velocity"], x_t, 4), kinds["data"])

    def test_takes_a_time_for_each_row(self):
        x_t, t = points(3), torch.tensor([4, 1, 2])
        together = exact_model().denoise(x_t, t).detach()
        for i in range(3):
            close(together[i], estimate(x_t[i], t[i].item()))


def reverse(d):
    """The model's p(x_{t-1} | x_t) = N(a x_t + b, variance) of a coordinate, for t = 1, ..., 5."""
    steps = []
    for t in range(1, 6):
        x_t = torch.tensor([[0.0], [1.0]], dtype=torch.float64)
        mean, variance = condition_on(estimate(x_t, t), x_t, t - 1, t)
        low, high = mean[:, d].tolist()
        steps.append((high - low, low, variance if t > 1 else BETA[0].item()))
    return steps


def moments(d):
    """Mean and variance of a coordinate of the model's x_0, found by following them from x_T."""
    mean, variance = 0.0, 1.0
    for a, b, noise in reversed(reverse(d)):
        mean, variance = a * mean + b, a**2 * variance + noise
    return mean, variance


def model_log_prob(x):
    mean, variance = zip(moments(0), moments(1), strict=True)
    mean, variance = torch.tensor([mean, variance], dtype=torch.float64)
    return Normal(mean, variance.sqrt()).log_prob(x).sum(-1)


class TestELBO:
    x = torch.tensor([[0.4, 1.0]], dtype=torch.float64)

    def test_is_that_of_the_joint_gaussians(self):
        """E_q[log p(x_0, ..., x_T) - log q(x_1, ..., x_T | x_0)], all means of squares of Gaussians."""
        draws = exact_model().elbo(self.x.expand(40_000, -1), rng=generator()).detach()
        total = 0.0
        for d in range(2):
            factor, covariance = chain()
            x_0 = self.x[0, d].item()
            mean = np.concatenate([[1.0], factor]) * x_0
            full = np.zeros((6, 6))
            full[1:, 1:] = covariance
            total += 2.5 * (1 + math.log(2 * math.pi)) + 0.5 * np.linalg.slogdet(covariance)[1]
            total -= 0.5 * (math.log(2 * math.pi) + mean[5] ** 2 + full[5, 5])
            for t, (a, b, variance) in enumerate(reverse(d), 1):
                gap = mean[t - 1] - a * mean[t] - b
                square = gap**2 + full[t - 1, t - 1] - 2 * a * full[t - 1, t] + a**2 * full[t, t]
                total -= 0.5 * (math.log(2 * math.pi * variance) + square / variance)
        assert_mean(draws, total)
        assert 8 * draws.std() / 200 < 0.2

    def test_is_a_bound_on_the_models_own_density(self):
        line = torch.linspace(-4, 3, 8, dtype=torch.float64)
        x = torch.stack([0.5 * line, line], -1).repeat(5000, 1)
        elbo = exact_model().elbo(x, rng=generator()).detach().reshape(5000, 8)
        gap = model_log_prob(x[:8]) - elbo.mean(0)
        assert (gap > 4 * elbo.std(0) / 5000**0.5).all()
        assert gap.min() < 2.5

    def test_terms_are_divergences(self):
        terms = exact_model().elbo_terms(self.x.expand(40_000, -1), rng=generator()).detach()
        assert terms.shape == (40_000, 6)
        factor, covariance = chain()
        last = Normal(torch.from_numpy(factor[4] * self.x.numpy()), covariance[4, 4] ** 0.5)
        divergence = torch.distributions.kl_divergence(last, Normal(0.0, 1.0)).sum()
        close(terms[:, 5], -divergence.expand(40_000))
        for t in range(2, 6):
            x_t = factor[t - 1] * self.x + covariance[t - 1, t - 1] ** 0.5 * points(100_000, seed=t)
            mean, variance = condition_on(self.x, x_t, t - 1, t)
            p = Normal(condition_on(estimate(x_t, t), x_t, t - 1, t)[0], variance**0.5)
            exact = torch.distributions.kl_divergence(Normal(mean, variance**0.5), p).sum(-1)
            gap = terms[:, t - 1].mean() + exact.mean()
            assert abs(gap) < 4 * math.hypot(terms[:, t - 1].std() / 200, exact.std() / 100_000**0.5)
        x_1 = factor[0] * self.x + covariance[0, 0] ** 0.5 * points(100_000, seed=1)
        log_p = Normal(estimate(x_1, 1), BETA[0].item() ** 0.5).log_prob(self.x).sum(-1)
        gap = terms[:, 0].mean() - log_p.mean()
        assert abs(gap) < 4 * math.hypot(terms[:, 0].std() / 200, log_p.std() / 100_000**0.5)

    def test_reads_the_condition(self):
        model, condition = exact_model(classes=3), torch.tensor([2])
        shifted = exact_model().elbo_terms(self.x - 3, rng=generator()).detach()
        found = model.elbo_terms(self.x, condition, rng=generator()).detach()
        close(found[:, :-1], shifted[:, :-1])
        close(model.elbo(self.x, condition, rng=generator()).detach(), found.sum(-1))


class TestSampling:
    @pytest.mark.parametrize("steps", [1, 2, 3, 5])
    def test_without_noise_it_is_a_chain_of_linear_maps(self, steps):
        x = normal((4, 2), generator(3), like=MEAN)
        times = {1: [5, 0], 2: [5, 2, 0], 3: [5, 3, 1, 0], 5: [5, 4, 3, 2, 1, 0]}[steps]
        states = [x]
        for t, s in itertools.pairwise(times):
            x_0 = estimate(x, t)
            eps = (x - math.sqrt(ALPHA_BAR[t]) * x_0) / math.sqrt(1 - ALPHA_BAR[t])
            x = math.sqrt(ALPHA_BAR[s]) * x_0 + math.sqrt(1 - ALPHA_BAR[s]) * eps
            states.append(x)
        model = exact_model()
        found = list(model.trajectory(4, rng=generator(3), steps=steps, eta=0.0))
        close(torch.stack(found), torch.stack(states))
        assert torch.equal(model.sample(4, rng=generator(3), steps=steps, eta=0.0), found[-1])

    def test_with_all_times_and_noise_it_is_ddpm(self):
        rng, model = generator(3), exact_model("velocity")
        x = normal((4, 2), rng, like=MEAN)
        for t in (5, 4, 3, 2, 1):
            x_0 = estimate(x, t)
            x = ddpm_step(x, x_0, t, SCHEDULE, normal(x.shape, rng, like=x))
        close(model.sample(4, rng=generator(3)), x)
        assert len(list(model.trajectory(2, rng=generator()))) == 6

    def test_draws_have_the_moments_of_the_chain(self):
        mean, variance = moments(1)
        variance -= BETA[0].item()  # the last step is without noise
        draws = exact_model().sample(40_000, rng=generator())[:, 1]
        assert abs(draws.mean() - mean) < 4 * (variance / 40_000) ** 0.5
        assert abs(draws.var() / variance - 1) < 4 * (2 / 40_000) ** 0.5

    def test_condition_and_guidance(self):
        """One step without noise is the estimate of x_0 at T."""
        model, condition, x = exact_model(classes=3), torch.tensor([1, 2]), normal((2, 2), generator(), MEAN)
        for at, w in ((None, 0.0), (condition, 0.0), (condition, 1.5)):
            draws = model.sample(2, at, rng=generator(), steps=1, eta=0.0, guidance=w)
            close(draws, model.denoise(x, 5, at, w).detach())

    def test_the_ideal_denoiser_of_points_draws_those_points(self):
        """It has no weights to be trained; with little noise at the end, one point has all of the weight."""
        data = torch.tensor([[0.0, 0.0], [2.0, 0.0], [0.0, 2.0], [-2.0, 0.0], [0.0, -2.0]]).double()
        schedule = Schedule.linear(200).double()

        class Ideal(nn.Module):
            inputs = outputs = 2

            def forward(self, x, time, label):
                return ideal_denoiser(x, time * 200, schedule, data)

        draws = Diffusion(Ideal(), schedule, predicts="data").sample(50, rng=generator())
        nearest = torch.cdist(draws, data).min(-1)
        assert nearest.values.max() < 1e-6
        assert len(nearest.indices.unique()) == 5

    def test_is_deterministic_with_eta_zero(self):
        model, rng = exact_model(), generator(3)
        model.sample(4, rng=rng, eta=0.0)
        after = generator(3)
        normal((4, 2), after, like=MEAN)
        assert torch.equal(rng.get_state(), after.get_state())


def carried(x_1, mean):
    """log p(x_1) for data N(m, s^2): z = (x_1 - a_1 m) sqrt(V_T / V_1) + a_T m, V_t the variance of x_t."""
    a = ALPHA_BAR**0.5
    V = [a[t] ** 2 * SPREAD**2 + 1 - ALPHA_BAR[t] for t in (1, 5)]
    slope = (V[1] / V[0]).sqrt()
    z = (x_1 - a[1] * mean) * slope + a[5] * mean
    return Normal(0.0, 1.0).log_prob(z).sum(-1) + slope.log().sum()


class TestProbabilityFlow:
    @pytest.mark.parametrize("kind", KINDS)
    def test_carries_gaussian_to_gaussian(self, kind):
        close(exact_model(kind).log_prob_ode(points(5), rtol=1e-7).detach(), carried(points(5), MEAN), 1e-4)

    def test_reads_the_condition(self):
        found = exact_model(classes=3).log_prob_ode(points(2), torch.tensor([2, 0]), 1e-7).detach()
        close(found, carried(points(2), MEAN + torch.tensor([[3.0], [1.0]])), 1e-4)

    def test_is_what_ddim_follows(self):
        """With many steps, DDIM inverts the flow that the density is computed by."""
        schedule = Schedule.linear(2000).double()

        class Straight(nn.Module):
            inputs = outputs = 1

            def __init__(self):
                super().__init__()
                self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))

            def forward(self, x, time, label):
                alpha, sigma = schedule.levels(time * 2000)
                return self.scale * 0.25 * alpha * x / (0.25 * alpha**2 + sigma**2)

        model = Diffusion(Straight(), schedule, predicts="data")
        draws = model.sample(4, rng=generator(2), eta=0.0)
        z = normal((4, 1), generator(2), like=draws)
        close(draws, 0.5 * z, 5e-3)
        close(model.log_prob_ode(draws).detach(), Normal(0.0, 0.5).log_prob(draws).sum(-1), 5e-3)


class ExactFlow(nn.Module):
    """E[x_1 - x_0 | x_t] for data x_1 from N(m, s^2), with the label's shift as in `Exact`."""

    def __init__(self, classes=0):
        super().__init__()
        self.inputs, self.outputs = 2 + classes, 2
        self.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
        self.seen = []

    def forward(self, x, time, label):
        self.seen.append((x, time, label))
        mean = MEAN + (label * torch.arange(1.0, label.shape[1] + 1).double()).sum(-1, keepdim=True)
        t = time[:, None]
        gain = (t * SPREAD**2 - (1 - t)) / (t**2 * SPREAD**2 + (1 - t) ** 2)
        return self.scale * (mean + gain * (x - t * mean))


class TestFlowMatching:
    def test_loss_is_a_loop_written_out(self):
        torch.manual_seed(0)
        model, x, rng = FlowMatching(TimeMLP(2, (5,)).double()), points(6), generator(9)
        t = torch.rand(6, generator=rng, dtype=torch.float64)
        noise = torch.randn(6, 2, generator=rng, dtype=torch.float64)
        total = 0.0
        for row, at, eps in zip(x, t, noise, strict=True):
            v = model.network(((1 - at) * eps + at * row)[None], at[None], torch.empty(1, 0).double())[0]
            total += (v - (row - eps)).square().sum()
        close(model.loss(x, rng=generator(9)), total / 6)

    def test_loss_is_lowest_for_the_exact_velocity(self):
        model, slopes, rng = FlowMatching(ExactFlow()), [], generator()
        for _ in range(200):
            x = MEAN + SPREAD * normal((100, 2), rng, like=MEAN)
            slopes.append(torch.autograd.grad(model.loss(x, rng=rng), [model.network.scale])[0])
        assert_mean(torch.stack(slopes), 0.0)

    @pytest.mark.parametrize(("order", "ratio"), [(1, 2), (2, 4)])
    def test_samplers_have_their_order(self, order, ratio):
        """The flow takes z to m + s z."""
        model, z = FlowMatching(ExactFlow()), normal((6, 2), generator(4), like=MEAN)
        errors = []
        for steps in (40, 80):
            draws = model.sample(6, rng=generator(4), steps=steps, order=order)
            errors.append((draws - (MEAN + SPREAD * z)).abs().mean())
        assert errors[0] / errors[1] == pytest.approx(ratio, rel=0.15)
        assert errors[1] < 0.05

    def test_steps_are_those_of_euler_and_of_heun(self):
        model, x = FlowMatching(ExactFlow()), normal((6, 2), generator(4), like=MEAN)
        v = model.velocity(x, 0.0).detach()
        states = list(model.trajectory(6, rng=generator(4), steps=4, order=1))
        assert len(states) == 5
        assert torch.equal(states[0], x)
        close(states[1], x + v / 4)
        close(states[2], states[1] + model.velocity(states[1], 0.25).detach() / 4)
        assert torch.equal(states[4], model.sample(6, rng=generator(4), steps=4, order=1))
        heun = list(model.trajectory(6, rng=generator(4), steps=4))
        close(heun[1], x + (v + model.velocity(x + v / 4, 0.25).detach()) / 8)
        assert torch.equal(heun[4], model.sample(6, rng=generator(4), steps=4))

    def test_density_is_that_of_the_data(self):
        x = points(5)
        found = FlowMatching(ExactFlow()).log_prob_ode(x, rtol=1e-7).detach()
        close(found, Normal(MEAN, SPREAD).log_prob(x).sum(-1), 1e-4)
        found = FlowMatching(ExactFlow(3), classes=3).log_prob_ode(x, torch.full((5,), 1), 1e-7).detach()
        close(found, Normal(MEAN + 2, SPREAD).log_prob(x).sum(-1), 1e-4)

    def test_a_network_without_weights_draws_in_the_default_dtype(self):
        class Still(nn.Module):
            inputs = outputs = 2

            def forward(self, x, time, label):
                return 0 * x

        assert torch.equal(
            FlowMatching(Still()).sample(3, rng=generator()), torch.randn(3, 2, generator=generator())
        )

    def test_condition_and_guidance(self):
        model, x, condition = FlowMatching(ExactFlow(3), classes=3), points(3), torch.tensor([0, 2, 1])
        given, free = model.velocity(x, 0.3, condition), model.velocity(x, 0.3)
        assert (given - free).abs().min() > 0.1
        close(model.velocity(x, 0.3, condition, 2.0), 3 * given - 2 * free)
        start = normal((3, 2), generator(), like=x)
        draws = model.sample(3, condition, rng=generator(), steps=1, order=1, guidance=2.0)
        close(draws, (start + model.velocity(start, 0.0, condition, 2.0)).detach())

    def test_drops_conditions(self):
        model, condition = FlowMatching(ExactFlow(3), classes=3, drop_condition=0.2), torch.arange(3000) % 3
        model.loss(points(3000), condition, rng=generator())
        label = model.network.seen[-1][2]
        kept = label.sum(-1) == 1
        assert abs((~kept).sum() - 600) < 4 * (3000 * 0.2 * 0.8) ** 0.5
        assert torch.equal(label[kept].argmax(-1), condition[kept])

    def test_relates_to_diffusion_by_a_change_of_time_and_scale(self):
        """x_t of the line, over the root of t^2 + (1 - t)^2, has alpha / sigma = t / (1 - t)."""
        t = 0.6
        scale = math.hypot(t, 1 - t)
        at = SCHEDULE.when(torch.tensor(2 * math.log(t / scale), dtype=torch.float64))
        x = points(4)
        x_0 = Exact("data")(x / scale, (at / 5).expand(4), torch.empty(4, 0)).detach()
        noise = (x - t * x_0) / (1 - t)
        close(FlowMatching(ExactFlow()).velocity(x, t).detach(), x_0 - noise)
