"""`gmlib train` in two processes does what it does in one, writes each file once, and fails in one line."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch

from gmlib import processes, runs
from gmlib.train import load_tensors

N, BATCH, UPDATES = 46, 8, 40

SCRIPT = """
    import json, os, sys
    import torch
    from gmlib import cli, data, files, scoreboard
    from gmlib.autoregressive import LogisticAR
    from gmlib.mixture import BernoulliMixture, em_step

    rank, fault = os.environ.get("RANK", "0"), sys.argv[1]
    if fault == "elsewhere" and rank == "1":
        os.mkdir("elsewhere")
        os.chdir("elsewhere")
    rng = torch.Generator().manual_seed(1)
    x = (torch.rand(46 + 20 + 30, 6, generator=rng, dtype=torch.float64) < 0.3).double()
    x[:, 0] = torch.arange(len(x)) % 2
    if fault == "other data" and rank == "1":
        x[0] = 1 - x[0]
    splits = [data.Split(rows, None) for rows in x.split([46, 20, 30])]
    dataset = data.Dataset(*splits)

    class Chain(LogisticAR):
        def log_prob(self, x):
            if fault == "killed" and rank == "1":
                os.kill(os.getpid(), 9)
            if fault == "broken" and rank == "1":
                raise ValueError("no luck here")
            if fault == "infinite" and rank == "1":
                return super().log_prob(x) - torch.inf
            return super().log_prob(x)

    def make(x, member, rng):
        torch.manual_seed(5 + int(rank))  # the first one's weights are those that count
        model = Chain(6).double()
        for p in model.parameters():
            torch.nn.init.normal_(p)
        return model

    recipe = scoreboard.Recipe(updates=40, lr=0.05, validate_every=10, batch_size=8, patience=30)
    scoreboard.MODELS["chain"] = scoreboard.Entry(make, recipe)
    em = scoreboard.MODELS["Mixture of 10"]
    data.SOURCES["coins"] = data.Source(lambda: dataset, (46, 20, 30), 6, "drawn")
    write = files.write

    def watched(path, content):
        if rank != "0":
            raise SystemExit(f"process {rank} wrote {path}")
        write(path, content)

    files.write, append = watched, files.append

    def stopping(path, content):
        if rank != "0":
            raise SystemExit(f"process {rank} wrote {path}")
        if fault == "stopped" and json.loads(content)["step"] > 20:
            raise KeyboardInterrupt
        append(path, content)

    files.append = stopping
    sys.exit(cli.main(sys.argv[2:]))
"""
TORCHRUN = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
ACCELERATE = ["-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(textwrap.dedent(SCRIPT))
    return path


@pytest.fixture
def launch(script, tmp_path):
    """Runs gmlib by a launcher, and gives what came of it."""

    def launched(launcher, *arguments, fault="none"):
        command = [sys.executable, *launcher, str(script), fault, *map(str, arguments)]
        return subprocess.run(
            command, env=ENVIRONMENT, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )

    return launched


def said(result):
    """The lines that are gmlib's own."""
    return [line for line in result.stderr.splitlines() if line.startswith("gmlib: ")]


def outcome(folder):
    """All that a run leaves, but for times and the number of processes."""
    log = [json.loads(line) for line in (folder / runs.LOG).read_text().splitlines()]
    rows = json.loads((folder / runs.RESULT).read_text())
    config = json.loads((folder / runs.CONFIG).read_text())
    for line in log:
        del line["seconds"]
    for timed in ("train_seconds", "wall_seconds", "samples_per_second"):
        for row in rows:
            del row[timed]
    for about in (config, *rows):
        about["hardware"] = about["hardware"].partition(", processes")[0]
    return log, rows, config, load_tensors(folder / runs.WEIGHTS)[0]


def losses(folder):
    return load_tensors(folder / runs.CHECKPOINT)[0]["losses"]


@pytest.mark.slow
@pytest.mark.parametrize("launcher", [TORCHRUN, ACCELERATE], ids=["torchrun", "accelerate"])
def test_two_processes_train_as_one(launch, tmp_path, launcher):
    one, two = tmp_path / "one", tmp_path / "two"
    arguments = ("train", "chain", "--data", "coins", "--set", "checkpoint_every=10")
    alone = launch([], *arguments, "--out", one)
    assert alone.returncode == 0, alone.stderr
    first = launch(launcher, *arguments, "--out", two)
    assert first.returncode == 0, first.stderr
    assert first.stdout == alone.stdout, "one line, of one process"
    assert said(first) == []
    torch.testing.assert_close(losses(two), losses(one), rtol=0, atol=1e-6)
    assert len(losses(two)) == UPDATES
    (log, rows, config, weights), (log2, rows2, config2, weights2) = outcome(one), outcome(two)
    assert config2 == config
    for line, line2 in zip(log, log2, strict=True):
        assert line2 == pytest.approx(line, rel=1e-6)
    assert rows2 == rows
    torch.testing.assert_close(weights2, weights, rtol=1e-6, atol=1e-9)
    again = launch(launcher, "train", "--out", two, "--resume")
    assert again.returncode == 0
    assert again.stdout.count("has finished") == 1


@pytest.mark.slow
def test_all_resume_from_one_checkpoint(launch, tmp_path):
    whole, half = tmp_path / "whole", tmp_path / "half"
    arguments = ("train", "chain", "--data", "coins", "--set", "checkpoint_every=10")
    assert launch(TORCHRUN, *arguments, "--out", whole).returncode == 0
    stopped = launch(TORCHRUN, *arguments, "--out", half, fault="stopped")
    assert said(stopped) == ["gmlib: error: interrupted"]
    assert len(losses(half)) == 20
    alone = launch([], "train", "--out", half, "--resume")
    assert alone.returncode == 1
    assert "of processes 2, not 1" in alone.stderr
    resumed = launch(TORCHRUN, "train", "--out", half, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    assert torch.equal(losses(half), losses(whole))
    (log, rows, _, weights), (log2, rows2, _, weights2) = outcome(whole), outcome(half)
    assert (log2, rows2) == (log, rows)
    torch.testing.assert_close(weights2, weights, rtol=0, atol=0)


@pytest.mark.slow
def test_processes_at_different_steps_are_refused(launch, tmp_path):
    """The second process has a disk of its own, without the checkpoint."""
    arguments = ("train", "chain", "--data", "coins", "--set", "checkpoint_every=10", "--out", "run")
    assert launch(TORCHRUN, *arguments, fault="stopped").returncode == 1
    before = (tmp_path / "run" / runs.CHECKPOINT).read_bytes()
    result = launch(TORCHRUN, "train", "--out", "run", "--resume", fault="elsewhere")
    assert result.returncode == 1
    (line,) = said(result)
    assert line.startswith("gmlib: error: fit needs all processes to see run/"), line
    assert line.endswith("got them at steps [20, 0].")
    assert result.stdout == ""
    assert (tmp_path / "run" / runs.CHECKPOINT).read_bytes() == before


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "arguments", "words"),
    [
        ("none", ("--data", "nowhere"), "nowhere"),
        ("none", ("--data", "coins", "--set", "lr=-1"), "--set lr needs a number above 0"),
        ("other data", ("--data", "coins"), "coins needs sha256"),
        ("broken", ("--data", "coins"), "no luck here"),
        ("infinite", ("--data", "coins"), "Chain loss is inf at step 1"),
        ("killed", ("--data", "coins"), "a process has failed"),
    ],
)
def test_what_goes_wrong_is_said_once_and_ends_all(launch, tmp_path, fault, arguments, words):
    result = launch(TORCHRUN, "train", "chain", *arguments, "--out", tmp_path / "run", fault=fault)
    assert result.returncode == 1
    (line,) = said(result)
    assert words in line
    assert result.stdout == ""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("train", "Mixture of 10", "--data", "coins", "--out", "run"), "in one process, not in 2"),
        (("evaluate", "run"), "train alone shares its work among processes, got 2"),
        (("train", "nothing"), "invalid choice: 'nothing'"),
    ],
)
def test_what_one_process_does_alone(launch, arguments, words):
    (line,) = said(launch(TORCHRUN, *arguments))
    assert words in line


SHARDS = """
    import json, os, sys
    from pathlib import Path
    import torch
    from gmlib.base import Trainable
    from gmlib.train import fit

    class Line(Trainable):
        def __init__(self):
            super().__init__()
            self.w = torch.nn.Parameter(torch.zeros(1, dtype=torch.float64))
        def loss(self, x, condition=None, *, rng=None):
            seen.append(x[:, 0].int().tolist())
            return (self.w * x).square().mean()

    seen = []
    x = torch.arange(46.0, dtype=torch.float64)[:, None]
    fit(Line(), x, steps=12, batch_size=8, lr=0.01, rng=torch.Generator().manual_seed(1))
    (Path(sys.argv[1]) / f"{os.environ.get('RANK', 0)}.json").write_text(json.dumps(seen))
"""


@pytest.mark.slow
def test_each_epoch_has_every_row_once(tmp_path):
    """Two epochs of batches of 8, 8, 8, 8, 8 and 6 rows, in two processes: each has half of every batch."""
    path = tmp_path / "shards.py"
    path.write_text(textwrap.dedent(SHARDS))
    command = [sys.executable, *TORCHRUN, str(path), str(tmp_path)]
    subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=300, check=True)
    seen = [json.loads((tmp_path / f"{rank}.json").read_text()) for rank in (0, 1)]
    for batches in seen:
        assert [len(batch) for batch in batches] == [4, 4, 4, 4, 4, 3] * 2
    orders = []
    for epoch in (slice(0, 6), slice(6, 12)):
        rows = [row for batches in seen for batch in batches[epoch] for row in batch]
        assert sorted(rows) == list(range(N))
        orders.append(rows)
    assert orders[0] != orders[1], "a new order each epoch"


def test_one_process_is_the_first_and_waits_for_nobody(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    assert processes.number() == 1
    assert processes.is_first()
    assert processes.claim()
    assert processes.by_first(lambda: 7) == 7
    processes.part()


def test_the_launcher_says_how_many_and_which(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "2")
    assert processes.number() == 4
    assert not processes.is_first()
    assert not processes.claim(), "before they have met, the first one speaks"
    processes.part()
