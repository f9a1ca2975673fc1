"""The one training loop: the same on a CPU, on a GPU and in several processes, and resumable."""

import json
import math
import os
import sys
import warnings
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from gmlib.base import Trainable, require_points


def fit(
    model: Trainable,
    x: Float[Tensor, "N D"],
    *,
    steps: int,
    batch_size: int,
    lr: float,
    rng: torch.Generator,
    condition: Shaped[Tensor, "N ..."] | None = None,
    transform: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    each: Callable[[int, float], bool | None] | None = None,
    validation: Float[Tensor, "V D"] | None = None,
    validation_condition: Shaped[Tensor, "V ..."] | None = None,
    validate_every: int = 100,
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam,
    schedule: Callable[[float], float] | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1_000,
    device: str | torch.device | None = None,
) -> list[float]:
    """Lowers a model's loss by gradient steps on shuffled batches, and returns the loss before each step.

    Every epoch visits all rows once, in a new order; its last batch may be short. The model comes back
    on the device it came from, in evaluation mode and, with validation data, at the best weights seen.

    Args:
        steps: number of gradient steps.
        batch_size: rows in a batch, over all processes; all of x if it has fewer.
        rng: source of the data's order and of all noise in the loss.
        condition: one for each row of x, for a conditional model.
        transform: maps a batch to what the loss gets, anew each step: dequantisation, binarisation.
        each: called after each step with its number, from 1, and its loss; stops the training by True.
        validation: data whose loss is found every `validate_every` steps and at the end, in evaluation
            mode, after the same transform, with the same noise each time.
        optimizer: makes an optimizer from (parameters, lr=...); `functools.partial` adds options.
        schedule: maps the fraction of the training that is done, in [0, 1), to a factor of lr.
        checkpoint: a file, written every `checkpoint_every` steps and at the end, from which the same
            call resumes if it exists. On a CPU the outcome is that of an uninterrupted run, to the bit.
        device: where to train; by default where accelerate finds best.

    Raises:
        ValueError: if the arguments make no sense or do not fit together, or the checkpoint is not of
            this model, these data and these arguments.
        FloatingPointError: if a loss is not finite. The step that it belongs to is not taken.
    """
    numbers = {"steps": steps, "batch_size": batch_size, "validate_every": validate_every}
    _require_arguments(model, lr, {**numbers, "checkpoint_every": checkpoint_every})
    data, held_out = _Rows(x, condition), _Rows(validation, validation_condition)
    data.require(None, "fit")
    if validation is not None:
        held_out.require(x.shape[1], "fit's validation")
    elif validation_condition is not None:
        raise ValueError("fit needs validation data for its conditions, got none.")
    from tqdm import tqdm

    processes, home = _Processes(device), next(model.parameters()).device
    data, held_out = data.to(processes.device), held_out.to(processes.device)
    try:
        model.to(processes.device).train()
        parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
        state = TrainState(model, optimizer(parameters, lr=lr), rng, processes.seed(rng))
        if checkpoint is not None:
            numbers |= {"steps": steps if schedule else "any", "processes": processes.n}
            state.run = _describe(state, data, held_out, numbers)
            if Path(checkpoint).exists():
                state.load(checkpoint)
            if state.step > steps:
                raise ValueError(
                    f"fit needs steps >= {state.step}, which {checkpoint} has taken, got {steps}."
                )

        def pause(validate: bool, save: bool) -> None:
            if validate and validation is not None:
                with _evaluating(model):
                    state.compare(_validation_loss(model, held_out, transform, rng))
            if save and checkpoint is not None and processes.first:
                state.save(checkpoint)

        rates = [lr * schedule(step / steps) for step in range(steps)] if schedule else [lr] * steps
        with tqdm(
            total=steps, initial=state.step, disable=not (processes.first and _is_watched()), leave=False
        ) as bar:
            for loss in _gradient_steps(state, data, batch_size, rates, transform, processes):
                pause(state.step % validate_every == 0, state.step % checkpoint_every == 0)
                if bar.update():
                    bar.set_postfix_str(f"loss {loss:.4g}")
                if each is not None:
                    with _evaluating(model):
                        stop = each(state.step, loss)
                    if stop:
                        break
        pause(validate=True, save=True)
        if state.best:
            model.load_state_dict(state.best)
    finally:
        model.to(home).eval()
    return state.losses


@dataclass
class TrainState:
    """All that a training run needs to go on as if it had never stopped.

    The order of the data is a function of `seed` and the epoch, and the place in it one of `step`.
    `run` describes what the state is of; a file that says otherwise is not loaded.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    rng: torch.Generator
    seed: int
    step: int = 0
    losses: list[float] = field(default_factory=list)
    best_loss: float = math.inf
    best: dict[str, Tensor] = field(default_factory=dict)
    run: dict[str, str] = field(default_factory=dict)

    def compare(self, loss: float) -> None:
        """Keeps the weights if no validation loss was lower than this one."""
        if not math.isfinite(loss):
            raise FloatingPointError(f"{_name(self.model)} validation loss is {loss} at step {self.step}.")
        if loss < self.best_loss:
            self.best_loss = loss
            self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file, whole or not at all: a run killed meanwhile leaves the file before."""
        from safetensors.torch import save

        moments = self.optimizer.state_dict()["state"]
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        tensors |= {
            f"optimizer.{i}.{name}": torch.as_tensor(m) for i in moments for name, m in moments[i].items()
        }
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors["rng"] = self.rng.get_state()
        tensors["default_rng"] = torch.get_rng_state()  # which dropout draws from
        numbers = {"seed": self.seed, "step": self.step, "best_loss": self.best_loss}
        copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
        content = save(copies, {"numbers": json.dumps(numbers), "run": json.dumps(self.run)})
        _write(Path(path), content)

    def load(self, path: str | Path) -> None:
        """Restores what `save` wrote.

        Raises:
            ValueError: if the file is damaged, or is of another run.
        """
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(path, framework="pt") as file:
                numbers, run = (json.loads(file.metadata()[key]) for key in ("numbers", "run"))
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        except (SafetensorError, KeyError, TypeError) as error:
            raise ValueError(
                f"TrainState needs a whole file that it wrote itself, got {path}: {error}."
            ) from None
        for key in self.run.keys() | run.keys():
            if self.run.get(key) != run.get(key):
                raise ValueError(
                    f"TrainState needs a file of this run, got {path}, of {key} {run.get(key)}, "
                    f"not {self.run.get(key)}."
                )
        self.seed, self.step, self.best_loss = numbers["seed"], numbers["step"], numbers["best_loss"]
        self.losses = tensors["losses"].tolist()
        self.model.load_state_dict(_under("model", tensors))
        self.best = _under("best", tensors)
        moments: dict[int, dict[str, Tensor]] = {}
        for name, tensor in _under("optimizer", tensors).items():
            i, _, moment = name.partition(".")
            moments.setdefault(int(i), {})[moment] = tensor
        self.optimizer.load_state_dict({**self.optimizer.state_dict(), "state": moments})
        self.rng.set_state(tensors["rng"])
        torch.set_rng_state(tensors["default_rng"])


class _Rows(NamedTuple):
    """Data and, for a conditional model, one condition for each row."""

    x: Tensor | None
    condition: Tensor | None

    def require(self, dim: int | None, name: str) -> None:
        require_points(self.x, dim, name)
        if self.condition is not None and len(self.condition) != len(self.x):
            raise ValueError(f"{name} needs {len(self.x)} conditions, got {len(self.condition)}.")

    def to(self, device: torch.device) -> "_Rows":
        return _Rows(*(None if tensor is None else tensor.to(device) for tensor in self))

    def loss(self, model: nn.Module, rows, transform, rng: torch.Generator) -> Tensor:
        x = self.x[rows] if transform is None else transform(self.x[rows], rng)
        return model(x, None if self.condition is None else self.condition[rows], rng=rng)


class _Processes:
    """The processes that train one model together, found by accelerate; mostly it is only one."""

    def __init__(self, device: str | torch.device | None):
        from tqdm import TqdmWarning

        with warnings.catch_warnings():
            warnings.simplefilter("ignore", TqdmWarning)  # accelerate imports bars that want ipywidgets
            from accelerate import Accelerator

        # Without cpu=True accelerate lets several processes on a CPU train apart, and does not say so.
        self.accelerator = Accelerator(mixed_precision="no", cpu=not torch.accelerator.is_available())
        self.n, self.index = self.accelerator.num_processes, self.accelerator.process_index
        self.first = self.index == 0
        if device is None:
            self.device = self.accelerator.device
        elif self.n > 1:
            raise ValueError(f"fit needs device=None in several processes, got {device!r}.")
        else:
            self.device = _existing(device)

    def seed(self, rng: torch.Generator) -> int:
        """A seed that is drawn from the first process's generator, the same in all."""
        from accelerate.utils import broadcast

        seed = torch.randint(2**62, (1,), generator=rng, device=rng.device)
        return int(broadcast(seed.to(self.device)))

    def noise(self, state: "TrainState") -> torch.Generator:
        """One generator for each process, or all would draw the same noise; the first has the caller's."""
        if self.first:
            return state.rng
        return torch.Generator(state.rng.device).manual_seed(state.seed - self.index - self.n * state.step)

    def loss(self, model, data: _Rows, rows: Tensor, transform, rng) -> tuple[Tensor, float]:
        """A batch's loss to be differentiated here, and its value over all processes.

        The wrapper averages gradients over processes: each has its share of the rows, and weighs its mean
        by that share, so that the average is the gradient of the whole batch's mean.
        """
        if self.n == 1:
            loss = data.loss(model, rows, transform, rng)
            return loss, loss.item()
        share = rows[self.index :: self.n]
        weight = len(share) * self.n / len(rows)
        loss = weight * data.loss(model, share if len(share) else rows[:1], transform, rng)
        return loss, self.accelerator.reduce(loss.detach(), "mean").item()


def _gradient_steps(
    state: TrainState, data: _Rows, batch_size: int, rates: list[float], transform, processes: _Processes
) -> Iterator[float]:
    """Takes one step after the other, up to the last rate, and yields the loss before each."""
    model = state.model if processes.n == 1 else processes.accelerator.prepare_model(state.model)
    noise = processes.noise(state)
    batches = _batches(len(data.x), batch_size, state, processes.device)
    for rate, rows in zip(rates[state.step :], batches, strict=False):
        for group in state.optimizer.param_groups:
            group["lr"] = rate
        loss, value = processes.loss(model, data, rows, transform, noise)
        if not math.isfinite(value):
            raise FloatingPointError(f"{_name(state.model)} loss is {value} at step {state.step + 1}.")
        state.optimizer.zero_grad()
        loss.backward()
        state.optimizer.step()
        state.step += 1
        state.losses.append(value)
        yield value


def _batches(n: int, batch_size: int, state: TrainState, device: torch.device) -> Iterator[Tensor]:
    """Indices of one batch after the other, without end, from the state's place in the order of its seed."""
    first, place = divmod(state.step, math.ceil(n / batch_size))
    for epoch in count(first):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(state.seed + epoch)).to(device)
        yield from order.split(batch_size)[place:]
        place = 0


@torch.no_grad()
def _validation_loss(model: nn.Module, held_out: _Rows, transform, rng: torch.Generator) -> float:
    """Mean loss of all rows, 1,000 at a time, with noise that is the same whenever this is called."""
    noise = torch.Generator(rng.device).manual_seed(0)
    n = len(held_out.x)
    parts = torch.arange(n).split(1_000)
    return sum(len(rows) / n * held_out.loss(model, rows, transform, noise).item() for rows in parts)


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    model.eval()
    yield
    model.train()


def _require_arguments(model: nn.Module, lr: float, numbers: dict[str, int]) -> None:
    if not isinstance(model, Trainable):
        raise ValueError(f"fit needs a Trainable model, got {_name(model)}.")
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise ValueError(f"fit needs a model with parameters to train, got {_name(model)} without.")
    if not 0 < lr < math.inf:
        raise ValueError(f"fit needs lr > 0, got {lr}.")
    for name, number in numbers.items():
        if number < 1:
            raise ValueError(f"fit needs {name} >= 1, got {number}.")


def _is_watched() -> bool:
    """Whether somebody sees a progress bar: in a terminal, or in a notebook that a person has open.

    A notebook that is executed by a program, which cannot answer questions, keeps no trace of a bar.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    kernel = getattr(shell, "kernel", None)
    return getattr(kernel, "_allow_stdin", False) if kernel else sys.stderr.isatty()


def _existing(device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        raise ValueError(f"fit needs a device that exists, got {device!r}: {error}") from None


def _describe(state: TrainState, data: _Rows, held_out: _Rows, numbers: dict) -> dict[str, str]:
    """What may not differ between the run that wrote a checkpoint and the one that resumes from it."""
    shapes = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in state.model.state_dict().items()]
    tensors = [tensor for tensor in (*data, *held_out) if tensor is not None]
    return {name: str(number) for name, number in numbers.items()} | {
        "model": f"{_name(state.model)} {zlib.crc32(str(shapes).encode()):08x}",
        "optimizer": " ".join(str(state.optimizer).split()),
        "data": " ".join(
            f"{zlib.crc32(t.cpu().contiguous().view(torch.uint8).numpy()):08x}" for t in tensors
        ),
        "rng": str(state.rng.initial_seed()),
    }


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _write(path: Path, content: bytes) -> None:
    part = path.with_name(path.name + ".part")
    with part.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)


def _name(model: nn.Module) -> str:
    return type(model).__name__
