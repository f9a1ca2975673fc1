"""Runs of training that survive a kill: folders that say what they are, how they went and what came out.

`config.json` says what a run is; `checkpoint.safetensors` is all that it needs to go on, and `log.jsonl` how
it went so far; `weights.safetensors`, the best ones, and `result.json`, the rows of the scoreboard, are there
when it has finished. No file is ever half written, and none is replaced by one of another run.
"""

import json
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

from torch import nn

from gmlib import data, files, processes, scoreboard
from gmlib.train import load_tensors, save_tensors
from gmlib.zoo import MODELS, OF_STEPS, Entry

CONFIG, LOG, CHECKPOINT = "config.json", "log.jsonl", "checkpoint.safetensors"
WEIGHTS, RESULT = "weights.safetensors", "result.json"
MAY_BE_0 = ("anneal", "weight_decay")


class Misuse(ValueError):
    """What was asked for makes no sense, or not of this run."""


def settings_of(entry: Entry) -> dict[str, int | float]:
    """What may be set of a model's training, and what it is if it is not."""
    recipe = entry.recipe._asdict()
    decay = recipe.pop("weight_decays")[0]
    if entry.step is not None:
        return {name: recipe[name] for name in OF_STEPS} | {"checkpoint_every": 5}
    return {**recipe, "weight_decay": decay, "checkpoint_every": 500}


def parse(pairs: Sequence[str], defaults: dict[str, int | float]) -> dict[str, int | float]:
    """Settings from key=value, each of the type of its default.

    Raises:
        Misuse: if there is no such key, or the value is not of its type or makes no sense.
    """
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
        if key == "precision" and value not in (16, 32):
            raise Misuse(f"--set precision needs 16 or 32, got {text!r}.")
        found[key] = value
    return found


def plan(folder: Path, model: str | None, name: str | None, seed: int | None, pairs: Sequence[str]) -> dict:
    """What a new run is to be: of one member, with one weight decay. Nothing is written yet.

    Raises:
        Misuse: if the folder has a run, or what was asked for makes no sense.
    """
    there = [file for file in (CONFIG, LOG, CHECKPOINT, WEIGHTS, RESULT) if (folder / file).exists()]
    if there:
        raise Misuse(f"{folder} has a run ({', '.join(there)}): --resume it, or take another folder.")
    if model is None or name is None:
        raise Misuse("a new run needs MODEL and --data.")
    try:
        entry, source = scoreboard.pair(model, name)
    except ValueError as error:
        raise Misuse(error) from None
    defaults = settings_of(entry)
    settings = {**defaults, **parse(pairs, defaults)}
    return {
        "model": model,
        "data": name,
        "seed": seed or 0,
        "member": 0,
        "dim": source.dim,
        "settings": settings,
    }


def resume(folder: Path, model: str | None, name: str | None, seed: int | None, pairs: Sequence[str]) -> dict:
    """What the run in the folder is. What is said of it again has to be the same.

    Raises:
        FileNotFoundError: if there is no run.
        Misuse: if it is another one.
    """
    config, entry = _config(folder)
    said = {"model": model, "data": name, "seed": seed, **parse(pairs, settings_of(entry))}
    was = config | config["settings"]
    for key, value in said.items():
        if value not in (None, was[key]):
            raise Misuse(f"{folder} is a run of {key} {was[key]}, not {value}: it can only go on as it is.")
    return config


def changes(config: dict[str, Any]) -> list[str]:
    """What is not as it was when the run began, and may change its outcome."""
    now = scoreboard.origin()
    return [
        f"begun with {key} {config[key]}, resumed with {now[key]}" for key in now if config[key] != now[key]
    ]


def finished(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run that has finished; none of one that has not."""
    path = folder / RESULT
    try:
        return json.loads(path.read_text()) if path.exists() else []
    except ValueError as error:
        raise ValueError(f"{path} needs to be as gmlib train wrote it: {error}.") from None


def train(folder: Path, config: dict[str, Any]) -> list[dict[str, Any]]:
    """Begins a run that is planned, or goes on with one, to its end, and gives its rows.

    Several processes share each batch; the first writes all files and gives the rows, the others give none.

    Raises:
        Misuse: if another run is at it, or several processes are to take steps that only one can.
        ValueError: if the checkpoint is damaged or of another run, or the data are others.
        FloatingPointError: if a loss is not finite.
    """
    entry, source = scoreboard.pair(config["model"], config["data"])
    n = processes.number()
    if entry.step is not None and n > 1:
        raise Misuse(f"{config['model']} is trained by all rows at once, in one process, not in {n}.")
    processes.by_first(lambda: source.load() and None)  # so that one alone downloads
    dataset = source.load()
    if "data_sha256" not in config:
        config = processes.by_first(lambda: _begin(folder, config, dataset))
    _require_data(config, dataset)
    settings = dict(config["settings"])
    every, decay = settings.pop("checkpoint_every"), settings.pop("weight_decay", 0.0)
    recipe = entry.recipe._replace(**settings, weight_decays=(decay,))
    with _locked(folder) if processes.is_first() else nullcontext():
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
        if not processes.is_first():
            return []
        save_tensors(folder / WEIGHTS, member.model.state_dict(), {"model": config["model"]})
        seconds = json.loads((folder / LOG).read_text().splitlines()[-1])["seconds"]
        start = time.perf_counter() - seconds
        scores = scoreboard.rows(
            config["model"], member.model, entry, config["data"], dataset, config["seed"]
        )
        common = {**scoreboard.account(recipe, [member], [], seconds, start), **scoreboard.origin()}
        rows = [{**row, **common} for row in scores]
        _write_json(folder / RESULT, rows)
    return rows


def _begin(folder: Path, config: dict[str, Any], dataset: data.Dataset) -> dict[str, Any]:
    """Writes what a run is, with the data that it has: the first of its files."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = {**config, "data_sha256": scoreboard.digest(dataset), **scoreboard.origin()}
    _write_json(folder / CONFIG, begun)
    return begun


def evaluate(folder: Path) -> list[dict[str, Any]]:
    """The scores of a run's weights, found anew, without any training."""
    config, entry, model, dataset = trained(folder)
    return scoreboard.rows(config["model"], model, entry, config["data"], dataset, config["seed"])


def trained(folder: Path) -> tuple[dict[str, Any], Entry, nn.Module, data.Dataset]:
    """What a run is, its entry in the scoreboard, its model at the best weights, and its data.

    Raises:
        FileNotFoundError: if there is no run, or it has not finished.
        ValueError: if a file is damaged, or the data are not those that it was trained on.
    """
    config, entry = _config(folder)
    if not (folder / WEIGHTS).exists():
        raise FileNotFoundError(f"{folder} has no {WEIGHTS}: the run has not finished; --resume it.")
    tensors, _ = load_tensors(folder / WEIGHTS)
    dataset = scoreboard.find(config["data"]).load()
    _require_data(config, dataset)
    model, _ = scoreboard.new(entry, dataset.train.x, config["seed"], config["member"])
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{folder / WEIGHTS} need to be of {config['model']}: {error}") from None
    return config, entry, model.eval(), dataset


def _config(folder: Path) -> tuple[dict[str, Any], Entry]:
    path = folder / CONFIG
    if not path.exists():
        raise FileNotFoundError(f"{folder} has no run: there is no {CONFIG}.")
    try:
        config = json.loads(path.read_text())
        entry = MODELS[config["model"]]
        settings, defaults = config["settings"], settings_of(entry)
        wanted = {"data", "seed", "member", "dim", "data_sha256", "versions", "commit", "hardware"}
        odd = [*(wanted - config.keys()), *(settings.keys() ^ defaults.keys())]
        if odd or parse([f"{key}={value}" for key, value in settings.items()], defaults) != settings:
            raise ValueError(f"look at {', '.join(odd) or 'settings'}")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} needs to be as gmlib train wrote it: {error}.") from None
    return config, entry


def _require_data(config: dict[str, Any], dataset: data.Dataset) -> None:
    found, wanted = scoreboard.digest(dataset), config["data_sha256"]
    if found != wanted:
        raise ValueError(f"{config['data']} needs sha256 {wanted}, as when the run began, got {found}.")


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """Holds a run against a second process, until this one ends, however it does."""
    import fcntl

    with (folder / CONFIG).open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Misuse(f"{folder} is being trained by another process.") from None
        yield


def _write_json(path: Path, value: object) -> None:
    files.write(path, (json.dumps(value, indent=1) + "\n").encode())
