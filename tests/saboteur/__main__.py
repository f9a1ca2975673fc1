"""Breaks everything once. Prints what survived and two totals; exits 1 unless clean.

python -m tests.saboteur [--only 08 | --only flows | --only gmlib]

writes _build/saboteur.txt: the faults that each check finds, and what finds each fault.
"""

import os

os.environ["GMLIB_SMOKE"] = "1"

import argparse
import ast
import gc
import re
import sys
import time
from collections import defaultdict

import matplotlib
import torch
import yaml

from . import chapters, modules, mutants
from .children import Children

ONLY_GRADIENTS = frozenset({"detach"})  # a chapter's sides are values: it shows the same without
HERE = modules.ROOT / "tests/saboteur"
TABLE = modules.ROOT / "_build/saboteur.txt"


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

    def record_tests(self, name: str, result: dict) -> None:
        if "error" in result:  # of the runner: a red test is no error
            sys.exit(f"{name}\n{result['error']}")
        self.record(name, result)

    def record(self, name: str, result: dict) -> None:
        failed = result.get("failed", [])
        red = failed or [result.get("error") or ("hung" if result.get("hung") else "")]
        known = self.killers.setdefault(name, [])
        known.extend(check for check in red if check and check not in known)
        for check in failed:
            if name not in self.kills[check]:
                self.kills[check].append(name)

    def unfound(self, checks: dict[str, str]) -> list[str]:
        """Of the checks, given with what they say, those that should have found a fault and have not."""
        free = re.compile("solved|reached|not judged")
        return [name for name, said in checks.items() if not self.kills[name] and not free.search(said)]

    def unfound_labels(self, checks: dict[str, str]) -> set[str]:
        return {name.partition(" #")[0] for name in self.unfound(checks)}


def chapter_mutants(path, tally: Tally, children: Children) -> dict[str, str]:
    """Breaks each cell of a chapter; returns the chapter's checks.

    A fault that has been found goes no further, until all are: then those go on that may reach a check which
    has found none.
    """
    cells = chapters.cells(path)
    codes = [chapters.compiled(cell) for cell in cells]
    verdicts = Children.one(lambda: _verdicts(codes))
    _break_cells(path.name, cells, codes, verdicts, tally, children, everywhere=True)
    if tally.unfound(verdicts):
        _break_cells(path.name, cells, codes, verdicts, tally, children, everywhere=False)
    return verdicts


def _break_cells(name, cells, codes, verdicts, tally: Tally, children: Children, everywhere: bool) -> None:
    """Breaks a cell in children that are forked just before it, or only if it may reach an idle check."""
    needed, names = chapters.needed(cells), chapters.namespace()
    recorder = chapters.Recorder(verdicts)
    for i, (cell, code) in enumerate(zip(cells, codes, strict=True)):
        reach = chapters.labels_within_reach(cells[i:], needed[i:])
        for mutant in mutants.mutants(cell.source, name, ONLY_GRADIENTS) if cell.checked else ():
            if tally.is_equivalent(mutant.name):
                tally.record(mutant.name, {"failed": []})
                continue
            if not (everywhere or reach & tally.unfound_labels(verdicts)):
                continue

            def work(i=i, mutant=mutant):
                sound, broken = list(zip(cells, codes, strict=True))[i:], compile(mutant.tree, "cell", "exec")
                unfound = set() if everywhere else tally.unfound_labels(verdicts)
                return chapters.run_on(sound, needed[i:], broken, names, recorder, unfound)

            children.start(work, lambda result, name=mutant.name: tally.record(name, result))
        if needed[i]:
            chapters.execute(code, names)
    children.finish()
    recorder.restore()
    if recorder.failed:
        sys.exit(f"{name} is red without any fault: {recorder.failed}")


def _verdicts(codes: list) -> dict[str, str]:
    """What a sound chapter says, check by check."""
    recorder, names = chapters.Recorder(), chapters.namespace()
    for code in codes:
        chapters.execute(code, names)
    return recorder.seen


def module_mutants(chosen: list[str], tally: Tally, children: Children) -> None:
    """Breaks each line of these modules; the tests that run it look."""
    survey = modules.Survey(**Children.one(modules.survey))
    gc.freeze()  # or the collector would look through all of it again and again, in every child
    for module in chosen:
        source = modules.source_of(module).read_text()
        sound = mutants.Mutant(f"{module}.py", "sound", ast.parse(source), range(0))
        quick = survey.of(module, sound)[:20]
        if Children.one(
            lambda module=module, sound=sound, quick=quick: modules.red_test(module, sound.tree, quick)
        )["failed"]:
            sys.exit(f"{module} is red without any fault.")
        for mutant in [*mutants.mutants(source, f"{module}.py"), *_hand_picked(module, source)]:
            if tally.is_equivalent(mutant.name):
                tally.record(mutant.name, {"failed": []})
                continue

            def work(module=module, mutant=mutant):
                return modules.red_test(module, mutant.tree, survey.of(module, mutant))

            children.start(work, lambda result, name=mutant.name: tally.record_tests(name, result))
    children.finish()


def _hand_picked(module: str, source: str):
    for bug in yaml.safe_load((HERE / "bugs.yaml").read_text()):
        if bug["module"] == f"gmlib.{module}":
            if source.count(bug["code"]) != 1:
                sys.exit(
                    f"bugs.yaml: {module} has {source.count(bug['code'])} times {bug['code']!r}, not once."
                )
            tree = ast.parse(source.replace(bug["code"], bug["bug"]))
            first = source[: source.index(bug["code"])].count("\n") + 1
            lines = range(first, first + bug["code"].count("\n") + 1)
            yield mutants.Mutant(f"{module}.py", f"bug: {bug['name']}", tree, lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="only files whose name contains this")
    arguments = parser.parse_args()
    matplotlib.use("agg")
    torch.set_num_threads(1)
    os.chdir(modules.ROOT)
    start, tally, children, checks = time.perf_counter(), Tally(), Children(), {}
    if chosen := [module for module in modules.MODULES if arguments.only in f"gmlib/{module}.py"]:
        module_mutants(chosen, tally, children)  # first, since a chapter changes the defaults of this process
    for path in sorted((modules.ROOT / "book").glob("[0-9][0-9]-*.md")):
        if arguments.only in path.name:
            checks |= chapter_mutants(path, tally, children)

    survivors = [name for name, red in tally.killers.items() if not red and not tally.is_equivalent(name)]
    idle = tally.unfound(checks)
    stale = [] if arguments.only else [name for name in tally.equivalent if name not in tally.killers]
    TABLE.parent.mkdir(exist_ok=True)
    with TABLE.open("w") as table:
        for name in checks:
            print(f"{name}: finds {len(tally.kills[name])}", *tally.kills[name], sep="\n    ", file=table)
        for name, red in tally.killers.items():
            print(f"{name}: found by", *(red or ["nothing"]), sep="\n    ", file=table)
    for title, rows in [
        ("survived", survivors),
        ("without a killer", idle),
        ("listed as equivalent, not made", stale),
    ]:
        for row in rows:
            print(f"{title}: {row}")
    equivalent = sum(map(tally.is_equivalent, tally.killers))
    counted = len(tally.killers) - equivalent
    print(f"killed {counted - len(survivors)} of {counted} ({time.perf_counter() - start:.0f} s)")
    print(f"equivalent, each with its reason: {equivalent}")
    print(f"checks without a killer: {len(idle)}")
    sys.exit(bool(survivors or idle or stale or not counted))


main()
