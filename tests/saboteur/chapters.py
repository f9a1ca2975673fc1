"""Faults in the cells of a chapter, found by the chapter's own checks."""

import ast
import contextlib
import functools
import io
import re
import symtable
from pathlib import Path
from typing import NamedTuple

import jupytext
import matplotlib.pyplot as plt
import torch

from gmlib import check

NEAR, AFTER = 16, 3  # cells that are executed after a broken one: at most, and at most once something is red
KINDS = ("equal", "estimate", "bound", "limit", "optimum", "refute", "reached", "exercise")


class Cell(NamedTuple):
    """A code cell: whether its faults matter to the checks, what it reads, what it makes or changes.

    And which labels it names, those of its checks among them.
    """

    source: str
    checked: bool
    reads: set[str]
    makes: set[str]
    labels: set[str]


def cells(path: Path) -> list[Cell]:
    """The code cells of a chapter. Figures, trainings, outcomes and wrong stubs are executed, not broken."""
    found = []
    for cell in jupytext.read(path).cells:
        if cell.cell_type == "code":
            tags, figure = cell.metadata.get("tags", []), "mystnb" in cell.metadata
            outcome = "your turn" in cell.source or "check.reached" in cell.source
            checked = not (figure or outcome or {"train", "remove-cell"} & set(tags))
            source = _plain(cell.source)
            labels = set(re.findall(r'"((?:eq|err|fig|ex)-[\w-]+)"', source))
            found.append(Cell(source, checked, *_reads_and_makes(source), labels))
    return found


def _reads_and_makes(source: str) -> tuple[set[str], set[str]]:
    """Names that a cell reads, and those it assigns or may change in place: `f(x)` on a line of its own."""
    tables = [table := symtable.symtable(source, "cell", "exec")]
    makes = {
        symbol.get_name() for symbol in table.get_symbols() if symbol.is_assigned() or symbol.is_imported()
    }
    for inner in tables:
        tables.extend(inner.get_children())
    reads = {
        symbol.get_name() for t in tables for symbol in t.get_symbols() if symbol.is_global() or t is table
    }
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute | ast.Subscript) and isinstance(node.ctx, ast.Store):
            makes.add(_base(node))
        elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
            makes.update(map(_base, [node.value.func, *node.value.args]))
    return reads, makes - {"", "check", "print", "plot", "torch"}


def _base(node: ast.AST) -> str:
    """`model` for `model.encoder[0].weight`."""
    while isinstance(node, ast.Attribute | ast.Subscript):
        node = node.value
    return node.id if isinstance(node, ast.Name) else ""


def needed(cells: list[Cell]) -> list[bool]:
    """Whether a cell is broken itself or makes something that such a cell reads later."""
    found, wanted = [], set()
    for cell in reversed(cells):
        found.append(cell.checked or bool(cell.makes & wanted))
        if found[-1]:
            wanted = (wanted - cell.makes) | cell.reads
    return found[::-1]


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
    """What a chapter starts with; torch's default is set as well."""
    torch.set_default_dtype(torch.float32)
    return {"_same": lambda x: x, "__name__": "__main__"}


def run_on(
    sound: list, needed: list[bool], broken, names: dict, recorder: Recorder, unfound: set[str]
) -> dict:
    """Executes a broken cell and, of those after it, the needed ones that read what is broken.

    The first of `sound` is the cell itself, compiled as the others are. A fault must show near where it is.
    Once it has, more cells are executed only on the way to a check whose label is among the `unfound` ones.
    """
    way, passed_over, end = affected([cell for cell, _ in sound], needed), [], NEAR + 1
    for n, i in enumerate(way):
        if recorder.failed:
            end = min(end, n + AFTER)
        if n == end or (recorder.failed and not any(sound[j][0].labels & unfound for j in way[n:end])):
            break
        cell, code = sound[i]
        passed_over += sound[way[n - 1] + 1 : i] if n else []
        try:
            _catch_up(cell, passed_over, names)
            execute(code if i else broken, names)
        except Exception as error:
            return {"failed": recorder.failed, "error": repr(error)[:200]}
    return {"failed": recorder.failed}


def affected(cells: list[Cell], needed: list[bool]) -> list[int]:
    """The first cell and, of the others, the needed ones that read what it changes, at whatever remove."""
    found, tainted = [0], set(cells[0].makes)
    for i, cell in enumerate(cells[1:], 1):
        if needed[i] and cell.reads & tainted:
            found.append(i)
            tainted |= cell.makes
    return found


def labels_within_reach(cells: list[Cell], needed: list[bool]) -> set[str]:
    """The labels in the first cell and in those after it that it affects, near enough to be executed."""
    return set().union(*(cells[j].labels for j in affected(cells, needed)[: NEAR + 1]))


def _catch_up(cell: Cell, passed_over: list, names: dict) -> None:
    """Executes, of the cells passed over, those that make what this one reads and nothing has made yet."""
    wanted, chosen = cell.reads - names.keys(), []
    for earlier in reversed(passed_over):
        if earlier[0].makes & wanted:
            chosen.append(earlier)
            wanted |= earlier[0].reads - names.keys()
    for earlier in reversed(chosen):
        passed_over.remove(earlier)
        execute(earlier[1], names)
