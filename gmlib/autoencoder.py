"""Autoencoders: networks that copy x through a hidden code. They have a loss, no p(x), and cannot draw."""

import math

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from gmlib.base import Trainable, require_networks, require_no_condition, require_points
from gmlib.nn import MLP, normal

COSTS = ("squared", "cross_entropy")


class Autoencoder(Trainable):
    r"""A code h of x, and a reconstruction of x from the code.

    .. math:: h = e(x), \qquad \hat x = d(h), \qquad
        \text{loss} = \frac1N \sum_{n=1}^N \sum_{d=1}^D c(x_{nd}, \hat x_{nd})

    with c the squared error, in squared units of x, and d(h) what the decoder puts out; or the cross
    entropy, in nats, and d(h) the sigmoid of the decoder's logits:

    .. math:: c = (x - \hat x)^2 \qquad \text{or} \qquad c = -x \log \hat x - (1 - x) \log (1 - \hat x)

    It is no `Sampler`: nothing says how codes are distributed.

    Args:
        encoder: D inputs, M outputs, the code.
        decoder: M inputs, D outputs.
        cost: "squared", or "cross_entropy" for x in [0, 1].

    Encoder and decoder state their `inputs` and `outputs`, as `gmlib.nn.MLP` does.

    Raises:
        ValueError: if the widths do not fit together, the cost is neither, x is not a finite (N, D)
            batch, or with the cross entropy not in [0, 1].

    Source: Goodfellow, Bengio and Courville (2016), Deep Learning, chapter 14.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, cost: str = "squared"):
        super().__init__()
        name = type(self).__name__
        if cost not in COSTS:
            raise ValueError(f"{name} needs a cost among {COSTS}, got {cost!r}.")
        require_networks((encoder, decoder), name)
        self.dim, self.hidden = encoder.inputs, encoder.outputs
        if (decoder.inputs, decoder.outputs) != (self.hidden, self.dim):
            raise ValueError(
                f"{name} needs a decoder from {self.hidden} to {self.dim}, the encoder's way back, "
                f"got one from {decoder.inputs} to {decoder.outputs}."
            )
        self.encoder, self.decoder, self.cost = encoder, decoder, cost

    def encode(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N M"]:
        """The code of x."""
        require_points(x, self.dim, type(self).__name__)
        return self.encoder(x)

    def decode(self, h: Float[Tensor, "N M"]) -> Float[Tensor, "N D"]:
        """What a code stands for; with the cross entropy in [0, 1]."""
        require_points(h, self.hidden, f"{type(self).__name__}.decode")
        outputs = self.decoder(h)
        return outputs.sigmoid() if self.cost == "cross_entropy" else outputs

    def reconstruct(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        """x after encoding and decoding."""
        return self.decode(self.encode(x))

    def loss(self, x, condition=None, *, rng=None):
        """Mean cost of a row, summed over coordinates: squared units of x, or nats. Draws no noise."""
        require_no_condition(condition, type(self).__name__)
        outputs = self.decoder(self.encode(x))
        if self.cost == "squared":
            return _squared_error(outputs, x)
        if x.min() < 0 or x.max() > 1:
            raise ValueError(
                f"{type(self).__name__} needs x in [0, 1] for the cross entropy, "
                f"got values from {x.min():g} to {x.max():g}."
            )
        return (F.softplus(outputs) - x * outputs).sum(-1).mean()  # stable at any logit


class LinearAutoencoder(Autoencoder):
    r"""An autoencoder of two linear layers, whose best is principal component analysis.

    .. math:: h = W x + b, \qquad \hat x = V h + c

    with the squared error.

    Args:
        dim: number of coordinates D of x.
        hidden: number of coordinates M of the code.

    Raises:
        ValueError: if a size is below 1.

    Source: Baldi and Hornik (1989), Neural Networks and Principal Component Analysis.
    """

    def __init__(self, dim: int, hidden: int):
        if min(dim, hidden) < 1:
            raise ValueError(
                f"{type(self).__name__} needs dim >= 1 and hidden >= 1, got dim {dim} and hidden {hidden}."
            )
        super().__init__(MLP(dim, (), hidden), MLP(hidden, (), dim))

    @classmethod
    def from_pca(cls, x: Float[Tensor, "N D"], hidden: int) -> "LinearAutoencoder":
        r"""One with the lowest loss on x: the code is that of the leading principal components.

        .. math:: W = U_M^\top, \quad b = -U_M^\top \bar x, \quad V = U_M, \quad c = \bar x

        where the columns of U_M are the leading eigenvectors of the covariance of x, by a singular value
        decomposition of x less its mean. The loss is the sum of the eigenvalues left out, for the
        covariance with divisor N.

        Raises:
            ValueError: unless 1 <= hidden <= min(N, D).
        """
        require_points(x, None, f"{cls.__name__}.from_pca")
        if not 1 <= hidden <= min(x.shape):
            raise ValueError(
                f"{cls.__name__}.from_pca needs 1 <= hidden <= {min(x.shape)}, the smaller of N and D, "
                f"got {hidden}."
            )
        model, mean = cls(x.shape[1], hidden).to(x), x.mean(0)
        directions = torch.linalg.svd(x - mean, full_matrices=False).Vh[:hidden]  # (M, D)
        with torch.no_grad():
            model.encoder[0].weight.copy_(directions)
            model.encoder[0].bias.copy_(-directions @ mean)
            model.decoder[0].weight.copy_(directions.T)
            model.decoder[0].bias.copy_(mean)
        return model


class DenoisingAutoencoder(Autoencoder):
    r"""An autoencoder r = d(e(.)) that is shown x with noise and is to give x without.

    .. math:: \text{loss} = \frac1N \sum_{n=1}^N \| r(x_n + \sigma \varepsilon_n) - x_n \|^2,
        \quad \varepsilon_n \sim \mathcal N(0, I)

    The best r is the mean of x given what is seen, and then `score` is the gradient of the log-density of
    the data with the noise.

    Args:
        encoder, decoder: as for `Autoencoder`.
        sigma: standard deviation of the noise, in units of x.

    Raises:
        ValueError: if not 0 < sigma < infinity, or as for `Autoencoder`.

    Source: Vincent (2011), A Connection Between Score Matching and Denoising Autoencoders; Alain and Bengio
    (2014), What Regularized Auto-Encoders Learn from the Data-Generating Distribution. Departs from the
    latter: the score is that of the noisy density at any sigma, not of the data's own at sigma -> 0.
    """

    def __init__(self, encoder: nn.Module, decoder: nn.Module, sigma: float):
        super().__init__(encoder, decoder)
        if not 0 < sigma < math.inf:
            raise ValueError(f"{type(self).__name__} needs a finite sigma > 0, got {sigma}.")
        self.sigma = sigma

    def loss(self, x, condition=None, *, rng=None):
        """Mean squared error of a row, summed over coordinates, from one draw of the noise; units of x^2."""
        require_no_condition(condition, type(self).__name__)
        require_points(x, self.dim, type(self).__name__)
        return _squared_error(self.reconstruct(x + self.sigma * normal(x.shape, rng, like=x)), x)

    def score(self, x: Float[Tensor, "N D"]) -> Float[Tensor, "N D"]:
        r"""What r says of the gradient of log p at x, for the density p of the data with the noise.

        .. math:: \frac{r(x) - x}{\sigma^2}
        """
        return (self.reconstruct(x) - x) / self.sigma**2


def _squared_error(x_hat: Float[Tensor, "N D"], x: Float[Tensor, "N D"]) -> Float[Tensor, ""]:
    return (x_hat - x).square().sum(-1).mean()
