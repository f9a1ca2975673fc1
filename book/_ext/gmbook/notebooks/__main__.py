"""Put the notebooks of the last build beside their chapters, or with --check say which are stale."""

import argparse
from pathlib import Path
from shutil import copy2

import nbformat


def without_outputs(path):
    notebook = nbformat.read(path, as_version=4)
    for cell in notebook.cells:
        cell.pop("outputs", None)
    return notebook


def is_stale(built, committed):
    return not committed.exists() or without_outputs(committed) != without_outputs(built)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true")
    check = parser.parse_args().check
    built = {path.name: path for path in sorted(Path("_build/notebooks").glob("*.ipynb"))}
    committed = {path.name: path for path in sorted(Path("book").glob("*.ipynb"))}
    if not check:
        for name, path in built.items():
            copy2(path, Path("book") / name)
        for name in committed.keys() - built.keys():
            committed[name].unlink()
        return
    stale = [name for name in built if is_stale(built[name], Path("book") / name)]
    stale += sorted(committed.keys() - built.keys())
    if stale:
        raise SystemExit(f"stale notebooks, mended by `make notebooks`: {', '.join(stale)}")


main()
