"""Breaks everything once. Prints what survived, each check's killers, and two totals; exits 1 unless clean.

python -m tests.saboteur [--table]
"""

import os

os.environ["GMLIB_SMOKE"] = "1"

import argparse
import ast
import sys
import time
from collections import defaultdict

import matplotlib
import torch
import yaml

from . import chapters, modules, mutants
from .children import Children

TESTS = {  # the fast tests of each module, most telling first
    "gmlib.divergences": [
        "tests/test_divergences.py",
        "tests/bad_input/test_distances.py",
        "tests/test_vae.py",
    ],
    "gmlib.vae": ["tests/test_vae.py", "tests/laws", "tests/bad_input"],
    "gmlib.base": ["tests/test_base.py", "tests/laws", "tests/bad_input"],
    "gmlib.nn": ["tests/test_nn.py", "tests/laws"],
}
ONLY_GRADIENTS = frozenset({"detach"})  # a chapter's sides are values: it shows the same without
HERE = modules.ROOT / "tests/saboteur"


class Tally:
    """What killed each mutant, and which mutants each check killed."""

    def __init__(self):
        self.equivalent = {
            row["mutant"]: row["reason"] for row in yaml.safe_load((HERE / "equivalent.yaml").read_text())
        }
        self.killers: dict[str, list[str]] = {}
        self.kills: dict[str, list[str]] = defaultdict(list)

    def is_equivalent(self, name: str) -> bool:
        return name in self.equivalent

    def record(self, name: str, result: dict) -> None:
        failed = result.get("failed", [])
        red = failed or [result.get("error") or ("hung" if result.get("hung") else "")]
        self.killers.setdefault(name, []).extend(filter(None, red))
        for check in failed:
            self.kills[check].append(name)


def chapter_mutants(path, tally: Tally, children: Children) -> dict[str, str]:
    """Breaks each cell of a chapter, in a child forked just before it; returns the chapter's checks."""
    cells = chapters.cells(path)
    codes = [chapters.compiled(cell) for cell in cells]
    recorder = chapters.Recorder(verdicts := _verdicts(codes))
    names = chapters.namespace()
    for i, cell in enumerate(cells):
        for mutant in mutants.mutants(cell.source, path.name, ONLY_GRADIENTS) if cell.checked else ():
            if tally.is_equivalent(mutant.name):
                tally.record(mutant.name, {"failed": []})
                continue

            def work(i=i, mutant=mutant):
                return chapters.run_on(codes, i, compile(mutant.tree, "cell", "exec"), names, recorder)

            children.start(work, lambda result, name=mutant.name: tally.record(name, result))
        chapters.execute(codes[i], names)
    children.finish()
    recorder.restore()
    if recorder.failed:
        sys.exit(f"{path.name} is red without any fault: {recorder.failed}")
    return verdicts


def _verdicts(codes: list) -> dict[str, str]:
    """What a sound chapter says, check by check, found in a child so that this process stays as it is."""
    found: dict[str, str] = {}

    def work():
        recorder, names = chapters.Recorder(), chapters.namespace()
        for code in codes:
            chapters.execute(code, names)
        return recorder.seen

    child = Children()
    child.start(work, found.update)
    child.finish()
    if "error" in found:
        sys.exit(found["error"])
    return found


def module_mutants(paths, tally: Tally, children: Children) -> None:
    """Breaks each line of a module of derivations; its tests look, then the chapters."""
    for module, tests in TESTS.items():
        children.finish()
        _require_green(module, tests)
        file = modules.ROOT / f"{module.replace('.', '/')}.py"
        source = file.read_text()
        for mutant in [*mutants.mutants(source, file.name), *_hand_picked(module, source)]:
            if tally.is_equivalent(mutant.name):
                tally.record(mutant.name, {"failed": []})
                continue

            def work(module=module, tests=tests, mutant=mutant):
                modules.break_module(module, mutant.tree)
                return modules.red_tests(tests)

            children.start(work, lambda result, name=mutant.name: tally.record(name, result))
    children.finish()


def _require_green(module: str, tests: list[str]) -> None:
    """A test that is red without any fault would kill everything."""
    source, found = (modules.ROOT / f"{module.replace('.', '/')}.py").read_text(), []

    def work():
        modules.break_module(module, ast.parse(source))
        return modules.red_tests(tests)

    child = Children()
    child.start(work, found.append)
    child.finish()
    if found != [{"failed": []}]:
        sys.exit(f"{module} is red without any fault: {found}")


def _hand_picked(module: str, source: str):
    for bug in yaml.safe_load((HERE / "bugs.yaml").read_text()):
        if bug["module"] == module:
            if source.count(bug["code"]) != 1:
                sys.exit(
                    f"bugs.yaml: {module} has {source.count(bug['code'])} times {bug['code']!r}, not once."
                )
            tree = ast.parse(source.replace(bug["code"], bug["bug"]))
            yield mutants.Mutant(f"{module.split('.')[-1]}.py", f"bug: {bug['name']}", tree)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="print each check with what it killed")
    parser.add_argument("--only", default="", help="only files whose name contains this")
    arguments = parser.parse_args()
    matplotlib.use("agg")
    torch.set_num_threads(1)
    os.chdir(modules.ROOT)
    start, tally, children, checks = time.perf_counter(), Tally(), Children(), {}
    paths = sorted((modules.ROOT / "book").glob("[0-9][0-9]-*.md"))
    for path in paths:
        if arguments.only in path.name:
            checks |= chapter_mutants(path, tally, children)
    if arguments.only in "gmlib":
        module_mutants(paths, tally, children)

    survivors = [name for name, red in tally.killers.items() if not red and not tally.is_equivalent(name)]
    idle = [name for name in checks if not tally.kills[name] and "solved" not in checks[name]]
    idle = [name for name in idle if "reached" not in checks[name] and "not judged" not in checks[name]]
    stale = [] if arguments.only else [name for name in tally.equivalent if name not in tally.killers]
    if arguments.table:
        for name in checks:
            print(f"{len(tally.kills[name]):4d}  {name}  {next(iter(tally.kills[name]), '')}")
    for title, rows in [
        ("survived", survivors),
        ("without a killer", idle),
        ("listed as equivalent, not made", stale),
    ]:
        for row in rows:
            print(f"{title}: {row}")
    counted = len(tally.killers) - len(tally.equivalent) + len(stale)
    print(f"killed {counted - len(survivors)} of {counted} ({time.perf_counter() - start:.0f} s)")
    print(f"equivalent, each with its reason: {len(tally.equivalent)}")
    print(f"checks without a killer: {len(idle)}")
    sys.exit(bool(survivors or idle or stale))


main()
