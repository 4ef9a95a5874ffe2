"""What the embedded Kafka tells while it prepares and starts; `mesh dev` draws it, tests ignore it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """One thing being done.

    Args:
        text: what it is, for people.
        done: how many of `total` are done.
        total: how many there are; 0 where the step can't be counted.
        notice: whether it is a fact to be read afterwards too, and no step that passes.
    """

    text: str
    done: int = 0
    total: int = 0
    notice: bool = False


Progress = Callable[[Step], None]


def silent(_step: Step) -> None:
    """Tell nobody."""
