"""The races' table: what a race prints becomes rows that name peer, version, ratio, spread and origin."""

import json
import subprocess

import pytest
from building import ROOT, missing

from bench import __main__ as bench

STORED = ROOT / "book/results/races.json"

LINES = [
    {"workload": "step", "peer": "gmlib", "milliseconds": 2.0, "peer / gmlib": 1.0, "quartiles": [1, 1]},
    {"workload": "step", "peer": "zuko 1.6.0", "milliseconds": 3.0, "peer / gmlib": 1.5, "quartiles": [1, 2]},
    {"workload": "step", "peer": "zuko 1.6.0, fused Adam", "milliseconds": 1, "peer / gmlib": 0.5,
     "quartiles": [0.4, 0.6]},
    {"workload": "step", "peer": "naive O(D^2 H)", "milliseconds": 8, "peer / gmlib": 4, "quartiles": [3, 5]},
    {"workload": "step", "peer": "scikit-learn", "milliseconds": 8, "peer / gmlib": 4, "quartiles": [3, 5]},
    {"workload": "step", "peer": "gmlib", "peak MiB": 7},
]  # fmt: skip


@pytest.fixture
def raced(monkeypatch, tmp_path):
    def lines_of(race, rounds):
        if race == "em_step":
            raise subprocess.CalledProcessError(1, race)
        return LINES

    monkeypatch.setattr(bench, "lines_of", lines_of)
    return tmp_path / "races.json"


def test_a_row_names_the_peer_its_version_and_both_times():
    one, fused, naive, other, memory = bench.rows_of("made_step", LINES)
    assert one == {
        "race": "made_step",
        "workload": "step",
        "peer": "zuko",
        "version": "1.6.0",
        "ratio": 1.5,
        "quartiles": [1, 2],
        "milliseconds": 3.0,
        "gmlib_milliseconds": 2.0,
    }
    assert (fused["peer"], fused["version"]) == ("zuko, fused Adam", "1.6.0")
    assert (naive["peer"], naive["version"]) == ("naive O(D^2 H)", None)
    assert other["version"].count(".") >= 1, "found where it is not said"
    assert memory == {"race": "made_step", "workload": "step", "peer": "gmlib", "peak MiB": 7}


def test_a_race_replaces_its_own_rows_alone(raced):
    raced.write_text(json.dumps([{"race": "made_step", "ratio": 9}, {"race": "aaa", "ratio": 8}]))
    assert bench.main(["--only", "made_step", "vae_step", "--out", str(raced)]) == 0
    rows = json.loads(raced.read_text())
    assert [row["race"] for row in rows] == ["aaa", *["made_step"] * 5, *["vae_step"] * 5]
    assert {"commit", "hardware", "versions"} <= rows[1].keys()
    assert "threads: 1" in rows[1]["hardware"]


def test_a_race_that_fails_is_named_and_the_others_run(raced, capsys):
    assert bench.main(["--only", "em_step", "vae_step", "--out", str(raced)]) == 1
    assert "em_step has failed" in capsys.readouterr().err
    assert {row["race"] for row in json.loads(raced.read_text())} == {"vae_step"}


def test_all_files_of_races_are_known():
    assert {"digits_vae", "em_step", "made_step", "nade_step", "vae_step"} <= set(bench.RACES)
    assert not {"race", "__main__"} & set(bench.RACES)


def test_the_stored_table_has_every_race():
    """With peer and version, both times, and the ratio within its spread, on one thread."""
    if not STORED.exists():
        missing("book/results/races.json is missing: `make bench` writes it")
    rows = [row for row in json.loads(STORED.read_text()) if "ratio" in row]
    assert {row["race"] for row in rows} == set(bench.RACES)
    packages = {"diffusers", "nflows", "normflows", "pythae", "scikit-learn", "torchcfm", "zuko"}
    assert {row["peer"].partition(",")[0] for row in rows if row["version"]} == packages
    for row in rows:
        low, high = row["quartiles"]
        assert 0 < low <= row["ratio"] <= high, row
        assert min(row["milliseconds"], row["gmlib_milliseconds"]) > 0, row
        assert {"workload", "commit", "versions"} <= row.keys(), row
        assert "threads: 1" in row["hardware"], row


@pytest.mark.slow
def test_a_real_race(tmp_path):
    assert bench.main(["--only", "em_step", "--rounds", "9", "--out", str(tmp_path / "races.json")]) == 0
    rows = json.loads((tmp_path / "races.json").read_text())
    assert len([row for row in rows if row.get("peer") == "scikit-learn"]) == 8
    assert all(row["ratio"] > 0 for row in rows if "ratio" in row)
