"""A training step in bfloat16 products, compiled by torch.compile, and in both: against the plain one.

Called by itself it runs on a GPU where there is one. Its rows are shown apart from the races against other
packages.
"""

import torch
from race import race

from gmlib import zoo
from gmlib.autoregressive import MADE, PixelCNN
from gmlib.train import ADAM


def from_zoo(name):
    return zoo.MODELS[name].make(torch.empty(0, 784), 0, torch.Generator())


MODELS = {
    "MADE 784-500": lambda: MADE(784, (500,)),
    "MADE 784-2000-2000": lambda: MADE(784, (2000, 2000)),
    "VAE 784-200-200-50": lambda: from_zoo("VAE"),
    "IWAE 784-200-200-50, k = 50": lambda: from_zoo("IWAE"),
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
