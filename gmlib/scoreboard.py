"""The book's models on data of real size: each is trained by one recipe and leaves its rows in a JSON file.

    gmlib scoreboard --data mushrooms plants jester --out book/results/03-tables.json

The recipe is the same for all data: AdamW, or EM for a mixture, stopped when the validation loss has not
fallen for a while, at the best weights. The weight decay is chosen by the validation loss, and so is the
order of the coordinates, or the start, where a model has one; a second row is for all of them, averaged in
probability. The test rows are read once, at the end. The models are those of `gmlib.zoo`.

A row says of what kind its nats are: "exact", minus the mean of log p(x); "bound", minus the mean of a lower
bound on it, so that p is better than they say; or "estimate", minus the mean of an importance-weighted
estimate, a bound as well, though a tight one. Divided by `dim` times ln 2 they are bits a dimension.
"""

import hashlib
import json
import platform
import subprocess
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gmlib import data, files, processes
from gmlib.base import Ensemble, Sampler
from gmlib.train import fit, fit_by
from gmlib.zoo import EXACT, MODELS, Entry, Recipe, Score


class Member(NamedTuple):
    """A trained model, its validation nats, and how it came about."""

    model: nn.Module
    validation: float
    weight_decay: float
    updates: int


def find(name: str) -> data.Source:
    """Data by name: one of `gmlib.data.SOURCES`, or a path FOLDER/NAME to a binary table.

    Raises:
        ValueError: if there is no such name.
    """
    if name in data.SOURCES:
        return data.SOURCES[name]
    folder, _, table = name.rpartition("/")
    if not folder:
        raise ValueError(f"data need to be {', '.join(data.SOURCES)} or a path FOLDER/NAME, got {name!r}.")
    dataset = data.read_binary_table(folder, table)
    rows = tuple(len(split.x) for split in dataset)
    return data.Source(lambda: dataset, rows, dataset.train.x.shape[1], folder)


def pair(model: str, name: str) -> tuple[Entry, data.Source]:
    """A model and its data by name.

    Raises:
        ValueError: if there is no such model or no such data, or the data are none for the model.
    """
    if model not in MODELS:
        raise ValueError(f"the model needs to be {', '.join(MODELS)}, got {model!r}.")
    entry, source = MODELS[model], find(name)
    if entry.levels != source.levels:
        raise ValueError(f"{model} needs data of {entry.levels} levels, got {name}, of {source.levels}.")
    if entry.images and not source.images:
        raise ValueError(f"{model} needs rows that are square images, got {name}, which has others.")
    return entry, source


def fitting(name: str) -> list[str]:
    """The models that there may be of data, by name."""
    source = find(name)
    return [
        model
        for model, entry in MODELS.items()
        if entry.levels == source.levels and (source.images or not entry.images)
    ]


def digest(dataset: data.Dataset) -> str:
    """The sha256 of all rows, in the order train, validate, test."""
    found = hashlib.sha256()
    for split in dataset:
        found.update(split.x.contiguous().numpy())
    return found.hexdigest()


def train(
    entry: Entry, source: data.Source, dataset: data.Dataset, recipe: Recipe, seed: int
) -> tuple[list[Member], list[Member]]:
    """The members, all with the decay that was best for the first; and the first with other decays."""
    train_one = partial(train_member, entry, source, dataset, recipe, seed)
    tried = [train_one(decay, 0) for decay in recipe.weight_decays]
    first = min(tried, key=lambda member: member.validation)
    later = [train_one(first.weight_decay, k) for k in range(1, entry.members)]
    return [first, *later], [member for member in tried if member is not first]


def new(entry: Entry, x: Float[Tensor, "N D"], seed: int, k: int) -> tuple[nn.Module, torch.Generator]:
    """The k-th member before its training, and the noise to train it with: always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000 * seed + k)
        rng = torch.Generator().manual_seed(1_000 * seed + k)
        return entry.make(x, k, rng), rng


def train_member(
    entry: Entry,
    source: data.Source,
    dataset: data.Dataset,
    recipe: Recipe,
    seed: int,
    weight_decay: float,
    k: int,
    *,
    checkpoint: Path | None = None,
    checkpoint_every: int = 1_000,
    log: Path | None = None,
) -> Member:
    """The k-th member: its own initial weights, order and batches. It resumes from a checkpoint, as `fit`."""
    model, rng = new(entry, dataset.train.x, seed, k)
    common = {
        "steps": recipe.updates,
        "rng": rng,
        "validation": dataset.validation.x,
        "validate_every": recipe.validate_every,
        "patience": recipe.patience,
        "checkpoint": checkpoint,
        "checkpoint_every": checkpoint_every,
        "log": log,
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000 * seed + k)  # of dropout, on a processor
        if entry.step is not None:
            losses = fit_by(entry.step, model, dataset.train.x, **common)
        else:
            losses = fit(
                model,
                dataset.train.x,
                batch_size=recipe.batch_size,
                lr=recipe.lr,
                transform=source.transform,
                optimizer=partial(torch.optim.AdamW, weight_decay=weight_decay, fused=True),
                schedule=lambda done: min(1.0, (1 - done) / recipe.anneal) if recipe.anneal else 1.0,
                precision=recipe.precision,
                **common,
            )
    score = next(iter(entry.scores.values()))
    return Member(model, nats(model, dataset.validation.x, score)[0], weight_decay, len(losses))


@torch.no_grad()
def surprises(model: nn.Module, x: Float[Tensor, "N D"], score: Score = EXACT) -> Float[Tensor, " N"]:
    """Minus the score of each row of x, in nats and float64; always with the same noise."""
    rng = torch.Generator().manual_seed(0)
    return -torch.cat([score.of(model, rows, rng) for rows in x.split(1_000)]).double()


def nats(model: nn.Module, x: Float[Tensor, "N D"], score: Score = EXACT) -> tuple[float, float]:
    """The mean of minus the score over the rows of x, and its standard error."""
    losses = surprises(model, x, score)
    return losses.mean().item(), (losses.std() / len(losses) ** 0.5).item()


def enter(
    model: str, name: str, seed: int, recipe: Recipe
) -> tuple[dict[str, nn.Module], list[dict[str, Any]]]:
    """The best member of a model by validation and, of several, their average; and the rows of both."""
    entry, source = pair(model, name)
    dataset, about = source.load(), origin()  # of the code that runs, whatever is edited meanwhile
    start = time.perf_counter()
    members, rejected = train(entry, source, dataset, recipe, seed)
    seconds = time.perf_counter() - start
    best = min(members, key=lambda member: member.validation)
    models = {model: best.model}
    if len(members) > 1:
        models[f"{model}, {len(members)} averaged"] = Ensemble([member.model for member in members])
    found = [
        {**row, **account(recipe, members, rejected, seconds, start), **about}
        for label, trained in models.items()
        for row in rows(label, trained, entry, name, dataset, seed)
    ]
    return models, found


def run(model: str, name: str, seed: int, recipe: Recipe) -> list[dict[str, Any]]:
    """The rows of one model, as of `enter`."""
    return enter(model, name, seed, recipe)[1]


def account(
    recipe: Recipe, members: list[Member], rejected: list[Member], seconds: float, start: float
) -> dict[str, Any]:
    """How members came about, who took some seconds to train, and some more to evaluate since the start."""
    first = members[0]
    return {
        "configuration": {
            **recipe._asdict(),
            "weight_decays": list(recipe.weight_decays),
            "weight_decay": first.weight_decay,
            "validation_by_weight_decay": {
                f"{member.weight_decay:g}": round(member.validation, 4) for member in [first, *rejected]
            },
            "validation_by_member": [round(member.validation, 4) for member in members],
            "updates_by_member": [member.updates for member in members],
        },
        "updates": sum(member.updates for member in [*members, *rejected]),
        "train_seconds": round(seconds, 1),
        "wall_seconds": round(time.perf_counter() - start, 1),
    }


def rows(
    label: str, model: nn.Module, entry: Entry, name: str, dataset: data.Dataset, seed: int
) -> list[dict[str, Any]]:
    """What a trained model scores: one row for each kind of nats."""
    size = {
        "dim": dataset.train.x.shape[1],
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "samples_per_second": float(f"{samples_per_second(model):.3g}"),
    }
    key = {"model": label, "data": name.rpartition("/")[2], "seed": seed}
    return [
        {**key, "kind": kind, "draws": score.draws, **numbers(model, dataset, score), **size}
        for kind, score in entry.scores.items()
    ]


def numbers(model: nn.Module, dataset: data.Dataset, score: Score) -> dict[str, float]:
    """Validation and test nats with their standard errors."""
    found: dict[str, float] = {}
    for name in ("validation", "test"):
        mean, error = nats(model, getattr(dataset, name).x, score)
        found |= {name: round(mean, 4), f"{name}_error": round(error, 4)}
    return found


def samples_per_second(model: Sampler) -> float:
    """How many draws a second a model makes: 100 at a time, or 10 if a single one takes a second or more."""
    rng = torch.Generator().manual_seed(0)

    def seconds(n: int) -> float:
        start = time.perf_counter()
        model.sample(n, rng=rng)
        return time.perf_counter() - start

    n = 100 if seconds(1) < 1 else 10
    return n / seconds(n)


def store(row: dict[str, Any], path: Path) -> None:
    """Puts a row into a JSON file, in the place of an older one of the same model, data, seed and kind."""
    rows = json.loads(path.read_text()) if path.exists() else []
    rows = sorted([*(old for old in rows if _key(old) != _key(row)), row], key=_key)
    files.write(path, (json.dumps(rows, indent=1) + "\n").encode())


def _key(row: dict[str, Any]) -> tuple[str, str, int, str]:
    return row["data"], row["model"], row["seed"], row["kind"]


def origin() -> dict[str, Any]:
    """By which code and on which machine: versions, commit, hardware."""
    shared = f", processes: {processes.number()}" if processes.number() > 1 else ""
    return {
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "commit": _commit(),
        "hardware": f"{_processor()}, threads: {torch.get_num_threads()}{shared}",
    }


def _commit() -> str:
    """The commit of the package's repository; "+" if there are changes, "unknown" outside one."""

    def git(*words: str) -> str:
        found = subprocess.run(
            ["git", *words], cwd=Path(__file__).parent, capture_output=True, text=True, check=True
        )
        return found.stdout.strip()

    try:
        return git("rev-parse", "--short=10", "HEAD") + ("+" if git("status", "--porcelain", ".") else "")
    except (OSError, subprocess.CalledProcessError):
        return "unknown"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
