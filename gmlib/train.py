"""Training, of one loss or of two players in turn: the same on a CPU and on a GPU, and resumable."""

import hashlib
import json
import math
import sys
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from itertools import count, islice
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from gmlib import files
from gmlib.base import Adversarial, Trainable, require_points
from gmlib.processes import accelerator, number

ADAM = partial(torch.optim.Adam, fused=True)  # the same steps to rounding, in half the time


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
    patience: int | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = ADAM,
    schedule: Callable[[float], float] | None = None,
    precision: int = 32,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1_000,
    log: str | Path | None = None,
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
        patience: training stops after so many steps in which no validation loss was the lowest yet.
        optimizer: makes an optimizer from (parameters, lr=...), as `ADAM` does, torch's Adam in one pass
            over each parameter; `functools.partial` adds options.
        schedule: maps the fraction of the training that is done, in [0, 1), to a factor of lr.
        precision: 16 to multiply matrices in bfloat16, by torch's autocast, wherever a gradient is found;
            32 to leave all numbers as they are. Parameters and validation stay as they are in both.
        checkpoint: a file, written every `checkpoint_every` steps and at the end, from which the same
            call resumes if it exists. On a CPU the outcome is that of an uninterrupted run, to the bit.
        log: a file of JSON lines, one every `validate_every` steps and one at the end: the step, the mean
            loss since the line before, the validation loss, and the seconds of training. A run that
            resumes goes on where its checkpoint is, and takes back the lines after it.
        device: where to train; by default where accelerate finds best.

    Raises:
        ValueError: if the arguments make no sense or do not fit together, or the checkpoint is not of
            this model, these data and these arguments.
        FloatingPointError: if a loss is not finite. The step that it belongs to is not taken.
    """
    if not isinstance(model, Trainable):
        raise ValueError(f"fit needs a Trainable model, got {_name(model)}.")
    numbers = {"steps": steps, "batch_size": batch_size, "validate_every": validate_every}
    players, counts = {"model": model.parameters()}, {**numbers, "checkpoint_every": checkpoint_every}
    counts |= {} if patience is None else {"patience": patience}
    _require_arguments("fit", model, players, {"lr": lr}, counts)
    if precision not in (16, 32):
        raise ValueError(f"fit needs precision 16 or 32, got {precision!r}.")
    data, held_out = _Rows(x, condition), _Rows(validation, validation_condition)
    data.require(None, "fit")
    if validation is not None:
        held_out.require(x.shape[1], "fit's validation")
    elif validation_condition is not None:
        raise ValueError("fit needs validation data for its conditions, got none.")
    elif patience is not None:
        raise ValueError("fit needs validation data for its patience, got none.")
    processes = _Processes("fit", device)
    data, held_out = data.to(processes.device), held_out.to(processes.device)
    with _training(model, processes.device):
        optimizers = {"optimizer": optimizer(_free(model.parameters()), lr=lr)}
        state = TrainState(model, optimizers, rng, processes.seed(rng))
        numbers |= {"steps": steps if schedule else "any", "patience": patience, "processes": processes.n}
        numbers |= {"precision": precision}
        state.resume("fit", checkpoint, steps, (*data, *held_out), numbers)
        processes.require_one_place(state.step, checkpoint)
        jobs = [(validate_every, partial(_validate, state, held_out, transform, processes.of_first))]
        if processes.first:
            jobs += _records(state, log, validate_every, checkpoint, checkpoint_every)
        rates = [lr * schedule(step / steps) for step in range(steps)] if schedule else [lr] * steps
        losses = _gradient_steps(state, data, batch_size, rates, patience, transform, precision, processes)
        _take(losses, state, steps, each, jobs, watched=processes.first and _is_watched())
        if state.best:
            model.load_state_dict(state.best)
    return state.losses


def fit_by(
    step: Callable[[Trainable, Tensor], float],
    model: Trainable,
    x: Float[Tensor, "N D"],
    *,
    steps: int,
    rng: torch.Generator,
    validation: Float[Tensor, "V D"],
    validate_every: int = 1,
    patience: int | None = None,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1,
    log: str | Path | None = None,
) -> list[float]:
    """Lets steps of another kind, such as those of EM, change a model, and returns the loss before each.

    The model comes back in evaluation mode at the best weights seen.

    Args:
        step: changes the model by all rows of x, and returns the loss before.
        steps, rng, validation, validate_every, patience, checkpoint, checkpoint_every, log: as for `fit`.

    Raises:
        ValueError: as `fit`, and in several processes.
        FloatingPointError: as `fit`.
    """
    if number() > 1:
        raise ValueError(f"fit_by needs one process, got {number()}.")
    numbers = {"steps": steps, "validate_every": validate_every}
    counts = {**numbers, "checkpoint_every": checkpoint_every}
    counts |= {} if patience is None else {"patience": patience}
    _require_arguments("fit_by", model, {"model": model.parameters()}, {}, counts)
    data, held_out = _Rows(x, None), _Rows(validation, None)
    data.require(None, "fit_by")
    held_out.require(x.shape[1], "fit_by's validation")
    with _training(model, x.device):
        state = TrainState(model, {}, rng, rng.initial_seed())
        numbers |= {"steps": "any", "patience": patience}
        state.resume("fit_by", checkpoint, steps, (*data, *held_out), numbers)
        jobs = [(validate_every, partial(_validate, state, held_out, None, float))]
        jobs += _records(state, log, validate_every, checkpoint, checkpoint_every)
        _take(_own_steps(state, step, x, steps, patience), state, steps, None, jobs, watched=_is_watched())
        model.load_state_dict(state.best)
    return state.losses


def fit_adversarial(
    model: Adversarial,
    x: Float[Tensor, "N D"],
    *,
    steps: int,
    batch_size: int,
    lr: float,
    rng: torch.Generator,
    condition: Shaped[Tensor, "N ..."] | None = None,
    transform: Callable[[Tensor, torch.Generator], Tensor] | None = None,
    each: Callable[[int, tuple[float, float]], bool | None] | None = None,
    discriminator_steps: int = 1,
    discriminator_lr: float | None = None,
    optimizer: Callable[..., torch.optim.Optimizer] = ADAM,
    checkpoint: str | Path | None = None,
    checkpoint_every: int = 1_000,
    device: str | torch.device | None = None,
) -> list[tuple[float, float]]:
    """Lowers a model's two losses in turn, and returns them for each step, the discriminator's first.

    A step is `discriminator_steps` updates of the discriminator, each on a new batch and what the generator
    makes for it, then one of the generator on the last of these. Either has its own optimizer and moves its
    own parameters alone. The losses are those before the generator's update and before the discriminator's
    last one.

    Nothing is validated: no loss here falls as the model gets better, for each depends on the opponent.
    Batches, modes and device are as in `fit`.

    Args:
        steps, batch_size, rng, condition, transform, optimizer, checkpoint, checkpoint_every, device: as
            for `fit`; a longer run resumes from a shorter one's checkpoint.
        lr: learning rate of the generator and, without `discriminator_lr`, of both.
        each: called after each step with its number, from 1, and its losses; stops the training by True.

    Raises:
        ValueError: as `fit`, and in several processes.
        FloatingPointError: if a loss is not finite. The update that it belongs to is not made.
    """
    if not isinstance(model, Adversarial):
        raise ValueError(f"fit_adversarial needs an Adversarial model, got {_name(model)}.")
    players = dict(zip(("discriminator", "generator"), model.players(), strict=True))
    rates = {"discriminator_lr": lr if discriminator_lr is None else discriminator_lr, "lr": lr}
    numbers = {"steps": steps, "batch_size": batch_size, "discriminator_steps": discriminator_steps}
    counts = {**numbers, "checkpoint_every": checkpoint_every}
    _require_arguments("fit_adversarial", model, players, rates, counts)
    data = _Rows(x, condition)
    data.require(None, "fit_adversarial")
    processes = _Processes("fit_adversarial", device)
    if processes.n > 1:
        raise ValueError(f"fit_adversarial needs one process, got {processes.n}.")
    data = data.to(processes.device)
    with _training(model, processes.device):
        own = zip(players, model.players(), rates.values(), strict=True)
        optimizers = {player: optimizer(_free(parameters), lr=rate) for player, parameters, rate in own}
        state = TrainState(model, optimizers, rng, processes.seed(rng))
        state.resume("fit_adversarial", checkpoint, steps, data, {**numbers, "steps": "any"})
        jobs = _records(state, None, checkpoint_every, checkpoint, checkpoint_every)
        losses = _turns(state, data, batch_size, steps, discriminator_steps, transform)
        _take(losses, state, steps, each, jobs, watched=_is_watched())
    return state.losses


@dataclass
class TrainState:
    """All that a training run needs to go on as if it had never stopped.

    The order of the data is a function of `seed` and the epoch, and the place in it one of `step`.
    `run` describes what the state is of; a file that says otherwise is not loaded.
    """

    model: nn.Module
    optimizers: dict[str, torch.optim.Optimizer]
    rng: torch.Generator
    seed: int
    step: int = 0
    losses: list[float] | list[tuple[float, float]] = field(default_factory=list)
    best_loss: float = math.inf
    best_step: int = 0
    validation: float | None = None
    best: dict[str, Tensor] = field(default_factory=dict)
    run: dict[str, str] = field(default_factory=dict)

    _numbers = ("seed", "step", "best_loss", "best_step", "validation")

    def resume(self, caller: str, path: str | Path | None, steps: int, data: Iterable, numbers: dict) -> None:
        """Loads the file, if there is one of this run, and refuses it if it went further than `steps`."""
        if path is None:
            return
        self.run = _describe(self, data, numbers)
        if Path(path).exists():
            self.load(path)
        if self.step > steps:
            raise ValueError(f"{caller} needs steps >= {self.step}, which {path} has taken, got {steps}.")

    def compare(self, loss: float) -> None:
        """Keeps the weights if no validation loss was lower than this one."""
        if not math.isfinite(loss):
            raise FloatingPointError(f"{_name(self.model)} validation loss is {loss} at step {self.step}.")
        self.validation = loss
        if loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
            self.best = {name: tensor.clone() for name, tensor in self.model.state_dict().items()}

    def impatient(self, patience: int | None) -> bool:
        """Whether no validation loss was the lowest yet in so many steps, or more."""
        return patience is not None and self.step - self.best_step >= patience

    def save(self, path: str | Path) -> None:
        """Writes a safetensors file, whole or not at all: a run killed meanwhile leaves the file before."""
        tensors = {f"model.{name}": tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {f"best.{name}": tensor for name, tensor in self.best.items()}
        for key, optimizer in self.optimizers.items():
            for i, moments in optimizer.state_dict()["state"].items():
                tensors |= {f"{key}.{i}.{name}": torch.as_tensor(m) for name, m in moments.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors["rng"] = self.rng.get_state()
        tensors["default_rng"] = torch.get_rng_state()  # which dropout draws from
        numbers = {name: getattr(self, name) for name in self._numbers}
        save_tensors(path, tensors, {"numbers": numbers, "run": self.run})

    def load(self, path: str | Path) -> None:
        """Restores what `save` wrote.

        Raises:
            ValueError: if the file is damaged, or is of another run.
        """
        tensors, about = load_tensors(path)
        run = about["run"]
        for key in self.run.keys() | run.keys():
            if self.run.get(key) != run.get(key):
                raise ValueError(
                    f"TrainState needs a file of this run, got {path}, of {key} {run.get(key)}, "
                    f"not {self.run.get(key)}."
                )
        for name in self._numbers:
            setattr(self, name, about["numbers"][name])
        self.losses = [tuple(loss) if isinstance(loss, list) else loss for loss in tensors["losses"].tolist()]
        self.model.load_state_dict(_under("model", tensors))
        self.best = _under("best", tensors)
        for key, optimizer in self.optimizers.items():
            moments: dict[int, dict[str, Tensor]] = {}
            for name, tensor in _under(key, tensors).items():
                i, _, moment = name.partition(".")
                moments.setdefault(int(i), {})[moment] = tensor
            optimizer.load_state_dict({**optimizer.state_dict(), "state": moments})
        self.rng.set_state(tensors["rng"])
        torch.set_rng_state(tensors["default_rng"])


def save_tensors(path: str | Path, tensors: dict[str, Tensor], about: dict) -> None:
    """Writes a safetensors file, whole or not at all, of tensors, what JSON says about them, and a digest."""
    from safetensors.torch import save

    copies = {name: tensor.detach().cpu().clone().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({**about, "sha256": _digest(copies, about)})
    files.write(Path(path), save(copies, {"about": text}))  # in one entry: several come in any order


def load_tensors(path: str | Path) -> tuple[dict[str, Tensor], dict]:
    """What `save_tensors` wrote.

    Raises:
        ValueError: if the file is cut short, was changed in any bit that counts, or is of somebody else.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = json.loads(file.metadata()["about"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        if about.pop("sha256") != _digest(tensors, about):
            raise ValueError("its content has been changed")
    except (SafetensorError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise ValueError(f"gmlib needs a whole file that it wrote itself, got {path}: {error}.") from None
    return tensors, about


def _digest(tensors: dict[str, Tensor], about: dict) -> str:
    digest = hashlib.sha256(json.dumps(about, sort_keys=True).encode())
    for name, tensor in sorted(tensors.items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


class _Log:
    """JSON lines that agree with a state, of which they say where it stands whenever they are told to."""

    def __init__(self, path: Path, state: TrainState):
        self.path, self.state, self.last = path, state, {"step": 0, "seconds": 0.0}
        content = path.read_bytes() if path.exists() else b""
        kept = []
        for line in content.split(b"\n")[:-1]:  # after the last line's end is nothing, or half a line
            row = _line(path, line)
            if row["step"] > state.step:
                break
            self.last = row
            kept.append(line + b"\n")
        if b"".join(kept) != content:
            files.write(path, b"".join(kept))
        self.start = time.perf_counter() - self.last["seconds"]

    def __call__(self) -> None:
        state, since = self.state, self.last["step"]
        if state.step == since:
            return
        loss = sum(state.losses[since:]) / (state.step - since)
        seconds = round(time.perf_counter() - self.start, 3)
        self.last = {"step": state.step, "loss": loss, "validation": state.validation, "seconds": seconds}
        files.append(self.path, f"{json.dumps(self.last)}\n".encode())


def _line(path: Path, line: bytes) -> dict:
    try:
        row = json.loads(line)
        return {"step": row["step"], "seconds": row["seconds"]}
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{path} needs lines that gmlib wrote itself, got {line[:60]!r}.") from None


def _records(state: TrainState, log, log_every: int, checkpoint, checkpoint_every: int) -> list:
    """Jobs that keep a run: the lines of its log first, then the checkpoint that has to agree with them."""
    jobs = [] if log is None else [(log_every, _Log(Path(log), state))]
    return jobs if checkpoint is None else [*jobs, (checkpoint_every, partial(state.save, checkpoint))]


def _validate(state: TrainState, held_out: "_Rows", transform, agree: Callable[[float], float]) -> None:
    """Compares the validation loss, if there are data for one, with the best, as all processes find it."""
    if held_out.x is not None:
        with _evaluating(state.model):
            state.compare(agree(_validation_loss(state.model, held_out, transform, state.rng)))


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

    def batch(self, rows: Tensor, transform, rng: torch.Generator) -> tuple[Tensor, Tensor | None]:
        x = self.x[rows] if transform is None else transform(self.x[rows], rng)
        return x, None if self.condition is None else self.condition[rows]

    def loss(self, loss: Callable[..., Tensor], rows, transform, rng: torch.Generator) -> Tensor:
        return loss(*self.batch(rows, transform, rng), rng=rng)


class _Processes:
    """The processes that train one model together, found by accelerate; mostly it is only one."""

    def __init__(self, caller: str, device: str | torch.device | None):
        self.accelerator = accelerator()
        self.n, self.index = self.accelerator.num_processes, self.accelerator.process_index
        self.first = self.index == 0
        if device is None:
            self.device = self.accelerator.device
        elif self.n > 1:
            raise ValueError(f"{caller} needs device=None in several processes, got {device!r}.")
        else:
            self.device = _existing(caller, device)

    def seed(self, rng: torch.Generator) -> int:
        """A seed that is drawn from the first process's generator, the same in all."""
        from accelerate.utils import broadcast

        seed = torch.randint(2**62, (1,), generator=rng, device=rng.device)
        return int(broadcast(seed.to(self.device)))

    def require_one_place(self, step: int, checkpoint: str | Path | None) -> None:
        """Refuses to go on unless all have resumed from the same checkpoint, or none has."""
        from accelerate.utils import gather

        places = gather(torch.tensor([step], device=self.device)).tolist()
        if len(set(places)) > 1:
            raise ValueError(f"fit needs all processes to see {checkpoint}, got them at steps {places}.")

    def of_first(self, value: float) -> float:
        """The first process's value, in all: what they decide by may not differ in the last bit."""
        from accelerate.utils import broadcast

        if self.n == 1:
            return value
        return broadcast(torch.tensor(value, dtype=torch.float64, device=self.device)).item()

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


def _take(losses: Iterator, state: TrainState, steps: int, each, jobs: list, watched: bool) -> None:
    """Takes the steps that yield `losses`, and does each of the jobs (every, job) so often and at the end."""
    from tqdm import tqdm

    with tqdm(total=steps, initial=state.step, disable=not watched, leave=False) as bar:
        for loss in losses:
            for every, job in jobs:
                if state.step % every == 0:
                    job()
            if bar.update():
                shown = loss if isinstance(loss, tuple) else (loss,)
                bar.set_postfix_str("loss " + ", ".join(f"{part:.4g}" for part in shown))
            if each is not None:
                with _evaluating(state.model):
                    stop = each(state.step, loss)
                if stop:
                    break
    for _, job in jobs:
        job()


def _gradient_steps(
    state: TrainState,
    data: _Rows,
    batch_size: int,
    rates: list[float],
    patience: int | None,
    transform,
    precision: int,
    processes: _Processes,
) -> Iterator[float]:
    """Takes one step after the other, up to the last rate or the end of patience; yields the loss before."""
    model = state.model if processes.n == 1 else processes.accelerator.prepare_model(state.model)
    noise = processes.noise(state)
    batches = _batches(len(data.x), batch_size, state.seed, state.step, processes.device)
    for rate, rows in zip(rates[state.step :], batches, strict=False):
        if state.impatient(patience):
            return
        for group in state.optimizers["optimizer"].param_groups:
            group["lr"] = rate
        with torch.autocast(processes.device.type, torch.bfloat16, enabled=precision == 16):
            loss, value = processes.loss(model, data, rows, transform, noise)
        _descend(state, "optimizer", "loss", loss, value)
        state.step += 1
        state.losses.append(value)
        yield value


def _own_steps(state: TrainState, step, x: Tensor, steps: int, patience: int | None) -> Iterator[float]:
    """Takes steps of another kind, up to the last or the end of patience, and yields the loss before each."""
    while state.step < steps and not state.impatient(patience):
        value = step(state.model, x)
        if not math.isfinite(value):
            raise FloatingPointError(f"{_name(state.model)} loss is {value} at step {state.step + 1}.")
        state.step += 1
        state.losses.append(value)
        yield value


def _turns(
    state: TrainState, data: _Rows, batch_size: int, steps: int, discriminator_steps: int, transform
) -> Iterator[tuple[float, float]]:
    """Lets the players take turns, up to the last step, and yields both losses of each step.

    What the generator makes for a batch serves both: its weights do not move in between.
    """
    model, rng = state.model, state.rng

    def update(player: str, loss: Tensor) -> float:
        own = [p for group in state.optimizers[player].param_groups for p in group["params"]]
        value = loss.item()
        _descend(state, player, f"{player} loss", loss, value, own)
        return value

    taken = discriminator_steps * state.step
    batches = _batches(len(data.x), batch_size, state.seed, taken, data.x.device)
    while state.step < steps:
        for rows in islice(batches, discriminator_steps):
            x, condition = data.batch(rows, transform, rng)
            fake = model.fake(x, condition, rng=rng)
            told = update("discriminator", model.discriminator_loss(x, condition, fake, rng=rng))
        losses = told, update("generator", model.generator_loss(x, condition, fake, rng=rng))
        state.step += 1
        state.losses.append(losses)
        yield losses


def _descend(state: TrainState, key: str, what: str, loss: Tensor, value: float, own=None) -> None:
    """One step of an optimizer by the loss's gradient, in all parameters or in its own alone."""
    if not math.isfinite(value):
        raise FloatingPointError(f"{_name(state.model)} {what} is {value} at step {state.step + 1}.")
    state.optimizers[key].zero_grad()
    loss.backward(inputs=own)
    state.optimizers[key].step()


def _batches(n: int, batch_size: int, seed: int, taken: int, device: torch.device) -> Iterator[Tensor]:
    """Indices of one batch after the other, without end, after those taken, in the order of the seed."""
    first, place = divmod(taken, math.ceil(n / batch_size))
    for epoch in count(first):
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed + epoch)).to(device)
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
def _training(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Takes the model to a device, in training mode, and home again, in evaluation mode."""
    home = next(model.parameters()).device
    try:
        model.to(device).train()
        yield
    finally:
        model.to(home).eval()


@contextmanager
def _evaluating(model: nn.Module) -> Iterator[None]:
    model.eval()
    yield
    model.train()


def _require_arguments(caller: str, model: nn.Module, players: dict, rates: dict, counts: dict) -> None:
    for player, parameters in players.items():
        if not _free(parameters):
            raise ValueError(
                f"{caller} needs a {player} with parameters to train, got {_name(model)} without."
            )
    for name, rate in rates.items():
        if not 0 < rate < math.inf:
            raise ValueError(f"{caller} needs {name} > 0, got {rate}.")
    for name, given in counts.items():
        if given < 1:
            raise ValueError(f"{caller} needs {name} >= 1, got {given}.")


def _free(parameters: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    return [parameter for parameter in parameters if parameter.requires_grad]


def _is_watched() -> bool:
    """Whether somebody sees a progress bar: in a terminal, or in a notebook that a person has open.

    A notebook that is executed by a program, which cannot answer questions, keeps no trace of a bar.
    """
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    kernel = getattr(shell, "kernel", None)
    return getattr(kernel, "_allow_stdin", False) if kernel else sys.stderr.isatty()


def _existing(caller: str, device: str | torch.device) -> torch.device:
    try:
        return torch.empty(0, device=device).device
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        raise ValueError(f"{caller} needs a device that exists, got {device!r}: {error}") from None


def _describe(state: TrainState, data: Iterable[Tensor | None], numbers: dict) -> dict[str, str]:
    """What may not differ between the run that wrote a checkpoint and the one that resumes from it."""
    shapes = [(name, tuple(tensor.shape), tensor.dtype) for name, tensor in state.model.state_dict().items()]
    tensors = [tensor for tensor in data if tensor is not None]
    optimizers = {key: " ".join(str(optimizer).split()) for key, optimizer in state.optimizers.items()}
    return (
        {name: str(value) for name, value in numbers.items()}
        | optimizers
        | {
            "model": f"{_name(state.model)} {zlib.crc32(str(shapes).encode()):08x}",
            "data": " ".join(
                f"{zlib.crc32(t.cpu().contiguous().view(torch.uint8).numpy()):08x}" for t in tensors
            ),
            "rng": str(state.rng.initial_seed()),
        }
    )


def _under(prefix: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    start = f"{prefix}."
    return {name.removeprefix(start): tensor for name, tensor in tensors.items() if name.startswith(start)}


def _name(model: nn.Module) -> str:
    return type(model).__name__
