"""From one data set of digits to the other, without labels there: how wrong each method of chapter 12 is.

    python book/results/adapt_digits.py --out book/results/12-domains.json

The domains are the digits of scikit-learn, and MNIST, whose images are averaged over areas to 8 x 8 pixels:
whole, or without their margin of four pixels, which the other set does not have. Of each there are 1,350
images to learn from, and those of the test set to judge by. All methods train the same network in the same
way, and differ in what they are given; labels of the target are seen by the last one alone. It takes a few
minutes, and needs MNIST, as `gmlib.data.mnist` says.
"""

import argparse
import functools
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from sklearn.linear_model import LogisticRegression
from torch import Tensor
from torch.nn import functional as F

from gmlib import data, scoreboard
from gmlib.nn import MLP, categorical
from gmlib.train import fit
from gmlib.transfer import UNLABELLED, DomainAdversarial, density_ratio, effective_sample_size

IMAGES, STEPS, BATCH, LR = 1_350, 1_000, 100, 2e-3
METHODS = ["source only", "weights", "reversal 0.1", "reversal 0.3", "reversal 1", "target labels"]
PAIRS = [("MNIST", "digits"), ("digits", "MNIST"), ("cropped MNIST", "digits"), ("digits", "cropped MNIST")]


class Domain(NamedTuple):
    """Images (N, 64) with grey levels from 0 to 1, and their labels: to learn from, and to judge by."""

    x: Float[Tensor, "N D"]
    y: Int[Tensor, " N"]
    test_x: Float[Tensor, "M D"]
    test_y: Int[Tensor, " M"]


@functools.cache
def domain(name: str) -> Domain:
    """The digits, MNIST, or MNIST without its margin."""
    if name == "digits":
        train, validation, test = data.digits()
        x, y = torch.cat([train.x, validation.x]), torch.cat([train.y, validation.y])
        return Domain(x / 16, y, test.x / 16, test.y)
    train, _, test = data.mnist()
    margin = 4 if name == "cropped MNIST" else 0
    small = [shrunk(split.x, margin) for split in (train._replace(x=train.x[:IMAGES]), test)]
    return Domain(small[0], train.y[:IMAGES], small[1], test.y)


def shrunk(x: Float[Tensor, "N 784"], margin: int) -> Float[Tensor, "N 64"]:
    """Images without a margin, each of 8 x 8 pixels the mean of its share of the area."""
    images = x.view(-1, 1, 28, 28)[:, :, margin : 28 - margin, margin : 28 - margin]
    fine = F.interpolate(images, scale_factor=8)  # so that a share is a whole number of pixels
    return F.avg_pool2d(fine, images.shape[-1]).flatten(1)


class Features(MLP):
    """Two layers, both followed by an activation."""

    def forward(self, x):
        return F.relu(super().forward(x))


def run(method: str, source: str, target: str, seed: int) -> dict[str, Any]:
    """One row: the share of wrong labels on the test images of the target, and of the source."""
    here, there = domain(source), domain(target)
    about, start = scoreboard.origin(), time.perf_counter()
    rng = torch.Generator().manual_seed(seed)
    x, y, share = here.x, here.y, 1.0
    if method == "weights":  # images are drawn as often as their weight says
        log_w = density_ratio(LogisticRegression(max_iter=500), here.x, there.x)(here.x)
        rows = categorical(log_w.expand(IMAGES, -1), rng)
        x, y, share = x[rows], y[rows], effective_sample_size(log_w).item() / IMAGES
    if method == "target labels":
        x, y = there.x, there.y
    strength = float(method.split()[1]) if method.startswith("reversal") else 0.0
    torch.manual_seed(seed)
    model = DomainAdversarial(Features(64, (64,), 64), MLP(64, (), 10), MLP(64, (64,), 1), strength)
    fit(
        model,
        torch.cat([x, there.x]),
        condition=torch.cat([y, torch.full((IMAGES,), UNLABELLED)]),
        steps=STEPS,
        batch_size=BATCH,
        lr=LR,
        rng=rng,
    )
    with torch.no_grad():
        errors = [(model.predict(d.test_x) != d.test_y).float().mean().item() for d in (there, here)]
    return {
        "model": method,
        "data": f"{source} to {target}",
        "seed": seed,
        "kind": "share of wrong labels",
        "test": round(errors[0], 4),
        "test_rows": len(there.test_y),
        "source_test": round(errors[1], 4),
        "effective_share": round(share, 4),
        "configuration": {"images": IMAGES, "steps": STEPS, "batch_size": BATCH, "lr": LR},
        "wall_seconds": round(time.perf_counter() - start, 1),
        **about,
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs all methods on all pairs of domains; prints each row, and stores it."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--out", type=Path, required=True, help="a JSON file to keep the rows in")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    for source, target in PAIRS:
        for method in METHODS:
            for seed in options.seeds:
                row = run(method, source, target, seed)
                print(json.dumps(row), flush=True)
                scoreboard.store(row, options.out)


if __name__ == "__main__":
    main()
