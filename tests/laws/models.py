"""The models and their data. A new model joins every law of its promises by one line in MODELS."""

import itertools
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from gmlib.autoencoder import Autoencoder, DenoisingAutoencoder, LinearAutoencoder
from gmlib.autoregressive import (
    MADE,
    NADE,
    RNADE,
    CausalTransformer,
    LogisticAR,
    OrderAgnosticMADE,
    PixelCNN,
)
from gmlib.base import Density, Ensemble, require_no_condition, require_points
from gmlib.counting import (
    BayesianNetwork,
    CategoricalTable,
    IndependentBernoulli,
    JointTable,
    MarkovChain,
)
from gmlib.diffusion import Diffusion, FlowMatching, Schedule
from gmlib.divergences import gaussian_kernel
from gmlib.flows import (
    MAF,
    Affine,
    ContinuousFlow,
    Dequantized,
    Flow,
    LinearLU,
    LogisticNormalNoise,
    Permutation,
    Planar,
    RealNVP,
    SplineFlow,
)
from gmlib.gan import GAN, WGAN
from gmlib.matching import AAE, WAE, WAEGAN
from gmlib.mixture import BernoulliMixture, GaussianMixture
from gmlib.nn import MLP, TimeMLP, bernoulli, normal
from gmlib.transfer import Classifier, DomainAdversarial, SemiSupervisedVAE
from gmlib.vae import (
    IWAE,
    VAE,
    BernoulliLikelihood,
    CategoricalLikelihood,
    ConditionalVAE,
    GaussianLikelihood,
    ProbabilisticPCA,
)
from gmlib.zoo import DequantizedDiffusion

LEVELS = 3  # of grey
CLASSES = 5


class Gaussian(Density):
    """N(m, s^2 I) in the plane: two parameters, for the tests."""

    measure = "lebesgue"

    def __init__(self):
        super().__init__()
        self.m, self.log_s = nn.Parameter(torch.zeros(())), nn.Parameter(torch.zeros(()))

    def log_prob(self, x):
        require_points(x, 2, "Gaussian")
        square = ((x - self.m) / self.log_s.exp()).square().sum(-1)
        return -square / 2 - 2 * self.log_s - math.log(2 * math.pi)

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        require_no_condition(condition, "Gaussian")
        return self.m + self.log_s.exp() * normal((n, 2), rng, like=self.m)


class Coins(Density):
    """Independent coins, for the tests."""

    measure = "counting"

    def __init__(self, dim: int):
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(dim))

    def log_prob(self, x):
        require_points(x, len(self.logits), "Coins")
        return (x * self.logits - nn.functional.softplus(self.logits)).sum(-1)

    @torch.no_grad()
    def sample(self, n, condition=None, *, rng=None):
        require_no_condition(condition, "Coins")
        return bernoulli(self.logits.sigmoid().expand(n, -1), rng)


class Case(NamedTuple):
    """How to make a model, and its data: "real", "binary", "levels" or "integers" in `dim` coordinates.

    A model of integers is trained on levels, and draws any whole numbers. `spread` is that of the noise on
    the parameters, small where a model would leave the grid. `kinks` is what the grid may miss of the mass,
    at places where a density bends. The loss of a `joint` one is of the batch as a whole, no mean over rows.
    With `partly` every other row of the data has the label -1, for none. The gradient of a `game` is that of
    no loss.
    """

    make: Callable[[], nn.Module]
    data: str
    dim: int
    conditional: bool = False
    spread: float = 0.4
    kinks: float = 1e-9
    joint: bool = False
    partly: bool = False
    game: bool = False


def _vae(likelihood: nn.Module, dim: int, extra: int = 0) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Encoder to two latents, decoder and likelihood."""
    return MLP(dim + extra, (8,), 4), MLP(2 + extra, (8,), dim * likelihood.per_coordinate), likelihood


def _autoencoder(dim: int, random: bool = False) -> tuple[nn.Module, nn.Module]:
    """Encoder to two codes, or to their means and log-variances, and decoder."""
    return MLP(dim, (8,), 4 if random else 2), MLP(2, (8,), dim)


def _game(dim: int, classes: int = 0) -> tuple[nn.Module, nn.Module]:
    """Generator of two latents, and discriminator."""
    return MLP(2 + classes, (8,), dim), MLP(dim + classes, (8,), 1)


MODELS = {
    "Gaussian": Case(Gaussian, "real", 2),
    "Coins": Case(lambda: Coins(4), "binary", 4),
    "Ensemble-lebesgue": Case(lambda: Ensemble([Gaussian(), Gaussian(), Gaussian()]), "real", 2),
    "Ensemble-counting": Case(lambda: Ensemble([Coins(4), Coins(4)]), "binary", 4),
    "JointTable": Case(lambda: JointTable(4), "binary", 4),
    "IndependentBernoulli": Case(lambda: IndependentBernoulli(4), "binary", 4),
    "MarkovChain": Case(lambda: MarkovChain(4, order=2), "binary", 4),
    "MarkovChain-levels": Case(lambda: MarkovChain(3, order=1, values=LEVELS), "levels", 3),
    "BayesianNetwork": Case(lambda: BayesianNetwork([(3, 1), (2,), (), (1, 2)]), "binary", 4),
    "CategoricalTable": Case(lambda: CategoricalTable(LEVELS), "levels", 1),
    "LogisticAR": Case(lambda: LogisticAR(10), "binary", 10),
    "NADE": Case(lambda: NADE(10, 6), "binary", 10),
    "RNADE": Case(lambda: RNADE(2, 3, 3), "real", 2),
    "MADE": Case(lambda: MADE(10, (12,)), "binary", 10),
    "MADE-deep": Case(lambda: MADE(4, (8, 6), [2, 0, 3, 1], True, generator()), "binary", 4),
    "OrderAgnosticMADE": Case(lambda: OrderAgnosticMADE(4, (8,)), "binary", 4),
    "PixelCNN": Case(lambda: PixelCNN((1, 2, 2), 3, 2), "binary", 4),
    "PixelCNN-levels": Case(lambda: PixelCNN((2, 2, 1), 3, 1, LEVELS), "levels", 4),
    "CausalTransformer": Case(lambda: CausalTransformer(4, 4, 2, 1), "binary", 4),
    "CausalTransformer-levels": Case(lambda: CausalTransformer(3, 4, 2, 2, LEVELS), "levels", 3),
    "Flow": Case(
        lambda: Flow([Affine(2), Planar(2), Permutation([1, 0]), Planar(2), LinearLU(2)]), "real", 2
    ),
    "RealNVP": Case(lambda: RealNVP(2, 3, (4,)), "real", 2, spread=0.1),
    "SplineFlow": Case(lambda: SplineFlow(2, 2, (4,), bins=3), "real", 2, spread=0.2, kinks=1e-4),
    "MAF": Case(lambda: MAF(2, 2, (4,)), "real", 2, spread=0.1),
    "ContinuousFlow": Case(lambda: ContinuousFlow(2, (4,)), "real", 2, spread=0.1),
    "Dequantized": Case(lambda: Dequantized(RealNVP(3, 2, (4,)), LEVELS), "integers", 3),
    "Dequantized-variational": Case(
        lambda: Dequantized(MAF(3, 2, (4,)), LEVELS, LogisticNormalNoise(3, (4,))), "integers", 3
    ),
    "Dequantized-mixture": Case(lambda: Dequantized(GaussianMixture(3, 2), LEVELS), "integers", 3),
    "DequantizedDiffusion": Case(
        lambda: DequantizedDiffusion(
            Diffusion(TimeMLP(3, (6,)), Schedule.cosine(5), predicts="velocity"), LEVELS
        ),
        "integers",
        3,
    ),
    "GaussianMixture-full": Case(lambda: GaussianMixture(2, 3), "real", 2),
    "GaussianMixture-diagonal": Case(lambda: GaussianMixture(2, 3, "diagonal"), "real", 2),
    "GaussianMixture-spherical": Case(lambda: GaussianMixture(2, 3, "spherical"), "real", 2),
    "GaussianMixture-tied": Case(lambda: GaussianMixture(2, 3, "tied"), "real", 2),
    "BernoulliMixture": Case(lambda: BernoulliMixture(4, 3), "binary", 4),
    "Autoencoder": Case(lambda: Autoencoder(MLP(3, (6,), 2), MLP(2, (6,), 3)), "real", 3),
    "Autoencoder-cross-entropy": Case(
        lambda: Autoencoder(MLP(4, (6,), 2), MLP(2, (6,), 4), "cross_entropy"), "binary", 4
    ),
    "LinearAutoencoder": Case(lambda: LinearAutoencoder(3, 2), "real", 3),
    "DenoisingAutoencoder": Case(
        lambda: DenoisingAutoencoder(MLP(3, (6,), 4), MLP(4, (6,), 3), sigma=0.5), "real", 3
    ),
    "VAE-bernoulli": Case(lambda: VAE(*_vae(BernoulliLikelihood(), 4)), "binary", 4),
    "VAE-gaussian": Case(lambda: VAE(*_vae(GaussianLikelihood(sigma=0.5), 3)), "real", 3),
    "VAE-learned": Case(lambda: VAE(*_vae(GaussianLikelihood(sigma="learned"), 3)), "real", 3),
    "VAE-optimal": Case(lambda: VAE(*_vae(GaussianLikelihood(sigma="optimal"), 3)), "real", 3),
    "VAE-categorical": Case(lambda: VAE(*_vae(CategoricalLikelihood(LEVELS), 3)), "levels", 3),
    "IWAE": Case(lambda: IWAE(*_vae(BernoulliLikelihood(), 4), k=3), "binary", 4),
    "ConditionalVAE": Case(
        lambda: ConditionalVAE(*_vae(BernoulliLikelihood(), 4, CLASSES), CLASSES), "binary", 4, True
    ),
    "Classifier": Case(lambda: Classifier(MLP(3, (6,), 4), MLP(4, (), CLASSES)), "real", 3, True),
    "DomainAdversarial": Case(
        lambda: DomainAdversarial(MLP(3, (6,), 4), MLP(4, (), CLASSES), MLP(4, (5,), 1), strength=0.5),
        "real",
        3,
        conditional=True,
        partly=True,
        game=True,
    ),
    "SemiSupervisedVAE": Case(
        lambda: SemiSupervisedVAE(MLP(4, (6,), CLASSES), *_vae(BernoulliLikelihood(), 4, CLASSES), alpha=0.5),
        "binary",
        4,
        conditional=True,
        partly=True,
    ),
    "ProbabilisticPCA": Case(lambda: ProbabilisticPCA(2, 1), "real", 2),
    "WAE": Case(lambda: WAE(*_autoencoder(3), weight=3.0), "real", 3, joint=True),
    "WAE-gaussian": Case(
        lambda: WAE(*_autoencoder(3, random=True), 3.0, 0.8, gaussian_kernel), "real", 3, joint=True
    ),
    "WAEGAN": Case(lambda: WAEGAN(*_autoencoder(3), MLP(2, (8,), 1), weight=0.7), "real", 3),
    "GAN": Case(lambda: GAN(*_game(3)), "real", 3),
    "GAN-penalty": Case(lambda: GAN(*_game(3), penalty=2.0), "real", 3),
    "GAN-saturating": Case(lambda: GAN(*_game(3), saturating=True), "real", 3),
    "GAN-conditional": Case(
        lambda: GAN(*_game(3, CLASSES), classes=CLASSES, penalty=2.0), "real", 3, conditional=True
    ),
    "WGAN": Case(lambda: WGAN(*_game(3)), "real", 3),
    "WGAN-clipped": Case(lambda: WGAN(*_game(3), penalty=0), "real", 3),
    "WGAN-conditional": Case(lambda: WGAN(*_game(3, CLASSES), classes=CLASSES), "real", 3, conditional=True),
    "Diffusion": Case(lambda: Diffusion(TimeMLP(3, (6,)), Schedule.linear(25)), "real", 3),
    "Diffusion-score": Case(
        lambda: Diffusion(TimeMLP(3, (6,)), Schedule.linear(25), predicts="score"), "real", 3
    ),
    "Diffusion-classes": Case(
        lambda: Diffusion(
            TimeMLP(3, (6,), CLASSES), Schedule.cosine(5), predicts="velocity", classes=CLASSES
        ),
        "real",
        3,
        conditional=True,
    ),
    "FlowMatching": Case(lambda: FlowMatching(TimeMLP(3, (6,))), "real", 3),
    "FlowMatching-classes": Case(
        lambda: FlowMatching(TimeMLP(3, (6,), CLASSES), classes=CLASSES, drop_condition=0.3),
        "real",
        3,
        conditional=True,
    ),
    "AAE": Case(lambda: AAE(*_autoencoder(3, random=True), MLP(2, (8,), 1), sigma=0.6), "real", 3),
}


def of(promise: type) -> list[str]:
    """Names of the models that make a promise."""
    return [name for name, case in MODELS.items() if isinstance(case.make(), promise)]


def build(name: str, dtype: torch.dtype = torch.float64, device: str = "cpu") -> nn.Module:
    """A model at random parameters, since a sign error hides where a model starts."""
    torch.manual_seed(0)
    model, rng = MODELS[name].make().double(), generator(1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += MODELS[name].spread * normal(parameter.shape, rng, like=parameter)
    return model.to(device, dtype).eval()


def batch(
    name: str, n: int, dtype: torch.dtype = torch.float64, device: str = "cpu"
) -> tuple[Tensor, Tensor | None]:
    """Data x and a condition, or None, that the model can be trained on."""
    case, rng = MODELS[name], generator(2)
    x = normal((n, case.dim), rng, like=torch.empty((), dtype=torch.float64))
    levels = x.round().clamp(-1, 1) + 1
    x = {"real": x, "binary": (x > 0.3).double(), "levels": levels, "integers": levels}[case.data]
    condition = torch.randint(CLASSES, (n,), generator=rng).to(device) if case.conditional else None
    if case.partly:
        condition[::2] = -1
    return x.to(device, dtype), condition


def space(name: str) -> tuple[Tensor, float]:
    """All of a small model's space, and the measure of one of its points: every state, or a fine grid."""
    case, density = MODELS[name], build(name)
    if density.measure == "counting":
        values = range(LEVELS if case.data == "levels" else 2)
        return torch.tensor(list(itertools.product(values, repeat=case.dim)), dtype=torch.float64), 1.0
    assert case.dim == 2, "a density is put on a grid in the plane"
    step = 0.05
    line = torch.arange(-12, 12, step, dtype=torch.float64)
    return torch.cartesian_prod(line, line), step**2


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


DEVICES = ["cpu"] + ["cuda"] * torch.cuda.is_available()
