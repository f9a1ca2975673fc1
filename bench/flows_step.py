"""Coupling flows in 2 and 64 dimensions, batch 256: gmlib, zuko, normflows and nflows.

    pip install -e ".[bench]" && python bench/flows_step.py

Eight couplings, affine or by splines of 8 bins on [-5, 5], whose halves take turns; the networks have two
hidden layers of 64 (2-D) or 128 units: tanh in gmlib, ReLU in the peers. Three jobs: log p(x) of a batch, 1000
draws, and a training step (the loss, its gradient and Adam's update). All have layers of the same widths,
from each peer's own parts. One thread; `race` says how they are compared. One JSON line each.
"""

import sys
import warnings
from functools import partial
from importlib.metadata import version

import torch
from race import race
from torch import nn

from gmlib.flows import RealNVP, SplineFlow

BATCH, DRAWS, LAYERS, BINS, BOUND = 256, 1000, 8, 8, 5.0


class Network(nn.Module):
    """nflows' dense network, with the argument that its couplings pass."""

    def __init__(self, inputs: int, outputs: int, width: int):
        from nflows.nn.nets import MLP

        super().__init__()
        self.network = MLP((inputs,), (outputs,), (width, width))

    def forward(self, x, context=None):
        return self.network(x)


def zuko_flow(kind: str, dim: int, width: int):
    from zuko.flows import NICE
    from zuko.transforms import MonotonicRQSTransform

    spline = {"univariate": MonotonicRQSTransform, "shapes": [(BINS,), (BINS,), (BINS - 1,)]}
    options = spline if kind == "spline" else {}
    flow = NICE(dim, transforms=LAYERS, hidden_features=(width, width), **options)
    return flow, lambda x: flow().log_prob(x), lambda n: flow().sample((n,))


def normflows_flow(kind: str, dim: int, width: int):
    import normflows as nf
    from normflows.flows.neural_spline.coupling import PiecewiseRationalQuadraticCoupling

    class Spline(nf.flows.Flow):
        def __init__(self, mask):
            super().__init__()
            network = partial(Network, width=width)
            self.coupling = PiecewiseRationalQuadraticCoupling(mask, network, BINS, "linear", BOUND)

        def forward(self, z):
            return self.coupling.inverse(z)

        def inverse(self, z):
            return self.coupling(z)

    flows = []
    for layer in range(LAYERS):
        if kind == "spline":
            flows.append(Spline((torch.arange(dim) < dim // 2) ^ bool(layer % 2)))
        else:
            network = nf.nets.MLP([dim // 2, width, width, dim])
            flows += [nf.flows.AffineCouplingBlock(network), nf.flows.Permute(dim, mode="swap")]
    flow = nf.NormalizingFlow(nf.distributions.DiagGaussian(dim, trainable=False), flows)
    return flow, flow.log_prob, lambda n: flow.sample(n)[0]


def nflows_flow(kind: str, dim: int, width: int):
    from nflows.distributions.normal import StandardNormal
    from nflows.flows import Flow
    from nflows.transforms import (
        AffineCouplingTransform,
        CompositeTransform,
        PiecewiseRationalQuadraticCouplingTransform,
    )

    network = partial(Network, width=width)
    couplings = []
    for layer in range(LAYERS):
        mask = (torch.arange(dim) < dim // 2) ^ bool(layer % 2)
        if kind == "spline":
            options = {"num_bins": BINS, "tails": "linear", "tail_bound": BOUND}
            couplings.append(PiecewiseRationalQuadraticCouplingTransform(mask, network, **options))
        else:
            couplings.append(AffineCouplingTransform(mask, network))
    flow = Flow(CompositeTransform(couplings), StandardNormal([dim]))
    return flow, flow.log_prob, flow.sample


def gmlib_flow(kind: str, dim: int, width: int):
    if kind == "spline":
        flow = SplineFlow(dim, LAYERS, (width, width), BINS, BOUND)
    else:
        flow = RealNVP(dim, LAYERS, (width, width))
    return flow, flow.log_prob, flow.sample


PEERS = {"zuko": zuko_flow, "normflows": normflows_flow, "nflows": nflows_flow}


def main(rounds: int = 30, steps: int = 5) -> None:
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")  # the peers' own
    for kind in ("affine", "spline"):
        for dim, width in ((2, 64), (64, 128)):
            torch.manual_seed(0)
            x = torch.randn(BATCH, dim)
            flows = {"gmlib": gmlib_flow(kind, dim, width)}
            flows |= {f"{name} {version(name)}": make(kind, dim, width) for name, make in PEERS.items()}
            for name, (flow, *_) in flows.items():
                print(f"{name}: {sum(p.numel() for p in flow.parameters()):,} parameters", file=sys.stderr)
            optimizers = {name: torch.optim.Adam(flow.parameters()) for name, (flow, *_) in flows.items()}

            @torch.no_grad()
            def evaluate(name, flows=flows, x=x):
                flows[name][1](x)

            @torch.no_grad()
            def draw(name, flows=flows):
                flows[name][2](DRAWS)

            def train(name, flows=flows, x=x, optimizers=optimizers):
                optimizers[name].zero_grad()
                (-flows[name][1](x).mean()).backward()
                optimizers[name].step()

            for job, do in {"log_prob": evaluate, f"{DRAWS} draws": draw, "training step": train}.items():
                jobs = {name: partial(do, name) for name in flows}
                race(f"{kind} couplings, {dim}-D, {job}", jobs, rounds=rounds, steps=steps, warm=5)


if __name__ == "__main__":
    main()
