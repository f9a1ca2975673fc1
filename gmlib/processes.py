"""Several processes that train one model, started by `torchrun` or `accelerate launch`: how they agree.

The launcher tells each process, in its environment, how many there are and which one it is. The first does
what only one may do: it plans, writes files and talks; the others wait for its word.
"""

import contextlib
import os
import warnings
from collections.abc import Callable
from typing import TypeVar

T = TypeVar("T")


def number() -> int:
    """How many processes there are."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_first() -> bool:
    """Whether this one is the first, as one alone is."""
    return os.environ.get("RANK", "0") == "0"


def accelerator():
    """Accelerate's view of device and processes, after it has brought them together."""
    import torch
    from tqdm import TqdmWarning

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TqdmWarning)  # accelerate imports bars that want ipywidgets
        from accelerate import Accelerator

    # Without cpu=True accelerate lets several processes on a CPU train apart, and does not say so.
    return Accelerator(mixed_precision="no", cpu=not torch.accelerator.is_available())


def by_first(do: Callable[[], T]) -> T:
    """What the first process gets when it does something, in all of them. If it fails there, all end."""
    if number() == 1:
        return do()
    from accelerate.utils import broadcast_object_list

    accelerator()
    found = [do() if is_first() else None]
    broadcast_object_list(found)
    return found[0]


def claim() -> bool:
    """Whether this process is the first to fail, and so says why: the others fail for want of it."""
    if number() == 1:
        return True
    from torch import distributed

    if not distributed.is_initialized():
        return is_first()  # nothing has been done together yet, so all fail alike
    try:
        return distributed.distributed_c10d._get_default_store().add("gmlib failed", 1) == 1
    except RuntimeError:  # the process that kept the store has ended
        return False


def part() -> None:
    """Ends the work together, so that no process waits for another one."""
    if number() > 1:
        from torch import distributed

        with contextlib.suppress(RuntimeError):
            if distributed.is_initialized():
                distributed.destroy_process_group()
