"""What a caller is told to do, and what it saw: the load, the window in which it is measured, the measurement.

All loads are closed: so many requests are in flight at any time, and each answer is followed by a new request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Annotated, Literal

import psutil
from pydantic import BaseModel, Field, TypeAdapter

from benchmarks.figures import percentile

ANSWER_PATIENCE_SECONDS = 60.0
"""How long a caller waits for an answer before the run is given up: no request may be lost."""


class Load(BaseModel):
    """Keep so many in flight for so long; the answer is a `Measurement`.

    Args:
        way: requests that are answered, or messages that are acknowledged by whom they are sent to.
        in_flight: requests or messages that wait at any time.
        warm_up_seconds: how long answers are not counted yet.
        seconds: how long they are counted.
        extra_bytes: how much longer than usual each request and each reply is.
        processes: whose CPU time is measured: process ids by role.
    """

    kind: Literal["load"] = "load"
    way: Literal["request", "message"] = "request"
    in_flight: int
    warm_up_seconds: float
    seconds: float
    extra_bytes: int = 0
    processes: dict[str, list[int]]


class First(BaseModel):
    """Send one request, and answer with an empty line once its reply is there."""

    kind: Literal["first"] = "first"


class Hold(BaseModel):
    """Send so many requests, and don't wait for their replies; the answer is `Held`.

    Args:
        calls: how many.
    """

    kind: Literal["hold"] = "hold"
    calls: int


class Held(BaseModel):
    """Requests are sent, and their replies expected.

    Args:
        resident_bytes: the memory that the caller has then.
    """

    resident_bytes: int


Order = Load | First | Hold

_ORDERS: TypeAdapter[Order] = TypeAdapter(Annotated[Order, Field(discriminator="kind")])


def order_of(line: str) -> Order:
    """Read what a caller is told."""
    return _ORDERS.validate_json(line)


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

    def figures(self) -> dict[str, float]:
        """Give what is compared and printed; `cost_us` is the CPU time of all processes together."""
        return {
            "requests_per_second": self.requests_per_second,
            "p50_ms": self.p50_ms,
            "p99_ms": self.p99_ms,
            **{f"{role}_us": spent for role, spent in self.cpu_us.items()},
            "cost_us": sum(self.cpu_us.values()),
        }


class Window:
    """Counts answers from the first one after the warm-up to the first one after the end.

    It opens and closes at an answer, so that answers that come in bursts are counted as often as they come; and not
    before there were as many as are in flight, so that a contender that is slow has a window that is long enough.

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
        enough = len(self._latencies) >= self._load.in_flight
        if self._opened is not None and now >= self._closes_at and enough:
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
        return {
            role: sum(self._cpu_seconds(pid) for pid in pids) for role, pids in self._load.processes.items()
        }


def cpu_seconds(pid: int) -> float:
    """Tell the CPU time that a process has used since it began, user and system, seconds (Linux: to 10 ms)."""
    times = psutil.Process(pid).cpu_times()
    return float(times.user + times.system)


def resident_bytes(pid: int | None = None) -> int:
    """Tell the memory that a process has, by default this one; bytes."""
    return int(psutil.Process(pid).memory_info().rss)
