"""MADE of 784 pixels with 500 hidden units, batch 128: gmlib, zuko, normflows and nflows.

    pip install -e ".[bench]" && python bench/made_step.py

Two jobs: a training step (the loss, its gradient and Adam's update), and log p(x) of a batch. All have the
same loss and data, and all but normflows, which has an activation only in front of a second hidden layer, the
same layers. Adam is fused in gmlib, as `gmlib.train.fit` makes it, and torch's own default for the peers, who
leave it to the user; they race with the fused one as well. One thread; `race` says how they are compared. One
JSON line each.
"""

from functools import partial
from importlib.metadata import version

import torch
from race import race
from torch import nn
from torch.nn import functional as F

from gmlib.autoregressive import MADE
from gmlib.train import ADAM

BATCH, DIM, HIDDEN = 128, 784, 500


def networks() -> dict[str, nn.Module]:
    """What gives the logits, for each peer."""
    from nflows.transforms.made import MADE as NflowsMADE
    from normflows.nets.made import MADE as NormflowsMADE
    from zuko.nn import MaskedMLP

    return {
        "zuko": MaskedMLP(torch.ones(DIM, DIM).tril(-1).bool(), (HIDDEN,)),
        "normflows": NormflowsMADE(DIM, HIDDEN, num_blocks=1, use_residual_blocks=False),
        "nflows": NflowsMADE(DIM, HIDDEN, num_blocks=0, use_residual_blocks=False),
    }


def descent(model, log_prob, x, adam):
    optimizer = adam(model.parameters(), lr=1e-3)

    def step():
        optimizer.zero_grad()
        (-log_prob(x).mean()).backward()
        optimizer.step()

    return step


def main(rounds: int = 60, steps: int = 10) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = (torch.rand(BATCH, DIM) < 0.13).float()
    made = MADE(DIM, (HIDDEN,))
    models, log_probs = {"gmlib": made}, {"gmlib": made.log_prob}
    for name, network in networks().items():
        models[f"{name} {version(name)}"] = network
        log_probs[f"{name} {version(name)}"] = lambda x, network=network: (
            -F.binary_cross_entropy_with_logits(network(x), x, reduction="none").sum(-1)
        )

    @torch.no_grad()
    def evaluate(name):
        log_probs[name](x)

    training = {"gmlib": descent(made, made.log_prob, x, ADAM)}
    for name in list(models)[1:]:
        training[name] = descent(models[name], log_probs[name], x, torch.optim.Adam)
        training[f"{name}, fused Adam"] = descent(models[name], log_probs[name], x, ADAM)
    evaluating = {name: partial(evaluate, name) for name in models}
    for job, jobs in {"training step": training, "log_prob": evaluating}.items():
        race(f"MADE {DIM}-{HIDDEN}, batch {BATCH}, {job}", jobs, rounds=rounds, steps=steps, warm=5)


if __name__ == "__main__":
    main()
