"""Faults in the cells of a chapter, found by the chapter's own checks."""

import contextlib
import functools
import io
import re
from pathlib import Path
from typing import NamedTuple

import jupytext
import matplotlib.pyplot as plt

from gmlib import check

NEAR, AFTER = 16, 2  # cells that are executed after a broken one: at most, and once something is red
KINDS = ("equal", "estimate", "bound", "limit", "optimum", "refute", "reached", "exercise")


class Cell(NamedTuple):
    """A code cell: its source, and whether its faults matter to the checks."""

    source: str
    checked: bool


def cells(path: Path) -> list[Cell]:
    """The code cells of a chapter. Figures, trainings, outcomes and wrong stubs are executed, not broken."""
    found = []
    for cell in jupytext.read(path).cells:
        if cell.cell_type == "code":
            tags, figure = cell.metadata.get("tags", []), "mystnb" in cell.metadata
            outcome = "your turn" in cell.source or "check.reached" in cell.source
            checked = not (figure or outcome or {"train", "remove-cell"} & set(tags))
            found.append(Cell(_plain(cell.source), checked))
    return found


def _plain(source: str) -> str:
    return "\n".join("" if line.lstrip().startswith(("%", "!")) else line for line in source.split("\n"))


class Recorder:
    """Stands in for the functions of `gmlib.check`: keeps what failed, and lets the chapter go on.

    A check is known by its label and how many of that label came before it. An exercise fails if its verdict
    is another than in the sound chapter.
    """

    def __init__(self, verdicts: dict[str, str] | None = None):
        self.verdicts, self.seen, self.failed, self.counts = verdicts, {}, [], {}
        self.originals = {kind: getattr(check, kind) for kind in KINDS}
        for kind in KINDS:
            setattr(check, kind, functools.partial(self._run, kind))

    def restore(self) -> None:
        for kind, function in self.originals.items():
            setattr(check, kind, function)

    def _run(self, kind: str, label: str, *args, **kwargs) -> None:
        self.counts[label] = self.counts.get(label, 0) + 1
        name = f"{label} #{self.counts[label]}"
        said = io.StringIO()
        try:
            with contextlib.redirect_stdout(said):
                self.originals[kind](label, *args, **kwargs)
        except (check.CheckFailed, ValueError):
            self.failed.append(name)
        self.seen[name] = re.sub(r"\d[\d,]*", "n", said.getvalue())
        if kind == "exercise" and self.verdicts is not None and self.verdicts.get(name) != self.seen[name]:
            self.failed.append(name)


def execute(code, namespace: dict) -> None:
    with contextlib.redirect_stdout(io.StringIO()):
        exec(code, namespace)
    plt.close("all")


def compiled(cell: Cell):
    return compile(cell.source, "cell", "exec")


def namespace() -> dict:
    return {"_same": lambda x: x, "__name__": "__main__"}


def run_on(codes: list, start: int, broken, names: dict, recorder: Recorder) -> dict:
    """Executes a broken cell and a few after it: a fault must show near where it is."""
    left = NEAR
    for code in [broken, *codes[start + 1 :]]:
        if left < 0:
            break
        try:
            execute(code, names)
        except Exception as error:
            return {"failed": recorder.failed, "error": repr(error)[:200]}
        left = min(left, AFTER if recorder.failed else NEAR) - 1
    return {"failed": recorder.failed}
