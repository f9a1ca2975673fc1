"""The scoreboard: its rows say what they are, are kept side by side, and come out again when run again."""

import json
import math
import os

import pytest
import torch
from building import ROOT

from gmlib import data, scoreboard
from gmlib.counting import IndependentBernoulli
from gmlib.scoreboard import Entry, Recipe

STORED = [
    row for path in sorted((ROOT / "book/results").glob("0*.json")) for row in json.loads(path.read_text())
]
CHEAP = [row for row in STORED if row["updates"] * row["parameters"] < 2e7 and row["wall_seconds"] < 60]
DIGITS = data.digits(binary=True)
SHORT = Recipe(updates=20, lr=3e-4, validate_every=10, weight_decays=(0.0, 0.5))


def coins(x, member, rng):
    return IndependentBernoulli(x.shape[1])


@pytest.fixture
def entries(monkeypatch):
    monkeypatch.setattr(
        scoreboard, "MODELS", {"coins": Entry(coins, SHORT), "three": Entry(coins, SHORT, members=3)}
    )


def test_there_is_a_cheap_row_that_needs_no_files():
    assert any(row["data"] == "digits" for row in CHEAP)


@pytest.mark.parametrize("row", CHEAP, ids=lambda row: f"{row['model']} on {row['data']}")
def test_a_stored_row_comes_out_again(row):
    if row["data"] != "digits" and "GMLIB_DATA" not in os.environ:
        pytest.skip(f"the files of {row['data']}: GMLIB_DATA is not set")
    configuration = row["configuration"]
    recipe = Recipe(**{name: configuration[name] for name in Recipe._fields})
    model, _, averaged = row["model"].partition(",")
    again = scoreboard.run(model, row["data"], row["seed"], recipe)[-1 if averaged else 0]
    for name in ("parameters", "kind"):
        assert again[name] == row[name]
    assert again["configuration"]["weight_decay"] == configuration["weight_decay"]
    for name in (
        "validation",
        "validation_error",
        "test",
        "test_error",
    ):  # another processor rounds otherwise
        assert again[name] == pytest.approx(row[name], abs=0.02)


@pytest.mark.parametrize("row", STORED, ids=lambda row: f"{row['model']} on {row['data']}")
def test_a_stored_row_says_what_it_is(row):
    assert row["model"].partition(",")[0] in scoreboard.MODELS
    assert row["kind"] == "exact"
    assert 0 < row["test_error"] < row["test"]
    assert abs(row["test"] - row["validation"]) < 10 * math.hypot(row["test_error"], row["validation_error"])
    tried = row["configuration"]["validation_by_weight_decay"]
    assert min(tried, key=tried.get) == f"{row['configuration']['weight_decay']:g}"
    assert {"python", "torch"} <= set(row["versions"])
    assert row["hardware"]
    assert row["commit"]


def test_stored_rows_are_one_each():
    keys = [(row["data"], row["model"], row["seed"]) for row in STORED]
    assert len(set(keys)) == len(keys)


def test_nats_are_the_mean_and_its_standard_error():
    x = DIGITS.test.x[:1500:3]
    model = IndependentBernoulli(64)
    torch.nn.init.normal_(next(model.parameters()))
    losses = -torch.stack([model.log_prob(row[None])[0] for row in x]).detach()
    mean, error = scoreboard.nats(model, x)
    assert mean == pytest.approx(losses.mean().item())
    assert error == pytest.approx(math.sqrt(((losses - mean) ** 2).sum() / (len(x) - 1) / len(x)), rel=1e-4)


def test_the_weight_decay_is_chosen_by_validation(entries):
    (member,), (other,) = scoreboard.train(Entry(coins, SHORT), DIGITS, SHORT, 0)
    assert {member.weight_decay, other.weight_decay} == {0.0, 0.5}
    assert member.validation <= other.validation
    validation = scoreboard.nats(member.model, DIGITS.validation.x)[0]
    assert member.validation == validation


def test_training_stops_when_validation_rises_and_keeps_the_best(entries):
    recipe = SHORT._replace(updates=400, patience=30, lr=3.0, weight_decays=(0.0,))
    (member,), _ = scoreboard.train(Entry(coins, SHORT), DIGITS, recipe, 0)
    assert 30 <= member.updates < 400
    assert member.updates % 10 == 0


def test_steps_of_em_stop_when_validation_rises_and_keep_the_best():
    entry = scoreboard.MODELS["Mixture of 10"]
    (member, *others), rejected = scoreboard.train(entry._replace(members=2), DIGITS, entry.recipe, 0)
    assert not rejected
    assert 20 < member.updates < 200
    assert member.validation == scoreboard.nats(member.model, DIGITS.validation.x)[0]
    assert member.validation != others[0].validation
    for steps in range(5, member.updates + 1, 5):
        recipe = entry.recipe._replace(updates=steps)
        (same,), _ = scoreboard.train(entry._replace(members=1), DIGITS, recipe, 0)
        assert same.validation >= member.validation


def test_members_have_orders_of_their_own_and_one_weight_decay():
    members, rejected = scoreboard.train(scoreboard.MODELS["MADE"]._replace(members=3), DIGITS, SHORT, 0)
    assert len({tuple(member.model.order) for member in members}) == 3
    assert len({member.weight_decay for member in members}) == 1
    assert tuple(rejected[0].model.order) == tuple(members[0].model.order)


def test_a_run_has_a_row_of_the_best_and_one_of_the_average(entries):
    best, average = scoreboard.run("three", "digits", 1, SHORT)
    assert (best["model"], best["data"], best["seed"], best["kind"]) == ("three", "digits", 1, "exact")
    assert average["model"] == "three, 3 averaged"
    assert (best["parameters"], average["parameters"]) == (64, 3 * 64)
    assert best["updates"] == 20 * (2 + 2)
    assert 0 < best["train_seconds"] <= best["wall_seconds"]
    by_member = best["configuration"]["validation_by_member"]
    assert best["validation"] == min(by_member)
    assert average["validation"] <= sum(by_member) / 3  # the logarithm is concave
    again, _ = scoreboard.run("three", "digits", 1, SHORT)
    assert (again["validation"], again["test"]) == (best["validation"], best["test"])


def test_another_seed_is_another_run():
    losses = {scoreboard.run("NADE", "digits", seed, SHORT)[0]["test"] for seed in (0, 1)}
    assert len(losses) == 2


def test_a_table_in_a_folder(entries, tmp_path):
    for part, n in [("train", 30), ("valid", 5), ("test", 5)]:
        (tmp_path / f"weeds.{part}.data").write_text("0,1,1\n1,1,0\n" * n)
    (row,) = scoreboard.run("coins", str(tmp_path / "weeds"), 0, SHORT)
    assert row["data"] == "weeds"
    assert row["parameters"] == 3


def test_the_names_of_data(monkeypatch):
    asked = []
    monkeypatch.setattr(data, "binary_table", lambda name: asked.append(name) or DIGITS)
    monkeypatch.setattr(data, "mnist", lambda binary: asked.append(binary) or DIGITS)
    for name in ("plants", "mnist"):
        scoreboard.load(name)
    assert asked == ["plants", "static"]
    assert torch.equal(scoreboard.load("digits").test.x, DIGITS.test.x)


class TestCommand:
    def rows(self, out, *arguments):
        scoreboard.main([*arguments, "--updates", "2", "--weight-decays", "0", "--out", str(out)])
        return json.loads(out.read_text())

    def test_rows_are_kept_side_by_side_in_order(self, entries, tmp_path, capsys):
        out = tmp_path / "results.json"
        self.rows(out, "--models", "three", "coins", "--seeds", "1", "0")
        rows = self.rows(out, "--models", "coins", "--seeds", "2", "--lr", "0.5")
        keys = [(row["model"], row["seed"]) for row in rows]
        assert keys == [
            *(("coins", seed) for seed in range(3)),
            *((model, seed) for model in ("three", "three, 3 averaged") for seed in range(2)),
        ]
        assert [json.loads(line) for line in capsys.readouterr().out.splitlines()][-1] == rows[2]
        assert [path.name for path in tmp_path.iterdir()] == ["results.json"]

    def test_a_new_row_takes_the_place_of_the_old_one(self, entries, tmp_path):
        out = tmp_path / "a new folder" / "results.json"
        self.rows(out, "--models", "coins", "--lr", "0.1")
        rows = self.rows(out, "--models", "coins", "--lr", "0.2")
        assert [row["configuration"]["lr"] for row in rows] == [0.2]

    def test_an_unknown_model(self, capsys):
        with pytest.raises(SystemExit):
            scoreboard.main(["--models", "GPT"])
        assert "'GPT'" in capsys.readouterr().err


def test_outside_a_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(scoreboard, "__file__", str(tmp_path / "scoreboard.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert scoreboard._commit() == "unknown"
