"""One model trained by 1 and by 2 processes of one machine: the same losses, and how long a step takes.

    python book/results/scale_processes.py --out book/results/14-scaling.json

Each process has one thread. The losses are of a small MADE on binary digits in double precision; the times of
a step are of a MADE 784-500, as on MNIST, at three sizes of the whole batch, which the processes share. What
exchanging the gradients takes is measured apart, by reductions of as many numbers. A row for each number of
processes; leave the machine alone meanwhile. About two minutes.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from gmlib import data, files, processes, scoreboard
from gmlib.autoregressive import MADE
from gmlib.train import fit

BATCHES, STEPS, WARM = (128, 512, 2048), 40, 10


def losses() -> list[float]:
    """Of 200 steps with batches of 100, the same for any number of processes but for rounding."""
    torch.manual_seed(0)
    model, x = MADE(64, (100,)).double(), data.digits(binary=True).train.x.double()
    rng = torch.Generator().manual_seed(0)
    return fit(model, x, steps=200, batch_size=100, lr=3e-3, rng=rng)


def milliseconds_a_step(batch: int) -> float:
    """The median over the steps after the first ones."""
    torch.manual_seed(0)
    model, rng = MADE(784, (500,)), torch.Generator().manual_seed(0)
    x = (torch.rand(4096, 784, generator=rng) < 0.13).float()
    ends = []
    fit(
        model,
        x,
        steps=STEPS,
        batch_size=batch,
        lr=1e-3,
        rng=rng,
        each=lambda step, loss: ends.append(time.perf_counter()),
    )
    return 1e3 * statistics.median(b - a for a, b in zip(ends[WARM:-1], ends[WARM + 1 :], strict=True))


def milliseconds_to_reduce(numbers: int) -> float:
    """The median time in which all processes get the sum of so many numbers of each."""
    from torch import distributed

    tensor, times = torch.zeros(numbers), []
    for _ in range(STEPS):
        distributed.barrier()
        start = time.perf_counter()
        distributed.all_reduce(tensor)
        times.append(1e3 * (time.perf_counter() - start))
    return statistics.median(times[WARM:])


def work() -> None:
    """What each process does; the first one prints a row."""
    torch.set_num_threads(1)
    numbers = sum(parameter.numel() for parameter in MADE(784, (500,)).parameters())
    row = {
        "processes": processes.number(),
        "losses": losses(),
        "model": "MADE 784-500",
        "parameters": numbers,
        "milliseconds_a_step": {str(batch): round(milliseconds_a_step(batch), 2) for batch in BATCHES},
        "milliseconds_to_reduce": round(milliseconds_to_reduce(numbers), 3) if processes.number() > 1 else 0,
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 1),
    }
    if processes.is_first():
        print(json.dumps({**row, **scoreboard.origin()}), flush=True)
    processes.part()


def main(arguments: Sequence[str] | None = None) -> None:
    """Launches the work with each number of processes, and stores the rows."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--processes", nargs="+", type=int, default=[1, 2])
    parser.add_argument("--out", type=Path, help="a JSON file; without it, this is one of the processes")
    options = parser.parse_args(arguments)
    if options.out is None:
        return work()
    rows = []
    for n in options.processes:
        launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(n)]
        run = subprocess.run(
            [sys.executable, *launcher, __file__],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
            check=True,
        )
        rows += [json.loads(line) for line in run.stdout.splitlines()]
        print(f"{n} processes: {rows[-1]['milliseconds_a_step']} ms a step", file=sys.stderr)
    files.write(options.out, (json.dumps(rows, indent=1) + "\n").encode())
    return None


if __name__ == "__main__":
    main()
