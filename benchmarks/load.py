"""What a caller is told to do, and what it saw: the load, the window in which it is measured, the measurement.

All loads are closed: so many requests are in flight at any time, and each answer is followed by a new request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import psutil
from pydantic import BaseModel

from benchmarks.figures import percentile

ANSWER_PATIENCE_SECONDS = 30.0
"""How long a caller waits for an answer before the run is given up: no request may be lost."""


class Load(BaseModel):
    """One task of a caller.

    Args:
        in_flight: requests that wait for their answers at any time.
        warm_up_seconds: how long answers are not counted yet.
        seconds: how long they are counted.
        processes: whose CPU time is measured: process ids by role.
    """

    in_flight: int
    warm_up_seconds: float
    seconds: float
    processes: dict[str, int]


class Measurement(BaseModel):
    """What a caller saw of one load.

    Args:
        requests: how many answers were counted.
        requests_per_second: of these.
        p50_ms, p99_ms: latency from sending to the answer in the caller's hands, milliseconds.
        cpu_us: CPU time for each request, microseconds, by role.
    """

    requests: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]


class Window:
    """Counts answers from the first one after the warm-up to the first one after the end.

    It opens and closes at an answer, so that answers that come in bursts are counted as often as they come.

    Args:
        load: what is measured.
        clock: gives seconds that only grow; the one that `answered` is called with.
        cpu_seconds: tells the CPU time that a process has used, by its id.
    """

    def __init__(self, load: Load, clock: Callable[[], float], cpu_seconds: Callable[[int], float]) -> None:
        self._load = load
        self._cpu_seconds = cpu_seconds
        self._opens_at = clock() + load.warm_up_seconds
        self._closes_at = self._opens_at + load.seconds
        self._opened: float | None = None
        self._latencies: list[float] = []
        self._cpu_before: Mapping[str, float] = {}
        self._cpu_spent: Mapping[str, float] = {}
        self._lasted = 0.0
        self.closed = False

    def answered(self, sent_at: float, now: float) -> None:
        """Take an answer; both moments in the clock's seconds. Those after the end count no more."""
        if self.closed:
            return
        if now >= self._closes_at and self._opened is not None:
            spent = self._cpu_now()
            self._cpu_spent = {role: spent[role] - before for role, before in self._cpu_before.items()}
            self._lasted = now - self._opened
            self.closed = True
            return
        if self._opened is not None:
            self._latencies.append(now - sent_at)
        elif now >= self._opens_at:
            self._opened = now
            self._closes_at = now + self._load.seconds  # a slow start must not shorten the window
            self._cpu_before = self._cpu_now()

    def measurement(self) -> Measurement:
        """Sum up; the window has to be closed."""
        latencies = sorted(self._latencies)
        # The answer that closes the window is not counted in latency, and the one that opens it in neither.
        count = len(latencies) + 1
        return Measurement(
            requests=count,
            requests_per_second=count / self._lasted,
            p50_ms=percentile(latencies, 50) * 1000,
            p99_ms=percentile(latencies, 99) * 1000,
            cpu_us={role: spent / count * 1e6 for role, spent in self._cpu_spent.items()},
        )

    def _cpu_now(self) -> dict[str, float]:
        return {role: self._cpu_seconds(pid) for role, pid in self._load.processes.items()}


def cpu_seconds(pid: int) -> float:
    """Tell the CPU time that a process has used since it began, user and system, seconds (Linux: to 10 ms)."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)
