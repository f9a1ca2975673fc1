"""The notation table against its use: what a row names stands in the chapters that define it, and in code."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CHAPTERS = {path: path.read_text() for path in sorted((ROOT / "book").glob("[01]*.md"))}
CELL = re.compile(r"```\{code-cell\}.*?\n(.*?)```", re.DOTALL)
MATH = re.compile(r"\$\$(.+?)\$\$|\$([^$]+)\$", re.DOTALL)


def rows() -> list[list[str]]:
    lines = (ROOT / "book/notation.md").read_text().splitlines()
    table = [line for line in lines if line.startswith("| ") and not line.startswith("| symbol")]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table]


def tokens(math: str) -> list[str]:
    r"""Commands and characters, without spaces; \| is \Vert, for a table has other uses of a bar."""
    return re.findall(r"\\[A-Za-z]+|\S", re.sub(r"\\[,;!]", "", math.replace(r"\|", r"\Vert ")))


def formulas(text: str) -> list[list[str]]:
    """All mathematics of a page outside its code."""
    return [tokens("".join(found)) for found in MATH.findall(CELL.sub("", text))]


FORMULAS = {path: formulas(text) for path, text in CHAPTERS.items()}
SOURCES = [*(path.read_text() for path in (ROOT / "gmlib").glob("*.py"))]
SOURCES += ["\n".join(CELL.findall(text)) for text in CHAPTERS.values()]
WORDS = {word for source in SOURCES for word in re.findall(r"\w+", source)}


def unused(row: list[str]) -> list[str]:
    """The symbols of a row that no formula of the defining chapters has, and its names that no code has."""
    symbols, names, _, where = row
    labels = re.findall(r"\{eq\}`([^`]+)`", where)
    pages = [path for path, text in CHAPTERS.items() if any(f"({label})" in text for label in labels)]
    used = [formula for path in pages or CHAPTERS for formula in FORMULAS[path]]
    listed = [part.strip() for group in re.findall(r"\$([^$]+)\$", symbols) for part in _split(group)]
    odd = [part for part in listed if not any(_has(formula, part) for formula in used)]
    in_code = [word for name in re.findall(r"`([^`]+)`", names) for word in re.findall(r"[A-Za-z_]\w*", name)]
    return odd + [word for word in in_code if word not in WORDS]


def _split(group: str) -> list[str]:
    """Symbols in a list are parted by commas outside brackets."""
    return re.split(r",(?![^(\[{]*[)\]}])", group)


def _has(formula: list[str], symbol: str) -> bool:
    wanted = tokens(symbol)
    return any(formula[i : i + len(wanted)] == wanted for i in range(len(formula)))


def test_there_is_a_table():
    assert len(rows()) > 100
    assert {len(row) for row in rows()} == {4}


@pytest.mark.parametrize("row", rows(), ids=lambda row: row[0])
def test_what_the_table_names_is_used(row):
    assert unused(row) == []


def test_a_symbol_or_a_name_that_nobody_uses_is_found():
    assert unused([r"$\mu$, $\digamma$", "`mu, no_such_name`", "", ""]) == [r"\digamma", "no_such_name"]
    assert unused(["$r_k(x)$", "", "", "{eq}`def-tv`"]) == ["r_k(x)"], "used, but not where it is defined"


def test_no_symbol_has_two_rows_with_one_definition():
    places = [(row[0], row[3]) for row in rows()]
    assert len(places) == len(set(places))
