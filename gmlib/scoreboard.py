"""The book's models on data of real size: each is trained by one recipe and leaves its rows in a JSON file.

    python -m gmlib.scoreboard --data mushrooms plants jester --out book/results/03-tables.json

The recipe is the same for all data: AdamW, or EM for a mixture, stopped when the validation loss has not
fallen for a while, at the best weights. The weight decay is chosen by the validation loss, and so is the
order of the coordinates, or the start, where a model has one; a second row is for all of them, averaged in
probability. The test rows are read once, at the end. To add a model, add it to `MODELS`.
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
from gmlib.autoregressive import MADE, NADE, LogisticAR, tree_order
from gmlib.base import Density, Ensemble
from gmlib.mixture import BernoulliMixture, em_step
from gmlib.train import fit


class Recipe(NamedTuple):
    """How a model is trained.

    Patience is the number of updates without a lower validation loss after which training stops. Over the
    fraction `anneal` of the updates, the last ones, the rate falls to 0.
    """

    updates: int
    lr: float
    anneal: float = 0.0
    patience: int = 2_000
    validate_every: int = 100
    batch_size: int = 100
    weight_decays: tuple[float, ...] = (0.01, 0.1)


class Entry(NamedTuple):
    """A model of the scoreboard: how to make it, to train it, and how many to try.

    It is made from the training rows (N, D), its number among those to try, and a source of noise.

    A `step`, such as one of EM, takes the model and all training rows, and the place of AdamW's updates;
    of the recipe it obeys the number of updates, the patience and how often to validate.
    """

    make: Callable[[Tensor, int, torch.Generator], Density]
    recipe: Recipe
    members: int = 1
    step: Callable[[Density, Tensor], object] | None = None


class Member(NamedTuple):
    """A trained model, its validation nats, and how it came about."""

    model: Density
    validation: float
    weight_decay: float
    updates: int


def made(x: Tensor, member: int, rng: torch.Generator, trees: bool = False) -> MADE:
    """A MADE in an order that is drawn, or with `trees` and for every other member in that of a tree.

    The tree's root is drawn. The direct connections start at 0.
    """
    dim = x.shape[1]
    if trees and member % 2 == 0:
        order = tree_order(x, int(torch.randint(dim, (), generator=rng)))
    else:
        order = torch.randperm(dim, generator=rng).tolist()
    model = MADE(dim, (500,), order, direct=True)
    torch.nn.init.zeros_(model.direct.weight)
    return model


def mixture(components: int, members: int) -> Entry:
    """Coins in groups, fitted by EM with a pseudo-count of 0.1."""

    def make(x: Tensor, member: int, rng: torch.Generator) -> BernoulliMixture:
        model = BernoulliMixture(x.shape[1], components)
        torch.nn.init.normal_(model.eta, std=0.1)  # alike, so that none is without data
        return model

    recipe = Recipe(updates=200, lr=0.0, patience=20, validate_every=5, weight_decays=(0.0,))
    return Entry(make, recipe, members, partial(em_step, floor=0.1))


MADES = Recipe(updates=20_000, lr=3e-4, weight_decays=(0.1, 1.0))
MODELS = {
    "FVBN": Entry(lambda x, member, rng: LogisticAR(x.shape[1]), Recipe(updates=6_000, lr=1e-2, anneal=0.5)),
    "NADE": Entry(lambda x, member, rng: NADE(x.shape[1], 500), Recipe(updates=6_000, lr=3e-3, anneal=0.5)),
    "MADE": Entry(made, MADES, members=6),
    "MADE with trees": Entry(partial(made, trees=True), MADES, members=6),
    "Mixture of 10": mixture(10, members=5),
    "Mixture of 500": mixture(500, members=1),
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
) -> tuple[list[Member], list[Member]]:
    """The members, all with the decay that was best for the first; and the first with other decays."""
    tried = [_member(entry, dataset, recipe, decay, seed, 0) for decay in recipe.weight_decays]
    first = min(tried, key=lambda member: member.validation)
    later = [_member(entry, dataset, recipe, first.weight_decay, seed, k) for k in range(1, entry.members)]
    return [first, *later], [member for member in tried if member is not first]


def _member(
    entry: Entry, dataset: data.Dataset, recipe: Recipe, weight_decay: float, seed: int, k: int
) -> Member:
    """The k-th member: its own initial weights, order and batches."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1_000 * seed + k)
        rng = torch.Generator().manual_seed(1_000 * seed + k)
        model = entry.make(dataset.train.x, k, rng)
    if entry.step is not None:
        updates = _repeat(entry.step, model, dataset, recipe)
        return Member(model, nats(model, dataset.validation.x)[0], weight_decay, updates)
    best, best_step = math.inf, 0

    def impatient(step: int, loss: float) -> bool:
        nonlocal best, best_step
        if step % recipe.validate_every == 0:
            validation, _ = nats(model, dataset.validation.x)
            if validation < best:
                best, best_step = validation, step
        return step - best_step >= recipe.patience

    losses = fit(
        model,
        dataset.train.x,
        steps=recipe.updates,
        batch_size=recipe.batch_size,
        lr=recipe.lr,
        rng=rng,
        each=impatient,
        validation=dataset.validation.x,
        validate_every=recipe.validate_every,
        optimizer=partial(torch.optim.AdamW, weight_decay=weight_decay),
        schedule=lambda done: min(1.0, (1 - done) / recipe.anneal) if recipe.anneal else 1.0,
    )
    return Member(model, nats(model, dataset.validation.x)[0], weight_decay, len(losses))


def _repeat(step: Callable[[Density, Tensor], object], model: Density, dataset, recipe: Recipe) -> int:
    """Takes steps while the recipe lets it, leaves the model at its best, and returns their number."""
    best, best_step, weights = math.inf, 0, model.state_dict()
    for update in range(1, recipe.updates + 1):
        step(model, dataset.train.x)
        if update % recipe.validate_every == 0:
            validation, _ = nats(model, dataset.validation.x)
            if validation < best:
                best, best_step = validation, update
                weights = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        if update - best_step >= recipe.patience:
            break
    model.load_state_dict(weights)
    return update


@torch.no_grad()
def nats(model: Density, x: Float[Tensor, "N D"]) -> tuple[float, float]:
    """The mean of -log p(x) over the rows of x, and its standard error."""
    losses = -torch.cat([model.log_prob(rows) for rows in x.split(1_000)]).double()
    return losses.mean().item(), (losses.std() / len(losses) ** 0.5).item()


def run(model: str, name: str, seed: int, recipe: Recipe) -> list[dict[str, Any]]:
    """The rows of one model: the member that is best by validation and, of several, their average."""
    dataset, entry = load(name), MODELS[model]
    origin, start = provenance(), time.perf_counter()
    members, rejected = train(entry, dataset, recipe, seed)
    seconds = time.perf_counter() - start
    best = min(members, key=lambda member: member.validation)
    models = {model: best.model}
    if len(members) > 1:
        models[f"{model}, {len(members)} averaged"] = Ensemble([member.model for member in members])
    common = {
        "configuration": {
            **recipe._asdict(),
            "weight_decays": list(recipe.weight_decays),
            "weight_decay": best.weight_decay,
            "validation_by_weight_decay": {
                f"{member.weight_decay:g}": round(member.validation, 4) for member in [members[0], *rejected]
            },
            "validation_by_member": [round(member.validation, 4) for member in members],
            "updates_by_member": [member.updates for member in members],
        },
        "updates": sum(member.updates for member in [*members, *rejected]),
        "train_seconds": round(seconds, 1),
        "wall_seconds": round(time.perf_counter() - start, 1),
        **origin,
    }
    key = {"data": name.rpartition("/")[2], "seed": seed, "kind": "exact"}
    return [
        {"model": label, **key, **_numbers(trained, dataset), **common} for label, trained in models.items()
    ]


def _numbers(model: Density, dataset: data.Dataset) -> dict[str, float | int]:
    """Validation and test nats with their standard errors, and the number of parameters."""
    numbers: dict[str, float | int] = {}
    for name in ("validation", "test"):
        mean, error = nats(model, getattr(dataset, name).x)
        numbers |= {name: round(mean, 4), f"{name}_error": round(error, 4)}
    return numbers | {"parameters": sum(parameter.numel() for parameter in model.parameters())}


def provenance() -> dict[str, Any]:
    """What a row says of where it came from: asked before the work, since code is edited meanwhile."""
    return {
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "commit": _commit(),
        "hardware": f"{_processor()}, threads: {torch.get_num_threads()}",
    }


def store(row: dict[str, Any], path: Path) -> None:
    """Puts a row into a JSON file, in the place of an older one of the same model, data and seed."""
    rows = json.loads(path.read_text()) if path.exists() else []
    key = _key(row)
    rows = sorted([*(old for old in rows if _key(old) != key), row], key=_key)
    part = path.with_name(f".{path.name}.part")
    part.write_text(json.dumps(rows, indent=1) + "\n")
    os.replace(part, path)


def _key(row: dict[str, Any]) -> tuple[str, str, int]:
    return row["data"], row["model"], row["seed"]


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
    parser.add_argument(
        "--data", nargs="+", default=["digits"], help="digits, mnist, a table, or FOLDER/NAME"
    )
    parser.add_argument("--models", nargs="+", default=list(MODELS), choices=list(MODELS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[0])
    parser.add_argument("--updates", type=int, help="instead of the model's own")
    parser.add_argument("--lr", type=float, help="instead of the model's own")
    parser.add_argument("--weight-decays", nargs="+", type=float, help="instead of the model's own")
    parser.add_argument("--validate-every", type=int, help="instead of every 100 updates")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="a JSON file to keep the rows in")
    options = parser.parse_args(arguments)
    torch.set_num_threads(options.threads)
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
    given = {name: getattr(options, name) for name in ("updates", "lr", "weight_decays", "validate_every")}
    given = {name: tuple(v) if isinstance(v, list) else v for name, v in given.items() if v is not None}
    for name in options.data:
        for model in options.models:
            for seed in options.seeds:
                for row in run(model, name, seed, MODELS[model].recipe._replace(**given)):
                    print(json.dumps(row), flush=True)
                    if options.out:
                        store(row, options.out)


if __name__ == "__main__":
    main()
