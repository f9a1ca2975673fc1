"""Steps of DDPM and DDIM: gmlib and diffusers. A training step of flow matching: gmlib and torchcfm.

    pip install -e ".[bench]" && python bench/diffusion_step.py

The samplers take all 1000 steps of DDPM, or 50 of DDIM with eta 0 and with eta 1, for 128 images of 8 x 8
pixels. The noise that a network would predict is fixed, so that what is timed is the rest of a step: the
estimate of x_0, the noise and the next state. Before the race, both are given the same noise, in double
precision, and reach the same states. Flow matching draws times, points on lines and their velocities for 256
points in the plane, or takes a step of Adam for the same MLP. Adam is as `gmlib.train.fit` and as torchcfm's
examples make it, fused in gmlib alone; torchcfm races with the fused one as well. One thread; `race` says how
the times are. One JSON line each.
"""

from functools import partial
from importlib.metadata import version

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from race import race
from torchcfm import ConditionalFlowMatcher

from gmlib.diffusion import FlowMatching, Schedule, convert, ddim_step, ddpm_step
from gmlib.nn import TimeMLP, normal
from gmlib.train import ADAM

T, STEPS = 1000, 50
SHAPE, POINTS = (128, 64), 256


def beta(dtype: torch.dtype) -> torch.Tensor:
    return torch.linspace(1e-4, 0.02, T, dtype=dtype)


def start(dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor, torch.Generator]:
    """A state, predicted noise, and the source of the steps' noise."""
    rng = torch.Generator().manual_seed(0)
    x, eps = torch.randn(2, *SHAPE, generator=rng, dtype=torch.float64)
    return x.to(dtype), eps.to(dtype), rng


def ddpm(x, eps, schedule, rng):
    for t in range(T, 0, -1):
        x_0 = convert(eps, x, t, schedule, "noise", "data")
        x = ddpm_step(x, x_0, t, schedule, normal(x.shape, rng, like=x))
    return x


def ddim(x, eps, schedule, rng, eta):
    for k in range(STEPS, 0, -1):
        t, s = T * k // STEPS, T * (k - 1) // STEPS
        x_0 = convert(eps, x, t, schedule, "noise", "data")
        x = ddim_step(x, x_0, t, s, schedule, eta, normal(x.shape, rng, like=x) if eta else None)
    return x


def peer(x, eps, scheduler, rng, options):
    for t in scheduler.timesteps.tolist():
        x = scheduler.step(eps, t, x, generator=rng, return_dict=False, **options)[0]
    return x


def scheduler(kind: type, dtype: torch.dtype):
    options = {"timestep_spacing": "trailing"} if kind is DDIMScheduler else {"variance_type": "fixed_small"}
    found = kind(T, trained_betas=beta(dtype).numpy(), clip_sample=False, **options)
    found.set_timesteps(STEPS if kind is DDIMScheduler else T)
    # it keeps what it is given in single precision
    found.alphas_cumprod = torch.cumprod(1 - beta(dtype), 0)
    return found


def samplers(dtype: torch.dtype) -> dict:
    """For each race, both contestants, each with a source of the same noise."""
    schedule, races = Schedule(beta(dtype)), {}
    for name, ours, kind, options in [
        ("1000 steps of DDPM", ddpm, DDPMScheduler, {}),
        ("50 steps of DDIM, eta 0", partial(ddim, eta=0.0), DDIMScheduler, {"eta": 0.0}),
        ("50 steps of DDIM, eta 1", partial(ddim, eta=1.0), DDIMScheduler, {"eta": 1.0}),
    ]:
        (x, eps, rng), (_, _, other) = start(dtype), start(dtype)
        theirs = partial(peer, x, eps, scheduler(kind, dtype), other, options)
        races[name] = partial(ours, x, eps, schedule, rng), theirs
    return races


def flow_matching(x):
    """The triple (t, x_t, u_t), and a training step."""
    torch.manual_seed(0)
    model = FlowMatching(TimeMLP(2, (64, 64)))
    rng = torch.Generator().manual_seed(0)
    step = descent(model, lambda: model.loss(x, rng=rng), ADAM)
    return partial(model.path, x, rng=rng), step


def torchcfm(x, adam=torch.optim.Adam):
    torch.manual_seed(0)
    network, matcher = TimeMLP(2, (64, 64)), ConditionalFlowMatcher(sigma=0.0)
    label = torch.empty(len(x), 0)

    def draw():
        return matcher.sample_location_and_conditional_flow(torch.randn_like(x), x)

    def loss():
        t, x_t, u_t = draw()
        return ((network(x_t, t, label) - u_t) ** 2).mean()  # as in its examples

    return draw, descent(network, loss, adam)


def descent(network, loss, adam):
    optimizer = adam(network.parameters(), lr=1e-3)

    def step():
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()

    return step


def main(rounds: int = 30) -> None:
    torch.set_num_threads(1)
    diffusers, cfm = f"diffusers {version('diffusers')}", f"torchcfm {version('torchcfm')}"
    for name, (ours, theirs) in samplers(torch.float64).items():
        a, b = ours(), theirs()
        assert (a - b).abs().max() < 1e-5 * b.abs().max(), f"{name}: results differ by {(a - b).abs().max()}"
    for name, (ours, theirs) in samplers(torch.float32).items():
        race(f"{name}, 128 images of 8 x 8", {"gmlib": ours, diffusers: theirs}, rounds=rounds)
    x = torch.randn(POINTS, 2, generator=torch.Generator().manual_seed(1))
    ours, theirs, fused = flow_matching(x), torchcfm(x), torchcfm(x, ADAM)
    for draw in (ours[0], theirs[0]):
        t, x_t, u_t = draw()
        torch.testing.assert_close(x_t, x - (1 - t).unsqueeze(-1) * u_t)
    races = {
        "triple (t, x_t, u_t) of flow matching": {"gmlib": ours[0], cfm: theirs[0]},
        "training step of flow matching 2-64-64-2": {
            "gmlib": ours[1],
            cfm: theirs[1],
            f"{cfm}, fused Adam": fused[1],
        },
    }
    for job, contestants in races.items():
        race(f"{job}, batch {POINTS}", contestants, rounds=10 * rounds, steps=10, warm=5)


if __name__ == "__main__":
    main()
