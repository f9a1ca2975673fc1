"""Runs all races, one after the other, each in a process of its own on one thread, and keeps what they say.

    make bench

Every line that a race prints becomes a row of book/results/races.json, in the place of that race's older
rows. A row of a peer says by which factor it takes longer than gmlib: the median over rounds in which both
took turns, and its quartiles. Leave the machine alone meanwhile: what else runs on it widens them.
"""

import argparse
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterable, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from gmlib import files, scoreboard

HERE = Path(__file__).resolve().parent
RACES = sorted(path.stem for path in HERE.glob("*_*.py") if path.stem != "__main__")
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
NAME = re.compile(r"(?P<peer>.+?)(?: (?P<version>\d[\w.]*))?(?P<how>, .*)?")


def lines_of(race: str, rounds: int | None) -> list[dict[str, Any]]:
    """What a race prints, each line a JSON object."""
    call = f"import {race}; {race}.main({'' if rounds is None else f'rounds={rounds}'})"
    environment = {**os.environ, **ONE_THREAD, "CUDA_VISIBLE_DEVICES": ""}
    run = subprocess.run(
        [sys.executable, "-c", call], cwd=HERE, env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return [json.loads(line) for line in run.stdout.splitlines()]


def rows_of(race: str, lines: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each line, but for gmlib's own times, which go into the rows of the peers."""
    rows, ours = [], {}
    for line in lines:
        if "peer / gmlib" not in line:
            rows.append({"race": race, **line})
        elif line["peer"] == "gmlib":
            ours[line["workload"]] = line["milliseconds"]
        else:
            rows.append({"race": race, **against(line, ours[line["workload"]])})
    return rows


def against(line: dict[str, Any], ours: float) -> dict[str, Any]:
    """The row of a peer: its name and version apart; none of a contestant that is ours, such as a loop."""
    peer, number, how = NAME.fullmatch(line["peer"]).groups()
    try:
        number = number or version(peer)
    except PackageNotFoundError:
        number = None
    return {
        "workload": line["workload"],
        "peer": peer + (how or ""),
        "version": number,
        "ratio": line["peer / gmlib"],
        "quartiles": line["quartiles"],
        "milliseconds": line["milliseconds"],
        "gmlib_milliseconds": ours,
    }


def store(race: str, rows: list[dict[str, Any]], out: Path) -> None:
    """Puts the rows of a race into a file, in the place of its older ones."""
    older = json.loads(out.read_text()) if out.exists() else []
    kept = [row for row in older if row["race"] != race]
    content = json.dumps(sorted([*kept, *rows], key=lambda row: row["race"]), indent=1)
    files.write(out, f"{content}\n".encode())


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the races that are asked for, or all; goes on after one that fails, and returns how many did."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__.partition("\n")[0])
    parser.add_argument("--only", nargs="+", choices=RACES, default=RACES, metavar="RACE")
    parser.add_argument("--rounds", type=int, help="instead of each race's own, for a trial")
    parser.add_argument("--out", type=Path, default=HERE.parent / "book/results/races.json")
    options = parser.parse_args(arguments)
    import torch

    torch.set_num_threads(1)
    failed = 0
    for race in options.only:
        about = scoreboard.origin()
        try:
            rows = rows_of(race, lines_of(race, options.rounds))
        except subprocess.CalledProcessError:
            print(f"bench: error: {race} has failed; its rows stay as they were.", file=sys.stderr)
            failed += 1
            continue
        store(race, [{**row, **about} for row in rows], options.out)
        for row in rows:
            print(json.dumps(row), flush=True)
    return failed


if __name__ == "__main__":
    sys.exit(main())
