"""What the mesh must reach, on any machine: every limit that `make bench-check` asserts, and nothing else. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from benchmarks.figures import Seen, growth, of, ratio
from benchmarks.lineup import FASTSTREAM, GRPC, MESH, PLAIN, RAW, WRAPPED
from benchmarks.sections import backlog, idle, request_reply, scaling, start_up, wrapped

All = Mapping[str, Seen]
"""What was measured, by the name of the section."""

_ALONE, _SOME, _MANY = (request_reply.load_of(in_flight) for in_flight in request_reply.IN_FLIGHT)


class Share(NamedTuple):
    """A figure of a contender in the same round's of the best of others: the median of the rounds."""

    section: str
    load: str
    figure: str
    ours: str
    theirs: tuple[str, ...]

    def __str__(self) -> str:
        best = "the better of " if len(self.theirs) > 1 else ""
        return f"{self.section}, {self.load}: {self.figure} of {self.ours} in that of {best}{' and '.join(self.theirs)}"

    def value(self, seen: Seen) -> float | None:
        """Work it out; None where one of them was not measured."""
        if (self.load, self.ours) not in seen:
            return None
        others = [of(seen[self.load, name], self.figure) for name in self.theirs if (self.load, name) in seen]
        if not others:
            return None
        ours = of(seen[self.load, self.ours], self.figure)
        return ratio(ours, max(others, key=median)).median


class Growth(NamedTuple):
    """By how much a figure grows from one load to another, above raw's own growth: the median of the rounds."""

    section: str
    figure: str
    first: str
    last: str

    def __str__(self) -> str:
        return f"{self.section}: growth of {self.figure} from {self.first} to {self.last}, beside raw's own"

    def value(self, seen: Seen) -> float | None:
        """Work it out; None where it was not measured."""
        if any((load, each.name) not in seen for load in (self.first, self.last) for each in (RAW, MESH)):
            return None
        ours = growth(seen, self.figure, MESH.name, self.first, self.last)
        return ratio(ours, growth(seen, self.figure, RAW.name, self.first, self.last)).median


class Amount(NamedTuple):
    """A figure of a contender: the median of the rounds."""

    section: str
    load: str
    figure: str
    ours: str

    def __str__(self) -> str:
        return f"{self.section}, {self.ours} {self.load}: {self.figure}"

    def value(self, seen: Seen) -> float | None:
        """Work it out; None where it was not measured."""
        if (self.load, self.ours) not in seen:
            return None
        return median(of(seen[self.load, self.ours], self.figure))


class Limit(NamedTuple):
    """One thing that must hold; exactly one of the two bounds is set.

    Args:
        what: is bounded.
        least, most: inclusive.
        optional: whether it may be left out where a contender is not present.
    """

    what: Share | Growth | Amount
    least: float | None = None
    most: float | None = None
    optional: bool = False

    def holds(self, value: float) -> bool:
        """Tell whether a value is within it."""
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def __str__(self) -> str:
        bound = f"at least {self.least:g}" if self.least is not None else f"at most {self.most:g}"
        return f"{self.what} must be {bound}"


def _rate(load: str, *theirs: str) -> Share:
    return Share(request_reply.SECTION.name, load, "requests_per_second", MESH.name, theirs)


def _wrapped(role: str) -> Share:
    return Share(wrapped.SECTION.name, role, "messages_per_second", WRAPPED.name, (PLAIN.name,))


LIMITS: tuple[Limit, ...] = (
    Limit(_rate(_MANY, RAW.name), least=0.40),
    Limit(_rate(_MANY, *FASTSTREAM), least=8, optional=True),
    Limit(_rate(_MANY, GRPC), least=3.5, optional=True),
    Limit(_rate(_SOME, RAW.name), least=0.60),
    Limit(Share(request_reply.SECTION.name, _ALONE, "p50_ms", MESH.name, (RAW.name,)), most=1.35),
    Limit(_wrapped(wrapped.CONSUMER), least=0.60),
    Limit(_wrapped(wrapped.PRODUCER), least=0.60),
    Limit(
        Growth(scaling.PARTITIONS.name, "cost_us", scaling.ONE_PARTITION, scaling.MANY_PARTITIONS), most=1.15
    ),
    Limit(Growth(backlog.SECTION.name, "callee_us", backlog.EMPTY, backlog.FULL), most=1.15),
    Limit(Amount(idle.SECTION.name, idle.LOAD, "cpu_percent", MESH.name), most=1.0),
    Limit(Amount(idle.SECTION.name, idle.LOAD, "resident_mb", MESH.name), most=80),
    Limit(Amount(start_up.SECTION.name, start_up.HELP, "seconds", start_up.HELP_OF_MESH), most=0.35),
    Limit(Amount(start_up.SECTION.name, start_up.FIRST_ANSWER, "seconds", MESH.name), most=2.0),
)

CHECKED = tuple(dict.fromkeys(limit.what.section for limit in LIMITS))
"""The sections that limits are about."""


class Verdict(NamedTuple):
    """What became of a limit; `value` is None where it could not be worked out."""

    limit: Limit
    value: float | None

    @property
    def failed(self) -> bool:
        """Whether the check fails by it: what must be measured and was not has failed too."""
        return not self.limit.optional if self.value is None else not self.limit.holds(self.value)

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.limit}: not measured"
        return f"{self.limit}: {self.value:.2f}"


def verdicts(measured: All, limits: Sequence[Limit] = LIMITS) -> list[Verdict]:
    """Decide all limits whose sections were measured."""
    return [
        Verdict(limit, limit.what.value(measured[limit.what.section]))
        for limit in limits
        if limit.what.section in measured
    ]
