"""The book's models on data of real size: each is trained by one recipe and leaves one row in a JSON file.

    python -m gmlib.scoreboard --data mushrooms plants jester --out book/results/03-tables.json

The recipe is the same for all models and data: AdamW with a cosine schedule, tried with each of a few weight
decays; of those the one with the lowest validation loss is kept, at its best weights. An ensemble keeps the
one that is best for its first member. The test rows are read once, at the end.
"""

import argparse
import json
import math
import os
import platform
import subprocess
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from gmlib import data
from gmlib.autoregressive import MADE, NADE, LogisticAR
from gmlib.base import Density, Ensemble
from gmlib.train import fit


class Entry(NamedTuple):
    """A model of the scoreboard: how to make it for D coordinates, and how many to average in probability."""

    make: Callable[[int, torch.Generator], Density]
    members: int = 1


class Recipe(NamedTuple):
    """How all models are trained."""

    updates: int = 12_000
    batch_size: int = 100
    lr: float = 1e-3
    weight_decays: tuple[float, ...] = (0.03, 0.1, 0.3)
    validate_every: int = 100


def shuffled(dim: int, rng: torch.Generator) -> list[int]:
    """The coordinates in an order that is drawn."""
    return torch.randperm(dim, generator=rng).tolist()


MODELS = {
    "FVBN": Entry(lambda dim, rng: LogisticAR(dim)),
    "NADE": Entry(lambda dim, rng: NADE(dim, 500)),
    "MADE": Entry(lambda dim, rng: MADE(dim, (500,), shuffled(dim, rng), direct=True)),
    "MADE, 8 orders": Entry(lambda dim, rng: MADE(dim, (500,), shuffled(dim, rng), direct=True), members=8),
}


def load(name: str) -> data.Dataset:
    """Binary data by name: "digits", "mnist" (static), a table of `gmlib.data`, or a path FOLDER/NAME."""
    if name == "digits":
        return data.digits(binary=True)
    if name == "mnist":
        return data.mnist(binary="static")
    folder, _, table = name.rpartition("/")
    return data.read_binary_table(folder, table) if folder else data.binary_table(table)


def train(
    entry: Entry, dataset: data.Dataset, recipe: Recipe, seed: int
) -> tuple[Density, float, dict[float, float]]:
    """The trained model, the weight decay that was chosen, and the validation nats of each that was tried."""
    tried, first = {}, {}
    for weight_decay in recipe.weight_decays:
        model = _member(entry, dataset, recipe, weight_decay, seed, 0)
        tried[weight_decay], first[weight_decay] = nats(model, dataset.validation.x)[0], model
    chosen = min(tried, key=tried.__getitem__)
    members = [first[chosen]]
    members += [_member(entry, dataset, recipe, chosen, seed, k) for k in range(1, entry.members)]
    return Ensemble(members) if entry.members > 1 else members[0], chosen, tried


def _member(
    entry: Entry, dataset: data.Dataset, recipe: Recipe, weight_decay: float, seed: int, k: int
) -> Density:
    """The k-th member of an ensemble: its own initial weights, order and batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000 * seed + k)
        rng = torch.Generator().manual_seed(1_000 * seed + k)
        model = entry.make(dataset.train.x.shape[1], rng)
    fit(
        model,
        dataset.train.x,
        steps=recipe.updates,
        batch_size=recipe.batch_size,
        lr=recipe.lr,
        rng=rng,
        validation=dataset.validation.x,
        validate_every=recipe.validate_every,
        optimizer=partial(torch.optim.AdamW, weight_decay=weight_decay),
        schedule=lambda done: min(1.0, 3 * (1 - done)),
    )
    return model


@torch.no_grad()
def nats(model: Density, x: Float[Tensor, "N D"]) -> tuple[float, float]:
    """The mean of -log p(x) over the rows of x, and its standard error."""
    losses = -torch.cat([model.log_prob(rows) for rows in x.split(1_000)]).double()
    return losses.mean().item(), (losses.std() / len(losses) ** 0.5).item()


def run(model: str, name: str, seed: int, recipe: Recipe) -> dict[str, Any]:
    """One row of the scoreboard."""
    dataset, entry = load(name), MODELS[model]
    start = time.perf_counter()
    trained, weight_decay, tried = train(entry, dataset, recipe, seed)
    seconds = time.perf_counter() - start
    validation, validation_error = nats(trained, dataset.validation.x)
    test, test_error = nats(trained, dataset.test.x)
    return {
        "model": model,
        "data": name.rpartition("/")[2],
        "seed": seed,
        "kind": "exact",
        "validation": round(validation, 4),
        "validation_error": round(validation_error, 4),
        "test": round(test, 4),
        "test_error": round(test_error, 4),
        "configuration": {
            **recipe._asdict(),
            "weight_decays": list(recipe.weight_decays),
            "members": entry.members,
            "weight_decay": weight_decay,
            "validation_by_weight_decay": {f"{key:g}": round(loss, 4) for key, loss in tried.items()},
        },
        "parameters": sum(parameter.numel() for parameter in trained.parameters()),
        "updates": recipe.updates * (len(recipe.weight_decays) + entry.members - 1),
        "train_seconds": round(seconds, 1),
        "wall_seconds": round(time.perf_counter() - start, 1),
        "versions": {"python": platform.python_version(), "torch": version("torch"), "gmlib": _commit()},
        "hardware": f"{_processor()}, {torch.get_num_threads()} thread(s)",
    }


def store(row: dict[str, Any], path: Path) -> None:
    """Puts a row into a JSON file, in the place of an older one of the same model, data and seed."""
    rows = json.loads(path.read_text()) if path.exists() else []
    key = _key(row)
    rows = sorted([*(old for old in rows if _key(old) != key), row], key=_key)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(rows, indent=1) + "\n")
    os.replace(part, path)


def _key(row: dict[str, Any]) -> tuple:
    return (
        row["data"],
        list(MODELS).index(row["model"]) if row["model"] in MODELS else -1,
        row["model"],
        row["seed"],
    )


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


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what the command line asks for; prints each row, and stores it."""
    parser = argparse.ArgumentParser(
        prog="python -m gmlib.scoreboard", description="Trains models on data, and stores their test nats."
    )
    default = Recipe()
    parser.add_argument(
        "--data", nargs="+", default=["digits"], help="digits, mnist, a table, or FOLDER/NAME"
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--updates", type=int, default=default.updates)
    parser.add_argument("--lr", type=float, default=default.lr)
    parser.add_argument("--weight-decays", nargs="+", type=float, default=default.weight_decays)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file to keep the rows in")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    recipe = default._replace(
        updates=options.updates, lr=options.lr, weight_decays=tuple(options.weight_decays)
    )
    for name in options.data:
        for model in options.models:
            for seed in options.seeds:
                row = run(model, name, seed, recipe)
                print(json.dumps(row), flush=True)
                if options.out:
                    store(row, options.out)


if __name__ == "__main__":
    main()
