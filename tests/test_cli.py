"""The command line: what it does, what it refuses, and that no kill changes a run's outcome."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import tomllib

import numpy as np
import pytest
import torch
from building import ROOT
from disk import full_disk

from gmlib import cli, data, files, runs, scoreboard
from gmlib.autoregressive import LogisticAR
from gmlib.mixture import BernoulliMixture, em_step
from gmlib.nn import MLP
from gmlib.train import load_tensors
from gmlib.vae import VAE, BernoulliLikelihood
from gmlib.zoo import BOUND, MODELS, Entry, Recipe, importance_weighted

RECIPE = Recipe(updates=20, lr=0.01, validate_every=5)
SCORES = {"bound": BOUND, "estimate": importance_weighted(5)}
KEYS = "updates, lr, anneal, patience, validate_every, batch_size, precision, weight_decay, checkpoint_every"


def small_vae(x, member, rng):
    return VAE(MLP(x.shape[1], (), 4), MLP(2, (), x.shape[1]), BernoulliLikelihood())


@pytest.fixture(autouse=True)
def entries(monkeypatch):
    """Two quick models beside the others, and as many threads after a test as before."""
    chain = Entry(lambda x, member, rng: LogisticAR(x.shape[1]), RECIPE)
    em = Entry(
        lambda x, member, rng: BernoulliMixture(x.shape[1], 2),
        Recipe(updates=8, lr=0.0, patience=20, validate_every=2),
        step=lambda model, x: -em_step(model, x, floor=0.1),
    )
    monkeypatch.setitem(MODELS, "chain", chain)
    monkeypatch.setitem(MODELS, "em", em)
    monkeypatch.setitem(MODELS, "small", Entry(small_vae, RECIPE, scores=SCORES))


@pytest.fixture
def run(tmp_path):
    """A folder with a run that has finished."""
    folder = tmp_path / "run"
    assert gmlib("train", "chain", "--data", "digits", "--out", folder) == 0
    return folder


@pytest.fixture
def half(tmp_path, monkeypatch):
    """A folder with a run that was killed after its second checkpoint of four."""
    folder, append = tmp_path / "half", files.append

    def killed(path, content):
        if json.loads(content)["step"] > 10:
            raise KeyboardInterrupt
        append(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(files, "append", killed)
        assert (
            gmlib("train", "chain", "--data", "digits", "--out", folder, "--set", "checkpoint_every=5") == 130
        )
    assert sorted(path.name for path in folder.iterdir()) == [runs.CHECKPOINT, runs.CONFIG, runs.LOG]
    return folder


def gmlib(*arguments):
    try:
        return cli.main([str(argument) for argument in arguments])
    except SystemExit as error:
        return error.code


def refused(capsys, code, *arguments):
    """The one line that says what is wrong, and nothing else."""
    capsys.readouterr()
    assert gmlib(*arguments) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("gmlib: error: ")
    assert err.count("\n") == 1
    return err.removeprefix("gmlib: error: ").strip()


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


class TestTrain:
    def test_a_run_says_what_it_is_how_it_went_and_what_came_out(self, run):
        config = json.loads((run / "config.json").read_text())
        assert (config["model"], config["data"], config["seed"], config["member"]) == (
            "chain",
            "digits",
            0,
            0,
        )
        assert ", ".join(config["settings"]) == KEYS
        assert config["data_sha256"] == scoreboard.digest(data.digits(binary=True))
        assert {"versions", "commit", "hardware"} <= config.keys()
        log = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
        assert [line["step"] for line in log] == [5, 10, 15, 20]
        assert list(log[0]) == ["step", "loss", "validation", "seconds"]
        (row,) = json.loads((run / "result.json").read_text())
        model = LogisticAR(64)
        model.load_state_dict(load_tensors(run / "weights.safetensors")[0])
        with torch.no_grad():
            nats = -model.log_prob(data.digits(binary=True).test.x).mean().item()
        assert row["test"] == pytest.approx(nats, abs=1e-3)
        assert row["train_seconds"] == round(log[-1]["seconds"], 1)

    def test_the_row_is_that_of_the_scoreboard(self, tmp_path):
        gmlib(
            "train", "chain", "--data", "digits", "--seed", 3, "--out", tmp_path, "--set", "weight_decay=0.5"
        )
        (row,) = json.loads((tmp_path / "result.json").read_text())
        recipe = RECIPE._replace(weight_decays=(0.5,))
        (other,) = json.loads(json.dumps(scoreboard.run("chain", "digits", 3, recipe)))
        for timed in ("train_seconds", "wall_seconds", "samples_per_second"):
            assert row.pop(timed) >= 0
            del other[timed]
        assert row == other

    def test_settings_are_obeyed(self, tmp_path):
        options = [f"--set={key}" for key in ("updates=7", "lr=0.5", "batch_size=50", "validate_every=3")]
        gmlib("train", "chain", "--data", "digits", "--out", tmp_path, *options)
        (row,) = json.loads((tmp_path / "result.json").read_text())
        asked = {"updates": 7, "lr": 0.5, "batch_size": 50, "validate_every": 3}
        assert asked.items() <= row["configuration"].items()
        assert row["updates"] == 7

    def test_a_mixture_has_the_settings_of_its_steps(self, tmp_path, capsys):
        where = ("train", "em", "--data", "digits", "--out", tmp_path)
        assert "key among updates, patience, validate_every, checkpoint_every, got 'lr=1'" in (
            refused(capsys, 2, *where, "--set", "lr=1")
        )
        assert gmlib(*where, "--set", "updates=4") == 0
        assert json.loads((tmp_path / "result.json").read_text())[0]["updates"] == 4

    def test_a_bound_and_an_estimate_are_told_apart(self, tmp_path, capsys):
        assert gmlib("train", "small", "--data", "digits", "--out", tmp_path) == 0
        out = capsys.readouterr().out
        assert "(bound), " in out
        assert out.endswith("(estimate)\n")

    def test_a_run_that_has_finished_says_so(self, run, capsys):
        before = contents(run)
        capsys.readouterr()
        assert gmlib("train", "--out", run, "--resume") == 0
        assert f"{run} has finished: chain on digits, test nats " in capsys.readouterr().out
        assert contents(run) == before

    def test_a_table_in_a_folder(self, tmp_path):
        weeds(tmp_path)
        assert gmlib("train", "chain", "--data", tmp_path / "weeds", "--out", tmp_path / "run") == 0
        assert json.loads((tmp_path / "run/result.json").read_text())[0]["data"] == "weeds"


def weeds(folder):
    for part, n in [("train", 30), ("valid", 5), ("test", 5)]:
        (folder / f"weeds.{part}.data").write_text("0,1,1\n1,1,0\n" * n)


class TestRefusals:
    """After each the folder is as it was, to the byte."""

    @pytest.mark.parametrize(
        ("setting", "reason"),
        [
            ("rate=1", f"--set needs key=value with a key among {KEYS}, got 'rate=1'."),
            ("updates", "--set updates needs a whole number above 0, such as 20, got ''."),
            ("updates=1e3", "--set updates needs a whole number above 0, such as 20, got '1e3'."),
            ("updates=0", "--set updates needs a whole number above 0, such as 20, got '0'."),
            ("batch_size=-5", "--set batch_size needs a whole number above 0, such as 100, got '-5'."),
            ("lr=fast", "--set lr needs a number above 0, such as 0.01, got 'fast'."),
            ("lr=nan", "--set lr needs a number above 0, such as 0.01, got 'nan'."),
            ("lr=inf", "--set lr needs a number above 0, such as 0.01, got 'inf'."),
            ("precision=8", "--set precision needs 16 or 32, got '8'."),
            ("weight_decay=-1", "--set weight_decay needs a number, 0 or more, such as 0.01, got '-1'."),
        ],
    )
    def test_settings(self, setting, reason, tmp_path, capsys):
        where = ("train", "chain", "--data", "digits", "--out", tmp_path / "run")
        assert refused(capsys, 2, *where, "--set", setting) == reason
        assert not (tmp_path / "run").exists()

    @pytest.mark.parametrize(
        ("arguments", "reason"),
        [
            (("GPT", "--data", "digits"), "argument MODEL: invalid choice: 'GPT'"),
            (("chain", "--data", "weeds"), "data need to be digits, digits-grey, mnist, "),
            (("chain", "--data", "digits-grey"), "chain needs data of 2 levels, got digits-grey, of 17."),
            (("chain",), "a new run needs MODEL and --data."),
            (
                ("chain", "--data", "digits", "--threads", "0"),
                "argument --threads: needs a whole number above 0",
            ),
        ],
    )
    def test_what_there_is_not(self, arguments, reason, tmp_path, capsys):
        assert refused(capsys, 2, "train", *arguments, "--out", tmp_path / "run").startswith(reason)
        assert not (tmp_path / "run").exists()

    def test_no_command(self, capsys):
        assert "required: COMMAND (see gmlib --help)" in refused(capsys, 2)

    def test_a_second_run_in_a_folder(self, run, capsys):
        before = contents(run)
        said = refused(capsys, 2, "train", "chain", "--data", "digits", "--out", run)
        assert said.startswith(f"{run} has a run (config.json, log.jsonl, ")
        assert contents(run) == before

    def test_no_run_to_resume(self, tmp_path, capsys):
        said = refused(capsys, 1, "train", "--out", tmp_path / "none", "--resume")
        assert said == f"{tmp_path / 'none'} has no run: there is no config.json."
        assert not (tmp_path / "none").exists()

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (("NADE",), "model chain, not NADE"),
            (("--data", "plants"), "data digits, not plants"),
            (("--seed", "1"), "seed 0, not 1"),
            (("--set", "lr=0.5"), "lr 0.01, not 0.5"),
            (("--set", "updates=30"), "updates 20, not 30"),
            (("--set", "anneal=0.1"), "anneal 0.0, not 0.1"),
        ],
    )
    def test_another_configuration(self, change, reason, half, capsys):
        before = contents(half)
        said = refused(capsys, 2, "train", *change, "--out", half, "--resume")
        assert said == f"{half} is a run of {reason}: it can only go on as it is."
        assert contents(half) == before

    @pytest.mark.parametrize(
        "damage",
        [
            lambda content: content[: len(content) // 2],
            lambda content: b"",
            lambda content: content[:-3] + bytes([content[-3] ^ 4]) + content[-2:],
            lambda content: content.replace(b'"chain\\"', b'"other\\"').replace(
                b'step\\": 10', b'step\\": 15'
            ),
        ],
        ids=["half", "empty", "a bit", "a word"],
    )
    @pytest.mark.parametrize("name", [runs.CHECKPOINT, runs.WEIGHTS])
    def test_a_damaged_file(self, name, damage, run, half, capsys):
        folder = half if name == runs.CHECKPOINT else run
        content = (folder / name).read_bytes()
        assert damage(content) != content
        (folder / name).write_bytes(damage(content))
        before = contents(folder)
        ask = ("train", "--out", folder, "--resume") if folder == half else ("evaluate", folder)
        assert f"gmlib needs a whole file that it wrote itself, got {folder / name}: " in refused(
            capsys, 1, *ask
        )
        assert contents(folder) == before

    @pytest.mark.parametrize(
        ("old", "new", "reason"),
        [
            ('"lr": 0.01', '"lr": 0.02', "needs a file of this run"),
            ('"lr": 0.01', '"lr": "a"', "needs to be as gmlib train wrote it: --set lr needs a number"),
            ('"lr": 0.01', '"rate": 0.01', "needs to be as gmlib train wrote it: look at "),
            ('"seed": 0', '"seed": 1', "needs a file of this run"),
            ('"dim": 64,', "", "needs to be as gmlib train wrote it: look at dim"),
            ('"chain"', '"GPT"', "needs to be as gmlib train wrote it: 'GPT'"),
            ("{", "", "needs to be as gmlib train wrote it"),
            ('"data_sha256": "', '"data_sha256": "0', "digits needs sha256 0"),
        ],
    )
    def test_a_tampered_configuration(self, old, new, reason, half, capsys):
        text = (half / runs.CONFIG).read_text()
        assert old in text
        (half / runs.CONFIG).write_text(text.replace(old, new, 1))
        before = contents(half)
        assert reason in refused(capsys, 1, "train", "--out", half, "--resume")
        assert contents(half) == before

    def test_a_damaged_result(self, run, capsys):
        (run / runs.RESULT).write_text("[")
        said = refused(capsys, 1, "train", "--out", run, "--resume")
        assert said.startswith(f"{run / runs.RESULT} needs to be as gmlib train wrote it")

    def test_other_data_under_the_same_name(self, tmp_path, capsys):
        weeds(tmp_path)
        gmlib("train", "chain", "--data", tmp_path / "weeds", "--out", tmp_path / "run")
        (tmp_path / "weeds.test.data").write_text("1,1,1\n" * 10)
        assert "weeds needs sha256 " in refused(capsys, 1, "evaluate", tmp_path / "run")

    @pytest.mark.parametrize("room", [300, 900, 2_000, 4_000])
    def test_a_full_disk(self, room, tmp_path, capsys):
        """It may be full at any file; what was written before stays, and a resumed run comes out the same."""
        folder, whole = tmp_path / "run", tmp_path / "whole"
        train = ("train", "chain", "--data", "digits", "--set", "checkpoint_every=5", "--out")
        assert gmlib(*train, whole) == 0
        with full_disk(room):
            said = refused(capsys, 1, *train, folder)
        assert said.endswith(": File too large")
        assert not list(folder.glob("*.part"))
        begun = (folder / runs.CONFIG).exists()
        assert gmlib(*(("train", "--resume", "--out") if begun else train), folder) == 0
        assert (folder / runs.WEIGHTS).read_bytes() == (whole / runs.WEIGHTS).read_bytes()

    def test_a_disk_that_is_full_on_resumption_leaves_the_checkpoint(self, half, capsys):
        before = contents(half)
        with full_disk(1_000):
            said = refused(capsys, 1, "train", "--out", half, "--resume")
        assert said == f"{half / runs.CHECKPOINT}: File too large"
        after = contents(half)
        assert after[runs.LOG].startswith(before[runs.LOG])
        assert {**after, runs.LOG: b""} == {**before, runs.LOG: b""}

    def test_a_folder_that_cannot_be_made(self, tmp_path, capsys):
        (tmp_path / "file").write_text("x")
        folder = tmp_path / "file" / "run"
        said = refused(capsys, 1, "train", "chain", "--data", "digits", "--out", folder)
        assert said == f"{folder}: Not a directory"

    def test_a_loss_that_is_not_finite(self, tmp_path, capsys, monkeypatch):
        monkeypatch.setattr(LogisticAR, "log_prob", lambda self, x: self.b.sum() + x[:, 0] / 0)
        said = refused(capsys, 1, "train", "chain", "--data", "digits", "--out", tmp_path / "run")
        assert "LogisticAR loss is" in said

    def test_a_second_process(self, half, capsys):
        with runs._locked(half):
            assert "is being trained by another process" in refused(
                capsys, 2, "train", "--out", half, "--resume"
            )

    def test_other_software_is_only_noted(self, half, capsys):
        config = json.loads((half / runs.CONFIG).read_text())
        (half / runs.CONFIG).write_text(json.dumps({**config, "commit": "another"}))
        capsys.readouterr()
        assert gmlib("train", "--out", half, "--resume") == 0
        assert "gmlib: note: begun with commit another, resumed with " in capsys.readouterr().err


class TestEvaluate:
    def test_says_what_training_said(self, run, capsys):
        capsys.readouterr()
        assert gmlib("evaluate", run) == 0
        (row,) = json.loads((run / runs.RESULT).read_text())
        assert capsys.readouterr().out == (
            f"chain on digits, test nats {row['test']:.4f} ± {row['test_error']:.4f} (exact)\n"
        )

    def test_needs_a_run_that_has_finished(self, half, capsys):
        said = refused(capsys, 1, "evaluate", half)
        assert said == f"{half} has no weights.safetensors: the run has not finished; --resume it."

    def test_needs_weights_of_the_model(self, run, tmp_path, capsys):
        gmlib("train", "em", "--data", "digits", "--out", tmp_path / "em")
        (run / runs.WEIGHTS).write_bytes((tmp_path / "em" / runs.WEIGHTS).read_bytes())
        assert f"{run / runs.WEIGHTS} need to be of chain" in refused(capsys, 1, "evaluate", run)


class TestSample:
    def test_keeps_all_of_what_the_model_draws(self, run, capsys):
        assert gmlib("sample", run, "-n", "5", "--seed", "3") == 0
        model = LogisticAR(64)
        model.load_state_dict(load_tensors(run / runs.WEIGHTS)[0])
        expected = model.sample(5, rng=torch.Generator().manual_seed(3))
        with np.load(run / "samples.npz") as archive:
            assert np.array_equal(archive["x"], expected.numpy())

    def test_draws_a_sheet_of_images(self, run, tmp_path):
        from matplotlib.image import imread

        assert gmlib("sample", run, "-n", "20", "--out", tmp_path / "sheet.png") == 0
        height, width, _ = imread(tmp_path / "sheet.png").shape
        assert (height, width) == (300, 800)

    def test_draws_no_image_of_what_is_none(self, tmp_path, capsys):
        weeds(tmp_path)
        gmlib("train", "chain", "--data", tmp_path / "weeds", "--out", tmp_path / "run")
        said = refused(capsys, 2, "sample", tmp_path / "run", "--out", tmp_path / "sheet.png")
        assert said == "a .png needs rows that are square images, got 3 columns: take .npz."

    def test_knows_two_forms_of_file(self, run, capsys):
        said = refused(capsys, 2, "sample", run, "--out", run / "samples.pt")
        assert said.startswith("--out needs to end in .npz or .png, got ")

    @pytest.mark.parametrize("n", ["0", "-1", "1.5", "many"])
    def test_needs_a_number(self, n, run, capsys):
        assert "argument -n: " in refused(capsys, 2, "sample", run, "-n", n)


class TestData:
    @pytest.fixture(autouse=True)
    def nowhere(self, tmp_path, monkeypatch):
        monkeypatch.setenv("GMLIB_DATA", str(tmp_path / "local"))
        monkeypatch.setattr(files, "cache", lambda: tmp_path / "cache")
        for name in ("_MNIST", "_STATIC", "_TABLES"):
            monkeypatch.setattr(data, name, ("http://127.0.0.1:9/",))  # where nobody answers
        folder = tmp_path / "local/debd/plants"
        folder.mkdir(parents=True)
        pins = {}
        for part in ("train", "valid", "test"):
            content = f"0,1,{int(part == 'test')}\n".encode()
            (folder / f"plants.{part}.data").write_bytes(content)
            pins[f"plants.{part}.data"] = hashlib.sha256(content).hexdigest()
        monkeypatch.setattr(data, "_PINS", data._PINS | pins)
        self.folder = folder

    def test_list(self, capsys):
        assert gmlib("data", "list") == 0
        lines = {line.split()[0]: line for line in capsys.readouterr().out.splitlines()}
        assert list(lines) == list(data.SOURCES)
        assert " 1,000 + 350 + 447 " in lines["digits"]
        assert " bundled (" in lines["digits"]
        assert f" {self.folder} (" in lines["plants"]
        assert " missing (" in lines["mnist"]

    def test_verify(self, capsys):
        assert gmlib("data", "verify", "digits", "plants") == 0
        assert capsys.readouterr().out == "digits: as pinned\nplants: as pinned\n"

    def test_verify_what_is_missing_or_damaged(self, capsys):
        (self.folder / "plants.train.data").write_text("1,1,1\n")
        assert gmlib("data", "verify", "plants", "mnist-dynamic", "digits") == 1
        plants, mnist, digits = capsys.readouterr().out.splitlines()
        assert plants.startswith(f"plants: {self.folder / 'plants.train.data'} is damaged, or another file")
        assert mnist.count(" is missing") == 4
        assert digits == "digits: as pinned"

    def test_fetch(self, capsys):
        assert gmlib("data", "fetch", "plants", "digits") == 0
        assert capsys.readouterr().out == "plants: as pinned\ndigits: as pinned\n"

    def test_fetch_what_is_nowhere(self, capsys):
        assert "jester.train.data is missing: not in " in refused(capsys, 1, "data", "fetch", "jester")

    def test_an_unknown_name(self, capsys):
        assert "invalid choice: 'weeds'" in refused(capsys, 2, "data", "verify", "weeds")


KILLED = """
import os, signal, sys
from gmlib import files
left, fsync = int(sys.argv[1]), os.fsync

def killing(file):  # what was written to it so far is there, and it has no name yet
    global left
    left -= 1
    if left == 0:
        os.kill(os.getpid(), signal.SIGKILL)
    fsync(file)

os.fsync = killing
from gmlib.cli import main
sys.exit(main(sys.argv[2:]))
"""


def test_no_kill_changes_what_comes_out(tmp_path):
    """Killed between two files, in a file, before the first and before the last."""
    weeds(tmp_path)
    settings = ("updates=40", "validate_every=10", "checkpoint_every=15", "patience=30", "lr=0.02")
    begin = ["train", "VAE", "--data", str(tmp_path / "weeds"), *(f"--set={setting}" for setting in settings)]

    def launch(left, *arguments):
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-c", KILLED, str(left), *arguments]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    whole, folder = tmp_path / "whole", tmp_path / "run"
    assert launch(0, *begin, "--out", str(whole)).returncode == 0
    assert launch(1, *begin, "--out", str(folder)).returncode == -signal.SIGKILL
    assert not (folder / runs.CONFIG).exists()
    assert launch(4, *begin, "--out", str(folder)).returncode == -signal.SIGKILL
    for left in (1, 5, 3):
        assert launch(left, "train", "--out", str(folder), "--resume").returncode == -signal.SIGKILL
        assert not (folder / runs.RESULT).exists()
    last = launch(0, "train", "--out", str(folder), "--resume")
    assert last.returncode == 0, last.stderr
    assert (folder / runs.WEIGHTS).read_bytes() == (whole / runs.WEIGHTS).read_bytes()
    results, logs = [], []
    for path in (folder, whole):
        results.append(json.loads((path / runs.RESULT).read_text()))
        logs.append([json.loads(line) for line in (path / runs.LOG).read_text().splitlines()])
    for row in [*results[0], *results[1]]:
        for timed in ("train_seconds", "wall_seconds", "samples_per_second"):
            del row[timed]
    assert results[0] == results[1]
    seconds = [line.pop("seconds") for line in logs[0]]
    assert seconds == sorted(seconds)
    for line in logs[1]:
        del line["seconds"]
    assert logs[0] == logs[1]


def test_the_command_is_installed_and_python_knows_it_too():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["scripts"] == {"gmlib": "gmlib.cli:main"}
    result = subprocess.run(
        [sys.executable, "-m", "gmlib", "evaluate", "nowhere"], capture_output=True, text=True, check=False
    )
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr == "gmlib: error: nowhere has no run: there is no config.json.\n"
