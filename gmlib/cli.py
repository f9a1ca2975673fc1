"""The command `gmlib`: data, training that survives a kill, and the scoreboard.

gmlib train NADE --data mnist --out runs/nade --set updates=14000
"""

import argparse
import io
import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from gmlib import data, files, processes, runs, scoreboard
from gmlib.zoo import MODELS, Recipe


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line asks for. Returns 0, or 1 if it failed, or 2 if it was asked wrongly."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        if options.command is not train and processes.number() > 1:
            raise runs.Misuse(f"train alone shares its work among processes, got {processes.number()}.")
        return options.command(options) or 0
    except runs.Misuse as error:
        return _complain(error, 2)
    except (OSError, ValueError, FloatingPointError) as error:
        named = isinstance(error, OSError) and error.strerror and error.filename
        return _complain(f"{error.filename}: {error.strerror}" if named else error, 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)
    except RuntimeError as error:
        if processes.number() == 1:
            raise
        return _complain(f"a process has failed: {error}", 1)
    finally:
        processes.part()


def _complain(error: object, code: int) -> int:
    if processes.claim():
        print(f"gmlib: error: {' '.join(str(error).split())}", file=sys.stderr, flush=True)
    return code


def train(options: argparse.Namespace) -> None:
    """Trains one model: the first member, if it has several, with one weight decay."""
    config, done = processes.by_first(lambda: _asked(options))
    if done:
        return
    if rows := runs.train(options.out, config):
        print(_verdict(rows))


def _asked(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """What the run is, and whether it has finished."""
    ask = runs.resume if options.resume else runs.plan
    config = ask(options.out, options.model, options.data, options.seed, options.set)
    if rows := runs.finished(options.out):
        print(f"{options.out} has finished: {_verdict(rows)}")
        return config, True
    for change in runs.changes(config) if options.resume else ():
        print(f"gmlib: note: {change}", file=sys.stderr)
    return config, False


def evaluate(options: argparse.Namespace) -> None:
    """Finds the test nats of a run's weights; trains nothing."""
    print(_verdict(runs.evaluate(options.run)))


def sample(options: argparse.Namespace) -> None:
    """Draws rows from a run's weights, and keeps all of them."""
    out = options.out or options.run / "samples.npz"
    if out.suffix not in (".npz", ".png"):
        raise runs.Misuse(f"--out needs to end in .npz or .png, got {out}.")
    config, entry, model, _ = runs.trained(options.run)
    x = model.sample(options.n, rng=torch.Generator().manual_seed(options.seed))
    files.write(out, _png(x, entry.levels) if out.suffix == ".png" else _npz(x))
    print(f"{len(x)} samples of {config['model']}: {out}")


def table(options: argparse.Namespace) -> None:
    """Trains models on data, each by its whole recipe; prints each row, and stores it."""
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    given = {name: value for name, value in vars(options).items() if name in Recipe._fields}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None}
    for name in options.data:
        for model in options.models or scoreboard.fitting(name):
            for seed in options.seeds:
                for row in scoreboard.run(model, name, seed, MODELS[model].recipe._replace(**given)):
                    print(json.dumps(row), flush=True)
                    if options.out:
                        scoreboard.store(row, options.out)


def list_data(options: argparse.Namespace) -> None:
    """One line for each data set: rows to train, validate and test, columns, levels, and where it is."""
    for name, source in data.SOURCES.items():
        found = [files.find(content) for content in source.contents()]
        folders = sorted({str(file.path.parent) for file in found if file})
        where = "missing" if None in found else ", ".join(folders) or "bundled"
        rows = " + ".join(f"{n:,}" for n in source.rows)
        print(f"{name:14} {rows:24} {source.dim:4} of {source.levels:<3} {where} ({source.origin})")


def fetch(options: argparse.Namespace) -> None:
    """Reads all files of data sets, and downloads those that are missing."""
    for name in options.names:
        for content in data.SOURCES[name].contents():
            files.read(content)
        print(f"{name}: as pinned")


def verify(options: argparse.Namespace) -> int:
    """Compares the files of data sets with their pins; downloads nothing. Returns 1 if one is not right."""
    faults = {
        name: "; ".join(map(_fault, data.SOURCES[name].contents())).strip("; ") for name in options.names
    }
    for name, fault in faults.items():
        print(f"{name}: {fault or 'as pinned'}")
    return int(any(faults.values()))


def _fault(content: files.Content) -> str:
    if files.find(content) is None:
        return f"{content.files[0].path} is missing"
    try:
        files.read(content)
    except ValueError as error:
        return str(error)
    return ""


def _verdict(rows: list[dict[str, Any]]) -> str:
    parts = [f"{row['test']:.4f} ± {row['test_error']:.4f} ({row['kind']})" for row in rows]
    return f"{rows[0]['model']} on {rows[0]['data']}, test nats {', '.join(parts)}"


def _npz(x: Tensor) -> bytes:
    content = io.BytesIO()
    np.savez_compressed(content, x=x.numpy())
    return content.getvalue()


def _png(x: Tensor, levels: int) -> bytes:
    """A sheet of square images."""
    from gmlib import plot

    side = math.isqrt(x.shape[1])
    if side**2 != x.shape[1]:
        raise runs.Misuse(f"a .png needs rows that are square images, got {x.shape[1]} columns: take .npz.")
    columns = min(len(x), 8)
    fig, ax = plot.figure(width=columns, height=-(-len(x) // columns))
    plot.images(ax, x, (side, side), columns, limits=(0.0, levels - 1.0))
    content = io.BytesIO()
    fig.savefig(content, format="png", dpi=100)
    return content.getvalue()


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message):
        said = f"gmlib: error: {message} (see {self.prog} --help)\n"
        self.exit(2, said if processes.is_first() else None)


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(f"needs a whole number above 0, got {text!r}")
    return int(text)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gmlib", description="Generative models at scale: data, training, scoreboard.")
    parser.set_defaults(threads=1)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command, to=commands, *, threads: bool = True) -> argparse.ArgumentParser:
        about = command.__doc__.splitlines()[0]
        made = to.add_parser(name, help=about, description=about)
        made.set_defaults(command=command)
        if threads:
            made.add_argument("--threads", type=_count, default=1, metavar="N", help="of the processor (1)")
        return made

    names = list(data.SOURCES)
    of_data = commands.add_parser("data", help="Lists, fetches or verifies data sets.").add_subparsers(
        required=True, metavar="list|fetch|verify"
    )
    add("list", list_data, of_data, threads=False)
    for name, command in (("fetch", fetch), ("verify", verify)):
        add(name, command, of_data, threads=False).add_argument(
            "names", nargs="+", choices=names, metavar="NAME"
        )

    one = add("train", train)
    one.add_argument("model", nargs="?", choices=list(MODELS), metavar="MODEL", help=", ".join(MODELS))
    one.add_argument("--data", metavar="NAME", help=f"{', '.join(names)}, or FOLDER/NAME of a binary table")
    one.add_argument("--out", type=Path, required=True, metavar="DIR", help="the folder of the run")
    one.add_argument("--seed", type=int, help="of the weights, the batches and the noise (0)")
    one.add_argument("--resume", action="store_true", help="go on with the run in DIR, as it was begun")
    keys = ", ".join(dict.fromkeys(key for entry in MODELS.values() for key in runs.settings_of(entry)))
    one.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help=f"again and again: {keys}"
    )

    add("evaluate", evaluate).add_argument("run", type=Path, metavar="DIR")

    draw = add("sample", sample)
    draw.add_argument("run", type=Path, metavar="DIR")
    draw.add_argument("-n", type=_count, default=16, help="number of samples (16)")
    draw.add_argument("--seed", type=int, default=0, help="of the noise (0)")
    draw.add_argument("--out", type=Path, help="a .npz or .png file (DIR/samples.npz)")

    board = add("scoreboard", table)
    board.add_argument("--data", nargs="+", default=["digits"], metavar="NAME", help="as for train (digits)")
    board.add_argument("--models", nargs="+", choices=list(MODELS), metavar="MODEL", help=", ".join(MODELS))
    board.add_argument("--seeds", nargs="+", type=int, default=[0])
    board.add_argument("--updates", type=int, help="instead of the model's own")
    board.add_argument("--lr", type=float, help="instead of the model's own")
    board.add_argument("--weight-decays", nargs="+", type=float, help="instead of the model's own")
    board.add_argument("--validate-every", type=int, help="instead of the model's own")
    board.add_argument("--batch-size", type=int, help="instead of the model's own")
    board.add_argument("--precision", type=int, choices=(16, 32), help="instead of the model's own")
    board.add_argument("--out", type=Path, help="a JSON file to keep the rows in")
    return parser
