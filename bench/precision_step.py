"""A training step in bfloat16 products, compiled by torch.compile, and in both: against the plain one.

Called by itself it runs on a GPU where there is one. Its rows are shown apart from the races against other
packages.
"""

from functools import partial

import torch
from race import race
from torch import nn

from gmlib.autoregressive import MADE, PixelCNN
from gmlib.nn import MLP
from gmlib.train import ADAM
from gmlib.vae import IWAE, VAE, BernoulliLikelihood


def autoencoder(kind):
    tanh = partial(MLP, activation=nn.Tanh)
    return kind(tanh(784, (200, 200), 2 * 50), tanh(50, (200, 200), 784), BernoulliLikelihood())


MODELS = {
    "MADE 784-500": lambda: MADE(784, (500,)),
    "MADE 784-2000-2000": lambda: MADE(784, (2000, 2000)),
    "VAE 784-200-200-50": lambda: autoencoder(VAE),
    "IWAE 784-200-200-50, k = 50": lambda: autoencoder(partial(IWAE, k=50)),
    "PixelCNN 28 x 28, 7 layers of 16": lambda: PixelCNN((1, 28, 28), 16, 7, reach=4),
}


def contestant(make, x, *, half: bool, compiled: bool):
    """A step of Adam on the same batch, of a model that is made anew."""
    torch.manual_seed(0)
    model, rng = make().to(x.device), torch.Generator(x.device).manual_seed(0)
    optimizer = ADAM(model.parameters(), lr=1e-3)
    find = torch.compile(model.loss) if compiled else model.loss

    def step():
        with torch.autocast(x.device.type, torch.bfloat16, enabled=half):
            loss = find(x, rng=rng)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.item()

    return step


def main(rounds: int = 12) -> None:
    device = torch.accelerator.current_accelerator() or "cpu"
    x = torch.rand(100, 784, generator=torch.Generator().manual_seed(0)).lt(0.15).float().to(device)
    for name, make in MODELS.items():
        ways = {
            "gmlib": contestant(make, x, half=False, compiled=False),
            "bfloat16": contestant(make, x, half=True, compiled=False),
            "compiled": contestant(make, x, half=False, compiled=True),
            "bfloat16, compiled": contestant(make, x, half=True, compiled=True),
        }
        race(f"training step, {name}", ways, rounds=rounds, warm=3)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
