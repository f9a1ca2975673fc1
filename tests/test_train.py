"""Training is plain gradient descent, can be stopped and resumed at any step, and says when it fails."""

import functools
import json
import math
import os
import signal
import subprocess
import sys
import textwrap
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import gmlib.train
from gmlib.base import Trainable
from gmlib.nn import MLP, normal
from gmlib.train import ADAM, TrainState, fit, fit_by, load_tensors, save_tensors

X = torch.randn(23, 3, generator=torch.Generator().manual_seed(7), dtype=torch.float64)
V = torch.randn(9, 3, generator=torch.Generator().manual_seed(8), dtype=torch.float64)


class Noisy(Trainable):
    """All that a run has to keep: noise from rng, dropout from torch's own, a buffer that training moves."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(MLP(3, (6,), 6), nn.BatchNorm1d(6), nn.Dropout(0.2), MLP(6, (), 3)).double()
        self.seen = []

    def loss(self, x, condition=None, *, rng=None):
        self.seen.append((x.clone(), condition, self.training))
        target = x if condition is None else x * condition.unsqueeze(-1)
        return (self.net(x + 0.1 * normal(x.shape, rng, like=x)) - target).square().mean()


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def noisy():
    torch.manual_seed(3)
    return Noisy()


def train(model=None, steps=20, seed=0, x=X, **options):
    model = noisy() if model is None else model
    options = {"batch_size": 5, "lr": 0.01, **options}
    return model, fit(model, x, steps=steps, rng=generator(seed), **options)


def assert_same_weights(one, other):
    for (name, a), b in zip(one.state_dict().items(), other.state_dict().values(), strict=True):
        assert torch.equal(a, b), name


class TestSteps:
    def test_are_those_of_a_loop_written_out(self):
        model, losses = train(steps=13, optimizer=functools.partial(torch.optim.SGD, momentum=0.9))
        plain, rng, expected = noisy(), generator(), []
        seed = int(torch.randint(2**62, (1,), generator=rng))
        optimizer = torch.optim.SGD(plain.parameters(), lr=0.01, momentum=0.9)
        for epoch in range(3):
            for rows in torch.randperm(23, generator=generator(seed + epoch)).split(5):
                if len(expected) < 13:
                    loss = plain.loss(X[rows], rng=rng)
                    optimizer.zero_grad()
                    loss.backward()
                    optimizer.step()
                    expected.append(loss.item())
        assert losses == expected
        assert_same_weights(model, plain)

    def test_are_those_of_adam(self):
        model, _ = train(steps=9)
        plain, rng = noisy(), generator()
        order = generator(int(torch.randint(2**62, (1,), generator=rng)))
        rows = torch.randperm(23, generator=order).split(5)
        later = torch.randperm(23, generator=generator(order.initial_seed() + 1)).split(5)
        moments = [(torch.zeros_like(p), torch.zeros_like(p)) for p in plain.parameters()]
        for t, batch in enumerate([*rows, *later[:4]], 1):
            slopes = torch.autograd.grad(plain.loss(X[batch], rng=rng), list(plain.parameters()))
            for p, g, (m, v) in zip(plain.parameters(), slopes, moments, strict=True):
                m.mul_(0.9).add_(0.1 * g)
                v.mul_(0.999).add_(0.001 * g**2)
                p.data -= 0.01 * (m / (1 - 0.9**t)) / ((v / (1 - 0.999**t)).sqrt() + 1e-8)
        for (name, found), expected in zip(
            model.state_dict().items(), plain.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-7, msg=name)

    def test_visit_every_row_once_an_epoch_each_time_in_another_order(self):
        model, _ = train(steps=10)
        batches = [x for x, _, _ in model.seen]
        assert [len(x) for x in batches] == [5, 5, 5, 5, 3] * 2
        first, second = torch.cat(batches[:5]), torch.cat(batches[5:])
        for epoch in (first, second):
            assert torch.equal(epoch.sort(0).values, X.sort(0).values)
        assert not torch.equal(first, second)

    def test_take_all_rows_where_there_are_fewer_than_a_batch(self):
        model, _ = train(steps=2, batch_size=100)
        assert [len(x) for x, _, _ in model.seen] == [23, 23]

    def test_depend_on_the_seed_alone(self):
        assert train()[1] == train()[1]
        assert train(seed=1)[1] != train(seed=2)[1]

    def test_give_each_row_its_own_condition(self):
        model, _ = train(steps=5, condition=X[:, 0])
        for x, condition, _ in model.seen:
            assert torch.equal(condition, x[:, 0])

    def test_see_the_transformed_batch(self):
        model, _ = train(
            steps=5, transform=lambda x, rng: x * 0 + torch.rand(1, generator=rng, dtype=x.dtype)
        )
        values = [x.unique().item() for x, _, _ in model.seen]
        assert len(set(values)) == 5

    def test_follow_the_schedule(self):
        rates = []

        class Recorder(torch.optim.SGD):
            def step(self, closure=None):
                rates.append(self.param_groups[0]["lr"])
                return super().step(closure)

        train(steps=4, lr=0.1, optimizer=Recorder, schedule=lambda done: 1 - done)
        assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025])

    def test_leave_frozen_parameters_alone(self):
        model = noisy()
        frozen = model.net[0][0].weight.requires_grad_(False)
        before, free = frozen.clone(), model.net[3][0].weight.clone()
        train(model)
        assert torch.equal(frozen, before)
        assert not torch.equal(model.net[3][0].weight, free)

    def test_go_on_in_a_second_call(self):
        model, first = train(steps=100)
        _, second = train(model, steps=100, device="cpu")
        assert sum(second[:10]) < sum(first[:10])

    def test_happen_in_training_mode_and_end_in_evaluation_mode(self):
        model, _ = train(noisy().eval(), steps=3)
        assert [training for _, _, training in model.seen] == [True] * 3
        assert not any(module.training for module in model.modules())

    def test_print_nothing_where_there_is_no_terminal(self, capfd):
        train()
        assert capfd.readouterr() == ("", "")

    def test_learn(self):
        _, losses = train(steps=300)
        assert sum(losses[-20:]) < 0.8 * sum(losses[:20])


class Products(Trainable):
    """What training multiplies in: a mean square, and the type of the product that it came from."""

    def __init__(self):
        super().__init__()
        self.net, self.types = nn.Linear(3, 4), []

    def loss(self, x, condition=None, *, rng=None):
        y = self.net(x)
        self.types.append((y.dtype, self.training))
        return (y.float() - 1).square().mean()


class TestPrecision:
    def test_products_are_in_bfloat16_and_nothing_else_is(self):
        model, plain = Products(), Products()
        plain.load_state_dict(model.state_dict())
        x = X.float()
        losses = fit(model, x, steps=4, batch_size=23, lr=0.01, rng=generator(), precision=16, validation=x)
        optimizer = ADAM(plain.parameters(), lr=0.01)
        for loss in losses:
            with torch.autocast("cpu", torch.bfloat16):
                expected = plain.loss(x)
            optimizer.zero_grad()
            expected.backward()
            optimizer.step()
            assert loss == pytest.approx(expected.item(), rel=1e-3)  # another order of the rows
        assert set(model.types) == {(torch.bfloat16, True), (torch.float32, False)}
        assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}

    def test_by_default_numbers_stay_as_they_are(self):
        model = Products()
        fit(model, X.float(), steps=2, batch_size=23, lr=0.01, rng=generator())
        assert set(model.types) == {(torch.float32, True)}

    def test_needs_a_precision_that_there_is(self):
        with pytest.raises(ValueError, match="fit needs precision 16 or 32, got 8"):
            train(precision=8)

    def test_a_run_goes_on_in_its_own(self, tmp_path):
        options = {"batch_size": 5, "lr": 0.01, "checkpoint": tmp_path / "run"}
        fit(Products(), X.float(), steps=2, rng=generator(), precision=16, **options)
        with pytest.raises(ValueError, match="precision"):
            fit(Products(), X.float(), steps=4, rng=generator(), **options)


class TestEach:
    def test_is_told_steps_and_losses(self):
        told = []
        _, losses = train(steps=4, each=lambda step, loss: told.append((step, loss)))
        assert told == list(enumerate(losses, 1))

    def test_stops_by_true(self):
        _, losses = train(each=lambda step, loss: step == 7)
        assert len(losses) == 7
        assert losses == train()[1][:7]

    def test_sees_the_model_in_evaluation_mode_and_gives_it_back_in_training(self):
        model, modes = noisy(), []
        train(model, steps=3, each=lambda step, loss: modes.append(model.training))
        assert modes == [False] * 3
        assert all(training for _, _, training in model.seen)

    def test_sees_the_model_after_the_step(self):
        model, weights = noisy(), []
        train(model, steps=3, each=lambda step, loss: weights.append(model.net[3][0].bias.clone()))
        assert torch.equal(weights[-1], model.net[3][0].bias)
        assert not torch.equal(weights[-1], weights[-2])


class Scripted(Trainable):
    """Walks by gradient 1 a step; its validation loss is a parabola with its minimum at `best`."""

    def __init__(self, best=-0.05):
        super().__init__()
        self.w, self.best = nn.Parameter(torch.zeros((), dtype=torch.float64)), best

    def loss(self, x, condition=None, *, rng=None):
        return self.w + 0 * x.sum() if self.training else (self.w - self.best) ** 2 + x.mean()


SGD = {"optimizer": torch.optim.SGD, "lr": 0.01}


class TestValidation:
    def test_restores_the_best_weights_seen(self):
        model, losses = train(Scripted(), steps=10, validation=V, validate_every=1, **SGD)
        assert model.w.item() == pytest.approx(-0.05)
        assert len(losses) == 10

    def test_looks_only_every_so_often(self):
        model, _ = train(Scripted(), steps=10, validation=V, validate_every=3, **SGD)
        assert model.w.item() == pytest.approx(-0.06)

    def test_looks_at_the_end(self):
        model, _ = train(Scripted(best=-1.0), steps=10, validation=V, validate_every=100, **SGD)
        assert model.w.item() == pytest.approx(-0.1)

    def test_without_it_the_last_weights_stay(self):
        model, _ = train(Scripted(), steps=10, **SGD)
        assert model.w.item() == pytest.approx(-0.1)

    def test_has_the_same_noise_each_time_and_takes_none_from_training(self):
        model, losses = train(
            steps=6, validation=V, validate_every=2, transform=lambda x, rng: x + normal(x.shape, rng, x)
        )
        seen = [x for x, _, training in model.seen if not training]
        assert len(seen) == 4  # the last twice: every second step, and the end
        assert all(torch.equal(x, seen[0]) for x in seen)
        assert not torch.equal(seen[0], V)
        assert losses == train(steps=6, transform=lambda x, rng: x + normal(x.shape, rng, x))[1]

    def test_is_the_mean_over_all_rows_however_many(self, monkeypatch):
        many = torch.arange(2500.0, dtype=torch.float64).unsqueeze(-1)
        lengths, losses = [], []

        class Mean(Scripted):
            def loss(self, x, condition=None, *, rng=None):
                if not self.training:
                    lengths.append(len(x))
                return super().loss(x, condition, rng=rng)

        monkeypatch.setattr(TrainState, "compare", lambda self, loss: losses.append(loss))
        model, _ = train(Mean(), steps=1, x=many[:5], validation=many, **SGD)
        assert lengths == [1000, 1000, 500]
        assert losses == pytest.approx([1249.5 + (model.w.item() + 0.05) ** 2])

    def test_uses_its_own_conditions(self):
        model, _ = train(steps=1, condition=X[:, 0], validation=V, validation_condition=V[:, 1])
        (x, condition, _) = next(seen for seen in model.seen if not seen[2])
        assert torch.equal(condition, x[:, 1])

    def test_that_is_not_finite_is_an_error(self):
        with pytest.raises(FloatingPointError, match="Scripted validation loss is nan at step 2"):
            train(Scripted(best=math.nan), steps=4, validation=V, validate_every=2, **SGD)


def interrupted(at):
    """An end without the work of an end: no last validation, line or checkpoint."""

    def each(step, loss):
        if step == at:
            raise KeyboardInterrupt

    return each


class TestPatience:
    def test_ends_so_many_steps_after_the_best(self):
        model, losses = train(Scripted(), steps=30, validation=V, validate_every=1, patience=4, **SGD)
        assert len(losses) == 5 + 4
        assert model.w.item() == pytest.approx(-0.05)

    def test_is_counted_in_steps_whenever_validation_looks(self):
        _, losses = train(Scripted(), steps=30, validation=V, validate_every=3, patience=4, **SGD)
        assert len(losses) == 6 + 4

    def test_ends_a_run_in_which_nothing_was_better(self):
        _, losses = train(Scripted(best=10.0), steps=30, validation=V, validate_every=2, patience=5, **SGD)
        assert len(losses) == 2 + 5

    @pytest.mark.parametrize("stop", [4, 6, 8, 12, 15, 16])
    def test_survives_a_resumption(self, stop, tmp_path):
        options = {"validation": V, "validate_every": 3, "patience": 7, "checkpoint_every": 4, **SGD}
        whole, losses = train(Scripted(best=-0.08), steps=40, **options)
        assert 7 < len(losses) < 40
        path = tmp_path / "run"
        with pytest.raises(KeyboardInterrupt):
            train(Scripted(best=-0.08), steps=40, checkpoint=path, each=interrupted(stop), **options)
        model, resumed = train(Scripted(best=-0.08), steps=40, checkpoint=path, **options)
        assert resumed == losses
        assert torch.equal(model.w, whole.w)
        again, same = train(Scripted(best=-0.08), steps=40, checkpoint=path, **options)
        assert same == losses
        assert torch.equal(again.w, whole.w)

    def test_needs_validation_data(self):
        with pytest.raises(ValueError, match="fit needs validation data for its patience, got none"):
            train(patience=3)

    def test_needs_to_be_a_step_or_more(self):
        with pytest.raises(ValueError, match="fit needs patience >= 1, got 0"):
            train(patience=0, validation=V)


def lines_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_seconds(path):
    return [{key: row[key] for key in ("step", "loss", "validation")} for row in lines_of(path)]


class TestLog:
    OPTIONS = {"validation": V, "validate_every": 6, "checkpoint_every": 4}  # noqa: RUF012

    def test_has_a_line_every_so_often_and_at_the_end(self, tmp_path):
        _, losses = train(Scripted(), log=tmp_path / "log", steps=10, validation=V, validate_every=4, **SGD)
        rows = lines_of(tmp_path / "log")
        assert [row["step"] for row in rows] == [4, 8, 10]
        parts = [losses[:4], losses[4:8], losses[8:]]
        assert [row["loss"] for row in rows] == [sum(part) / len(part) for part in parts]
        errors = [(0.05 - 0.01 * step) ** 2 + V.mean().item() for step in (4, 8, 10)]
        assert [row["validation"] for row in rows] == pytest.approx(errors)
        seconds = [row["seconds"] for row in rows]
        assert 0 < seconds[0] <= seconds[1] <= seconds[2] < 60

    def test_needs_no_validation(self, tmp_path):
        train(log=tmp_path / "log", steps=3, validate_every=2)
        assert [(row["step"], row["validation"]) for row in lines_of(tmp_path / "log")] == [
            (2, None),
            (3, None),
        ]

    @pytest.mark.parametrize("stop", range(1, 20, 2))
    def test_resumed_is_that_of_an_uninterrupted_run(self, stop, tmp_path):
        train(log=tmp_path / "whole", **self.OPTIONS)
        options = {"checkpoint": tmp_path / "run", "log": tmp_path / "log", **self.OPTIONS}
        with pytest.raises(KeyboardInterrupt):
            train(each=interrupted(stop), **options)
        before = lines_of(tmp_path / "log") if (tmp_path / "log").exists() else []
        with (tmp_path / "log").open("a") as file:
            file.write('{"step": 19, "lo')  # half a line, by a kill in the middle
        train(**options)
        assert without_seconds(tmp_path / "log") == without_seconds(tmp_path / "whole")
        kept = [row for row in before if row["step"] <= stop // 4 * 4]
        rows = lines_of(tmp_path / "log")
        assert rows[: len(kept)] == kept
        assert [row["seconds"] for row in rows] == sorted(row["seconds"] for row in rows)

    def test_is_written_before_the_checkpoint_of_its_step(self, tmp_path, monkeypatch):
        train(log=tmp_path / "whole", **self.OPTIONS)
        options = {"checkpoint": tmp_path / "run", "log": tmp_path / "log", **self.OPTIONS}

        def killed_after(self, path, save=TrainState.save):
            save(self, path)
            if self.step == 12:  # both a line's and a checkpoint's
                raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr(TrainState, "save", killed_after)
            with pytest.raises(KeyboardInterrupt):
                train(**options)
        train(**options)
        assert without_seconds(tmp_path / "log") == without_seconds(tmp_path / "whole")

    def test_of_a_finished_run_stays(self, tmp_path):
        options = {"checkpoint": tmp_path / "run", "log": tmp_path / "log", **self.OPTIONS}
        train(**options)
        before = (tmp_path / "log").read_bytes()
        train(**options)
        assert (tmp_path / "log").read_bytes() == before

    @pytest.mark.parametrize("line", ["x", "{}", "[]", '{"step": "a"}', "null"])
    def test_that_somebody_else_wrote_is_refused(self, line, tmp_path):
        (tmp_path / "log").write_text(line + "\n")
        with pytest.raises(ValueError, match=f"{tmp_path / 'log'} needs lines that gmlib wrote itself"):
            train(log=tmp_path / "log")
        assert (tmp_path / "log").read_text() == line + "\n"


def walk(model, x):
    """A step of another kind: one to the left by 0.01."""
    loss = model.w.item()
    with torch.no_grad():
        model.w -= 0.01 * len(x) / 23
    return loss


def walked(steps=30, model=None, **options):
    model = Scripted() if model is None else model
    return model, fit_by(walk, model, X, steps=steps, rng=generator(), validation=V, **options)


class TestOwnSteps:
    def test_are_taken_on_all_rows_and_the_best_weights_stay(self):
        model, losses = walked(steps=8)
        assert losses == pytest.approx([-0.01 * step for step in range(8)])
        assert model.w.item() == pytest.approx(-0.05)
        assert not model.training

    def test_end_with_patience(self):
        assert len(walked(patience=4)[1]) == 9
        assert len(walked(patience=4, validate_every=3)[1]) == 10

    def test_resumed_are_uninterrupted(self, tmp_path):
        options = {"checkpoint": tmp_path / "run", "checkpoint_every": 3, "log": tmp_path / "log"}
        walked(steps=4, **options)
        model, losses = walked(steps=8, **options)
        whole, expected = walked(steps=8)
        assert losses == expected
        assert torch.equal(model.w, whole.w)
        assert [row["step"] for row in lines_of(tmp_path / "log")] == list(range(1, 9))
        with pytest.raises(ValueError, match="fit_by needs steps >= 8"):
            walked(steps=7, **options)
        with pytest.raises(ValueError, match="of validate_every 1, not 2"):
            walked(validate_every=2, **options)

    def test_whose_loss_is_not_finite_are_an_error(self):
        model = Scripted()
        model.w.data.fill_(math.nan)
        with pytest.raises(FloatingPointError, match="Scripted loss is nan at step 1"):
            walked(model=model)

    @pytest.mark.parametrize("name", ["steps", "validate_every", "checkpoint_every", "patience"])
    def test_are_one_or_more(self, name):
        with pytest.raises(ValueError, match=f"fit_by needs {name} >= 1, got 0"):
            walked(**{name: 0})

    def test_are_taken_by_one_process(self, monkeypatch, tmp_path):
        """Several would each take all of them, and write the same files."""
        monkeypatch.setenv("WORLD_SIZE", "2")
        model = Scripted()
        with pytest.raises(ValueError, match="fit_by needs one process, got 2"):
            walked(model=model, checkpoint=tmp_path / "run", log=tmp_path / "log")
        assert model.w == 0
        assert not list(tmp_path.iterdir())
        monkeypatch.setenv("WORLD_SIZE", "1")
        assert len(walked(steps=2)[1]) == 2


class TestTensors:
    TENSORS = {"a": X[:2], "b": torch.tensor(3), "c": torch.zeros(0)}  # noqa: RUF012

    def test_come_back_with_what_was_said_about_them(self, tmp_path):
        save_tensors(tmp_path / "file", self.TENSORS, {"n": 1, "loss": math.inf})
        tensors, about = load_tensors(tmp_path / "file")
        assert about == {"n": 1, "loss": math.inf}
        assert tensors.keys() == self.TENSORS.keys()
        assert all(torch.equal(tensor, self.TENSORS[name]) for name, tensor in tensors.items())

    def test_are_the_same_bytes_each_time(self, tmp_path):
        for name in ("one", "other"):
            save_tensors(tmp_path / name, self.TENSORS, {"n": 1, "m": [2, 3]})
        assert (tmp_path / "one").read_bytes() == (tmp_path / "other").read_bytes()

    def test_of_which_any_bit_was_flipped_are_refused_or_mean_the_same(self, tmp_path):
        path = tmp_path / "file"
        save_tensors(path, self.TENSORS, {"n": 1})
        content = path.read_bytes()
        refused = 0
        for place in range(len(content)):
            path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
            try:
                tensors, about = load_tensors(path)
            except ValueError as error:
                refused += str(error).startswith(
                    f"gmlib needs a whole file that it wrote itself, got {path}: "
                )
                continue
            assert about == {"n": 1}
            assert all(torch.equal(tensors[name], tensor) for name, tensor in self.TENSORS.items())
        assert refused > 0.9 * len(content)


class Explosive(Trainable):
    def __init__(self, value):
        super().__init__()
        self.w, self.value, self.calls = nn.Parameter(torch.ones((), dtype=torch.float64)), value, 0

    def loss(self, x, condition=None, *, rng=None):
        self.calls += 1
        return self.w * (self.value if self.calls == 12 else 1.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_before_its_step(value):
    model, weights = Explosive(value), []
    with pytest.raises(FloatingPointError, match=f"Explosive loss is {value} at step 12"):
        train(model, each=lambda step, loss: weights.append(model.w.item()))
    assert len(weights) == 11
    assert model.w.item() == weights[-1]
    assert not model.training


OPTIMIZERS = {
    "default": ADAM,
    "adam": torch.optim.Adam,
    "adamw": functools.partial(torch.optim.AdamW, weight_decay=0.1, amsgrad=True),
    "sgd": torch.optim.SGD,
    "momentum": functools.partial(torch.optim.SGD, momentum=0.9),
    "rmsprop": torch.optim.RMSprop,
    "adagrad": torch.optim.Adagrad,
}


OPTIONS = {"validation": V, "validate_every": 6, "schedule": lambda done: 1 - done, "checkpoint_every": 4}


class TestCheckpoint:
    @pytest.mark.parametrize("optimizer", OPTIMIZERS.values(), ids=OPTIMIZERS)
    @pytest.mark.parametrize("stop", [4, 7, 12, 20])
    def test_resumed_is_uninterrupted_to_the_bit(self, optimizer, stop, tmp_path):
        options = {**OPTIONS, "optimizer": optimizer}
        whole, losses = train(**options)
        train(checkpoint=tmp_path / "run", each=lambda step, loss: step == stop, **options)
        torch.manual_seed(99)  # a fresh process knows nothing of the run's random numbers
        model = Noisy()
        _, resumed = train(model, checkpoint=tmp_path / "run", **options)
        assert resumed == losses
        assert_same_weights(model, whole)
        assert len([1 for _, _, training in model.seen if training]) == 20 - stop

    def test_of_a_finished_run_gives_its_result(self, tmp_path):
        whole, losses = train(checkpoint=tmp_path / "run", **OPTIONS)
        again, same = train(checkpoint=tmp_path / "run", **OPTIONS)
        assert same == losses
        assert_same_weights(again, whole)

    def test_lets_a_run_without_schedule_go_on_for_longer(self, tmp_path):
        train(checkpoint=tmp_path / "run", steps=8)
        longer, losses = train(checkpoint=tmp_path / "run", steps=20)
        whole, expected = train(steps=20)
        assert losses == expected
        assert_same_weights(longer, whole)

    @pytest.mark.parametrize("model", ["Model", "Diffusion"])
    def test_survives_sigkill(self, model, tmp_path):
        script = tmp_path / "script.py"
        script.write_text(textwrap.dedent(KILLED))
        command = [sys.executable, str(script), str(tmp_path), model]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}

        def run(*arguments):
            return subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True)

        assert run("run", "17").returncode == -signal.SIGKILL
        assert run("run", "29").returncode == -signal.SIGKILL
        resumed, whole = run("run", "0"), run("whole", "0")
        assert resumed.returncode == 0, resumed.stderr
        assert json.loads(resumed.stdout)["taken"] == 40 - 25
        assert json.loads(whole.stdout)["taken"] == 40
        for key in ("losses", "weights"):
            assert json.loads(resumed.stdout)[key] == json.loads(whole.stdout)[key]

    @pytest.mark.parametrize(
        ("what", "change"),
        [
            ("model", {"model": Scripted()}),
            ("optimizer", {"lr": 0.02}),
            ("optimizer", {"optimizer": torch.optim.SGD}),
            ("data", {"x": X + 1}),
            ("data", {"condition": X[:, 0]}),
            ("data", {"validation": V}),
            ("batch_size", {"batch_size": 6}),
            ("validate_every", {"validate_every": 5}),
            ("rng", {"seed": 1}),
            ("steps", {"schedule": lambda done: 1.0}),
        ],
    )
    def test_of_another_run_is_refused(self, what, change, tmp_path):
        train(checkpoint=tmp_path / "run", steps=3)
        model = change.pop("model", None) or noisy()
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        with pytest.raises(ValueError, match=f"needs a file of this run, got .*run, of {what} "):
            train(model, checkpoint=tmp_path / "run", **change)
        for name, tensor in model.state_dict().items():
            assert torch.equal(tensor, before[name])

    def test_of_a_longer_run_is_refused(self, tmp_path):
        train(checkpoint=tmp_path / "run", steps=5)
        with pytest.raises(ValueError, match="needs steps >= 5"):
            train(checkpoint=tmp_path / "run", steps=4)

    @pytest.mark.parametrize(
        "damage", [lambda b: b[:-1], lambda b: b[:20], lambda b: b"", lambda b: b"x" * 99]
    )
    def test_that_is_damaged_is_refused(self, damage, tmp_path):
        path = tmp_path / "run"
        train(checkpoint=path, steps=3)
        path.write_bytes(damage(path.read_bytes()))
        with pytest.raises(ValueError, match=f"needs a whole file that it wrote itself, got {path}"):
            train(checkpoint=path)

    def test_that_somebody_else_wrote_is_refused(self, tmp_path):
        from safetensors.torch import save_file

        save_file({"x": X}, tmp_path / "run")
        with pytest.raises(ValueError, match="needs a whole file that it wrote itself"):
            train(checkpoint=tmp_path / "run")

    def test_is_whole_or_not_written(self, tmp_path, monkeypatch):
        path = tmp_path / "run"
        train(checkpoint=path, steps=3)
        before = path.read_bytes()

        def fails(descriptor):
            raise OSError("disk full")

        with monkeypatch.context() as patch:
            patch.setattr(os, "fsync", fails)
            with pytest.raises(OSError, match="disk full"):
                train(checkpoint=path, steps=6)
        assert path.read_bytes() == before
        assert train(checkpoint=path, steps=6)[1] == train(steps=6)[1]
        assert [file.name for file in tmp_path.iterdir()] == ["run"]

    def test_appears_only_when_it_is_whole(self, tmp_path, monkeypatch):
        def fails(source, target):
            raise OSError("killed")

        monkeypatch.setattr(os, "replace", fails)
        with pytest.raises(OSError, match="killed"):
            train(checkpoint=tmp_path / "run", steps=3)
        assert not (tmp_path / "run").exists()

    def test_is_written_every_so_often_and_at_the_end(self, tmp_path, monkeypatch):
        steps = []
        monkeypatch.setattr(TrainState, "save", lambda self, path: steps.append(self.step))
        train(checkpoint=tmp_path / "run", steps=10, checkpoint_every=4)
        assert steps == [4, 8, 10]


KILLED = """
    import json, os, signal, sys
    import torch
    from gmlib.base import Trainable
    from gmlib.diffusion import Diffusion, Schedule
    from gmlib.nn import MLP, TimeMLP, normal
    from gmlib.train import fit

    class Model(Trainable):
        def __init__(self):
            super().__init__()
            self.net = torch.nn.Sequential(MLP(3, (8,), 3), torch.nn.Dropout(0.1))
        def loss(self, x, condition=None, *, rng=None):
            return (self.net(x + 0.1 * normal(x.shape, rng, x)) - x).square().mean()

    folder, which, name, kill = *sys.argv[1:4], int(sys.argv[4])
    torch.manual_seed(0)
    model = Model() if which == "Model" else Diffusion(TimeMLP(3, (8,)), Schedule.linear(50))
    rng, taken = torch.Generator().manual_seed(1), []
    x = torch.randn(33, 3, generator=rng)
    def each(step, loss):
        taken.append(step)
        if step == kill:
            os.kill(os.getpid(), signal.SIGKILL)
    losses = fit(model, x, steps=40, batch_size=4, lr=0.01, rng=rng, each=each, validation=x[:5],
                 validate_every=7, checkpoint=f"{folder}/{name}", checkpoint_every=5)
    weights = [p.tolist() for p in model.parameters()]
    print(json.dumps({"losses": losses, "weights": weights, "taken": len(taken)}))
"""

PARALLEL = """
    import json, os, sys
    from pathlib import Path
    import torch
    from gmlib.base import Trainable
    from gmlib.nn import MLP
    from gmlib.train import fit

    class Model(Trainable):
        def __init__(self):
            super().__init__()
            self.net = MLP(3, (8,), 3).double()
        def loss(self, x, condition=None, *, rng=None):
            return (self.net(x) - x * condition.unsqueeze(-1)).square().sum(-1).mean()

    noise = []
    def transform(x, rng):
        noise.append(torch.rand((), generator=rng).item())
        return x

    folder, rank = Path(sys.argv[1]), int(os.environ.get("RANK", 0))
    torch.manual_seed(rank)  # only the first process's weights and seed count
    model, rng = Model(), torch.Generator().manual_seed(1 + rank)
    x = torch.randn(16, 3, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    losses = fit(model, x, steps=30, batch_size=5, lr=0.01, rng=rng, condition=x[:, 0], validation=x[:5],
                 validation_condition=x[:5, 0], validate_every=10, transform=transform,
                 checkpoint=folder / "run")
    outcome = {"losses": losses, "weights": [p.tolist() for p in model.parameters()], "noise": noise[:10]}
    (folder / f"{rank}.json").write_text(json.dumps(outcome))
"""


def test_several_processes_train_as_one(tmp_path):
    """Batches of 5, 5, 5 and 1 rows: shares are uneven, and the last leaves two processes without a row."""
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(PARALLEL))
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "3"]

    def run(name, *launcher):
        folder = tmp_path / name
        folder.mkdir()
        command = [sys.executable, *launcher, str(script), str(folder)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
        result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
        assert result.returncode == 0, result.stderr
        return [json.loads(path.read_text()) for path in sorted(folder.glob("*.json"))]

    (alone,), (first, second, third) = run("one"), run("three", *torchrun)
    assert first["losses"] == second["losses"] == third["losses"]
    assert first["weights"] == second["weights"] == third["weights"]
    assert first["noise"] == alone["noise"]
    assert len({*first["noise"], *second["noise"], *third["noise"]}) == 30, "noise is never drawn twice"
    torch.testing.assert_close(first["losses"], alone["losses"], rtol=1e-10, atol=1e-12)
    for a, b in zip(first["weights"], alone["weights"], strict=True):
        torch.testing.assert_close(torch.tensor(a), torch.tensor(b), rtol=1e-8, atol=1e-10)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("device", [None, "cuda", "cpu"])
def test_the_model_comes_home_from_any_device(device):
    model, losses = train(device=device)
    assert {parameter.device.type for parameter in model.parameters()} == {"cpu"}
    assert losses == pytest.approx(train(device="cpu")[1], rel=0.2)
    assert {p.device.type for p in train(noisy().cuda(), device=device)[0].parameters()} == {"cuda"}


def test_the_model_comes_home_after_an_error():
    model = noisy()
    with pytest.raises(ZeroDivisionError):
        train(model, each=lambda step, loss: 1 / 0)
    assert not model.training


@pytest.mark.parametrize(
    ("kernel", "terminal", "watched"),
    [
        (None, True, True),
        (None, False, False),
        (SimpleNamespace(_allow_stdin=True), False, True),  # a notebook that a person has open
        (SimpleNamespace(_allow_stdin=False), True, False),  # one that a program executes
    ],
)
def test_a_progress_bar_is_shown_to_people_only(monkeypatch, kernel, terminal, watched):
    shell = SimpleNamespace(kernel=kernel) if kernel else None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal, raising=False)
    assert gmlib.train._is_watched() is watched
