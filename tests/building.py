"""Small books, built with the extensions and the configuration of the real one."""

import re
import subprocess
import sys
from pathlib import Path
from shutil import copytree

ROOT = Path(__file__).resolve().parents[1]
SITE = ROOT / "_build" / "html"
FAULT = re.compile(r"^(\S+?):(\d+): (?:ERROR|WARNING): (.+)$", re.MULTILINE)


def build(book, folder):
    """A copy of tests/books/`book`, built in `folder`; what the builder printed, and its exit status."""
    copytree(ROOT / "tests" / "books" / book, folder, dirs_exist_ok=True)
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
