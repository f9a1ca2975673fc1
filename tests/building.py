"""Small books, built as the real one is, and tools that only tests need."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
FAULT = re.compile(r"^(\S+?):(\d+): (?:ERROR|WARNING): (.+)$", re.MULTILINE)


def build(book, folder):
    """A copy of tests/books/`book`, built in `folder`; what the builder printed, and its exit status."""
    shutil.copytree(ROOT / "tests" / "books" / book, folder, dirs_exist_ok=True)
    config = (ROOT / "_config.yml").read_text()
    for path in ("book/_ext", "book/_static"):
        config = config.replace(path, str(ROOT / path))
    (folder / "_config.yml").write_text(config)
    command = [Path(sys.executable).with_name("jupyter-book"), "build", folder, "--all", "-W", "-n"]
    return subprocess.run([*command, "--keep-going", "--quiet"], capture_output=True, text=True, check=False)


def faults(result):
    """(file, line, fault) of each fault that a build named."""
    text = re.sub(r"\x1b\[[\d;]*m", "", result.stderr)
    return [(file, int(line), fault) for file, line, fault in FAULT.findall(text)]


def missing(what):
    """Where all must be tested a missing tool fails; elsewhere it skips, and says so."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(what)


def from_npm(package, version):
    """The folder of a package of npm."""
    folder = ROOT / "_build" / f"{package}-{version}"
    found = folder / "node_modules" / package
    if not found.exists():
        if shutil.which("npm") is None:
            missing(f"no npm: it brings {package}")
        command = ["npm", "install", "--silent", "--prefix", folder, f"{package}@{version}"]
        if subprocess.run(command, check=False).returncode:
            missing(f"npm could not bring {package}")
    return found
