"""Counters and histograms at a fraction of a microsecond a record: plain arrays, read when somebody collects.

Beside the way of a message. OpenTelemetry's own instruments take 7 to 12 µs a record, a quarter of what a service gets
through, so that nothing is recorded there by message. One thread writes (the event loop); any thread may collect: what
it copies is copied in one step of the interpreter, and may be a record ahead in one figure of another.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeAlias

Labels: TypeAlias = tuple[str, ...]
"""The values of an instrument's labels, in their order."""

OTHER = "other"
"""What a label says where a name is not told: not a sane one, or one too many."""


class Kind(StrEnum):
    """What an instrument's figures mean."""

    COUNTER = "counter"  # only grows
    GAUGE = "gauge"
    HISTOGRAM = "histogram"


class Label(NamedTuple):
    """One dimension of an instrument: its name as an OpenTelemetry attribute, and as a label of Prometheus."""

    attribute: str
    short: str


class Instrument(NamedTuple):
    """What is measured.

    Args:
        name: as OpenTelemetry spells it, with dots.
        kind: what its figures mean.
        unit: by UCUM, as OpenTelemetry's conventions have it: "s", "{message}".
        help: one sentence.
        labels: its dimensions.
        bounds: of a histogram's buckets, ascending; a bucket holds what is at most its bound.
        constants: attributes that are the same on every point, told to OpenTelemetry alone.
    """

    name: str
    kind: Kind
    unit: str
    help: str
    labels: tuple[Label, ...]
    bounds: tuple[float, ...] = ()
    constants: tuple[tuple[str, str], ...] = ()

    def attributes(self, labels: Labels) -> dict[str, str]:
        """Give a point's attributes for OpenTelemetry; those without a value are left out."""
        given = zip((label.attribute for label in self.labels), labels, strict=True)
        return {**dict(self.constants), **{name: value for name, value in given if value}}


@dataclass(frozen=True, slots=True)
class Distribution:
    """A histogram's figures.

    Args:
        counts: of each bucket, the last one for what is above all bounds; not cumulative.
        total: the sum of what was recorded.
    """

    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How often something was recorded."""
        return sum(self.counts)

    def __add__(self, other: Distribution) -> Distribution:
        counts = tuple(mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True))
        return Distribution(counts, self.total + other.total)

    def minus(self, earlier: Distribution) -> Distribution:
        """Tell what was recorded since."""
        counts = tuple(now - before for now, before in zip(self.counts, earlier.counts, strict=True))
        return Distribution(counts, self.total - earlier.total)


Value: TypeAlias = float | Distribution
Samples: TypeAlias = Mapping[Labels, Value]


class Family(NamedTuple):
    """An instrument with its figures at one moment."""

    instrument: Instrument
    samples: Samples


class Names(dict[str, str]):
    """Bounds the names that come from the wire: the first ones are told as they are, others as "other".

    Looked up like a dictionary, by the name as it came.

    Args:
        limit: how many are told.
        is_sane: whether a name may be told at all.
    """

    def __init__(self, limit: int, is_sane: Callable[[str], bool]) -> None:
        super().__init__()
        self._limit = limit
        self._is_sane = is_sane

    def __missing__(self, name: str) -> str:
        if len(self) >= self._limit or not self._is_sane(name):
            return OTHER
        self[name] = name
        return name


class Counter:
    """Counts by label set; the label sets must be bounded by whoever adds."""

    def __init__(self) -> None:
        self._counts: dict[Labels, int] = {}

    def add(self, labels: Labels, number: int = 1) -> None:
        """Count."""
        self._counts[labels] = self._counts.get(labels, 0) + number

    def samples(self) -> dict[Labels, Value]:
        """Copy the figures; from any thread."""
        return dict(self._counts)


class _Cell:
    __slots__ = ("counts", "total")

    def __init__(self, buckets: int) -> None:
        self.counts = [0] * buckets
        self.total = 0.0


class Histogram:
    """Distributions by label set; the label sets must be bounded by whoever records.

    Args:
        bounds: upper bounds of the buckets, ascending.
    """

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._cells: dict[Labels, _Cell] = {}

    def record(self, labels: Labels, value: float) -> None:
        """Put a value into its bucket."""
        cell = self._cells.get(labels)
        if cell is None:
            cell = self._cells[labels] = _Cell(len(self._bounds) + 1)
        cell.counts[bisect_left(self._bounds, value)] += 1
        cell.total += value

    def samples(self) -> dict[Labels, Distribution]:
        """Copy the figures; from any thread."""
        return {
            labels: Distribution(tuple(cell.counts), cell.total)
            for labels, cell in self._cells.copy().items()
        }


def counts(samples: Mapping[Labels, Distribution]) -> dict[Labels, Value]:
    """Tell of each label set how often something was recorded: a histogram's counter comes for free."""
    return {labels: distribution.count for labels, distribution in samples.items()}


def merged(samples: Mapping[Labels, Distribution], keep: int) -> dict[Labels, Value]:
    """Add up distributions whose first `keep` labels are equal; the others are left out."""
    sums: dict[Labels, Distribution] = {}
    for labels, distribution in samples.items():
        kept = labels[:keep]
        sums[kept] = sums[kept] + distribution if kept in sums else distribution
    return dict(sums)


def since(families: Iterable[Family], earlier: Mapping[str, Samples]) -> list[Family]:
    """Give what was counted and recorded since; gauges as they are.

    Args:
        families: the figures now.
        earlier: those of then, by the instrument's name.
    """
    return [
        family
        if family.instrument.kind is Kind.GAUGE
        else Family(
            family.instrument,
            {
                labels: _minus(value, earlier.get(family.instrument.name, {}).get(labels))
                for labels, value in family.samples.items()
            },
        )
        for family in families
    ]


def _minus(value: Value, earlier: Value | None) -> Value:
    if isinstance(value, Distribution):
        return value.minus(earlier) if isinstance(earlier, Distribution) else value
    return value - earlier if isinstance(earlier, int | float) else value
