"""Figures on their way from a worker to its supervisor, as JSON values.

Beside the way of a message. Both ends are one program: instruments travel by name alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from broker_mesh.telemetry import instruments
from broker_mesh.telemetry.aggregation import Distribution, Family, Labels, Value

_BY_NAME = {instrument.name: instrument for instrument in instruments.ALL}


def dump(families: Iterable[Family]) -> list[Any]:
    """Give figures as JSON values."""
    return [
        [family.instrument.name, [[labels, _dump(value)] for labels, value in family.samples.items()]]
        for family in families
    ]


def load(content: list[Any]) -> list[Family]:
    """Take figures back from JSON values."""
    return [
        Family(_BY_NAME[name], {_labels(labels): _load(value) for labels, value in samples})
        for name, samples in content
    ]


def _dump(value: Value) -> Any:
    return [value.total, value.counts] if isinstance(value, Distribution) else value


def _load(value: Any) -> Value:
    if isinstance(value, list):
        total, counts = value
        return Distribution(tuple(counts), total)
    number: float = value
    return number


def _labels(labels: list[str]) -> Labels:
    return tuple(labels)
