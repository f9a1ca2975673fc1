"""One training step of a WAE and of an adversarial autoencoder 784-400-20, batch 128: gmlib and pythae.

    pip install -e ".[bench]" && python bench/matching_step.py

A step of the WAE is the loss (squared error and MMD by the inverse multiquadratic kernel, one bandwidth), its
gradient and Adam's update. One of the adversarial autoencoder (Gaussian encoder, squared error of sigma 1,
discriminator 20-400-1) is an update of either player: gmlib's as in `fit_adversarial`, pythae's as in its
`AdversarialTrainer`; both encode the batch once for the two. Adam is as either library makes it if not told
otherwise, fused in gmlib alone; pythae races with the fused one as well.
Layers, losses and data are the same, on one thread; before the race, the losses at the same weights are
compared. `race` says how the times are. One JSON line each.
"""

from functools import partial
from importlib.metadata import version

import torch
from pythae.models import WAE_MMD, Adversarial_AE, Adversarial_AE_Config, WAE_MMD_Config
from pythae.models.base.base_utils import ModelOutput
from pythae.models.nn import BaseDecoder, BaseDiscriminator, BaseEncoder
from race import race
from torch import nn

from gmlib.matching import AAE, WAE
from gmlib.nn import MLP
from gmlib.train import ADAM

BATCH, DIM, HIDDEN, LATENT, WEIGHT = 128, 784, 400, 20, 10.0
RELU = {"activation": nn.ReLU}


class Encoder(BaseEncoder):
    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers = layers

    def forward(self, x):
        mu, *rest = self.layers(x).split(LATENT, -1)
        return ModelOutput(embedding=mu, log_covariance=rest[0] if rest else None)


class Decoder(BaseDecoder):
    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers = layers

    def forward(self, z):
        return ModelOutput(reconstruction=self.layers(z))


class Discriminator(BaseDiscriminator):
    def __init__(self, layers: nn.Module):
        super().__init__()
        self.layers = nn.Sequential(layers, nn.Sigmoid())

    def forward(self, z):
        return ModelOutput(embedding=self.layers(z))


def networks(codes: int) -> tuple[nn.Module, nn.Module, nn.Module]:
    torch.manual_seed(0)
    encoder, decoder = MLP(DIM, (HIDDEN,), codes, **RELU), MLP(LATENT, (HIDDEN,), DIM, **RELU)
    return encoder, decoder, MLP(LATENT, (HIDDEN,), 1, **RELU)


def descend(optimizer: torch.optim.Optimizer, loss: torch.Tensor, own: list | None = None) -> None:
    optimizer.zero_grad()
    loss.backward(inputs=own)
    optimizer.step()


def wae(x):
    encoder, decoder, _ = networks(LATENT)
    model, rng = WAE(encoder, decoder, WEIGHT), torch.Generator().manual_seed(0)
    optimizer = ADAM(model.parameters(), lr=1e-3)
    return partial(model.loss, x, rng=rng), lambda: descend(optimizer, model.loss(x, rng=rng))


def pythae_wae(x, adam=torch.optim.Adam):
    encoder, decoder, _ = networks(LATENT)
    config = WAE_MMD_Config(input_dim=(DIM,), latent_dim=LATENT, reg_weight=WEIGHT, scales=[1.0])
    model = WAE_MMD(config, encoder=Encoder(encoder), decoder=Decoder(decoder))
    optimizer = adam(model.parameters(), lr=1e-3)
    return lambda: model({"data": x}).loss, lambda: descend(optimizer, model({"data": x}).loss)


def aae(x):
    model, rng = AAE(*networks(2 * LATENT)), torch.Generator().manual_seed(0)
    theirs, ours = model.players()
    told, fooled = ADAM(theirs, lr=1e-3), ADAM(ours, lr=1e-3)

    def step():
        fake = model.fake(x, rng=rng)
        descend(told, model.discriminator_loss(x, fake=fake, rng=rng), theirs)
        descend(fooled, model.generator_loss(x, fake=fake, rng=rng), ours)

    constant = DIM / 2 * torch.tensor(2 * torch.pi).log()  # which pythae leaves out
    return lambda: model.generator_loss(x, rng=rng) + model.discriminator_loss(x, rng=rng) - constant, step


def pythae_aae(x, adam=torch.optim.Adam):
    encoder, decoder, discriminator = networks(2 * LATENT)
    config = Adversarial_AE_Config(input_dim=(DIM,), latent_dim=LATENT, adversarial_loss_scale=1.0)
    parts = {"encoder": Encoder(encoder), "decoder": Decoder(decoder)}
    model = Adversarial_AE(config, **parts, discriminator=Discriminator(discriminator))
    fooled = adam([*model.encoder.parameters(), *model.decoder.parameters()], lr=1e-3)
    told = adam(model.discriminator.parameters(), lr=1e-3)

    def step():
        output = model({"data": x})
        fooled.zero_grad()
        output.autoencoder_loss.backward(retain_graph=True)
        told.zero_grad()
        output.discriminator_loss.backward()
        fooled.step()
        told.step()

    return lambda: model({"data": x}).loss, step


def main(rounds: int = 60, steps: int = 10) -> None:
    torch.set_num_threads(1)
    x = (torch.rand(BATCH, DIM, generator=torch.Generator().manual_seed(1)) < 0.2).float()
    peer = f"pythae {version('pythae')}"
    for name, ours, theirs in [("WAE", wae, pythae_wae), ("AAE", aae, pythae_aae)]:
        contestants = {"gmlib": ours(x), peer: theirs(x), f"{peer}, fused Adam": theirs(x, ADAM)}
        with torch.no_grad():
            first, *others = (sum(loss() for _ in range(200)) / 200 for loss, _ in contestants.values())
        assert all(abs(first - other) < 1e-3 * first for other in others), f"{name}: {first}, but {others}"
        jobs = {contestant: step for contestant, (_, step) in contestants.items()}
        race(f"{name} training step 784-400-20, batch 128", jobs, rounds=rounds, steps=steps, warm=5)


if __name__ == "__main__":
    main()
