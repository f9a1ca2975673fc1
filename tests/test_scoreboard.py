"""The scoreboard: its rows say what they are, are kept side by side, and come out again when run again."""

import json
import math
import os

import pytest
import torch
from building import ROOT

from gmlib import cli, data, scoreboard
from gmlib.counting import IndependentBernoulli
from gmlib.nn import MLP
from gmlib.vae import VAE, BernoulliLikelihood
from gmlib.zoo import BOUND, MODELS, Entry, Recipe, importance_weighted

RESULTS = ROOT / "book/results"
FILES = sorted([*RESULTS.glob("0*.json"), *RESULTS.glob("13-*.json")])
STORED = [row for path in FILES for row in json.loads(path.read_text())]
PUBLISHED = json.loads((RESULTS / "published.json").read_text())


def named(row):
    return f"{row['model']} on {row['data']}, {row['kind']}, seed {row['seed']}"


CHEAP = [row for row in STORED if row["updates"] * row["parameters"] < 2e7 and row["wall_seconds"] < 60]
DIGITS = data.digits(binary=True)
SOURCE = data.SOURCES["digits"]
SHORT = Recipe(updates=20, lr=3e-4, validate_every=10, weight_decays=(0.0, 0.5))


def coins(x, member, rng):
    return IndependentBernoulli(x.shape[1])


def small_vae(x, member, rng):
    return VAE(MLP(x.shape[1], (), 4), MLP(2, (), x.shape[1]), BernoulliLikelihood())


SCORES = {"bound": BOUND, "estimate": importance_weighted(5)}


@pytest.fixture
def entries(monkeypatch):
    monkeypatch.setitem(MODELS, "coins", Entry(coins, SHORT))
    monkeypatch.setitem(MODELS, "three", Entry(coins, SHORT, members=3))
    monkeypatch.setitem(MODELS, "small VAE", Entry(small_vae, SHORT, scores=SCORES))
    monkeypatch.setitem(MODELS, "grey", Entry(coins, SHORT, levels=17))


def test_there_is_a_cheap_row_that_needs_no_files():
    assert {"digits", "digits-grey"} <= {row["data"] for row in CHEAP}


@pytest.mark.parametrize("row", CHEAP, ids=named)
def test_a_stored_row_comes_out_again(row):
    if "digits" not in row["data"] and "GMLIB_DATA" not in os.environ:
        pytest.skip(f"the files of {row['data']}: GMLIB_DATA is not set")
    configuration = row["configuration"]
    recipe = Recipe(**{name: configuration[name] for name in Recipe._fields if name in configuration})
    model, _, averaged = row["model"].partition(",")
    rows = scoreboard.run(model, row["data"], row["seed"], recipe)[-1 if averaged else 0 :]
    again = next(other for other in rows if other["kind"] == row["kind"])
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


@pytest.mark.parametrize("row", STORED, ids=named)
def test_a_stored_row_says_what_it_is(row):
    assert row["kind"] in MODELS[row["model"].partition(",")[0]].scores
    assert 0 < row["test_error"] < row["test"]
    assert abs(row["test"] - row["validation"]) < 10 * math.hypot(row["test_error"], row["validation_error"])
    tried = row["configuration"]["validation_by_weight_decay"]
    assert min(tried, key=tried.get) == f"{row['configuration']['weight_decay']:g}"
    assert {"python", "torch"} <= set(row["versions"])
    assert row["hardware"]
    assert row["commit"]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_stored_rows_are_one_each(path):
    keys = [scoreboard._key(row) for row in json.loads(path.read_text())]
    assert len(set(keys)) == len(keys)
    assert keys == sorted(keys)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_stored_seeds_of_a_file_are_of_one_recipe(path):
    recipes = {}
    for row in json.loads(path.read_text()):
        recipe = [row["configuration"].get(name) for name in Recipe._fields]
        recipes.setdefault((row["data"], row["model"], row["kind"]), []).append(recipe)
    for key, found in recipes.items():
        assert found == found[:1] * len(found), key


def test_the_grey_models_are_stored_from_three_seeds():
    rows = {(row["model"], row["kind"], row["seed"]) for row in STORED if row["data"] == "digits-grey"}
    assert rows == {
        (model, kind, seed)
        for model in scoreboard.fitting("digits-grey")
        for kind in MODELS[model].scores
        for seed in range(3)
    }


@pytest.mark.parametrize("other", PUBLISHED, ids=lambda other: f"{other['model']} on {other['data']}")
def test_a_published_figure_says_where_it_is_from(other):
    assert set(other) == {"data", "model", "nats", "kind", "source", "where", "beside", "seen"}
    assert f"{{{other['source']}," in (ROOT / "book/references.bib").read_text()
    assert f"`{other['source']}`" in (ROOT / "book/13-scoreboard.md").read_text()
    assert other["kind"] in ("exact", "bound", "estimate")
    assert other["seen"] in ("authors", "quoted", "memory", "measured")
    assert 0 < other["nats"] < 250
    if other["beside"] is not None:
        entry = scoreboard.pair(other["beside"].partition(",")[0], other["data"])[0]
        assert other["kind"] in entry.scores


def test_published_figures_are_one_each():
    keys = [(other["data"], other["model"]) for other in PUBLISHED]
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
    (member,), (other,) = scoreboard.train(Entry(coins, SHORT), SOURCE, DIGITS, SHORT, 0)
    assert {member.weight_decay, other.weight_decay} == {0.0, 0.5}
    assert member.validation <= other.validation
    validation = scoreboard.nats(member.model, DIGITS.validation.x)[0]
    assert member.validation == validation


def test_training_stops_when_validation_rises_and_keeps_the_best(entries):
    recipe = SHORT._replace(updates=400, patience=30, lr=3.0, weight_decays=(0.0,))
    (member,), _ = scoreboard.train(Entry(coins, SHORT), SOURCE, DIGITS, recipe, 0)
    assert 30 <= member.updates < 400
    assert member.updates % 10 == 0


def test_steps_of_em_stop_when_validation_rises_and_keep_the_best():
    entry = MODELS["Mixture of 10"]
    (member, *others), rejected = scoreboard.train(entry._replace(members=2), SOURCE, DIGITS, entry.recipe, 0)
    assert not rejected
    assert 20 < member.updates < 200
    assert member.validation == scoreboard.nats(member.model, DIGITS.validation.x)[0]
    assert member.validation != others[0].validation
    for steps in range(5, member.updates + 1, 5):
        recipe = entry.recipe._replace(updates=steps)
        (same,), _ = scoreboard.train(entry._replace(members=1), SOURCE, DIGITS, recipe, 0)
        assert same.validation >= member.validation


def test_members_have_orders_of_their_own_and_one_weight_decay():
    members, rejected = scoreboard.train(MODELS["MADE"]._replace(members=3), SOURCE, DIGITS, SHORT, 0)
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
    for name in ("plants", "mnist", "mnist-dynamic"):
        scoreboard.find(name).load()
    assert asked == ["plants", "static", "dynamic"]
    assert torch.equal(scoreboard.find("digits").load().test.x, DIGITS.test.x)
    assert torch.equal(scoreboard.find("digits-grey").load().test.x, data.digits().test.x)


def test_an_unknown_name_of_data():
    with pytest.raises(ValueError, match=r"data need to be digits, .* or a path FOLDER/NAME, got 'weeds'"):
        scoreboard.find("weeds")


def test_an_unknown_model():
    with pytest.raises(ValueError, match=r"the model needs to be Independent, .*, got 'GPT'"):
        scoreboard.pair("GPT", "digits")


def test_data_of_other_levels_are_refused(entries):
    assert scoreboard.pair("grey", "digits-grey")[1].levels == 17
    with pytest.raises(ValueError, match="grey needs data of 17 levels, got digits, of 2"):
        scoreboard.run("grey", "digits", 0, SHORT)


def test_models_of_images_refuse_tables():
    assert scoreboard.pair("PixelCNN", "mnist")[0].images
    with pytest.raises(ValueError, match="PixelCNN needs rows that are square images, got jester, which"):
        scoreboard.pair("PixelCNN", "jester")
    assert set(scoreboard.fitting("digits")) - set(scoreboard.fitting("jester")) == {"PixelCNN"}
    assert "Grey PixelCNN" in scoreboard.fitting("digits-grey")


def test_noise_that_torch_draws_is_of_the_seed():
    runs = []
    for seed in (0, 0, 1):
        recipe = MODELS["Grey VAE"].recipe._replace(updates=3)
        torch.rand(len(runs))  # whatever was drawn before
        runs.append(scoreboard.run("Grey VAE", "digits-grey", seed, recipe)[0]["test"])
    assert runs[0] == runs[1] != runs[2]


def test_what_enters_is_what_the_rows_are_of(entries):
    models, rows = scoreboard.enter("three", "digits", 0, SHORT)
    assert list(models) == [row["model"] for row in rows]
    for model, row in zip(models.values(), rows, strict=True):
        found = scoreboard.surprises(model, DIGITS.test.x)
        assert found.dtype == torch.float64
        assert found.shape == (447,)
        assert row["test"] == pytest.approx(found.mean().item(), abs=1e-4)
        assert row["test_error"] == pytest.approx(found.std().item() / 447**0.5, abs=1e-4)


def test_a_model_without_a_density_has_a_row_for_its_bound_and_one_for_its_estimate(entries):
    rows = scoreboard.run("small VAE", "digits", 0, SHORT)
    assert [(row["kind"], row["draws"]) for row in rows] == [("bound", 1), ("estimate", 5)]
    first, second = rows
    assert second["test"] < first["test"] - first["test_error"]
    assert first["configuration"]["validation_by_member"] == [first["validation"]]
    (member,), _ = scoreboard.train(MODELS["small VAE"], SOURCE, DIGITS, SHORT, 0)
    with torch.no_grad():
        rng = torch.Generator().manual_seed(0)
        assert first["test"] == pytest.approx(
            -member.model.elbo(DIGITS.test.x, rng=rng).mean().item(), abs=1e-4
        )
        rng = torch.Generator().manual_seed(0)
        estimate = member.model.log_prob_iw(DIGITS.test.x, 5, rng=rng)
        assert second["test"] == pytest.approx(-estimate.mean().item(), abs=1e-4)


@pytest.mark.parametrize("name", ["VAE", "IWAE"])
def test_the_autoencoders_are_those_of_the_paper_but_wider(name):
    x = (torch.rand(50, 784, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    x[:, 0], x[:, 1] = 0, 1
    model, _ = scoreboard.new(MODELS[name], x, 0, 0)
    weights = 784 * 500 + 500 * 500 + 500 * 100 + 50 * 500 + 500 * 500 + 500 * 784
    biases = 500 + 500 + 100 + 500 + 500 + 784
    assert sum(parameter.numel() for parameter in model.parameters()) == weights + biases
    assert sum(isinstance(module, torch.nn.Tanh) for module in model.modules()) == 4
    assert getattr(model, "k", 1) == {"VAE": 1, "IWAE": 5}[name]
    start = model.decoder[-1].bias.sigmoid()
    torch.testing.assert_close(start, x.mean(0).clamp(1e-3, 1 - 1e-3))


def test_data_that_are_drawn_anew_are_drawn_at_each_step(entries):
    seen = []

    class Seeing(IndependentBernoulli):
        def log_prob(self, x):
            if self.training:
                seen.append(x.clone())
            return super().log_prob(x)

    grey = data.Split(torch.full((10, 4), 0.5), torch.zeros(10))
    dataset = data.Dataset(grey, *(data.Split(torch.ones(3, 4), torch.zeros(3)) for _ in range(2)))
    source = SOURCE._replace(transform=data.binarize)
    entry = Entry(lambda x, member, rng: Seeing(x.shape[1]), SHORT)
    scoreboard.train_member(entry, source, dataset, SHORT._replace(updates=3), 0, 0.0, 0)
    assert all(set(x.unique().tolist()) == {0.0, 1.0} for x in seen)
    assert len({tuple(x.sum(0).tolist()) for x in seen}) == 3


def test_what_a_source_says_is_so():
    for name in ("digits", "digits-grey"):
        source = data.SOURCES[name]
        dataset = source.load()
        assert tuple(len(split.x) for split in dataset) == source.rows
        assert dataset.train.x.shape[1] == source.dim
        assert dataset.train.x.unique().tolist() == list(range(source.levels))


@pytest.mark.parametrize("name", [name for name in data.SOURCES if "digits" not in name])
def test_what_a_source_of_files_says_is_so(name):
    if "GMLIB_DATA" not in os.environ:
        pytest.skip(f"the files of {name}: GMLIB_DATA is not set")
    source = data.SOURCES[name]
    dataset = source.load()
    assert tuple(len(split.x) for split in dataset) == source.rows
    assert {split.x.shape[1] for split in dataset} == {source.dim}
    assert dataset.test.x.unique().tolist() == list(range(source.levels))


def test_the_digest_is_of_every_value():
    train, validation, test = DIGITS
    other = test.x.clone()
    other[-1, -1] = 1 - other[-1, -1]
    digests = {
        scoreboard.digest(DIGITS),
        scoreboard.digest(data.Dataset(train, validation, test._replace(x=other))),
    }
    assert len(digests) == 2


class TestCommand:
    def rows(self, out, *arguments):
        assert not cli.main(
            ["scoreboard", *arguments, "--updates", "2", "--weight-decays", "0", "--out", str(out)]
        )
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
            cli.main(["scoreboard", "--models", "GPT"])
        assert "'GPT'" in capsys.readouterr().err

    def test_by_itself_it_takes_the_models_that_fit(self, entries, tmp_path, monkeypatch):
        for name in set(MODELS) - {"coins", "small VAE", "grey"}:
            monkeypatch.delitem(MODELS, name)
        rows = self.rows(tmp_path / "results.json", "--data", "digits")
        assert [(row["model"], row["kind"]) for row in rows] == [
            ("coins", "exact"),
            ("small VAE", "bound"),
            ("small VAE", "estimate"),
        ]


def test_outside_a_repository(monkeypatch, tmp_path):
    monkeypatch.setattr(scoreboard, "__file__", str(tmp_path / "scoreboard.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert scoreboard._commit() == "unknown"
