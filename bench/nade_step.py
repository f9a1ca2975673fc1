"""NADE of 784 pixels with 500 hidden units, batch 128: gmlib, the textbook's loop, and the O(D^2 H) form.

    python bench/nade_step.py

Three jobs: a training step (the loss, its gradient and Adam's update), log p(x) of a batch, and 16 samples,
which the textbook's loop draws as gmlib does. All have the same parameters and data, on one thread; `race`
says how they are compared. Memory is what a training step adds to a process at its peak. One JSON line each.
"""

import json
import resource
import subprocess
import sys
from functools import partial

import torch
from race import race

from gmlib.autoregressive import NADE

BATCH, DIM, HIDDEN, DRAWS = 128, 784, 500, 16
JOBS = ["training step", "log_prob", "sample"]


class Naive(NADE):
    """Each hidden layer from all the coordinates before it: O(D^2 H)."""

    def _logits(self, x):
        h = [(self.c + x[:, :d] @ self.W[:d]).sigmoid() for d in range(DIM)]
        return torch.stack([(h[d] * self.V[d]).sum(-1) + self.b[d] for d in range(DIM)], -1)

    def _steps(self, x, known):
        for d in range(known, DIM):
            h = (self.c + x[:, :d] @ self.W[:d]).sigmoid()
            yield d, h @ self.V[d] + self.b[d]


class Textbook(NADE):
    """The recurrence as it is written in books, on W[d]."""

    def _logits(self, x):
        a, logits = self.c.expand(len(x), HIDDEN), []
        for d in range(DIM):
            logits.append(a.sigmoid() @ self.V[d] + self.b[d])
            a = a + x[:, d : d + 1] * self.W[d]
        return torch.stack(logits, -1)


def images() -> torch.Tensor:
    """Rows with the share of ones of binarised MNIST, 13%, and as there a margin that is always empty."""
    ink = torch.zeros(28, 28)
    ink[4:24, 4:24] = 0.13 * 28**2 / 20**2
    return (torch.rand(BATCH, DIM, generator=torch.Generator().manual_seed(0)) < ink.flatten()).float()


def do(job: str, model: NADE, optimizer: torch.optim.Optimizer, x: torch.Tensor) -> None:
    if job == "training step":
        optimizer.zero_grad()
        model.loss(x).backward()
        optimizer.step()
    elif job == "log_prob":
        with torch.no_grad():
            model.log_prob(x)
    else:
        model.sample(DRAWS, rng=torch.Generator().manual_seed(0))


def contestant(name: str) -> tuple[NADE, torch.optim.Optimizer]:
    torch.manual_seed(0)
    model = {"gmlib": NADE, "naive O(D^2 H)": Naive, "textbook loop": Textbook}[name](DIM, HIDDEN)
    return model, torch.optim.Adam(model.parameters(), lr=1e-3)


def peak(name: str) -> float:
    """MiB that training steps of one contestant add to a process of its own."""
    code = f"import sys; sys.path[:0] = {sys.path}; import nade_step; print(nade_step.growth({name!r}))"
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, check=True).stdout)


def growth(name: str) -> float:
    torch.set_num_threads(1)
    x, (model, optimizer) = images(), contestant(name)
    do("training step", contestant("gmlib")[0], optimizer, x[:1, :])  # what any first step takes
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    do("training step", model, optimizer, x)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024


def main(rounds: int = 9) -> None:
    torch.set_num_threads(1)
    x = images()
    names = ["gmlib", "textbook loop", "naive O(D^2 H)"]
    for name in names:  # first, since a process starts from the peak of the one that started it
        grown = {"workload": f"NADE {DIM}-{HIDDEN}, batch {BATCH}, training step", "peer": name}
        print(json.dumps(grown | {"peak MiB": round(peak(name))}), flush=True)
    contestants = {name: contestant(name) for name in names}
    losses = [model.loss(x) for model, _ in contestants.values()]
    assert all(torch.isclose(loss, losses[0], rtol=1e-5) for loss in losses), "one model, three ways"
    for job in JOBS:
        jobs = {
            name: partial(do, job, model, optimizer, x)
            for name, (model, optimizer) in contestants.items()
            if (job, name) != ("sample", "textbook loop")
        }
        race(f"NADE {DIM}-{HIDDEN}, batch {BATCH}, {job}", jobs, rounds=rounds)


if __name__ == "__main__":
    main()
