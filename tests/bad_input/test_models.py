"""What the VAE module refuses, and that it says what was needed and what came."""

import pytest
import torch
from batches import FORMS, GOOD
from torch import nn

from gmlib.nn import MLP
from gmlib.vae import (
    IWAE,
    VAE,
    BernoulliLikelihood,
    CategoricalLikelihood,
    ConditionalVAE,
    GaussianLikelihood,
    ProbabilisticPCA,
    iwae_bound,
)


def bernoulli_vae() -> VAE:
    return VAE(MLP(3, (), 4), MLP(2, (), 3), BernoulliLikelihood())


def conditional_vae() -> ConditionalVAE:
    return ConditionalVAE(MLP(5, (), 4), MLP(4, (), 3), BernoulliLikelihood(), classes=2)


BATCHES = [
    *FORMS,
    (GOOD + 0.1, r"\[0, 1\], got values from 0.1 to 1.1"),
    (GOOD - 2 * GOOD[:1], r"\[0, 1\], got values from -2 to 1"),
]


@pytest.mark.parametrize(("x", "message"), BATCHES)
@pytest.mark.parametrize("method", ["elbo", "loss", "__call__"])
def test_a_bad_batch(method, x, message):
    with pytest.raises(ValueError, match=message):
        getattr(bernoulli_vae(), method)(x)


@pytest.mark.parametrize(("x", "message"), BATCHES)
def test_a_bad_batch_for_the_estimate(x, message):
    with pytest.raises(ValueError, match=message):
        bernoulli_vae().log_prob_iw(x, 2)


@pytest.mark.parametrize("k", [0, -1])
def test_no_draws(k):
    with pytest.raises(ValueError, match=f"k >= 1, got {k}"):
        bernoulli_vae().log_prob_iw(GOOD, k)
    with pytest.raises(ValueError, match="n >= 1 draws, got 0"):
        bernoulli_vae().sample(0)
    with pytest.raises(ValueError, match="n >= 1 draws, got 0"):
        ProbabilisticPCA(3, 1).sample(0)


@pytest.mark.parametrize("log_w", [torch.zeros(3), torch.zeros(0, 3), torch.zeros(2, 3, 4)])
def test_log_weights_of_another_shape(log_w):
    with pytest.raises(ValueError, match=r"log-weights \(k, N\) with k >= 1, got shape"):
        iwae_bound(log_w)


@pytest.mark.parametrize("sigma", [-1.0, 0.0, float("inf"), float("nan"), "best", None])
def test_a_sigma_that_is_none(sigma):
    with pytest.raises(ValueError, match="sigma > 0, 'learned' or 'optimal', got"):
        GaussianLikelihood(sigma)


@pytest.mark.parametrize("x", [[[0.5, 1.0]], [[-1.0, 1.0]], [[4.0, 1.0]]])
def test_a_grey_level_that_is_none(x):
    with pytest.raises(ValueError, match="whole numbers from 0 to 3, got values from"):
        CategoricalLikelihood(4).log_prob(torch.tensor(x), torch.zeros(1, 8))


def test_too_few_levels():
    with pytest.raises(ValueError, match="levels >= 2, got 1"):
        CategoricalLikelihood(1)


@pytest.mark.parametrize(
    ("encoder", "decoder"),
    [(MLP(3, (), 5), MLP(2, (), 3)), (MLP(3, (), 4), MLP(2, (), 4)), (MLP(3, (), 4), MLP(3, (), 3))],
)
def test_widths_that_do_not_fit(encoder, decoder):
    with pytest.raises(ValueError, match="VAE needs an encoder with"):
        VAE(encoder, decoder, BernoulliLikelihood())


def test_networks_that_do_not_state_their_widths():
    with pytest.raises(
        ValueError, match=r"state their `inputs` and `outputs`, as gmlib.nn.MLP does, got Linear"
    ):
        VAE(nn.Linear(3, 4), MLP(2, (), 3), BernoulliLikelihood())


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        (None, "ConditionalVAE needs 2 labels of int64, got NoneType"),
        (torch.tensor([0]), r"2 labels of int64, got torch.int64 of shape \(1,\)"),
        (torch.tensor([0.0, 1.0]), r"2 labels of int64, got torch.float32 of shape \(2,\)"),
        (torch.tensor([0, 2]), "labels from 0 to 1, got 0 to 2"),
        (torch.tensor([-1, 0]), "labels from 0 to 1, got -1 to 0"),
    ],
)
def test_a_bad_condition(condition, message):
    with pytest.raises(ValueError, match=message):
        conditional_vae().elbo(GOOD, condition)
    with pytest.raises(ValueError, match=message):
        conditional_vae().sample(2, condition)


def test_a_condition_where_none_belongs():
    for model in (bernoulli_vae(), ProbabilisticPCA(3, 1)):
        with pytest.raises(ValueError, match="takes no condition, got one"):
            model.loss(GOOD, torch.tensor([0, 1]))
        with pytest.raises(ValueError, match="takes no condition, got one"):
            model.sample(2, torch.tensor([0, 1]))


@pytest.mark.parametrize("latent", [0, 3, 4])
def test_ppca_of_another_size(latent):
    with pytest.raises(ValueError, match=f"1 <= latent < dim, got latent {latent} and dim 3"):
        ProbabilisticPCA(3, latent)


@pytest.mark.parametrize(("x", "message"), BATCHES[:7])
def test_a_bad_batch_for_ppca(x, message):
    model = ProbabilisticPCA(3, 1)
    for call in (model.log_prob, model.posterior):
        with pytest.raises(ValueError, match=message):
            call(x)


def test_ppca_fitted_to_nothing():
    for x, message in [(GOOD * torch.nan, "finite x"), (GOOD[:0], "N >= 1"), (GOOD[0], "shape")]:
        with pytest.raises(ValueError, match=message):
            ProbabilisticPCA.maximum_likelihood(x, 1)


@pytest.mark.parametrize("k", [0, -1])
def test_an_iwae_without_draws(k):
    with pytest.raises(ValueError, match=f"IWAE needs k >= 1, got {k}"):
        IWAE(MLP(3, (), 4), MLP(2, (), 3), BernoulliLikelihood(), k=k)
    assert IWAE(MLP(3, (), 4), MLP(2, (), 3), BernoulliLikelihood(), k=1).k == 1
