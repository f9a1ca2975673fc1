"""Losses against loops, finite differences and closed forms; what a player's step moves; what is learnt."""

import functools
import math

import numpy as np
import pytest
import torch
from torch import nn

from gmlib.divergences import wasserstein_1d
from gmlib.gan import GAN, WGAN
from gmlib.nn import MLP, normal, uniform
from gmlib.train import fit_adversarial

X = torch.randn(6, 3, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
Y = torch.tensor([0, 1, 1, 0, 3, 1])  # of 4 classes
both = pytest.mark.parametrize("make", [GAN, WGAN])
conditional = pytest.mark.parametrize("classes", [None, 4])


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def networks(classes=None, hidden=(5,)):
    torch.manual_seed(1)
    more = classes or 0
    return MLP(2 + more, hidden, 3).double(), MLP(3 + more, hidden, 1).double()


class Straight(nn.Module):
    """a x + b in one dimension."""

    inputs = outputs = 1

    def __init__(self, a, b):
        super().__init__()
        self.a, self.b = (nn.Parameter(torch.tensor(v).double()) for v in (a, b))

    def forward(self, x):
        return self.a * x + self.b


class ByHand:
    """A game row by row, in lists of numbers: the networks are asked for one row at a time."""

    def __init__(self, model, classes, seed):
        self.model, rng = model, generator(seed)
        self.hot = [[float(k == y) for k in range(classes or 0)] for y in Y.tolist()]
        z = normal((6, 2), rng, like=X).tolist()
        self.u = uniform((6, 1), rng, like=X).flatten().tolist()
        self.fake = [self._ask(model.generator, row) for row in map(list.__add__, z, self.hot)]

    def tell(self, x):
        return [self._told(row, hot) for row, hot in zip(x, self.hot, strict=True)]

    def slopes(self, x, h=1e-5):
        """Gradients in x by central differences."""
        return [
            [
                (self._told(list(row + step), hot) - self._told(list(row - step), hot)) / (2 * h)
                for step in h * np.eye(3)
            ]
            for row, hot in zip(np.array(x), self.hot, strict=True)
        ]

    def _told(self, row, hot):
        return self._ask(self.model.discriminator, row + hot)[0]

    @staticmethod
    def _ask(network, row):
        return network(torch.tensor([row], dtype=torch.float64))[0].tolist()


def softplus(d):
    return math.log(1 + math.exp(d))


def condition_of(classes):
    return None if classes is None else Y


class TestGAN:
    @conditional
    @pytest.mark.parametrize("penalty", [0, 2.5])
    def test_discriminators_loss_is_a_loop_written_out(self, penalty, classes):
        model = GAN(*networks(classes), classes=classes, penalty=penalty)
        by_hand = ByHand(model, classes, 9)
        data, fake = by_hand.tell(X.tolist()), by_hand.tell(by_hand.fake)
        expected = np.mean([softplus(-d) for d in data]) + np.mean([softplus(d) for d in fake])
        for slope in by_hand.slopes(X.tolist()):
            expected += penalty / 2 * sum(s * s for s in slope) / 6
        loss = model.discriminator_loss(X, condition_of(classes), rng=generator(9))
        assert loss.item() == pytest.approx(expected, rel=1e-9)

    @conditional
    @pytest.mark.parametrize("saturating", [False, True])
    def test_generators_loss_is_a_loop_written_out(self, saturating, classes):
        model = GAN(*networks(classes), classes=classes, saturating=saturating, penalty=2.5)
        by_hand = ByHand(model, classes, 9)
        told = by_hand.tell(by_hand.fake)
        expected = np.mean([-softplus(d) if saturating else softplus(-d) for d in told])
        loss = model.generator_loss(X, condition_of(classes), rng=generator(9))
        assert loss.item() == pytest.approx(expected, rel=1e-12)

    def test_does_not_saturate_and_has_no_penalty_unless_told(self):
        model = GAN(*networks())
        assert (model.saturating, model.penalty) == (False, 0)

    def test_the_loss_that_saturates_has_the_same_gradient_times_the_odds(self):
        """Of one sample: by sigma(d) / sigma(-d) = exp(d)."""
        parts, gradients = networks(), []
        for saturating in (False, True):
            loss = GAN(*parts, saturating=saturating).generator_loss(X[:1], rng=generator(9))
            gradients.append(torch.autograd.grad(loss, list(parts[0].parameters())))
        d = parts[1](parts[0](normal((1, 2), generator(9), like=X)))
        for plain, saturated in zip(*gradients, strict=True):
            torch.testing.assert_close(saturated, plain * d.exp().item())

    def test_a_discriminator_that_knows_nothing_loses_two_log_two(self):
        model = GAN(*networks(), penalty=3.0)
        for parameter in model.discriminator.parameters():
            nn.init.zeros_(parameter)
        assert model.discriminator_loss(X).item() == pytest.approx(2 * math.log(2))

    def test_the_log_ratio_is_the_best_discriminator(self):
        """For N(0, 1) and N(b, 1): log p / q = b^2 / 2 - b x, and the loss 2 log 2 - 2 JS."""
        b, x = 1.5, normal((200_000, 1), generator(6), like=X)
        model = GAN(Straight(1.0, b), Straight(-b, b**2 / 2))
        line = torch.linspace(-10, 12, 20_001, dtype=torch.float64)
        p, q = (torch.distributions.Normal(m, 1.0).log_prob(line).exp() for m in (0.0, b))
        js = sum((w * (w / (p + q)).log()).sum() for w in (p, q)) * (line[1] - line[0]) / 2 + math.log(2)
        loss = model.discriminator_loss(x, rng=generator(5))
        assert abs(loss - (2 * math.log(2) - 2 * js)) < 0.008
        for slope in torch.autograd.grad(loss, list(model.discriminator.parameters())):
            assert abs(slope) < 0.004

    @pytest.mark.parametrize("penalty", [0.0, 0.8])
    def test_has_the_gradients_of_the_dirac_gan(self, penalty):
        """A generator that is the point theta, a discriminator psi x and data at one place."""
        theta, psi, data = 0.7, -1.3, 0.4
        for saturating in (False, True):
            model = GAN(Straight(0.0, theta), Straight(psi, 0.0), saturating=saturating, penalty=penalty)
            x = torch.full((5, 1), data, dtype=torch.float64)
            (in_psi,) = torch.autograd.grad(model.discriminator_loss(x), [model.discriminator.a])
            (in_theta,) = torch.autograd.grad(model.generator_loss(x), [model.generator.b])
            sigma = [1 / (1 + math.exp(-s)) for s in (-psi * data, psi * theta, -psi * theta)]
            assert in_psi.item() == pytest.approx(theta * sigma[1] - data * sigma[0] + penalty * psi)
            assert in_theta.item() == pytest.approx(-psi * sigma[1 if saturating else 2])

    @pytest.mark.parametrize(("penalty", "low", "high"), [(0.0, 0.9, math.inf), (1.0, 0.0, 1e-3)])
    def test_the_penalty_brings_the_dirac_gan_to_rest(self, penalty, low, high):
        """Without one the two circle about the data at 0, and do not come nearer."""
        model = GAN(Straight(0.0, 1.0), Straight(0.5, 0.0), saturating=True, penalty=penalty)
        options = {"lr": 0.1, "batch_size": 1, "rng": generator(), "optimizer": torch.optim.SGD}
        model.discriminator.b.requires_grad_(False)
        model.generator.a.requires_grad_(False)
        fit_adversarial(model, torch.zeros(1, 1).double(), steps=400, **options)
        assert low <= math.hypot(model.generator.b.item(), model.discriminator.a.item()) <= high


class TestWGAN:
    @conditional
    @pytest.mark.parametrize("penalty", [0, 2.5])
    def test_critics_loss_is_a_loop_written_out(self, penalty, classes):
        model = WGAN(*networks(classes), classes=classes, penalty=penalty)
        by_hand = ByHand(model, classes, 9)
        expected = np.mean(by_hand.tell(by_hand.fake)) - np.mean(by_hand.tell(X.tolist()))
        places = [
            [u * a + (1 - u) * b for a, b in zip(row, fake, strict=True)]
            for u, row, fake in zip(by_hand.u, X.tolist(), by_hand.fake, strict=True)
        ]
        for slope in by_hand.slopes(places):
            expected += penalty * (math.hypot(*slope) - 1) ** 2 / 6
        loss = model.discriminator_loss(X, condition_of(classes), rng=generator(9))
        assert loss.item() == pytest.approx(expected, rel=1e-9)

    @conditional
    def test_generators_loss_is_a_loop_written_out(self, classes):
        model = WGAN(*networks(classes), classes=classes)
        by_hand = ByHand(model, classes, 9)
        loss = model.generator_loss(X, condition_of(classes), rng=generator(9))
        assert loss.item() == pytest.approx(-np.mean(by_hand.tell(by_hand.fake)), rel=1e-12)

    def test_has_the_penalty_of_the_paper_unless_told(self):
        assert WGAN(*networks()).penalty == 10

    def test_the_best_critic_measures_the_wasserstein_distance(self):
        """All samples lie above all data: then f(x) = -x, of slope 1, is best, and pays no penalty."""
        model = WGAN(Straight(1.0, 20.0), Straight(-1.0, 0.3))
        x = normal((50, 1), generator(6), like=X)
        samples = model.sample(50, rng=generator(5))
        loss = model.discriminator_loss(x, rng=generator(5))
        torch.testing.assert_close(loss, -wasserstein_1d(x[:, 0], samples[:, 0]))

    def test_gradients_of_a_linear_critic_are_known(self):
        """f = a x: (|a| - 1)^2 has the gradient 2 (|a| - 1) a / |a|."""
        model = WGAN(networks()[0], MLP(3, (), 1).double(), penalty=3.0)
        a = model.discriminator[0].weight
        loss = model.discriminator_loss(X, rng=generator(9))
        (slope,) = torch.autograd.grad(loss, [a])
        samples = model.sample(6, rng=generator(9))
        norm = a.square().sum().sqrt()
        expected = samples.mean(0) - X.mean(0) + 3.0 * 2 * (norm - 1) * a / norm
        torch.testing.assert_close(slope, expected)

    @pytest.mark.parametrize("psi", [-1.7, 0.4])
    def test_has_the_gradients_of_the_dirac_gan(self, psi):
        theta, data = 0.7, 0.4
        model = WGAN(Straight(0.0, theta), Straight(psi, 0.0), penalty=3.0)
        x = torch.full((5, 1), data, dtype=torch.float64)
        (in_psi,) = torch.autograd.grad(model.discriminator_loss(x), [model.discriminator.a])
        (in_theta,) = torch.autograd.grad(model.generator_loss(x), [model.generator.b])
        pull = 2 * 3.0 * (abs(psi) - 1) * math.copysign(1, psi)
        assert in_psi.item() == pytest.approx(theta - data + pull)
        assert in_theta.item() == pytest.approx(-psi)

    def test_the_penalty_can_hold_a_critic_of_the_wrong_sign(self):
        """On the line: samples at 0, data at 3, and -3 + 2 lambda (1 - |psi|) is 0 at psi = -0.85 too."""
        model = WGAN(Straight(0.0, 0.0), Straight(-1.0, 0.0))
        options = {"lr": 1e-300, "discriminator_lr": 0.01, "optimizer": torch.optim.SGD}
        x = torch.full((5, 1), 3.0, dtype=torch.float64)
        fit_adversarial(model, x, steps=100, batch_size=5, rng=generator(), **options)
        assert model.discriminator.a.item() == pytest.approx(-0.85)

    def test_a_flat_critic_has_no_gradient_that_is_nan(self):
        model = WGAN(*networks(), penalty=3.0)
        for parameter in model.discriminator.parameters():
            nn.init.zeros_(parameter)
        loss = model.discriminator_loss(X)
        assert loss.item() == 3.0
        for gradient in torch.autograd.grad(loss, list(model.discriminator.parameters())):
            assert gradient.isfinite().all()


class TestSecondOrder:
    def test_gradients_of_a_linear_discriminators_penalty_are_known(self):
        """d = a x: gamma |a|^2 / 2 has the gradient gamma a."""
        parts = networks()[0], MLP(3, (), 1).double()
        a = parts[1][0].weight
        with_penalty, without = (
            torch.autograd.grad(GAN(*parts, penalty=p).discriminator_loss(X, rng=generator(9)), [a])[0]
            for p in (2.5, 0)
        )
        torch.testing.assert_close(with_penalty - without, 2.5 * a)

    @both
    @conditional
    def test_gradients_of_a_penalty_are_numerical_ones(self, make, classes):
        model = make(*networks(classes, (3,)), classes=classes, penalty=2.5)

        def loss(*weights):
            names = [name for name, _ in model.discriminator.named_parameters()]
            with torch.no_grad():
                for name, weight in zip(names, weights, strict=True):
                    model.discriminator.get_parameter(name).copy_(weight)
            return model.discriminator_loss(X, condition_of(classes), rng=generator(9))

        weights = [p.detach().clone() for p in model.discriminator.parameters()]
        found = torch.autograd.grad(loss(*weights), list(model.discriminator.parameters()))
        for i, weight in enumerate(weights):
            for place in range(weight.numel()):
                step = torch.zeros_like(weight).flatten()
                step[place] = 1e-5
                up, down = (
                    loss(*(w + s * step.view_as(w) if j == i else w for j, w in enumerate(weights)))
                    for s in (1, -1)
                )
                slope = found[i].flatten()[place].item()
                assert slope == pytest.approx(((up - down) / 2e-5).item(), rel=1e-5, abs=1e-7)

    @both
    def test_a_penalty_can_be_had_without_gradients(self, make):
        model = make(*networks(), penalty=2.5)
        loss = model.discriminator_loss(X, rng=generator(9))
        with torch.no_grad():
            value = model.discriminator_loss(X, rng=generator(9))
        assert value == loss
        assert loss.requires_grad
        assert not value.requires_grad
        assert not X.requires_grad, "the data are left as they were"


class TestPlayers:
    @both
    @conditional
    def test_the_discriminators_loss_costs_no_gradient_of_the_generator(self, make, classes):
        model = make(*networks(classes), classes=classes, penalty=2.5)
        model.discriminator_loss(X, condition_of(classes)).backward()
        assert all(parameter.grad is None for parameter in model.generator.parameters())
        assert all(parameter.grad is not None for parameter in model.discriminator.parameters())

    @both
    @pytest.mark.parametrize("still", [0, 1])
    def test_a_player_moves_its_own_weights_alone(self, make, still):
        """The other one's learning rate is too small to move it, so it stays to the bit."""
        model = make(*networks(), penalty=2.5)
        own = [list(model.discriminator.parameters()), list(model.generator.parameters())]
        before = [[p.clone() for p in player] for player in own]
        rates = {"discriminator_lr": 0.1, "lr": 0.1, ("discriminator_lr", "lr")[still]: 1e-300}
        sgd = torch.optim.SGD
        fit_adversarial(model, X, steps=3, batch_size=6, rng=generator(), optimizer=sgd, **rates)
        for player, (old, new) in enumerate(zip(before, own, strict=True)):
            moved = [not torch.equal(p, q) for p, q in zip(old, new, strict=True)]
            assert any(moved) == (player != still)

    @both
    @pytest.mark.parametrize("stop", [1, 4])
    def test_resumed_is_uninterrupted_to_the_bit(self, make, stop, tmp_path):
        def run(**more):
            model = make(*networks(4), classes=4, penalty=2.5)
            options = {"condition": Y, "steps": 6, "batch_size": 4, "lr": 0.01, "discriminator_steps": 2}
            losses = fit_adversarial(model, X, rng=generator(2), **options, **more)
            return losses, [p.tolist() for p in model.parameters()]

        run(checkpoint=tmp_path / "run", each=lambda step, losses: step == stop)
        assert run(checkpoint=tmp_path / "run") == run()


class TestSamples:
    @both
    def test_are_generated_from_noise(self, make):
        model = make(*networks())
        z = normal((7, 2), generator(3), like=X)
        assert torch.equal(model.sample(7, rng=generator(3)), model.generator(z))

    @both
    def test_of_a_class_are_generated_from_noise_and_the_class(self, make):
        model = make(*networks(4), classes=4)
        z = normal((6, 2), generator(3), like=X)
        rows = torch.cat([z, torch.eye(4).double()[Y]], 1)
        torch.testing.assert_close(model.sample(6, Y, rng=generator(3)), model.generator(rows))

    @both
    def test_have_the_type_of_the_weights(self, make):
        model = make(*(network.float() for network in networks()))
        assert model.sample(3).dtype == torch.float32


ADAM = functools.partial(torch.optim.Adam, betas=(0.0, 0.9))
TRAINING = {"batch_size": 100, "lr": 0.02, "optimizer": ADAM}


class TestTraining:
    @pytest.mark.parametrize(
        ("make", "options", "discriminator_steps"),
        [
            (GAN, {"penalty": 0.5}, 1),
            (GAN, {"penalty": 0.5, "saturating": True}, 1),
            (WGAN, {"penalty": 1.0}, 3),
        ],
    )
    def test_learns_a_gaussian(self, make, options, discriminator_steps):
        torch.manual_seed(0)
        mean = torch.tensor([2.0, -1.0])
        x = mean + 0.5 * normal((2_000, 2), generator(7), like=mean)
        model = make(MLP(2, (), 2), MLP(2, (16,), 1), **options)
        fit_adversarial(
            model, x, rng=generator(), steps=250, discriminator_steps=discriminator_steps, **TRAINING
        )
        samples = model.sample(4_000, rng=generator(1))
        torch.testing.assert_close(samples.mean(0), mean, rtol=0, atol=0.3)
        torch.testing.assert_close(samples.std(0), torch.full((2,), 0.5), rtol=0, atol=0.2)

    def test_learns_where_each_class_is(self):
        torch.manual_seed(0)
        y = torch.arange(600) % 3
        x = y[:, None] * 2.0 + 0.3 * normal((600, 1), generator(7), like=torch.ones(1))
        model = GAN(MLP(4, (), 1), MLP(4, (16,), 1), classes=3, penalty=0.5)
        fit_adversarial(model, x, condition=y, rng=generator(), steps=300, **TRAINING)
        samples = model.sample(600, y, rng=generator(1))
        for k in range(3):
            assert abs(samples[y == k].mean() - 2 * k) < 0.4
