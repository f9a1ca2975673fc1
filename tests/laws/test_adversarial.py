"""What holds for every model of two players."""

import pytest
import torch

from gmlib.base import Adversarial

from .models import DEVICES, batch, build, generator, of

pytestmark = pytest.mark.parametrize("name", of(Adversarial))
both = pytest.mark.parametrize("player", ["discriminator", "generator"])


def loss_of(model, player):
    return {"discriminator": model.discriminator_loss, "generator": model.generator_loss}[player]


def parameters_of(model, player):
    return dict(zip(("discriminator", "generator"), model.players(), strict=True))[player]


def test_every_parameter_has_one_player(name):
    model = build(name)
    discriminator, generator_ = model.players()
    assert {id(p) for p in discriminator} == {id(p) for p in model.discriminator.parameters()}
    assert sorted(map(id, discriminator + generator_)) == sorted(map(id, model.parameters()))
    assert min(len(discriminator), len(generator_)) > 0


@both
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_losses_are_finite_scalars(name, player, dtype, device):
    x, condition = batch(name, 7, dtype, device)
    loss = loss_of(build(name, dtype, device), player)(x, condition, rng=generator())
    assert loss.shape == ()
    assert loss.dtype == dtype
    assert loss.device == x.device
    assert loss.isfinite()


@both
def test_a_seed_decides_the_losses(name, player):
    loss, (x, condition) = loss_of(build(name), player), batch(name, 7)
    before = torch.get_rng_state()
    assert loss(x, condition, rng=generator(3)) == loss(x, condition, rng=generator(3))
    assert torch.equal(torch.get_rng_state(), before), "noise has one source"


@both
def test_every_parameter_of_a_player_gets_a_gradient(name, player):
    model, (x, condition) = build(name).train(), batch(name, 7)
    loss_of(model, player)(x, condition, rng=generator()).backward()
    for parameter in parameters_of(model, player):
        assert parameter.grad is not None
        assert parameter.grad.isfinite().all()
        assert parameter.grad.abs().max() > 1e-9 or parameter.numel() == 1  # a last bias may cancel


@both
def test_a_loss_is_lower_after_a_small_step_of_its_player(name, player):
    model, (x, condition) = build(name), batch(name, 7)
    loss, parameters = loss_of(model, player), parameters_of(model, player)
    before = loss(x, condition, rng=generator())
    gradients = torch.autograd.grad(before, parameters)
    steepness = sum(gradient.square().sum() for gradient in gradients)
    with torch.no_grad():
        for parameter, gradient in zip(parameters, gradients, strict=True):
            parameter -= 1e-6 / steepness * gradient
        fall = before - loss(x, condition, rng=generator())
    assert abs(fall - 1e-6) < 1e-8, "to first order the loss falls by step times squared gradient"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_fake_has_a_row_for_each_row_and_a_gradient_of_the_generator_alone(name, dtype, device):
    model, (x, condition) = build(name, dtype, device), batch(name, 7, dtype, device)
    fake = model.fake(x, condition, rng=generator())
    assert (len(fake), fake.ndim, fake.dtype, fake.device) == (7, 2, dtype, x.device)
    fake.square().sum().backward()
    discriminator, generator_ = model.players()
    assert all(parameter.grad is None for parameter in discriminator)
    assert any(parameter.grad is not None for parameter in generator_)


@both
def test_the_loss_of_a_fake_is_the_loss_that_makes_it(name, player):
    """With the same noise, to the bit; so are the gradients of the player."""
    model, (x, condition) = build(name), batch(name, 7)
    loss, own, rng = loss_of(model, player), parameters_of(model, player), generator(3)
    given = loss(x, condition, model.fake(x, condition, rng=rng), rng=rng)
    drawn = loss(x, condition, rng=generator(3))
    assert given == drawn
    for a, b in zip(torch.autograd.grad(given, own), torch.autograd.grad(drawn, own), strict=True):
        assert torch.equal(a, b)


@both
def test_a_loss_is_of_the_fake_that_it_is_given(name, player):
    model, (x, condition) = build(name), batch(name, 7)
    fake = model.fake(x, condition, rng=generator())
    one, other = (loss_of(model, player)(x, condition, at, rng=generator()) for at in (fake, fake + 0.1))
    assert one != other


def test_the_discriminators_loss_holds_the_fake(name):
    """Given or not, no gradient reaches the generator, not even where the fake has one."""
    model, (x, condition) = build(name), batch(name, 7)
    fake = model.fake(x, condition, rng=generator())
    fake.retain_grad()
    (model.discriminator_loss(x, condition, fake) + model.discriminator_loss(x, condition)).backward()
    assert fake.grad is None
    discriminator, generator_ = model.players()
    assert all(parameter.grad is None for parameter in generator_)
    assert all(parameter.grad is not None for parameter in discriminator)


def _mean_loss(loss, x, condition, seed):
    rng = generator(seed)
    with torch.no_grad():
        losses = torch.stack([loss(x, condition, rng=rng) for _ in range(300)])
    return losses.mean(), losses.std() / len(losses) ** 0.5


@both
@pytest.mark.parametrize("change", ["another order", "every row twice"])
def test_losses_are_means_over_rows_in_any_order(name, player, change):
    loss, (x, condition) = loss_of(build(name), player), batch(name, 7)
    rows = (
        torch.randperm(7, generator=generator()) if change == "another order" else torch.arange(7).repeat(2)
    )
    mean, error = _mean_loss(loss, x, condition, 0)
    changed, changed_error = _mean_loss(loss, x[rows], None if condition is None else condition[rows], 1)
    assert abs(mean - changed) <= 4 * torch.hypot(error, changed_error) + 1e-12 * abs(mean)
