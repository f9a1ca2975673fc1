"""Test ELBO on the 8 x 8 digits, and the seconds to get there: chapter 8's VAE and the public protocol's.

    python bench/digits_vae.py

The peer is the VAE of the code to Tomczak (2022), Deep Generative Modeling, written again here in plain
PyTorch: two hidden layers of 256 on both sides, LeakyReLU, Adamax at 1e-3, batches of 64, stopped when the
validation loss has not fallen for 20 epochs. Both have 16 latent dimensions, 17 grey levels and the same
split; both are chosen by validation. One JSON line for each seed and recipe, with what it reached, then one
for each recipe with the time of a whole training, as `race` tells it. One thread.
"""

import copy
import json
import math
import time

import torch
from race import report
from torch import nn

from gmlib.data import digits
from gmlib.nn import MLP
from gmlib.train import fit
from gmlib.vae import VAE, CategoricalLikelihood

WORKLOAD = "VAE on digits, a whole training"


class GreyLevels(MLP):
    """Chapter 8's encoder: 64 grey levels as -1 to 1, a fifth of them blanked in training."""

    def forward(self, x):
        return super().forward(nn.functional.dropout(x / 8 - 1, 0.2, self.training))


def ours(seed: int) -> VAE:
    """Chapter 8's recipe."""
    torch.manual_seed(seed)
    data = digits()
    model = VAE(GreyLevels(64, (256,), 32), MLP(16, (256,), 64 * 17, dropout=0.5), CategoricalLikelihood(17))
    fit(
        model,
        data.train.x,
        steps=1000,
        batch_size=128,
        lr=4e-3,
        rng=torch.Generator().manual_seed(seed),
        schedule=lambda done: 0.5 * (1 + math.cos(math.pi * done)),
        validation=data.validation.x,
        validate_every=50,
    )
    return model


def public(seed: int) -> VAE:
    """The public protocol, in a loop of its own."""
    torch.manual_seed(seed)
    train, validation, _ = (split.x for split in digits())
    encoder = MLP(64, (256, 256), 32, activation=nn.LeakyReLU)
    decoder = MLP(16, (256, 256), 64 * 17, activation=nn.LeakyReLU)
    model = VAE(encoder, decoder, CategoricalLikelihood(17))
    optimizer = torch.optim.Adamax(model.parameters(), lr=1e-3)
    best, best_loss, patience = {}, math.inf, 0
    while patience <= 20:
        model.train()
        for rows in torch.randperm(len(train)).split(64):
            optimizer.zero_grad()
            model.loss(train[rows]).backward()
            optimizer.step()
        model.eval()
        with torch.no_grad():
            loss = model.loss(validation).item()
        patience += 1
        if loss < best_loss:
            best, best_loss, patience = copy.deepcopy(model.state_dict()), loss, 0
    model.load_state_dict(best)
    return model


def main(rounds: int = 3) -> None:
    torch.set_num_threads(1)
    import accelerate  # noqa: F401  (its import counts for neither)

    test, seconds = digits().test.x, {"gmlib": [], "public protocol": []}
    for seed in range(rounds):
        for name, recipe in zip(seconds, (ours, public), strict=True):
            start = time.perf_counter()
            model = recipe(seed)
            seconds[name].append(time.perf_counter() - start)
            rng = torch.Generator().manual_seed(0)
            with torch.no_grad():
                elbo = torch.stack([model.elbo(test, rng=rng) for _ in range(100)]).mean().item()
                estimate = model.log_prob_iw(test, 1000, rng=rng).mean().item()
            result = {"workload": WORKLOAD, "peer": name, "seed": seed}
            print(json.dumps(result | {"test_elbo": round(elbo, 2), "test_iw_1000": round(estimate, 2)}))
    report(WORKLOAD, seconds)


if __name__ == "__main__":
    main()
