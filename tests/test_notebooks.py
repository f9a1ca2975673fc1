"""The committed notebooks: fresh, plain Markdown, and installed from the address in _config.yml."""

import re
import subprocess
import sys

import nbformat
import pytest
import yaml
from building import ROOT, build
from gmbook.notebooks import code_cell
from nbformat.v4 import new_code_cell, new_output

CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]
NOTEBOOKS = sorted((ROOT / "book").glob("*.ipynb"))
MYST = re.compile(r"^(`{3,}|:{3,})\{|\{[a-z][\w:-]*\}`|^\([\w:.-]+\)=\s*$|\$\$ *\([\w:.-]+\)", re.MULTILINE)
COPIER = [sys.executable, "-m", "gmbook.notebooks"]


def read(path):
    return nbformat.read(path, as_version=4)


def texts(notebook):
    return [cell.source for cell in notebook.cells if cell.cell_type == "markdown"]


@pytest.fixture(scope="module")
def book(tmp_path_factory):
    folder = tmp_path_factory.mktemp("good")
    assert build("good", folder).returncode == 0
    return folder


@pytest.fixture(scope="module")
def notebook(book):
    return read(book / "_build/notebooks/03-good.ipynb")


def copier(book, *options):
    environment = {"PYTHONPATH": str(ROOT / "book/_ext")}
    return subprocess.run(
        [*COPIER, *options], cwd=book, env=environment, capture_output=True, text=True, check=False
    )


def test_every_chapter_has_its_notebook():
    assert [path.stem for path in NOTEBOOKS] == sorted(
        path.stem for path in (ROOT / "book").glob("[0-9]*.md")
    )


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_plain_markdown_with_text_outputs(path):
    notebook = read(path)
    nbformat.validate(notebook)
    for text in texts(notebook):
        assert not MYST.search(text)
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            assert set(output.get("data", {})) <= {"text/plain"}


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_the_first_cell_installs_from_the_address_in_the_configuration(path):
    first = next(cell for cell in read(path).cells if cell.cell_type == "code")
    assert f'%pip install -q "gmlib-book @ git+{CONFIG["url"]}@{CONFIG["branch"]}"' in first.source


def test_the_address_stands_in_the_configuration_alone():
    names = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True)
    tracked = [ROOT / name for name in names.stdout.split("\n") if name]
    address = CONFIG["url"].removeprefix("https://")
    holders = [path.name for path in tracked if path.exists() and address.encode() in path.read_bytes()]
    assert {name for name in holders if not name.endswith(".ipynb")} <= {"_config.yml"}


def test_the_forms_of_the_page_survive(notebook):
    whole = "\n\n".join(texts(notebook))
    for form in (
        r"b = n / \ln 2 \tag{3.1}",
        r"\end{aligned} \tag{3.2}",
        "[(3.1)](https://ORG.github.io/REPO/book/03-good.html#equation-def-bit)",
        "[S0.1](https://ORG.github.io/REPO/book/ledger.html#claim-S0.1)",
        "[Shannon, 1948](https://ORG.github.io/REPO/book/references.html#",
        "*Fig. 3.1.* A line, read from left to right: [(3.2)]",
        "> **Exercise 3.1 (Turn it round)**",
        "<summary><b>Solution to Exercise 3.1 (Turn it round)</b></summary>\n\nDivide:\n\n</details>",
        "| bit | $\\ln 2$ |",
        "> A note with *emphasis*, **weight**, `code` and a [link](",
        "## 3.1 What to do",
    ):
        assert form in whole


def test_hidden_cells_are_folded(notebook):
    code = {cell.source.splitlines()[0]: cell.metadata for cell in notebook.cells if cell.cell_type == "code"}
    for first in ("import sys", "class check:", "from IPython.display import SVG", "turned = 1"):
        assert code[first]["cellView"] == "form"
    assert "cellView" not in code["turned = None"]


@pytest.mark.parametrize("pieces", [("one\n", "two\n"), ("one", "\ntwo\n"), ("on", "e\ntwo", "\n")])
def test_what_a_cell_printed_is_one_output_however_it_arrived(pieces):
    arrived = [new_output("stream", name="stdout", text=text) for text in pieces]
    (output,) = code_cell(new_code_cell("", outputs=arrived), hidden=False).outputs
    assert output.text == "one\ntwo\n"


def test_two_builds_write_the_same_bytes(book, tmp_path):
    again = tmp_path / "again"
    assert build("good", again).returncode == 0
    name = "_build/notebooks/03-good.ipynb"
    assert (again / name).read_bytes() == (book / name).read_bytes()


def test_a_stale_notebook_is_named(book):
    missing = copier(book, "--check")
    assert missing.returncode != 0
    assert "03-good.ipynb" in missing.stderr
    assert copier(book).returncode == 0
    assert copier(book, "--check").returncode == 0
    path = book / "book/03-good.ipynb"
    path.write_text(path.read_text().replace("upside down", "the right way up"))
    stale = copier(book, "--check")
    assert stale.returncode != 0
    assert "03-good.ipynb" in stale.stderr


def test_a_notebook_without_a_chapter_goes(book):
    orphan = book / "book/99-orphan.ipynb"
    orphan.write_text("{}")
    assert "99-orphan.ipynb" in copier(book, "--check").stderr
    assert copier(book).returncode == 0
    assert not orphan.exists()
