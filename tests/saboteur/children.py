"""Forked children, a few at a time: each breaks something, looks what goes red, and tells."""

import json
import os
import select
import signal
import sys
import traceback
from collections.abc import Callable

SECONDS = 90  # after which a child has hung, which is red enough
LONG = 900  # for work that has no fault in it


class Children:
    """Runs functions in forked copies of this process, and collects the JSON that they return."""

    def __init__(self, at_once: int = os.cpu_count() or 1, seconds: int = SECONDS):
        self.at_once, self.seconds, self.running = at_once, seconds, {}

    def start(self, work: Callable[[], object], done: Callable[[object], None]) -> None:
        while len(self.running) >= self.at_once:
            self._collect_one()
        sys.stdout.flush()
        read, write = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(read)
            _child(work, write, self.seconds)
        os.close(write)
        self.running[read] = (pid, done)

    @classmethod
    def one(cls, work: Callable[[], object]) -> object:
        """What the function returns, found in a copy, so that this process stays as it is."""
        found, child = [], cls(1, LONG)
        child.start(work, found.append)
        child.finish()
        if isinstance(found[0], dict) and found[0].keys() & {"error", "hung"}:
            sys.exit(found[0].get("error", "hung"))
        return found[0]

    def finish(self) -> None:
        while self.running:
            self._collect_one()

    def _collect_one(self) -> None:
        read = select.select(list(self.running), [], [])[0][0]
        pid, done = self.running.pop(read)
        with os.fdopen(read) as pipe:
            text = pipe.read()
        os.waitpid(pid, 0)
        done(json.loads(text) if text else {"hung": True})


def _child(work, write: int, seconds: int) -> None:
    signal.alarm(seconds)
    quiet = os.open(os.devnull, os.O_WRONLY)
    os.dup2(quiet, 1)
    os.dup2(quiet, 2)
    try:
        result = work()
    except BaseException:
        result = {"error": traceback.format_exc(limit=-3)}
    with os.fdopen(write, "w") as pipe:
        json.dump(result, pipe)
    os._exit(0)
