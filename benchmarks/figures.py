"""Statistics: from the figures of all rounds to those that are printed. No I/O, no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import TypeAlias

from pydantic import BaseModel

BASELINE = "raw"

Figures: TypeAlias = Mapping[str, float]
"""What one measurement gave, by name."""

Seen: TypeAlias = Mapping[tuple[str, str], Sequence[Figures]]
"""All measurements of a section, by load and contender; as many as there were rounds."""


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
        load: what it was measured with.
        contender: its name.
        figures: medians of the rounds.
        to_baseline: ratios by figure; none of the baseline itself.
        rounds: how often it was measured.
    """

    load: str
    contender: str
    figures: dict[str, float]
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


def summed_up(seen: Seen, compared: Sequence[str], baseline: str | None = BASELINE) -> list[Row]:
    """Give a row for each load and contender, in the order they are given in.

    Args:
        seen: the rounds.
        compared: the figures that are held against the baseline's of the same load.
        baseline: the contender that is the yardstick; a load that it was not measured with has no ratios.
    """
    return [
        Row(
            load=load,
            contender=contender,
            figures={name: median(of(rounds, name)) for name in rounds[0]},
            to_baseline={
                name: ratio(of(rounds, name), of(seen[load, baseline], name))
                for name in compared
                if baseline is not None and contender != baseline and (load, baseline) in seen
            },
            rounds=len(rounds),
        )
        for (load, contender), rounds in seen.items()
    ]


def of(rounds: Sequence[Figures], name: str) -> list[float]:
    """Give one figure of all rounds."""
    return [figures[name] for figures in rounds]


def growth(seen: Seen, figure: str, contender: str, first: str, last: str) -> list[float]:
    """Tell by how much a contender's figure is larger under the last load than under the first, round by round."""
    pairs = zip(of(seen[last, contender], figure), of(seen[first, contender], figure), strict=True)
    return [after / before for after, before in pairs]
