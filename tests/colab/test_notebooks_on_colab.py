"""Each notebook as Colab would meet it: a machine with torch, without gmlib, and an empty folder.

The notebook's own install line runs unmodified; git is told, by its environment, that the repository's
address is a local copy of this working tree. What is not played: Colab's own versions, its GPU, its page.
"""

import ast
import json
import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import nbformat
import pytest
import yaml
from gmbook import outcomes

ROOT = Path(__file__).resolve().parents[2]
NOTEBOOKS = sorted((ROOT / "book").glob("[0-9][0-9]-*.ipynb"))
CONFIG = yaml.safe_load((ROOT / "_config.yml").read_text())["repository"]

PLAY = """
import os, sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
ask = "import gmlib, numpy, torch as t; print([gmlib.__file__, t.__file__, t.__version__, numpy.__version__])"
notebook.cells.append(nbformat.v4.new_code_cell(ask))
NotebookClient(notebook, timeout=300, kernel_name="python3").execute()
nbformat.write(notebook, sys.argv[2])
"""


def run(*command, **options) -> str:
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **options)
    assert done.returncode == 0, f"{command}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def repository(tmp_path_factory) -> Path:
    """A repository with one commit: this working tree, without what git ignores."""
    copy = tmp_path_factory.mktemp("origin")
    names = run("git", "ls-files", "-co", "--exclude-standard", cwd=ROOT).splitlines()
    for name in names:
        if (ROOT / name).is_file():
            (copy / name).parent.mkdir(parents=True, exist_ok=True)
            (copy / name).write_bytes((ROOT / name).read_bytes())
    git = ["git", "-c", "user.name=test", "-c", "user.email=test@localhost"]
    run("git", "init", "-q", "-b", CONFIG["branch"], cwd=copy)
    run("git", "add", "-A", cwd=copy)
    run(*git, "commit", "-qm", "as it is", cwd=copy)
    return copy


@pytest.fixture(scope="module")
def machine(tmp_path_factory, repository) -> tuple[Path, dict[str, str]]:
    """An environment that has what this one has, except for gmlib; and the variables it starts with."""
    home = tmp_path_factory.mktemp("machine")
    run(sys.executable, "-m", "venv", home / "venv")
    python = home / "venv/bin/python"
    site = run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))").strip()
    Path(site, "preinstalled.pth").write_text(
        sysconfig.get_path("purelib")
    )  # its own .pth files do not count
    startup = home / "ipython/profile_default/startup"
    startup.mkdir(parents=True)
    (startup / "colab.py").write_text("import google.colab")  # Colab's kernels have it imported
    stand_in = Path(site, "google/colab")
    stand_in.mkdir(parents=True)
    (stand_in / "__init__.py").touch()
    variables = {
        name: value for name, value in os.environ.items() if not name.startswith(("GMLIB_", "PYTHON"))
    }
    return python, variables | {
        "IPYTHONDIR": str(home / "ipython"),
        "GMLIB_SMOKE": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": f"url.file://{repository}.insteadOf",
        "GIT_CONFIG_VALUE_0": CONFIG["url"],
        "PIP_DISABLE_PIP_VERSION_CHECK": "1",
    }


def test_the_machine_has_torch_and_not_gmlib(machine, tmp_path):
    python, variables = machine
    run(python, "-c", "import torch", env=variables, cwd=tmp_path)
    missing = subprocess.run([python, "-c", "import gmlib"], env=variables, cwd=tmp_path, capture_output=True)
    assert b"No module named 'gmlib'" in missing.stderr


def test_the_install_line_is_the_configurations():
    for path in NOTEBOOKS:
        first = next(c for c in json.loads(path.read_text())["cells"] if c["cell_type"] == "code")
        assert f'"gmlib-book @ git+{CONFIG["url"]}@{CONFIG["branch"]}"' in "".join(first["source"]), path.name


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs_from_the_first_cell_to_the_last_and_checks_every_equation(path, machine, tmp_path):
    import numpy
    import torch

    python, variables = machine
    played, folder = tmp_path / "played.ipynb", tmp_path / "folder"
    folder.mkdir()
    run(python, "-c", PLAY, path, played, env=variables, cwd=folder)
    *cells, asked = nbformat.read(played, 4).cells
    where, *had = ast.literal_eval(outcomes.text(asked.outputs))
    assert Path(where).is_relative_to(python.parents[1]), "gmlib came from elsewhere"
    assert had == [torch.__file__, torch.__version__, numpy.__version__], "torch or numpy was touched"
    assert not list(folder.iterdir()), "the notebook left files behind"
    full = nbformat.read(path, 4).cells
    unchecked = [
        label
        for cell, in_full in zip(cells, full, strict=True)
        if cell.cell_type == "code"
        for label in outcomes.unchecked(cell.outputs, in_full.outputs)
    ]
    assert unchecked == []
