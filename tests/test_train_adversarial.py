"""Two players take turns, each with its own parameters; a run that was killed goes on as if not."""

import functools
import json
import math
import os
import random
import signal
import subprocess
import sys
import textwrap
import time

import pytest
import torch
from torch import nn
from torch.nn.functional import softplus

import gmlib.train
from gmlib.base import Adversarial
from gmlib.nn import MLP, normal
from gmlib.train import ADAM, TrainState, fit_adversarial

X = torch.randn(23, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)


class Duel(Adversarial):
    """All that a run has to keep: noise, dropout, moved buffers. Each loss has gradients in both players."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(MLP(2, (6,), 6), nn.BatchNorm1d(6), nn.Dropout(0.2), MLP(6, (), 3)).double()
        self.discriminator = nn.Sequential(MLP(3, (6,), 6), nn.Dropout(0.2), MLP(6, (), 1)).double()
        self.seen = []

    def fake(self, x, condition=None, *, rng=None):
        return self.net(normal((len(x), 2), rng, like=x))

    def discriminator_loss(self, x, condition=None, fake=None, *, rng=None):
        self.note("discriminator", x, condition, fake)
        noisy = x + 0.1 * normal(x.shape, rng, like=x)
        return softplus(-self.discriminator(noisy)).mean() + softplus(self.discriminator(fake)).mean()

    def generator_loss(self, x, condition=None, fake=None, *, rng=None):
        self.note("generator", x, condition, fake)
        return softplus(-self.discriminator(fake + 0.1 * normal(fake.shape, rng, like=x))).mean()

    def note(self, who, x, condition, fake):
        weights = [torch.cat([p.detach().flatten() for p in player]) for player in self.players()]
        self.seen.append((who, x.clone(), condition, self.training, *weights, fake))

    def sample(self, n, condition=None, *, rng=None):
        return self.net(normal((n, 2), rng, like=X))


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def duel():
    torch.manual_seed(3)
    return Duel()


def train(model=None, steps=12, seed=0, x=X, **options):
    model = duel() if model is None else model
    options = {"batch_size": 5, "lr": 0.01, **options}
    return model, fit_adversarial(model, x, steps=steps, rng=generator(seed), **options)


def batches(model, who):
    return [x for player, x, *_ in model.seen if player == who]


def assert_same_weights(one, other):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


class TestSteps:
    def test_are_those_of_a_loop_written_out(self):
        momentum = functools.partial(torch.optim.SGD, momentum=0.9)
        model, losses = train(optimizer=momentum, discriminator_steps=2, discriminator_lr=0.03)
        plain, rng, expected = duel(), generator(), []
        seed = int(torch.randint(2**62, (1,), generator=rng))
        theirs = momentum(plain.discriminator.parameters(), lr=0.03)
        ours = momentum(plain.net.parameters(), lr=0.01)
        orders = [torch.randperm(23, generator=generator(seed + epoch)).split(5) for epoch in range(5)]
        rows = iter([rows for order in orders for rows in order])
        for _ in range(12):
            for batch in (next(rows), next(rows)):
                plain.zero_grad()
                fake = plain.fake(X[batch], rng=rng)
                loss = plain.discriminator_loss(X[batch], fake=fake, rng=rng)
                loss.backward(retain_graph=True)
                theirs.step()
            plain.zero_grad()
            against = plain.generator_loss(X[batch], fake=fake, rng=rng)
            against.backward()
            ours.step()
            expected.append((loss.item(), against.item()))
        assert losses == expected
        assert_same_weights(model, plain)

    def test_move_one_player_at_a_time_to_the_bit(self):
        model, _ = train(steps=6, discriminator_steps=2)
        assert [who for who, *_ in model.seen] == ["discriminator", "discriminator", "generator"] * 6
        for before, after in zip(model.seen, model.seen[1:], strict=False):
            moved = ("discriminator", "generator").index(before[0])
            assert not torch.equal(before[4 + moved], after[4 + moved])
            assert torch.equal(before[5 - moved], after[5 - moved])

    def test_cost_no_gradients_of_the_other_player(self):
        model, _ = train(steps=1, batch_size=23)
        plain, rng = duel(), generator()
        seed = int(torch.randint(2**62, (1,), generator=rng))
        rows = torch.randperm(23, generator=generator(seed))
        fake = plain.fake(X[rows], rng=rng)
        loss = plain.discriminator_loss(X[rows], fake=fake, rng=rng)
        theirs = torch.autograd.grad(loss, plain.players()[0], retain_graph=True)
        plain.discriminator.load_state_dict(model.discriminator.state_dict())  # as the generator meets it
        ours = torch.autograd.grad(plain.generator_loss(X[rows], fake=fake, rng=rng), plain.players()[1])
        for parameters, gradients in zip(model.players(), (theirs, ours), strict=True):
            for parameter, gradient in zip(parameters, gradients, strict=True):
                assert torch.equal(parameter.grad, gradient)

    def test_make_one_fake_for_each_batch_of_the_discriminator_and_no_other(self):
        """The generator is judged by the last one, with its gradient."""
        model, made = duel(), []
        make = model.fake
        model.fake = lambda *args, **options: made.append(make(*args, **options)) or made[-1]
        train(model, steps=5, discriminator_steps=2)
        shown = [(who, fake) for who, *_, fake in model.seen]
        assert len(made) == 10
        for who, own in [("discriminator", made), ("generator", made[1::2])]:
            fakes = [fake for player, fake in shown if player == who]
            assert all(one is other for one, other in zip(fakes, own, strict=True))
            assert all(fake.requires_grad for fake in fakes)

    def test_give_the_discriminator_a_fresh_batch_each_time_and_the_generator_its_last(self):
        model, _ = train(steps=5, discriminator_steps=2)
        theirs = batches(model, "discriminator")
        assert [len(x) for x in theirs] == [5, 5, 5, 5, 3] * 2
        for epoch in (theirs[:5], theirs[5:]):
            assert torch.equal(torch.cat(epoch).sort(0).values, X.sort(0).values)
        for x, own in zip(theirs[1::2], batches(model, "generator"), strict=True):
            assert torch.equal(x, own)

    def test_depend_on_the_seed_alone(self):
        assert train()[1] == train()[1]
        assert train(seed=1)[1] != train(seed=2)[1]

    def test_give_each_row_its_own_condition(self):
        model, _ = train(steps=5, condition=X[:, 0])
        for _, x, condition, *_ in model.seen:
            assert torch.equal(condition, x[:, 0])

    def test_see_a_batch_that_is_transformed_anew(self):
        options = {"steps": 5, "discriminator_steps": 2}
        model, _ = train(
            transform=lambda x, rng: x * 0 + torch.rand(1, generator=rng, dtype=x.dtype), **options
        )
        told, own = (
            [x.unique().item() for x in batches(model, who)] for who in ("discriminator", "generator")
        )
        assert len(set(told)) == 10
        assert own == told[1::2], "the generator sees what the discriminator has seen last"

    def test_have_one_learning_rate_unless_told(self):
        assert train()[1] == train(discriminator_lr=0.01)[1]
        assert train()[1] != train(discriminator_lr=0.02)[1]

    def test_leave_frozen_and_unused_parameters_alone(self):
        model = duel()
        model.discriminator.unused = nn.Parameter(torch.ones(1, dtype=torch.float64))
        model.discriminator.forward = lambda x: model.discriminator[2](model.discriminator[0](x))
        frozen = model.net[0][0].weight.requires_grad_(False)
        before = frozen.clone()
        train(model)
        assert torch.equal(frozen, before)
        assert model.discriminator.unused.item() == 1

    def test_happen_in_training_mode_and_end_in_evaluation_mode(self):
        model, _ = train(duel().eval(), steps=3, each=lambda step, losses: None)
        assert all(training for _, _, _, training, *_ in model.seen)
        assert not any(module.training for module in model.modules())

    def test_learn(self):
        """The draws' mean comes to that of the data, which is 3 off at the start."""
        torch.manual_seed(0)
        model = Duel()
        model.net = nn.Sequential(nn.Linear(2, 3)).double()
        before = model.sample(500, rng=generator()).mean(0) - (X + 3).mean(0)
        options = {"batch_size": 23, "optimizer": functools.partial(torch.optim.Adam, betas=(0.5, 0.9))}
        train(model, x=X + 3, steps=600, **options)
        after = model.sample(500, rng=generator()).mean(0) - (X + 3).mean(0)
        assert after.norm() < 0.3 * before.norm()


class TestEach:
    def test_is_told_steps_and_losses(self):
        told = []
        _, losses = train(steps=4, each=lambda step, losses: told.append((step, losses)))
        assert told == list(enumerate(losses, 1))
        assert all(isinstance(pair, tuple) and len(pair) == 2 for pair in losses)

    def test_stops_by_true(self):
        _, losses = train(each=lambda step, losses: step == 7)
        assert losses == train()[1][:7]

    def test_sees_the_model_in_evaluation_mode_and_after_the_step(self):
        model, seen = duel(), []
        train(
            model,
            steps=3,
            each=lambda step, losses: seen.append((model.training, model.players()[1][-1].clone())),
        )
        assert not any(training for training, _ in seen)
        assert torch.equal(seen[-1][1], model.players()[1][-1])


def test_a_bar_shows_both_losses(monkeypatch, capsys):
    monkeypatch.setattr(gmlib.train, "_is_watched", lambda: True)
    _, losses = train(steps=2, each=lambda step, losses: time.sleep(0.2))  # longer than bars wait
    theirs, ours = losses[-1]
    assert f"loss {theirs:.4g}, {ours:.4g}" in capsys.readouterr().err


class Explosive(Duel):
    def __init__(self, which, value):
        super().__init__()
        self.which, self.value, self.calls = which, value, 0

    def discriminator_loss(self, x, condition=None, fake=None, *, rng=None):
        return self.spoil("discriminator", super().discriminator_loss(x, fake=fake, rng=rng))

    def generator_loss(self, x, condition=None, fake=None, *, rng=None):
        return self.spoil("generator", super().generator_loss(x, fake=fake, rng=rng))

    def spoil(self, which, loss):
        self.calls += which == self.which
        return loss * (self.value if which == self.which and self.calls == 4 else 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf])
@pytest.mark.parametrize("which", ["discriminator", "generator"])
def test_a_loss_that_is_not_finite_stops_before_its_update(which, value):
    model = Explosive(which, value)
    with pytest.raises(FloatingPointError, match=f"^Explosive {which} loss is {value} at step 4.$"):
        train(model)
    last = ("discriminator", "generator").index(model.seen[-1][0])
    assert model.seen[-1][0] == which
    assert torch.equal(
        torch.cat([p.detach().flatten() for p in model.players()[last]]), model.seen[-1][4 + last]
    )
    assert not model.training


OPTIMIZERS = {
    "default": ADAM,
    "adam": functools.partial(torch.optim.Adam, betas=(0.5, 0.9)),
    "sgd": torch.optim.SGD,
    "rmsprop": torch.optim.RMSprop,
}


class TestCheckpoint:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
    @pytest.mark.parametrize("stop", [1, 5, 8])
    def test_resumed_is_uninterrupted_to_the_bit(self, optimizer, stop, tmp_path):
        options = {"optimizer": optimizer, "discriminator_steps": 2, "checkpoint_every": 4}
        whole, losses = train(**options)
        train(checkpoint=tmp_path / "run", each=lambda step, losses: step == stop, **options)
        torch.manual_seed(99)  # a fresh process knows nothing of the run's random numbers
        model = Duel()
        _, resumed = train(model, checkpoint=tmp_path / "run", **options)
        assert resumed == losses
        assert_same_weights(model, whole)
        assert len(batches(model, "generator")) == 12 - stop

    def test_lets_a_run_go_on_for_longer_and_refuses_a_shorter_one(self, tmp_path):
        train(checkpoint=tmp_path / "run", steps=8)
        longer, losses = train(checkpoint=tmp_path / "run", steps=12)
        assert losses == train()[1]
        with pytest.raises(
            ValueError, match=r"^fit_adversarial needs steps >= 12, which .*run has taken, got 4"
        ):
            train(longer, checkpoint=tmp_path / "run", steps=4)

    def test_is_written_every_so_often_and_at_the_end(self, tmp_path, monkeypatch):
        steps = []
        monkeypatch.setattr(TrainState, "save", lambda self, path: steps.append(self.step))
        train(checkpoint=tmp_path / "run", steps=10, checkpoint_every=4)
        assert steps == [4, 8, 10]

    @pytest.mark.parametrize(
        ("what", "change"),
        [
            ("discriminator", {"discriminator_lr": 0.02}),
            ("generator", {"lr": 0.02, "discriminator_lr": 0.01}),
            ("discriminator_steps", {"discriminator_steps": 2}),
            ("batch_size", {"batch_size": 6}),
            ("data", {"x": X + 1}),
            ("data", {"condition": X[:, 0]}),
            ("rng", {"seed": 1}),
            ("model", {"model": Explosive("generator", 1.0)}),
        ],
    )
    def test_of_another_run_is_refused(self, what, change, tmp_path):
        train(checkpoint=tmp_path / "run", steps=3)
        with pytest.raises(ValueError, match=f"needs a file of this run, got .*run, of {what} "):
            train(change.pop("model", None), checkpoint=tmp_path / "run", **change)

    def test_survives_sigkill_at_any_moment(self, tmp_path):
        """A GAN, killed twice from outside, by chance in the midst of writing: every step writes."""
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(KILLED))
        command = [sys.executable, str(script), str(tmp_path)]
        pipe = {"env": {**os.environ, "OMP_NUM_THREADS": "1"}, "stdout": subprocess.PIPE, "text": True}
        taken = []
        for _ in range(2):
            with subprocess.Popen([*command, "run"], **pipe) as process:
                process.stdout.readline()
                time.sleep(random.uniform(0.1, 0.8))
                process.kill()
                taken.append(len(process.stdout.read().split()))
            assert process.returncode == -signal.SIGKILL
        result = subprocess.run([*command, "run", "whole"], stderr=subprocess.PIPE, **pipe)
        assert result.returncode == 0, result.stderr
        lines = result.stdout.splitlines()
        resumed, whole = (json.loads(line) for line in lines if line.startswith("{"))
        assert int(lines[0]) >= sum(taken)
        assert resumed == whole


KILLED = """
    import json, sys, time
    import torch
    from gmlib.gan import GAN
    from gmlib.nn import MLP
    from gmlib.train import fit_adversarial

    def each(step, losses):
        print(step, flush=True)
        time.sleep(0.005)

    folder, *names = sys.argv[1:]
    for name in names:
        torch.manual_seed(0)
        networks = MLP(4, (8,), 3, dropout=0.1), MLP(5, (8,), 1, dropout=0.1)
        model, rng = GAN(*networks, classes=2, penalty=1.0), torch.Generator().manual_seed(1)
        x, classes = torch.randn(33, 3, generator=rng), torch.arange(33) % 2
        losses = fit_adversarial(model, x, steps=300, batch_size=4, lr=0.01, rng=rng, condition=classes,
                                 each=each, discriminator_steps=2,
                                 checkpoint=f"{folder}/{name}", checkpoint_every=1)
        print(json.dumps({"losses": losses, "weights": [p.tolist() for p in model.parameters()]}))
"""


def test_several_processes_are_refused(monkeypatch):
    monkeypatch.setattr("accelerate.Accelerator.num_processes", 2)
    with pytest.raises(ValueError, match="fit_adversarial needs one process, got 2"):
        train()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("device", [None, "cuda", "cpu"])
def test_the_model_comes_home_from_any_device(device):
    model, losses = train(device=device)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert {p.device.type for p in train(duel().cuda(), device=device)[0].parameters()} == {"cuda"}
    assert torch.tensor(losses).isfinite().all()


def test_the_model_comes_home_after_an_error():
    model = duel()
    with pytest.raises(ZeroDivisionError):
        train(model, each=lambda step, losses: 1 / 0)
    assert not model.training
