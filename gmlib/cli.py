"""The command `gmlib`: data, training that survives a kill, and the scoreboard.

    gmlib train NADE --data mnist --out runs/nade --set updates=14000

A run is a folder. `config.json` says what it is; `checkpoint.safetensors` is all that it needs to go on, and
`log.jsonl` how it went so far; `weights.safetensors`, the best ones, and `result.json`, the rows of the
scoreboard, are there when it has finished. No file is ever half written.
"""

import argparse
import io
import json
import math
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gmlib import data, files, scoreboard
from gmlib.scoreboard import MODELS, Entry
from gmlib.train import load_tensors, save_tensors

CONFIG, LOG, CHECKPOINT = "config.json", "log.jsonl", "checkpoint.safetensors"
WEIGHTS, RESULT = "weights.safetensors", "result.json"
MAY_BE_0 = ("anneal", "weight_decay")


class Misuse(Exception):
    """What was asked for makes no sense, or not here."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Does what the command line asks for. Returns 0, or 1 if it failed, or 2 if it was asked wrongly."""
    options = _parser().parse_args(arguments)
    torch.set_num_threads(options.threads)
    try:
        return options.command(options) or 0
    except Misuse as error:
        return _complain(error, 2)
    except (OSError, ValueError, FloatingPointError) as error:
        named = isinstance(error, OSError) and error.strerror and error.filename
        return _complain(f"{error.filename}: {error.strerror}" if named else error, 1)
    except KeyboardInterrupt:
        return _complain("interrupted", 130)


def _complain(error: object, code: int) -> int:
    print(f"gmlib: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def train(options: argparse.Namespace) -> None:
    """Trains one model: the first member, if it has several, with one weight decay."""
    folder = options.out
    config = _resumed(options) if options.resume else _planned(options)
    if (folder / RESULT).exists():
        return print(f"{folder} has finished: {_verdict(json.loads((folder / RESULT).read_text()))}")
    entry, source = scoreboard.pair(config["model"], config["data"])
    dataset = source.load()
    if options.resume:
        _require_data(config, dataset)
    else:
        folder.mkdir(parents=True, exist_ok=True)
        config |= {"data_sha256": scoreboard.digest(dataset), **scoreboard.origin()}
        _write_json(folder / CONFIG, config)
    with _locked(folder):
        settings = dict(config["settings"])
        every, decay = settings.pop("checkpoint_every"), settings.pop("weight_decay", 0.0)
        recipe = entry.recipe._replace(**settings, weight_decays=(decay,))
        member = scoreboard.train_member(
            entry,
            source,
            dataset,
            recipe,
            config["seed"],
            decay,
            config["member"],
            checkpoint=folder / CHECKPOINT,
            checkpoint_every=every,
            log=folder / LOG,
        )
        save_tensors(folder / WEIGHTS, member.model.state_dict(), {"model": config["model"]})
        seconds = json.loads((folder / LOG).read_text().splitlines()[-1])["seconds"]
        start = time.perf_counter() - seconds
        rows = scoreboard.rows(config["model"], member.model, entry, config["data"], dataset, config["seed"])
        common = scoreboard.account(recipe, [member], [], seconds, start)
        rows = [{**row, **common, **scoreboard.origin()} for row in rows]
        _write_json(folder / RESULT, rows)
        print(_verdict(rows))


def evaluate(options: argparse.Namespace) -> None:
    """Finds the validation and test nats of a run's weights; trains nothing."""
    config, entry, model = _trained(options.run)
    dataset = scoreboard.find(config["data"]).load()
    _require_data(config, dataset)
    print(_verdict(scoreboard.rows(config["model"], model, entry, config["data"], dataset, config["seed"])))


def sample(options: argparse.Namespace) -> None:
    """Draws rows from a run's weights, and keeps all of them."""
    out = options.out or options.run / "samples.npz"
    if out.suffix not in (".npz", ".png"):
        raise Misuse(f"--out needs to end in .npz or .png, got {out}.")
    config, entry, model = _trained(options.run)
    x = model.sample(options.n, rng=torch.Generator().manual_seed(options.seed))
    files.write(out, _png(x, entry.levels) if out.suffix == ".png" else _npz(x))
    print(f"{len(x)} samples of {config['model']}: {out}")


def table(options: argparse.Namespace) -> None:
    """Trains models on data, each by its whole recipe; prints each row, and stores it."""
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    given = {name: getattr(options, name) for name in ("updates", "lr", "weight_decays", "validate_every")}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None}
    for name in options.data:
        levels = scoreboard.find(name).levels
        for model in options.models or [model for model in MODELS if MODELS[model].levels == levels]:
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


def settings_of(entry: Entry) -> dict[str, int | float]:
    """What may be set of a model's training, and its values if it is not."""
    recipe = entry.recipe._asdict()
    decay = recipe.pop("weight_decays")[0]
    if entry.step is not None:
        return {name: recipe[name] for name in scoreboard.OF_STEPS} | {"checkpoint_every": 5}
    return {**recipe, "weight_decay": decay, "checkpoint_every": 500}


def parse(pairs: Sequence[str], defaults: dict[str, int | float]) -> dict[str, int | float]:
    """Settings from key=value, each of the type of its default."""
    found: dict[str, int | float] = {}
    for pair in pairs:
        key, _, text = pair.partition("=")
        if key not in defaults:
            raise Misuse(f"--set needs key=value with a key among {', '.join(defaults)}, got {pair!r}.")
        kind = type(defaults[key])
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not (0 < value < math.inf or (value == 0 and key in MAY_BE_0)):
            what = "a whole number" if kind is int else "a number"
            least = ", 0 or more" if key in MAY_BE_0 else " above 0"
            raise Misuse(f"--set {key} needs {what}{least}, such as {defaults[key]}, got {text!r}.")
        found[key] = value
    return found


def _planned(options: argparse.Namespace) -> dict[str, Any]:
    """What a new run is to be. Nothing is written yet."""
    there = [name for name in (CONFIG, LOG, CHECKPOINT, WEIGHTS, RESULT) if (options.out / name).exists()]
    if there:
        raise Misuse(f"{options.out} has a run ({', '.join(there)}): --resume it, or take another folder.")
    if options.model is None or options.data is None:
        raise Misuse("a new run needs MODEL and --data.")
    try:
        entry, source = scoreboard.pair(options.model, options.data)
    except ValueError as error:
        raise Misuse(error) from None
    defaults = settings_of(entry)
    settings = {**defaults, **parse(options.set, defaults)}
    key = {"model": options.model, "data": options.data, "seed": options.seed or 0, "member": 0}
    return {**key, "dim": source.dim, "settings": settings}


def _resumed(options: argparse.Namespace) -> dict[str, Any]:
    """What the run in the folder is. What is said of it again has to be the same."""
    config, entry = _config(options.out)
    said = {"model": options.model, "data": options.data, "seed": options.seed}
    said |= parse(options.set, settings_of(entry))
    was = config | config["settings"]
    for key, value in said.items():
        if value not in (None, was[key]):
            raise Misuse(
                f"{options.out} is a run of {key} {was[key]}, not {value}: it can only go on as it is."
            )
    for key, value in scoreboard.origin().items():
        if value != was[key]:
            print(f"gmlib: note: begun with {key} {was[key]}, resumed with {value}", file=sys.stderr)
    return config


def _config(folder: Path) -> tuple[dict[str, Any], Entry]:
    path = folder / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no run: there is no {CONFIG}.")
    try:
        config = json.loads(path.read_text())
        entry = MODELS[config["model"]]
        wanted = {"data", "seed", "member", "dim", "data_sha256", "commit", "versions", "hardware"}
        missing = [*(wanted - config.keys()), *(settings_of(entry).keys() ^ config["settings"].keys())]
        if missing:
            raise ValueError(f"{', '.join(missing)} missing, or unknown")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} needs to be as gmlib train wrote it: {error}.") from None
    return config, entry


def _trained(folder: Path) -> tuple[dict[str, Any], Entry, nn.Module]:
    """A run, and its model at the best weights."""
    config, entry = _config(folder)
    if not (folder / WEIGHTS).exists():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}: the run has not finished; --resume it.")
    tensors, _ = load_tensors(folder / WEIGHTS)
    model, _ = scoreboard.new(entry, config["dim"], config["seed"], config["member"])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} are of another model: {error}") from None
    return config, entry, model.eval()


def _require_data(config: dict[str, Any], dataset: data.Dataset) -> None:
    found = scoreboard.digest(dataset)
    if found != config["data_sha256"]:
        raise ValueError(
            f"{config['data']} needs sha256 {config['data_sha256']}, as when the run began, got {found}."
        )


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds the run against a second process, until this one ends, however it does."""
    import fcntl

    with (folder / CONFIG).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misuse(f"{folder} is being trained by another process.") from None
        yield


def _write_json(path: Path, value: object) -> None:
    files.write(path, (json.dumps(value, indent=1) + "\n").encode())


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
        raise Misuse(f"a .png needs rows that are square images, got {x.shape[1]} columns: take .npz.")
    columns = min(len(x), 8)
    fig, ax = plot.figure(width=columns, height=-(-len(x) // columns))
    plot.images(ax, x, (side, side), columns, limits=(0, levels - 1))
    content = io.BytesIO()
    fig.savefig(content, format="png", dpi=100)
    return content.getvalue()


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line."""

    def error(self, message):
        self.exit(2, f"gmlib: error: {message} (see {self.prog} --help)\n")


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="gmlib", description="Generative models at scale: data, training, scoreboard.")
    parser.set_defaults(threads=1)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def add(name: str, command, to=commands, *, threads: bool = True) -> argparse.ArgumentParser:
        about = command.__doc__.splitlines()[0]
        made = to.add_parser(name, help=about, description=about)
        made.set_defaults(command=command)
        if threads:
            made.add_argument("--threads", type=int, default=1, help="of the processor (1)")
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
    keys = ", ".join(settings_of(MODELS["NADE"]))
    one.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help=f"again and again: {keys}"
    )

    add("evaluate", evaluate).add_argument("run", type=Path, metavar="DIR")

    draw = add("sample", sample)
    draw.add_argument("run", type=Path, metavar="DIR")
    draw.add_argument("-n", type=int, default=16, help="number of samples (16)")
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
    board.add_argument("--out", type=Path, help="a JSON file to keep the rows in")
    return parser
