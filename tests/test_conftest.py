"""A skip that nobody expects is a failure where CI is set."""

from pathlib import Path

import pytest

pytest_plugins = "pytester"

TESTS = """
import pytest

def test_of_a_device():
    pytest.skip("no CUDA device")

def test_without_a_tool():
    pytest.skip("no such tool")
"""


@pytest.mark.parametrize(
    ("ci", "outcomes"), [("1", {"skipped": 1, "failed": 1}), ("", {"skipped": 2, "failed": 0})]
)
def test_an_unexpected_skip_fails_where_all_must_run(pytester, monkeypatch, ci, outcomes):
    monkeypatch.setenv("CI", ci)
    pytester.makeconftest(Path(__file__).with_name("conftest.py").read_text())
    pytester.makepyfile(TESTS)
    pytester.runpytest("-p", "no:cacheprovider").assert_outcomes(**outcomes)
