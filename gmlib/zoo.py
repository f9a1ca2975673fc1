"""The models of the scoreboard: how each is made, trained and scored. To add one, add it to `MODELS`."""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from gmlib.autoregressive import MADE, NADE, CausalTransformer, LogisticAR, PixelCNN, tree_order
from gmlib.base import Sampler, Trainable, require_levels, require_no_condition, require_points
from gmlib.counting import BayesianNetwork
from gmlib.diffusion import Diffusion, Schedule
from gmlib.flows import Coupling, Dequantized, Flow, Permutation
from gmlib.mixture import BernoulliMixture, GaussianMixture, em_step
from gmlib.nn import MLP, TimeMLP, uniform
from gmlib.vae import IWAE, VAE, BernoulliLikelihood, CategoricalLikelihood

GREY = 17  # levels of the digits


class Recipe(NamedTuple):
    """How a model is trained.

    Patience is the number of updates without a lower validation loss after which training stops. Over the
    fraction `anneal` of the updates, the last ones, the rate falls to 0. The precision is that of `fit`.
    """

    updates: int
    lr: float
    anneal: float = 0.0
    patience: int = 2_000
    validate_every: int = 100
    batch_size: int = 100
    precision: int = 32
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
    many `levels`, and for `images` their rows need to be square images.
    """

    make: Callable[[Tensor, int, torch.Generator], Trainable]
    recipe: Recipe
    members: int = 1
    step: Callable[[Any, Tensor], float] | None = None
    scores: dict[str, Score] = {"exact": EXACT}  # noqa: RUF012
    levels: int = 2
    images: bool = False


OF_STEPS = ("updates", "patience", "validate_every")


def made(
    x: Tensor,
    member: int,
    rng: torch.Generator,
    hidden: int = 500,
    dropout: float = 0.0,
    trees: bool = False,
) -> MADE:
    """A MADE in an order that is drawn, or with `trees` and for every other member in that of a tree.

    The tree's root is drawn. The direct connections start at 0. Dropout is the share of hidden units that
    each row is trained without.

    Source: Germain, Gregor, Murray and Larochelle (2015), MADE: Masked Autoencoder for Distribution
    Estimation, section 6. Departs from it: fewer units, in one layer; several networks, each in one order
    and with masks that are spread evenly, where the paper trains one for a list of masks; AdamW, dropout.
    """
    dim = x.shape[1]
    if trees and member % 2 == 0:
        order = tree_order(x, int(torch.randint(dim, (), generator=rng)))
    else:
        order = torch.randperm(dim, generator=rng).tolist()
    model = MADE(dim, (hidden,), order, direct=True)
    if dropout:
        model.network[1] = nn.Sequential(nn.ReLU(), nn.Dropout(dropout))
    nn.init.zeros_(model.direct.weight)
    return model


def mixture(components: int, members: int) -> Entry:
    """Coins in groups, fitted by EM with a pseudo-count of 0.1."""

    def make(x: Tensor, member: int, rng: torch.Generator) -> BernoulliMixture:
        model = BernoulliMixture(x.shape[1], components)
        torch.nn.init.normal_(model.eta, std=0.1)  # alike, so that none is without data
        return model

    recipe = Recipe(updates=200, lr=0.0, patience=20, validate_every=5, weight_decays=(0.0,))
    return Entry(make, recipe, members, lambda model, x: -em_step(model, x, floor=0.1))


def autoencoder(kind: Callable[..., VAE], updates: int) -> Entry:
    """One stochastic layer of 50 units, two hidden ones of 500 tanh units on either side of it.

    The decoder starts at the mean image, whatever the code.

    Source: Burda, Grosse and Salakhutdinov (2016), Importance Weighted Autoencoders, section 5 and
    appendix. Departs from it: 500 hidden units, not 200; fewer updates on larger batches, at a rate that
    falls steadily; an IWAE of 5 draws, not 50; an estimate of 1,000 draws, not 5,000.
    """

    def make(x: Tensor, member: int, rng: torch.Generator) -> VAE:
        dim, tanh = x.shape[1], partial(MLP, activation=nn.Tanh)
        encoder, decoder = tanh(dim, (500, 500), 2 * 50), tanh(50, (500, 500), dim)
        with torch.no_grad():
            decoder[-1].bias.copy_(x.mean(0).clamp(1e-3, 1 - 1e-3).logit())
        return kind(encoder, decoder, BernoulliLikelihood())

    recipe = Recipe(
        updates,
        lr=1e-3,
        anneal=1.0,
        patience=100_000,
        validate_every=5_000,
        precision=16,
        weight_decays=(0.0,),
    )
    return Entry(make, recipe, scores={"bound": BOUND, "estimate": importance_weighted(1_000)})


def independent(levels: int) -> Entry:
    """Each coordinate by its own frequencies, with a pseudo-count of 1: what all others have to beat."""

    def make(x: Tensor, member: int, rng: torch.Generator) -> BayesianNetwork:
        return BayesianNetwork([()] * x.shape[1], levels)

    def count(model: BayesianNetwork, x: Tensor) -> float:
        before = model.loss(x).item()
        model.fit_counts(x, 1.0)
        return before

    recipe = Recipe(updates=1, lr=0.0, patience=1, validate_every=1, weight_decays=(0.0,))
    return Entry(make, recipe, step=count, levels=levels)


def side(x: Float[Tensor, "N D"]) -> int:
    """The height and width of square images."""
    return math.isqrt(x.shape[1])


def pixel_cnn(recipe: Recipe, channels: int, levels: int) -> Entry:
    """As many layers as it takes to see the whole image: each reaches 2 pixels farther."""

    def make(x: Tensor, member: int, rng: torch.Generator) -> PixelCNN:
        return PixelCNN((1, side(x), side(x)), channels, layers=side(x) // 2, values=levels)

    return Entry(make, recipe, levels=levels, images=True)


def transformer(recipe: Recipe, levels: int) -> Entry:
    """Two layers of width 64 with four heads."""
    return Entry(
        lambda x, member, rng: CausalTransformer(x.shape[1], 64, 4, 2, levels), recipe, levels=levels
    )


class GreyLevels(MLP):
    """A network that reads levels 0, ..., 16 as -1 to 1, a fifth of them blanked while it is trained."""

    def forward(self, x):
        return super().forward(F.dropout(x / 8 - 1, 0.2, self.training))


def grey_autoencoder(x: Tensor, member: int, rng: torch.Generator) -> VAE:
    """The variational autoencoder of chapter 8, with 16 latent dimensions."""
    dim = x.shape[1]
    decoder = MLP(16, (256,), dim * GREY, dropout=0.5)
    return VAE(GreyLevels(dim, (256,), 2 * 16), decoder, CategoricalLikelihood(GREY))


def grey_flow(x: Tensor, member: int, rng: torch.Generator) -> Dequantized:
    """The RealNVP of chapter 5: eight couplings, whose halves are the colours of a checkerboard."""
    pixel = torch.arange(x.shape[1])
    colour = (pixel // side(x) + pixel) % 2
    layers: list[nn.Module] = [Permutation(colour.argsort(stable=True).tolist())]
    for number in range(8):
        coupling = Coupling(len(pixel), (256, 256), flip=bool(number % 2))
        coupling.network = MLP(len(pixel) // 2, (256, 256), len(pixel), dropout=0.5)
        nn.init.zeros_(coupling.network[-1].weight)
        layers.append(coupling)
    return Dequantized(Flow(layers), GREY)


class DequantizedDiffusion(Trainable, Sampler):
    r"""A diffusion model made one of whole numbers 0, ..., m - 1, as `Dequantized` does with a density.

    .. math:: \operatorname{ELBO}(x) = \operatorname{ELBO}_{\text{diffusion}}(y) + D \log \tfrac2m, \quad
        y = \tfrac2m (x + u) - 1, \quad u \sim \mathcal U[0, 1)^D

    A bound on a bound, in nats: the mean of log p(y) over u is one on log P(x), and the diffusion's ELBO one
    on log p(y). `loss` is the diffusion's own, which is no bound.

    Raises:
        ValueError: if levels < 2, or x is not an (N, D) batch of levels.

    Source: Ho, Jain and Abbeel (2020), Denoising Diffusion Probabilistic Models; Theis, van den Oord and
    Bethge (2016), A Note on the Evaluation of Generative Models, section 3.1.
    """

    def __init__(self, diffusion: Diffusion, levels: int):
        super().__init__()
        if levels < 2:
            raise ValueError(f"DequantizedDiffusion needs levels >= 2, got {levels}.")
        self.diffusion, self.levels = diffusion, levels

    def elbo(self, x: Float[Tensor, "N D"], *, rng: torch.Generator | None = None) -> Float[Tensor, " N"]:
        """The bound from one draw of u and of each x_t, in nats."""
        return self.diffusion.elbo(self._points(x, rng), rng=rng) + x.shape[1] * math.log(2 / self.levels)

    def loss(self, x, condition=None, *, rng=None):
        require_no_condition(condition, "DequantizedDiffusion")
        return self.diffusion.loss(self._points(x, rng), rng=rng)

    def sample(self, n, condition=None, *, rng=None):
        require_no_condition(condition, "DequantizedDiffusion")
        return ((self.diffusion.sample(n, rng=rng) + 1) * (self.levels / 2)).floor()

    def _points(self, x, rng):
        require_points(x, self.diffusion.dim, "DequantizedDiffusion")
        require_levels(x, self.levels, "DequantizedDiffusion")
        return to_points(x, self.levels, rng)


def to_points(x: Float[Tensor, "N D"], levels: int, rng: torch.Generator | None) -> Float[Tensor, "N D"]:
    """A point drawn evenly from the cell of each x, on the scale from -1 to 1 of `Dequantized`."""
    return (x + uniform(x.shape, rng, like=x)) * (2 / levels) - 1


def grey_diffusion(x: Tensor, member: int, rng: torch.Generator) -> DequantizedDiffusion:
    """A diffusion model whose log SNR falls evenly, from 6, about the noise in a cell, to -6."""
    alpha_bar = torch.linspace(6, -6, 100, dtype=torch.float64).sigmoid()
    beta = 1 - alpha_bar / F.pad(alpha_bar[:-1], (1, 0), value=1.0)
    schedule = Schedule(beta.to(torch.get_default_dtype()))
    network = TimeMLP(x.shape[1], (512, 512))
    return DequantizedDiffusion(Diffusion(network, schedule, predicts="velocity"), GREY)


def grey_mixture(components: int, covariance: str) -> Entry:
    """Gaussians, fitted by EM to points of which one is drawn from the cell of each x, once and for all.

    Every variance is raised by that of the noise in a cell.
    """
    floor = (2 / GREY) ** 2 / 12

    def fixed(x: Tensor) -> Tensor:
        return to_points(x, GREY, torch.Generator().manual_seed(0))

    def make(x: Tensor, member: int, rng: torch.Generator) -> Dequantized:
        model = GaussianMixture(x.shape[1], components, covariance)
        guess = uniform((len(x), components), rng, like=x)
        model.maximize(fixed(x), guess / guess.sum(-1, keepdim=True), floor)
        return Dequantized(model, GREY)

    def step(model: Dequantized, x: Tensor) -> float:
        return -em_step(model.flow, fixed(x), floor) - x.shape[1] * math.log(2 / GREY)

    recipe = Recipe(updates=200, lr=0.0, patience=20, validate_every=5, weight_decays=(0.0,))
    return Entry(make, recipe, step=step, scores={"bound": BOUND}, levels=GREY)


MADES = Recipe(updates=20_000, lr=3e-4, weight_decays=(0.1, 1.0))
MODELS = {
    "Independent": independent(2),
    "FVBN": Entry(lambda x, member, rng: LogisticAR(x.shape[1]), Recipe(updates=6_000, lr=1e-2, anneal=0.5)),
    "NADE": Entry(lambda x, member, rng: NADE(x.shape[1], 500), Recipe(updates=6_000, lr=3e-3, anneal=0.5)),
    "MADE": Entry(made, MADES, members=6),
    "Wide MADE": Entry(
        partial(made, hidden=4_000, dropout=0.5),
        Recipe(
            4_500, lr=3e-3, anneal=1.0, validate_every=500, batch_size=500, precision=16, weight_decays=(0.1,)
        ),
        members=8,
    ),
    "MADE with trees": Entry(partial(made, trees=True), MADES, members=6),
    "Mixture of 10": mixture(10, members=5),
    "Mixture of 500": mixture(500, members=1),
    "VAE": autoencoder(VAE, 300_000),
    "IWAE": autoencoder(partial(IWAE, k=5), 200_000),
    "PixelCNN": pixel_cnn(Recipe(updates=6_000, lr=2e-3, anneal=0.5), 32, 2),
    "Transformer": transformer(Recipe(updates=6_000, lr=1e-3, anneal=0.5), 2),
    "Grey independent": independent(GREY),
    "Grey mixture": grey_mixture(20, "diagonal"),
    "Grey PixelCNN": pixel_cnn(
        Recipe(480, lr=1e-2, anneal=0.8, validate_every=40, batch_size=50, weight_decays=(0.0,)), 16, GREY
    ),
    "Grey transformer": transformer(
        Recipe(300, lr=4e-3, anneal=1.0, validate_every=50, batch_size=50, weight_decays=(0.1,)), GREY
    ),
    "Grey VAE": Entry(
        grey_autoencoder,
        Recipe(1_000, lr=4e-3, anneal=1.0, validate_every=50, batch_size=128, weight_decays=(0.0,)),
        scores={"bound": BOUND, "estimate": importance_weighted(500)},
        levels=GREY,
    ),
    "Grey RealNVP": Entry(
        grey_flow,
        Recipe(500, lr=2e-3, anneal=1.0, validate_every=50, weight_decays=(1.0,)),
        scores={"bound": BOUND},
        levels=GREY,
        images=True,
    ),
    "Grey diffusion": Entry(
        grey_diffusion,
        Recipe(1_500, lr=2e-3, anneal=1.0, validate_every=100, batch_size=128, weight_decays=(0.01,)),
        scores={"bound": BOUND},
        levels=GREY,
    ),
}
