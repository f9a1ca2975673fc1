"""The stored results of training by one process and by two."""

import importlib.util
import json

import pytest
from building import ROOT

SPEC = importlib.util.spec_from_file_location("scale_processes", ROOT / "book/results/scale_processes.py")
scale_processes = importlib.util.module_from_spec(SPEC)
SPEC.loader.exec_module(scale_processes)
ONE, TWO = json.loads((ROOT / "book/results/14-scaling.json").read_text())


def test_rows_say_what_was_measured_and_where():
    assert [row["processes"] for row in (ONE, TWO)] == [1, 2]
    for row in (ONE, TWO):
        assert list(row["milliseconds_a_step"]) == [str(batch) for batch in scale_processes.BATCHES]
        assert min(row["milliseconds_a_step"].values()) > 0
        assert {"versions", "commit", "hardware", "cores", "load"} <= row.keys()
    assert TWO["milliseconds_to_reduce"] > 0


def test_two_processes_have_the_losses_of_one():
    assert len(TWO["losses"]) == 200
    assert TWO["losses"] == pytest.approx(ONE["losses"], rel=0, abs=1e-6)


@pytest.mark.slow
def test_the_losses_come_out_again():
    assert scale_processes.losses() == pytest.approx(ONE["losses"], rel=1e-6)


def test_a_step_is_timed():
    assert scale_processes.milliseconds_a_step(8) > 0
