"""The book's models on data of real size: each is trained by one recipe and leaves its rows in a JSON file.

    gmlib scoreboard --data mushrooms plants jester --out book/results/03-tables.json

The recipe is the same for all data: AdamW, or EM for a mixture, stopped when the validation loss has not
fallen for a while, at the best weights. The weight decay is chosen by the validation loss, and so is the
order of the coordinates, or the start, where a model has one; a second row is for all of them, averaged in
probability. The test rows are read once, at the end. To add a model, add it to `MODELS`.

A row says of what kind its nats are: "exact", minus the mean of log p(x); "bound", minus the mean of a lower
bound on it, so that p is better than they say; or "estimate", minus the mean of an importance-weighted
estimate, a bound as well, though a tight one. Divided by `dim` times ln 2 they are bits a dimension.
"""

import hashlib
import json
import platform
import subprocess
import time
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from gmlib import data, files
from gmlib.autoregressive import MADE, NADE, LogisticAR, tree_order
from gmlib.base import Ensemble, Sampler, Trainable
from gmlib.mixture import BernoulliMixture, em_step
from gmlib.nn import MLP
from gmlib.train import fit, fit_by
from gmlib.vae import IWAE, VAE, BernoulliLikelihood


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


class Score(NamedTuple):
    """What finds the nats of rows, from a model, the rows and a generator: log p(x), or less. And how.

    `draws` is how many draws of the noise it takes for each row: 0 where there is no noise.
    """

    of: Callable[[Any, Tensor, torch.Generator], Tensor]
    draws: int


EXACT = Score(lambda model, x, rng: model.log_prob(x), draws=0)
BOUND = Score(lambda model, x, rng: model.elbo(x, rng=rng), draws=1)


def importance_weighted(k: int) -> Score:
    """The importance-weighted estimate from k draws."""
    return Score(lambda model, x, rng: model.log_prob_iw(x, k, rng=rng), draws=k)


class Entry(NamedTuple):
    """A model of the scoreboard: how to make it, to train it, and to read its nats.

    It is made from the training rows (N, D), its number among its members, and a source of noise.
    A `step`, such as one of EM, takes the model and all training rows, returns the loss before, and takes
    the place of AdamW's updates; of the recipe it obeys `OF_STEPS`. Of a model with an order, or a start, of
    its own so many `members` are tried; several are averaged, so they need to be densities. `scores` says
    for each kind of nats what finds them; the first is the one that is chosen by. The data need to have as
    many `levels`.
    """

    make: Callable[[Tensor, int, torch.Generator], Trainable]
    recipe: Recipe
    members: int = 1
    step: Callable[[Any, Tensor], float] | None = None
    scores: dict[str, Score] = {"exact": EXACT}  # noqa: RUF012
    levels: int = 2


OF_STEPS = ("updates", "patience", "validate_every")


class Member(NamedTuple):
    """A trained model, its validation nats, and how it came about."""

    model: nn.Module
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
    return Entry(make, recipe, members, lambda model, x: -em_step(model, x, floor=0.1))


def autoencoder(kind: Callable[..., VAE]) -> Entry:
    """One stochastic layer of 50 units, two hidden ones of 200 tanh units on either side of it.

    Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 5 and
    appendix. Departs from it: far fewer updates, at one rate until it falls, larger batches, and
    an estimate of 1,000 draws, not 5,000.
    """

    def make(x: Tensor, member: int, rng: torch.Generator) -> VAE:
        dim, tanh = x.shape[1], partial(MLP, activation=nn.Tanh)
        encoder, decoder = tanh(dim, (200, 200), 2 * 50), tanh(50, (200, 200), dim)
        return kind(encoder, decoder, BernoulliLikelihood())

    recipe = Recipe(updates=100_000, lr=1e-3, anneal=0.5, patience=10_000, weight_decays=(0.0,))
    scores = {"bound": BOUND, "estimate": importance_weighted(1_000)}
    return Entry(make, recipe._replace(validate_every=500), scores=scores)


MADES = Recipe(updates=20_000, lr=3e-4, weight_decays=(0.1, 1.0))
MODELS = {
    "FVBN": Entry(lambda x, member, rng: LogisticAR(x.shape[1]), Recipe(updates=6_000, lr=1e-2, anneal=0.5)),
    "NADE": Entry(lambda x, member, rng: NADE(x.shape[1], 500), Recipe(updates=6_000, lr=3e-3, anneal=0.5)),
    "MADE": Entry(made, MADES, members=6),
    "MADE with trees": Entry(partial(made, trees=True), MADES, members=6),
    "Mixture of 10": mixture(10, members=5),
    "Mixture of 500": mixture(500, members=1),
    "VAE": autoencoder(VAE),
    "IWAE": autoencoder(partial(IWAE, k=50)),
}


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
        ValueError: if there is no such model or no such data, or the model needs data of other levels.
    """
    if model not in MODELS:
        raise ValueError(f"the model needs to be {', '.join(MODELS)}, got {model!r}.")
    entry, source = MODELS[model], find(name)
    if entry.levels != source.levels:
        raise ValueError(f"{model} needs data of {entry.levels} levels, got {name}, of {source.levels}.")
    return entry, source


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
    if entry.step is not None:
        losses = fit_by(entry.step, model, dataset.train.x, **common)
    else:
        losses = fit(
            model,
            dataset.train.x,
            batch_size=recipe.batch_size,
            lr=recipe.lr,
            transform=source.transform,
            optimizer=partial(torch.optim.AdamW, weight_decay=weight_decay),
            schedule=lambda done: min(1.0, (1 - done) / recipe.anneal) if recipe.anneal else 1.0,
            **common,
        )
    score = next(iter(entry.scores.values()))
    return Member(model, nats(model, dataset.validation.x, score)[0], weight_decay, len(losses))


@torch.no_grad()
def nats(model: nn.Module, x: Float[Tensor, "N D"], score: Score = EXACT) -> tuple[float, float]:
    """The mean of minus the score over the rows of x, and its standard error; always with the same noise."""
    rng = torch.Generator().manual_seed(0)
    losses = -torch.cat([score.of(model, rows, rng) for rows in x.split(1_000)]).double()
    return losses.mean().item(), (losses.std() / len(losses) ** 0.5).item()


def run(model: str, name: str, seed: int, recipe: Recipe) -> list[dict[str, Any]]:
    """The rows of one model: the member that is best by validation and, of several, their average."""
    entry, source = pair(model, name)
    dataset, about = source.load(), origin()  # of the code that runs, whatever is edited meanwhile
    start = time.perf_counter()
    members, rejected = train(entry, source, dataset, recipe, seed)
    seconds = time.perf_counter() - start
    best = min(members, key=lambda member: member.validation)
    models = {model: best.model}
    if len(members) > 1:
        models[f"{model}, {len(members)} averaged"] = Ensemble([member.model for member in members])
    return [
        {**row, **account(recipe, members, rejected, seconds, start), **about}
        for label, trained in models.items()
        for row in rows(label, trained, entry, name, dataset, seed)
    ]


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


def samples_per_second(model: Sampler, n: int = 100) -> float:
    """How many draws a second a model makes, n at a time, after a first one."""
    rng = torch.Generator().manual_seed(0)
    model.sample(1, rng=rng)
    start = time.perf_counter()
    model.sample(n, rng=rng)
    return n / (time.perf_counter() - start)


def store(row: dict[str, Any], path: Path) -> None:
    """Puts a row into a JSON file, in the place of an older one of the same model, data, seed and kind."""
    rows = json.loads(path.read_text()) if path.exists() else []
    rows = sorted([*(old for old in rows if _key(old) != _key(row)), row], key=_key)
    files.write(path, (json.dumps(rows, indent=1) + "\n").encode())


def _key(row: dict[str, Any]) -> tuple[str, str, int, str]:
    return row["data"], row["model"], row["seed"], row["kind"]


def origin() -> dict[str, Any]:
    """By which code and on which machine: versions, commit, hardware."""
    return {
        "versions": {"python": platform.python_version(), "torch": version("torch")},
        "commit": _commit(),
        "hardware": f"{_processor()}, threads: {torch.get_num_threads()}",
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
