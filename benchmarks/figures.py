"""Statistics: from the measurements of all rounds to the figures that are printed. No I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from statistics import median
from typing import TYPE_CHECKING

from pydantic import BaseModel

if TYPE_CHECKING:
    from benchmarks.load import Measurement

BASELINE = "raw"
COMPARED = ("requests_per_second", "p50_ms", "p99_ms")
"""The figures that are held against the baseline's."""


class Ratio(BaseModel):
    """A figure against the baseline's of the same round.

    Args:
        median: of the rounds' ratios; not the ratio of medians, since a round's figures share its noise.
        lowest, highest: of the rounds' ratios.
    """

    median: float
    lowest: float
    highest: float


class Row(BaseModel):
    """One contender under one load, over all rounds.

    Args:
        contender: its name.
        in_flight: requests that waited for their answers at any time.
        requests_per_second, p50_ms, p99_ms: medians of the rounds.
        cpu_us: medians of the CPU time for each request, microseconds, by role.
        to_baseline: ratios by figure; none of the baseline itself.
        rounds: how often it was measured.
    """

    contender: str
    in_flight: int
    requests_per_second: float
    p50_ms: float
    p99_ms: float
    cpu_us: dict[str, float]
    to_baseline: dict[str, Ratio]
    rounds: int


def percentile(ascending: Sequence[float], percent: float) -> float:
    """Give a percentile by nearest rank: the lowest value that so many percent of all values don't exceed.

    Args:
        ascending: values in ascending order, at least one.
        percent: above 0, at most 100.

    Raises:
        ValueError: there are no values, or the percentage is none.
    """
    if not ascending:
        raise ValueError("there is no percentile of no values")
    if not 0 < percent <= 100:
        raise ValueError(f"{percent} is no percentage: it must be above 0 and at most 100")
    return ascending[math.ceil(len(ascending) * percent / 100) - 1]


def ratio(figures: Sequence[float], baseline: Sequence[float]) -> Ratio:
    """Hold the rounds of one figure against those of the baseline, round by round.

    Raises:
        ValueError: they are not of the same rounds.
    """
    ratios = [ours / theirs for ours, theirs in zip(figures, baseline, strict=True)]
    return Ratio(median=median(ratios), lowest=min(ratios), highest=max(ratios))


def summed_up(measured: Mapping[tuple[str, int], Sequence[Measurement]]) -> list[Row]:
    """Give a row for each contender and load, in the order they are given in.

    Args:
        measured: the rounds by contender and requests in flight.
    """
    return [_row(key, rounds, measured[BASELINE, key[1]]) for key, rounds in measured.items()]


def _row(key: tuple[str, int], rounds: Sequence[Measurement], baseline: Sequence[Measurement]) -> Row:
    contender, in_flight = key
    to_baseline = {}
    if contender != BASELINE:
        to_baseline = {
            figure: ratio(_figures(rounds, figure), _figures(baseline, figure)) for figure in COMPARED
        }
    return Row(
        contender=contender,
        in_flight=in_flight,
        requests_per_second=median(_figures(rounds, "requests_per_second")),
        p50_ms=median(_figures(rounds, "p50_ms")),
        p99_ms=median(_figures(rounds, "p99_ms")),
        cpu_us={role: median(each.cpu_us[role] for each in rounds) for role in rounds[0].cpu_us},
        to_baseline=to_baseline,
        rounds=len(rounds),
    )


def _figures(rounds: Iterable[Measurement], figure: str) -> list[float]:
    return [getattr(each, figure) for each in rounds]
