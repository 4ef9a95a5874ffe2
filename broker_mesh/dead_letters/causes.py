"""Causes: dead letters that failed alike, counted together.

On the way of a message: behind its end. Pure. A service that is broken fails a hundred thousand times in a few ways;
those few are what people look at first.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import NamedTuple

from broker_mesh.dead_letters.letter import DeadLetter
from broker_mesh.status import StatusCode

MAX_CAUSES = 1000
"""How many causes are told apart; what comes then is counted by operation and status alone."""

OTHER_CAUSES = "(other causes)"

_MAX_SHAPE = 300

# In this order: a number in quotes is part of what is quoted, an id is no row of numbers.
_VARYING = (
    (re.compile(r"'[^']*'"), "'…'"),
    (re.compile(r'"[^"]*"'), '"…"'),
    (re.compile(r"`[^`]*`"), "`…`"),
    (re.compile(r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b"), "…"),
    (re.compile(r"\b(?:0x[0-9a-fA-F]+|(?=[a-fA-F]*[0-9])[0-9a-fA-F]{12,})\b"), "…"),
    # A word with a digit in it names one thing (a tail number, a time) rather than a kind; fleet.v1 is left alone.
    (re.compile(r"(?<![\w.])[+-]?\w*\d\w*(?:[.:,/-]\d\w*)*"), "…"),
)


@dataclass(frozen=True, slots=True)
class Cause:
    """Dead letters that failed alike.

    Args:
        operation: the operation or event.
        subscriber: the service of the subscription that failed; None for an operation.
        status: what they ended with; None where their headers don't say.
        exception: the type that the last attempt raised.
        message: the shape of what was said: quoted parts, ids and numbers are replaced by an ellipsis.
        count: how many.
        first, last: when the earliest and the latest of them failed, epoch ms.
        example: the id of the latest.
    """

    operation: str
    subscriber: str | None
    status: StatusCode | None
    exception: str | None
    message: str
    count: int
    first: int
    last: int
    example: str


class _Group(NamedTuple):
    operation: str
    subscriber: str | None
    status: StatusCode | None
    exception: str | None
    message: str


@dataclass(slots=True)
class _Tally:
    count: int
    first: int
    last: int
    example: str


def shape_of(message: str) -> str:
    """Give what a message has in common with those of like failures."""
    for pattern, mark in _VARYING:
        message = pattern.sub(mark, message)
    return message if len(message) <= _MAX_SHAPE else message[: _MAX_SHAPE - 1] + "…"


class Causes:
    """Counts dead letters by cause, in bounded memory."""

    def __init__(self) -> None:
        self._tallies: dict[_Group, _Tally] = {}

    def add(self, letter: DeadLetter) -> None:
        """Count a dead letter."""
        envelope = letter.envelope
        shape = shape_of(envelope.status_message or "")
        group = _Group(letter.operation, letter.subscriber, envelope.status, envelope.exception, shape)
        tally = self._tallies.get(group)
        if tally is None and len(self._tallies) >= MAX_CAUSES:
            group = group._replace(exception=None, message=OTHER_CAUSES)
            tally = self._tallies.get(group)
        if tally is None:
            self._tallies[group] = _Tally(1, letter.first_failure, letter.last_failure, envelope.id)
            return
        tally.count += 1
        tally.first = min(tally.first, letter.first_failure)
        if letter.last_failure >= tally.last:
            tally.last, tally.example = letter.last_failure, envelope.id

    def all(self) -> list[Cause]:
        """Give the causes, the most frequent first, then the latest."""
        causes = [
            Cause(*group, tally.count, tally.first, tally.last, tally.example)
            for group, tally in self._tallies.items()
        ]
        return sorted(causes, key=lambda cause: (-cause.count, -cause.last, cause.operation, cause.message))
