"""Faults in the package, found by its tests and by the chapters."""

import ast
import importlib.abc
import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


class Broken(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module from a tree with a fault in it."""

    def __init__(self, module: str, tree: ast.Module):
        self.module, self.tree = module, tree

    def find_spec(self, fullname, path, target=None):
        if fullname == self.module:
            file = ROOT / f"{fullname.replace('.', '/')}.py"
            return importlib.util.spec_from_file_location(fullname, file, loader=self)
        return None

    def exec_module(self, module):
        module._same = lambda x: x
        exec(compile(self.tree, module.__file__ or self.module, "exec"), module.__dict__)


def break_module(module: str, tree: ast.Module) -> None:
    """From here on, in this process, the package has the fault."""
    for name in [name for name in sys.modules if name.split(".")[0] in ("gmlib", "tests")]:
        del sys.modules[name]
    sys.meta_path.insert(0, Broken(module, tree))


def red_tests(tests: list[str]) -> dict:
    """The first test that fails."""

    class First:
        failed = ""

        def pytest_runtest_logreport(self, report):
            if report.failed and not self.failed:
                self.failed = report.nodeid

        def pytest_collectreport(self, report):
            if report.failed and not self.failed:
                self.failed = f"import of {report.nodeid}"

    first = First()
    code = pytest.main(
        ["-x", "-q", "-p", "no:cacheprovider", "-W", "ignore::pytest.PytestAssertRewriteWarning", *tests],
        plugins=[first],
    )
    return {"failed": [first.failed or f"pytest {code!r}"] if code != 0 else []}
