"""Faults in the package, found by its tests."""

import ast
import contextlib
import importlib.abc
import importlib.util
import os
import sys
import time
from collections import defaultdict
from pathlib import Path

import coverage
import pytest

from .mutants import Mutant

os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
ROOT = Path(__file__).resolve().parents[2]
BESIDE = {  # no derivations; tested apart
    *("__init__", "__main__", "check", "cli", "data", "files", "plot"),
    *("processes", "runs", "scoreboard", "train", "zoo"),
}
MODULES = sorted(path.stem for path in (ROOT / "gmlib").glob("*.py") if path.stem not in BESIDE)
TESTS = [*(f"tests/test_{module}.py" for module in MODULES), "tests/laws", "tests/bad_input"]


class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a tree with a fault in it."""

    def __init__(self, module: str, tree: ast.Module):
        self.module, self.tree = module, tree

    def find_spec(self, fullname, path, target=None):
        if fullname == self.module:
            file = source_of(fullname.removeprefix("gmlib."))
            return importlib.util.spec_from_file_location(fullname, file, loader=self)
        return None

    def exec_module(self, module):
        module._same = lambda x: x
        exec(compile(self.tree, module.__file__ or self.module, "exec"), module.__dict__)


class First:
    """A plugin of pytest: the first test that fails."""

    failed = ""

    def pytest_runtest_logreport(self, report):
        if report.failed and not self.failed:
            self.failed = report.nodeid

    def pytest_collectreport(self, report):
        if report.failed and not self.failed:
            self.failed = f"import of {report.nodeid}"


class Lines:
    """A plugin of pytest: how long each test takes, and which lines of the package it runs."""

    def __init__(self):
        self.seconds = {}
        files = [str(source_of(module)) for module in MODULES]
        self.coverage = coverage.Coverage(data_file=None, config_file=False, include=files)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item):
        self.coverage.switch_context(item.nodeid)
        start = time.perf_counter()
        result = yield
        self.seconds[item.nodeid] = time.perf_counter() - start
        self.coverage.switch_context("")
        return result


class Survey:
    """Which tests run a line of a module, from the quickest to the slowest."""

    def __init__(
        self, seconds: dict[str, float], tests: dict[str, dict[str, list[str]]], libraries: list[str]
    ):
        self.seconds, self.tests = seconds, tests
        for library in libraries:  # once here, not again in every child
            with contextlib.suppress(ImportError):
                importlib.import_module(library)

    def of(self, module: str, mutant: Mutant) -> list[str]:
        """The tests that run any line of the fault; all of them for a line that runs on import."""
        found = {test for line in mutant.lines for test in self.tests[module].get(str(line), ())}
        return sorted(found or self.seconds, key=self.seconds.__getitem__)


def source_of(module: str) -> Path:
    return ROOT / "gmlib" / f"{module}.py"


def survey() -> dict:
    """Runs all tests on the sound package, line by line. Also tells which libraries they import."""
    lines = Lines()
    _forget()
    lines.coverage.start()
    failed = _failed(TESTS, lines)
    lines.coverage.stop()
    if failed:
        return {"error": f"red without any fault: {failed}"}
    data, tests = lines.coverage.get_data(), defaultdict(dict)
    for module in MODULES:
        for line, names in data.contexts_by_lineno(str(source_of(module))).items():
            tests[module][line] = [name for name in names if name]
    libraries = [
        name for name, module in sys.modules.items() if "site-packages" in str(vars(module).get("__file__"))
    ]
    return {"seconds": lines.seconds, "tests": tests, "libraries": libraries}


def red_test(module: str, tree: ast.Module, tests: list[str]) -> dict:
    """The first of these tests that fails when the module has this fault."""
    _forget()
    sys.meta_path.insert(0, Broken(f"gmlib.{module}", tree))
    failed = _failed(["-x", *tests])
    return {"failed": [failed] if failed else []}


def _forget() -> None:
    for name in [
        name for name in sys.modules if name.split(".")[0] == "gmlib" or name.startswith("tests.laws")
    ]:
        del sys.modules[name]


def _failed(arguments: list[str], *plugins) -> str:
    quiet = ["-q", "--assert=plain", "-p", "no:cacheprovider", "-p", "no:unraisableexception"]
    code = pytest.main([*quiet, *arguments], plugins=[first := First(), *plugins])
    if code and not first.failed:
        raise RuntimeError(f"pytest ended with {code!r}, and no test had failed.")
    return first.failed
