"""Autoencoders against scikit-learn's PCA, torch's losses, and autograd of densities with noise."""

import pytest
import torch
from sklearn.decomposition import PCA
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal
from torch.nn import functional as F

from gmlib.autoencoder import Autoencoder, DenoisingAutoencoder, LinearAutoencoder
from gmlib.base import Sampler
from gmlib.nn import MLP
from gmlib.train import fit


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randomised(model):
    rng = generator(7)
    with torch.no_grad():
        for p in model.parameters():
            p.copy_(0.5 * torch.randn(p.shape, generator=rng))
    return model.double()


def points(n: int = 60, dim: int = 5) -> torch.Tensor:
    """Points of a skewed cloud off the origin."""
    mixing = torch.randn(dim, dim, generator=generator(1), dtype=torch.float64)
    return torch.randn(n, dim, generator=generator(2), dtype=torch.float64) @ mixing + 3


@pytest.mark.parametrize("cost", ["squared", "cross_entropy"])
def test_loss_is_torchs(cost):
    model = randomised(Autoencoder(MLP(5, (6,), 2), MLP(2, (6,), 5), cost))
    x = points().sigmoid() if cost == "cross_entropy" else points()
    function = {"squared": F.mse_loss, "cross_entropy": F.binary_cross_entropy}[cost]
    expected = function(model.reconstruct(x), x, reduction="sum") / len(x)
    torch.testing.assert_close(model.loss(x), expected)


def test_cross_entropy_reconstructs_probabilities():
    model = randomised(Autoencoder(MLP(5, (6,), 2), MLP(2, (6,), 5), "cross_entropy"))
    h = model.encode(points())
    torch.testing.assert_close(model.decode(h), torch.special.expit(model.decoder(h)))
    torch.testing.assert_close(model.reconstruct(points()), model.decode(model.encode(points())))


def test_cross_entropy_is_finite_at_extreme_logits():
    model = randomised(Autoencoder(MLP(1, (), 1), MLP(1, (), 1), "cross_entropy"))
    with torch.no_grad():
        model.decoder[0].weight.zero_()
        model.decoder[0].bias.fill_(1e4)
    assert model.loss(torch.ones(1, 1).double()).item() == 0.0
    assert model.loss(torch.zeros(1, 1).double()).item() == 1e4


@pytest.mark.parametrize("hidden", [1, 3, 5])
def test_from_pca_is_scikit_learns(hidden):
    x = points()
    model = LinearAutoencoder.from_pca(x, hidden)
    reference = PCA(hidden, svd_solver="full").fit(x.numpy())
    codes = torch.from_numpy(reference.transform(x.numpy()))
    torch.testing.assert_close(model.encode(x).abs(), codes.abs())
    there_and_back = torch.from_numpy(reference.inverse_transform(codes.numpy()))
    torch.testing.assert_close(model.reconstruct(x), there_and_back)
    left_out = torch.linalg.eigvalsh(torch.cov(x.T, correction=0))[: 5 - hidden].sum()
    torch.testing.assert_close(model.loss(x), left_out)


def test_from_pca_is_a_minimum():
    x = points()
    model = LinearAutoencoder.from_pca(x, 2)
    model.loss(x).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad.abs().max() < 1e-9, name
    best, rng = model.loss(x).item(), generator(3)
    for _ in range(20):
        other = LinearAutoencoder.from_pca(x, 2)
        with torch.no_grad():
            for p in other.parameters():
                p += 0.05 * torch.randn(p.shape, generator=rng, dtype=p.dtype)
        assert other.loss(x).item() > best


def test_from_pca_of_few_points_copies_them():
    x = points(4)
    torch.testing.assert_close(LinearAutoencoder.from_pca(x, 4).reconstruct(x), x)


def test_training_a_linear_autoencoder_reaches_pca():
    x = points(200) - 3
    torch.manual_seed(0)
    model = LinearAutoencoder(5, 2).double()
    fit(model, x, steps=1500, batch_size=200, lr=0.02, rng=generator(), schedule=lambda done: 1 - done)
    best = LinearAutoencoder.from_pca(x, 2).loss(x).item()
    assert best - 1e-9 < model.loss(x).item() < 1.001 * best


def linear_denoiser(x, sigma: float) -> DenoisingAutoencoder:
    """The exact one for a Gaussian of the moments of x: r(y) = m + S (S + sigma^2 I)^-1 (y - m)."""
    dim, mean, covariance = x.shape[1], x.mean(0), torch.cov(x.T)
    gain = covariance @ torch.linalg.inv(covariance + sigma**2 * torch.eye(dim, dtype=x.dtype))
    model = DenoisingAutoencoder(MLP(dim, (), dim), MLP(dim, (), dim), sigma).double()
    with torch.no_grad():
        model.encoder[0].weight.copy_(torch.eye(dim))
        model.encoder[0].bias.copy_(-mean)
        model.decoder[0].weight.copy_(gain)
        model.decoder[0].bias.copy_(mean)
    return model


@pytest.mark.parametrize("sigma", [0.3, 2.0])
def test_score_of_the_best_denoiser_is_autograds(sigma):
    """Of N(m, S + sigma^2 I), the density of the data with the noise."""
    x = points()
    noisy = MultivariateNormal(x.mean(0), torch.cov(x.T) + sigma**2 * torch.eye(5, dtype=x.dtype))
    y = points(7).requires_grad_()
    (gradient,) = torch.autograd.grad(noisy.log_prob(y).sum(), y)
    torch.testing.assert_close(linear_denoiser(x, sigma).score(y.detach()), gradient)


def test_denoising_loss_is_the_error_against_clean_points():
    """By hand with the same noise; and the mean over many draws, where the denoiser is linear."""
    model, x = linear_denoiser(points(), 0.7), points()
    noise = torch.randn(x.shape, generator=generator(4), dtype=x.dtype)
    by_hand = F.mse_loss(model.reconstruct(x + 0.7 * noise), x, reduction="sum") / len(x)
    torch.testing.assert_close(model.loss(x, rng=generator(4)), by_hand)

    rng = generator(5)
    with torch.no_grad():
        draws = torch.stack([model.loss(x, rng=rng) for _ in range(2000)])
    gain = model.decoder[0].weight
    exact = (model.reconstruct(x) - x).square().sum(-1).mean() + 0.49 * gain.square().sum()
    error = draws.std().item() / 2000**0.5
    assert abs(draws.mean().item() - exact.item()) < 4 * error
    assert 8 * error < 0.1 * exact.item()


def test_a_trained_denoiser_knows_the_score_of_a_mixture():
    rng, sigma = generator(), 0.4
    means = torch.tensor([[-1.0, 0.0], [1.0, 0.5]])
    x = means[torch.randint(2, (4000,), generator=rng)]
    torch.manual_seed(0)
    model = DenoisingAutoencoder(MLP(2, (32,), 16), MLP(16, (32,), 2), sigma)
    fit(model, x, steps=800, batch_size=400, lr=0.01, rng=rng, schedule=lambda done: 1 - done)
    noisy = MixtureSameFamily(
        Categorical(torch.ones(2)), MultivariateNormal(means, sigma**2 * torch.eye(2).expand(2, 2, 2))
    )
    y = (x[:500] + sigma * torch.randn(500, 2, generator=rng)).requires_grad_()
    (exact,) = torch.autograd.grad(noisy.log_prob(y).sum(), y)
    with torch.no_grad():
        wrong = (model.score(y) - exact).square().mean() / exact.square().mean()
    assert wrong < 0.03


def test_it_is_no_generative_model():
    for kind in (Autoencoder, LinearAutoencoder, DenoisingAutoencoder):
        assert not issubclass(kind, Sampler)
