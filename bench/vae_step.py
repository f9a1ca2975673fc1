"""One training step of a VAE 784-400-20 on binary images, batch 128: gmlib, a plain loop, and pythae.

    pip install -e ".[bench]" && python bench/vae_step.py

A step is the loss, its gradient and Adam's update. All three have the same layers, loss and data, on one
thread. Adam is as each makes it if not told otherwise, fused in gmlib alone; the others race with the fused
one as well. `race` says how they are compared. One JSON line each.
"""

from importlib.metadata import version

import torch
from race import race
from torch import nn
from torch.nn import functional as F

from gmlib.nn import MLP
from gmlib.train import ADAM
from gmlib.vae import VAE, BernoulliLikelihood

BATCH, DIM, HIDDEN, LATENT = 128, 784, 400, 20


def gmlib_model():
    encoder = MLP(DIM, (HIDDEN,), 2 * LATENT, activation=nn.ReLU)
    decoder = MLP(LATENT, (HIDDEN,), DIM, activation=nn.ReLU)
    model, rng = VAE(encoder, decoder, BernoulliLikelihood()), torch.Generator().manual_seed(0)
    return model, lambda x: model.loss(x, rng=rng)


def plain_model():
    encoder = nn.Sequential(nn.Linear(DIM, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, 2 * LATENT))
    decoder = nn.Sequential(nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, DIM))

    def loss(x):
        mu, log_var = encoder(x).chunk(2, -1)
        z = mu + (0.5 * log_var).exp() * torch.randn_like(mu)
        cross_entropy = F.binary_cross_entropy_with_logits(decoder(z), x, reduction="sum")
        return (cross_entropy + 0.5 * (mu**2 + log_var.exp() - 1 - log_var).sum()) / len(x)

    return nn.ModuleList([encoder, decoder]), loss


def pythae_model():
    from pythae.models import VAE as PythaeVAE
    from pythae.models import VAEConfig
    from pythae.models.base.base_utils import ModelOutput
    from pythae.models.nn import BaseDecoder, BaseEncoder

    class Encoder(BaseEncoder):
        def __init__(self):
            super().__init__()
            self.hidden = nn.Linear(DIM, HIDDEN)
            self.mu, self.log_var = nn.Linear(HIDDEN, LATENT), nn.Linear(HIDDEN, LATENT)

        def forward(self, x):
            h = self.hidden(x).relu()
            return ModelOutput(embedding=self.mu(h), log_covariance=self.log_var(h))

    class Decoder(BaseDecoder):
        def __init__(self):
            super().__init__()
            self.layers = nn.Sequential(
                nn.Linear(LATENT, HIDDEN), nn.ReLU(), nn.Linear(HIDDEN, DIM), nn.Sigmoid()
            )

        def forward(self, z):
            return ModelOutput(reconstruction=self.layers(z))

    config = VAEConfig(input_dim=(DIM,), latent_dim=LATENT, reconstruction_loss="bce")
    model = PythaeVAE(config, encoder=Encoder(), decoder=Decoder())
    return model, lambda x: model({"data": x}).loss


def descent(peer, x, adam):
    model, loss = peer()
    optimizer = adam(model.parameters(), lr=1e-3)

    def step():
        optimizer.zero_grad()
        loss(x).backward()
        optimizer.step()

    return step


def main(rounds: int = 60, steps: int = 10) -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    x = (torch.rand(BATCH, DIM) < 0.2).float()
    jobs = {"gmlib": descent(gmlib_model, x, ADAM)}
    for name, peer in {"plain loop": plain_model, f"pythae {version('pythae')}": pythae_model}.items():
        jobs |= {name: descent(peer, x, torch.optim.Adam), f"{name}, fused Adam": descent(peer, x, ADAM)}
    race("VAE training step 784-400-20, batch 128", jobs, rounds=rounds, steps=steps, warm=5)


if __name__ == "__main__":
    main()
