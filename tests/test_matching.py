"""Losses against loops written out, quadrature and other libraries; what a loss moves; what training does."""

import math

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from gmlib.divergences import gaussian_kernel, inverse_multiquadratic, mmd
from gmlib.matching import AAE, WAE, WAEGAN
from gmlib.nn import MLP, normal
from gmlib.train import fit, fit_adversarial

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def networks(random=False, hidden=(5,)):
    torch.manual_seed(1)
    return MLP(3, hidden, 4 if random else 2).double(), MLP(2, hidden, 3).double()


def discriminator(seed=2):
    torch.manual_seed(seed)
    return MLP(2, (5,), 1).double()


class Straight(nn.Module):
    """z = a x + b in one dimension, or draws about it."""

    def __init__(self, a, b, log_var=None):
        super().__init__()
        self.inputs, self.outputs = 1, 1 if log_var is None else 2
        self.a, self.b, self.log_var = (
            None if v is None else nn.Parameter(torch.tensor(v).double()) for v in (a, b, log_var)
        )

    def forward(self, x):
        z = self.a * x + self.b
        return z if self.log_var is None else torch.cat([z, self.log_var.expand_as(z)], -1)


def squared_errors(model, x, z):
    return [
        sum((a - b) ** 2 for a, b in zip(p, q, strict=True))
        for p, q in zip(x.tolist(), model.decode(z).tolist(), strict=True)
    ]


class TestWAE:
    @pytest.mark.parametrize("bandwidth", [None, 0.7])
    @pytest.mark.parametrize("kernel", ["default", "gaussian"])
    def test_loss_is_a_loop_written_out(self, bandwidth, kernel):
        options = {} if kernel == "default" else {"kernel": gaussian_kernel}
        model = WAE(*networks(), 3.0, bandwidth, **options)
        z, prior = model.encode(X).detach().numpy(), normal((6, 2), generator(9), like=X).numpy()
        square = 2 * 2 if bandwidth is None else bandwidth**2

        def k(a, b):
            s = ((a - b) ** 2).sum()
            return square / (square + s) if kernel == "default" else math.exp(-s / (2 * square))

        discrepancy = 0
        for i in range(6):
            for j in range(6):
                if i != j:
                    discrepancy += (k(z[i], z[j]) + k(prior[i], prior[j])) / 30
                discrepancy -= 2 * k(z[i], prior[j]) / 36
        error = np.mean(squared_errors(model, X, torch.from_numpy(z)))
        loss = model.loss(X, rng=generator(9))
        torch.testing.assert_close(loss.item(), error + 3.0 * discrepancy)
        at = model.bandwidth
        exact = mmd(
            torch.from_numpy(z), torch.from_numpy(prior), at, options.get("kernel", inverse_multiquadratic)
        )
        torch.testing.assert_close(exact.item(), discrepancy)

    @pytest.mark.parametrize("M", [1, 3])
    def test_the_bandwidth_is_the_root_of_the_mean_squared_distance_of_two_draws(self, M):
        a, b = normal((2, 100_000, M), generator(), like=X)
        square = (a - b).square().sum(-1)
        model = WAE(MLP(3, (), M), MLP(M, (), 3), 1.0)
        assert abs(square.mean() - model.bandwidth**2) < 4 * square.std() / 100_000**0.5

    def test_without_weight_it_is_an_autoencoder(self):
        model = WAE(*networks(), 0)
        torch.testing.assert_close(model.loss(X), (X - model.decode(model.encode(X))).square().sum(-1).mean())

    def test_penalty_is_zero_on_average_where_codes_are_distributed_as_the_prior(self):
        model, rng = WAE(Straight(1.0, 0.0), Straight(1.0, 0.0), 1.0), generator()
        with torch.no_grad():
            losses = torch.stack([model.loss(normal((5, 1), rng, like=X), rng=rng) for _ in range(4000)])
        error = losses.std() / len(losses) ** 0.5
        assert abs(losses.mean()) < 4 * error
        assert 20 * error < 2 / 5 * 0.2  # with the diagonal, the mean would be 2 (1 - E k) / N

    def test_penalty_is_the_same_for_draws_of_an_encoder(self):
        """q(z | x) = N(0.6 x, 0.64), so that the codes of normal data are normal."""
        encoder = Straight(0.6, 0.0, math.log(0.64))
        model, rng = WAE(encoder, Straight(0.0, 0.0), 1.0), generator()
        with torch.no_grad():
            losses = []
            for _ in range(4000):
                x = normal((5, 1), rng, like=X)
                losses.append(model.loss(x, rng=rng) - x.square().mean())
        losses = torch.stack(losses)
        assert abs(losses.mean()) < 4 * losses.std() / len(losses) ** 0.5


class TestCodes:
    def test_are_the_encoders_outputs(self):
        model = WAE(*networks(), 1.0)
        assert torch.equal(model.encode(X), model.encoder(X))

    def test_or_draws_of_its_gaussian(self):
        model = AAE(*networks(random=True), discriminator())
        x = X[:1].expand(40_000, -1)
        z = model.encode(x, rng=generator()).detach()
        mu, log_var = model.encoder(X[:1]).detach().squeeze(0).split(2)
        sigma = log_var.exp().sqrt()
        torch.testing.assert_close(z.mean(0), mu, rtol=0, atol=4 * sigma.max().item() / 200)
        torch.testing.assert_close(z.std(0), sigma, rtol=4 / 40_000**0.5, atol=0)
        assert abs(torch.corrcoef(z.T)[0, 1]) < 4 / 200

    def test_carry_gradients_through_their_draw(self):
        """Of E z^2 = mu^2 + sigma^2 for q(z | x) = N(a x + b, sigma^2)."""
        encoder = Straight(0.5, 0.3, -0.4)
        model = WAE(encoder, Straight(1.0, 0.0), 1.0)
        z = model.encode(torch.full((200_000, 1), 2.0).double(), rng=generator())
        slopes = torch.autograd.grad(z.square().mean(), [encoder.a, encoder.b, encoder.log_var])
        for slope, exact in zip(slopes, [2 * 1.3 * 2.0, 2 * 1.3, math.exp(-0.4)], strict=True):
            assert abs(slope - exact) < 0.02

    @pytest.mark.parametrize("model", [WAE(*networks(), 1.0), AAE(*networks(True), discriminator())])
    def test_from_the_prior_are_decoded_to_draws(self, model):
        z = normal((7, 2), generator(3), like=X)
        assert torch.equal(model.sample(7, rng=generator(3)), model.decode(z))
        assert torch.equal(model.decode(z), model.decoder(z))


class TestWAEGAN:
    def test_losses_are_cross_entropies_with_labels(self):
        model = WAEGAN(*networks(), discriminator(), 0.7)
        z, prior = model.encode(X), normal((6, 2), generator(9), like=X)
        d_z, d_prior = (model.discriminator(at).squeeze(-1).sigmoid() for at in (z, prior))
        ones = torch.ones(6).double()
        told = F.binary_cross_entropy(d_prior, ones) + F.binary_cross_entropy(d_z, 0 * ones)
        torch.testing.assert_close(model.discriminator_loss(X, rng=generator(9)), told)
        fooled = sum(-math.log(p) for p in d_z.tolist()) / 6
        expected = np.mean(squared_errors(model, X, z)) + 0.7 * fooled
        torch.testing.assert_close(model.generator_loss(X, rng=generator(9)).item(), expected)

    @pytest.mark.parametrize("make", [WAEGAN, AAE])
    def test_a_discriminator_that_knows_nothing_loses_two_log_two(self, make):
        model = make(*networks(), discriminator(), 0.7)
        for parameter in model.discriminator.parameters():
            nn.init.zeros_(parameter)
        torch.testing.assert_close(model.discriminator_loss(X).item(), 2 * math.log(2))

    def test_the_log_ratio_is_the_best_discriminator(self):
        """Codes of normal data are N(b, 1): log p / q = b^2 / 2 - b z, and the loss 2 log 2 - 2 JS."""
        b, rng = 1.5, generator(6)
        model = WAEGAN(Straight(1.0, b), Straight(1.0, 0.0), Straight(-b, b**2 / 2), 1.0)
        line = torch.linspace(-10, 12, 20_001, dtype=torch.float64)
        p, q = (torch.distributions.Normal(m, 1.0).log_prob(line).exp() for m in (0.0, b))
        js = sum((w * (w / (p + q)).log()).sum() for w in (p, q)) * (line[1] - line[0]) / 2 + math.log(2)
        x = normal((400_000, 1), rng, like=X)

        def loss():
            with torch.no_grad():
                return model.discriminator_loss(x, rng=generator(5)).item()

        best = loss()
        assert abs(best - (2 * math.log(2) - 2 * js)) < 0.006
        for a, c in [(-0.8 * b, 1.125), (-1.2 * b, 1.125), (-b, 0.8), (-b, 1.5), (b, -1.125)]:
            model.discriminator.a.data.fill_(a)
            model.discriminator.b.data.fill_(c)
            assert loss() > best + 0.005

    def test_the_discriminators_loss_costs_no_gradient_of_the_encoder(self):
        model = WAEGAN(*networks(), discriminator(), 0.7)
        model.discriminator_loss(X, rng=generator()).backward()
        assert all(parameter.grad is None for parameter in model.players()[1])
        assert all(parameter.grad is not None for parameter in model.players()[0])

    def test_the_discriminator_teaches_the_encoder(self):
        """The slope of -log sigmoid(d(z)), d = -2 z + 1, in the code of one x: 2 (1 - sigmoid(d))."""
        encoder = Straight(1.0, 0.0)
        model = WAEGAN(encoder, Straight(0.0, 0.0), Straight(-2.0, 1.0), 3.0)
        x = torch.tensor([[0.8]]).double()
        (slope,) = torch.autograd.grad(model.generator_loss(x), [encoder.b])
        assert slope.item() == pytest.approx(3.0 * 2 / (1 + math.exp(-0.6)))

    @pytest.mark.parametrize("make", [WAEGAN, AAE])
    @pytest.mark.parametrize("still", [0, 1])
    def test_a_player_moves_its_own_weights_alone(self, make, still):
        """The other one's learning rate is too small to move it, so it stays to the bit."""
        model = make(*networks(), discriminator(), 0.7)
        before = [[p.clone() for p in player] for player in model.players()]
        rates = {"discriminator_lr": 0.1, "lr": 0.1, ("discriminator_lr", "lr")[still]: 1e-300}
        sgd = torch.optim.SGD
        fit_adversarial(model, X, steps=3, batch_size=6, rng=generator(), optimizer=sgd, **rates)
        for player, (old, new) in enumerate(zip(before, model.players(), strict=True)):
            for p, q in zip(old, new, strict=True):
                assert torch.equal(p, q) == (player == still)


class TestAAE:
    @pytest.mark.parametrize("random", [False, True])
    @pytest.mark.parametrize("sigma", [0.5, 1.0, 2.0])
    def test_loss_is_in_nats(self, random, sigma):
        model = AAE(*networks(random), discriminator(), sigma)
        z = model.encode(X, rng=generator(9))
        log_p = torch.distributions.Normal(model.decode(z), sigma).log_prob(X).sum(-1)
        from_prior = torch.distributions.Bernoulli(logits=model.discriminator(z)).log_prob(
            torch.ones(6, 1).double()
        )
        torch.testing.assert_close(
            model.generator_loss(X, rng=generator(9)), -log_p.mean() - from_prior.mean()
        )

    def test_has_the_gradient_of_the_waegan_of_weight_two_sigma_squared(self):
        sigma, parts = 0.6, (*networks(), discriminator())
        nats, squares = AAE(*parts, sigma), WAEGAN(*parts, 2 * sigma**2)
        for player in ("generator_loss", "discriminator_loss"):
            losses = [getattr(model, player)(X, rng=generator(3)) for model in (squares, nats)]
            own = nats.players()[player == "generator_loss"]
            one, other = (torch.autograd.grad(loss, own) for loss in losses)
            scale = 2 * sigma**2 if player == "generator_loss" else 1
            for a, b in zip(one, other, strict=True):
                torch.testing.assert_close(a, scale * b)


def spiral():
    """A curled strip in space, far from the origin: codes that are no bijection of it start elsewhere."""
    u = torch.rand(600, 2, generator=generator(8))
    angle = 3 * u[:, 0]
    return torch.stack([angle.cos(), angle.sin(), u[:, 1]], -1) + 2


class TestTraining:
    def discrepancy(self, make, weight):
        torch.manual_seed(0)
        encoder, decoder, told = MLP(3, (32,), 2), MLP(2, (32,), 3), MLP(2, (32,), 1)
        x, rng = spiral(), generator(1)
        options = {"steps": 500, "batch_size": 100, "lr": 5e-3, "rng": rng}
        if make is WAE:
            model = WAE(encoder, decoder, weight)
            fit(model, x, **options)
        else:
            model = make(encoder, decoder, told, weight)
            fit_adversarial(model, x, **options)
        with torch.no_grad():
            z = model.encode(x)
            error = (x - model.decode(z)).square().sum(-1).mean()
            return mmd(z, normal(z.shape, rng, like=z), 1.0).item(), error.item()

    def test_brings_the_codes_to_the_prior(self):
        apart, _ = self.discrepancy(WAE, 0)
        matched, error = self.discrepancy(WAE, 10.0)
        assert apart > 0.05
        assert matched < 0.25 * apart
        assert error < 0.1

    @pytest.mark.parametrize(("make", "weight"), [(WAEGAN, 0.3), (AAE, 0.4)])
    def test_so_does_a_discriminator(self, make, weight):
        apart, _ = self.discrepancy(WAEGAN, 0)
        matched, error = self.discrepancy(make, weight)
        assert matched < 0.4 * apart
        assert error < 0.2
