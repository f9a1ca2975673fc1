"""What holds for every model with a loss."""

import pytest
import torch

from gmlib.base import Trainable

from .models import DEVICES, MODELS, batch, build, generator, of

NAMES = of(Trainable)
every_model = pytest.mark.parametrize("name", NAMES)
ROWS = {"another order": torch.tensor([3, 0, 6, 2, 5, 1, 4]), "every row twice": torch.arange(7).repeat(2)}


@every_model
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_loss_is_a_finite_scalar(name, dtype, device):
    x, condition = batch(name, 7, dtype, device)
    loss = build(name, dtype, device).loss(x, condition, rng=generator())
    assert loss.shape == ()
    assert loss.dtype == dtype
    assert loss.device == x.device
    assert loss.isfinite()


@every_model
@pytest.mark.parametrize("training", [True, False])
def test_calling_the_model_is_its_loss(name, training):
    model, (x, condition) = build(name).train(training), batch(name, 7)
    assert model(x, condition, rng=generator()) == model.loss(x, condition, rng=generator())


@every_model
def test_a_seed_decides_the_loss(name):
    model, (x, condition) = build(name), batch(name, 7)
    before = torch.get_rng_state()
    assert model.loss(x, condition, rng=generator(3)) == model.loss(x, condition, rng=generator(3))
    assert torch.equal(torch.get_rng_state(), before), "noise has one source"


@every_model
def test_every_parameter_gets_a_gradient(name):
    model, (x, condition) = build(name).train(), batch(name, 7)
    model.loss(x, condition, rng=generator()).backward()
    for parameter_name, parameter in model.named_parameters():
        assert parameter.grad is not None, parameter_name
        assert parameter.grad.isfinite().all(), parameter_name
        assert parameter.grad.abs().max() > 1e-9, parameter_name


def _mean_loss(model, x, condition, seed):
    """Mean loss over noise and its standard error, 0 where there is no noise."""
    rng = generator(seed)
    with torch.no_grad():
        losses = torch.stack([model.loss(x, condition, rng=rng) for _ in range(300)])
    return losses.mean(), losses.std() / len(losses) ** 0.5


@pytest.mark.parametrize(
    ("name", "change"),
    # a loss of the batch as a whole is no mean over its rows: it only knows no order
    [(name, c) for name in NAMES for c in ROWS if c == "another order" or not MODELS[name].joint],
)
def test_loss_is_a_mean_over_rows_in_any_order(name, change):
    model, (x, condition) = build(name), batch(name, 7)
    rows = ROWS[change]
    mean, error = _mean_loss(model, x, condition, 0)
    changed, changed_error = _mean_loss(model, x[rows], None if condition is None else condition[rows], 1)
    assert abs(mean - changed) <= 4 * torch.hypot(error, changed_error) + 1e-12 * abs(mean)


# the players of a game pull one loss both ways
@pytest.mark.parametrize("name", [name for name in NAMES if not MODELS[name].game])
def test_loss_is_lower_after_a_small_step_downhill(name):
    model, (x, condition) = build(name), batch(name, 7)
    parameters = list(model.parameters())
    loss = model.loss(x, condition, rng=generator())
    gradients = torch.autograd.grad(loss, parameters)
    steepness = sum(gradient.square().sum() for gradient in gradients)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= 1e-6 / steepness * gradient
        fall = loss - model.loss(x, condition, rng=generator())
    assert abs(fall - 1e-6) < 1e-8, "to first order the loss falls by step times squared gradient"
