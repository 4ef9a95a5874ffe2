"""What the clients of `benchmarks/sections/wrapped.py` are told to do, and how they take it: a line in, a line out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from pydantic import BaseModel

from benchmarks.contracts import AssignGate
from broker_mesh import Event

GATE_ASKED = Event("gates.v1.events.gate-asked", AssignGate, key="tailnum")
"""What is consumed: the wrapped producer has written it, once for all consumers."""

PLAIN_TOPIC = "plain.gates"
"""What the plain producers write to: as many partitions, and no schema."""

KEYS = 1000


class Task(BaseModel):
    """One task of a client.

    Args:
        messages: how many to send, or to take.
        group: of a consumer; a new one for each task, which begins with the first message.
    """

    messages: int
    group: str


class Pace(BaseModel):
    """How long a task took.

    Args:
        seconds: from the first message to the last: sent and acknowledged, or taken and decoded.
        cpu_seconds: CPU time of the process in that time, all its threads.
    """

    seconds: float
    cpu_seconds: float


class Stopwatch:
    """Measures from `start` on; a second start counts for nothing."""

    def __init__(self) -> None:
        self._began: tuple[float, float] | None = None

    def start(self) -> None:
        """Begin."""
        if self._began is None:
            self._began = time.perf_counter(), time.process_time()

    def pace(self) -> Pace:
        """Give the time since the start."""
        assert self._began is not None  # every task has a message
        wall, cpu = self._began
        return Pace(seconds=time.perf_counter() - wall, cpu_seconds=time.process_time() - cpu)


def take_tasks(do: Callable[[Task], Pace]) -> None:
    """Say that this process is ready, and do tasks from stdin until it ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        print(do(Task.model_validate_json(line)).model_dump_json(), flush=True)
