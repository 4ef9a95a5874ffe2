"""Dedupe: a record that came already, under the same id, is dropped once the first is settled.

On the way of a message: inbound, behind the check of who sent it and before all that could refuse it: a repeat must
be neither refused nor kept again. Producers that send twice, mirrors and bridges make such repeats. What is no repeat:
another attempt, a replay, and the same record read again because it was not settled. `repeats.py` knows what came.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from broker_mesh.headers import Envelope
from broker_mesh.layer import Layer, Step
from broker_mesh.message import Message
from broker_mesh.outcome import Outcome, Repeated

K = TypeVar("K", bound=Hashable)
V = TypeVar("V")


class Window(Generic[K, V]):
    """Remembers keys for a time, and no more than a number of them; those that came first go first.

    Args:
        age_ms: how long a key is remembered, ms.
        size: how many at most.
    """

    def __init__(self, age_ms: int, size: int) -> None:
        self._age_ms = age_ms
        self._size = size
        self._entries: OrderedDict[K, tuple[int, V]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, key: K, at: int, value: V) -> bool:
        """Remember a key with a value, in place of an earlier one.

        Args:
            key: what to remember.
            at: when it came, epoch ms.
            value: what to give for it.

        Returns:
            Whether another key had to go before its time.
        """
        self._entries.pop(key, None)
        self._entries[key] = at, value
        while next(iter(self._entries.values()))[0] + self._age_ms <= at:
            self._entries.popitem(last=False)
        if len(self._entries) <= self._size:
            return False
        self._entries.popitem(last=False)
        return True

    def get(self, key: K, now: int) -> V | None:
        """Give the value of a key; None where it is not remembered, or no more at this time (epoch ms)."""
        entry = self._entries.get(key)
        return None if entry is None or entry[0] + self._age_ms <= now else entry[1]


def identity(envelope: Envelope) -> str:
    """Give what a message has in common with its repeats and with nothing else.

    That is its source and id, which CloudEvents wants to be unique together (specification 1.0.2, "id"), and the id of
    its replay: what was put back from the dead letters is to run.
    """
    return f"{envelope.source} {envelope.id} {envelope.replay_id or ''}"


def may_repeat(message: Message) -> bool:
    """Tell whether a message is looked at: only a first attempt from a topic that others send to."""
    return message.topic == message.operation and message.envelope.attempt == 1


def layer(is_repeat: Callable[[Message], Awaitable[bool]]) -> Layer[Outcome]:
    """Make the inbound layer.

    Args:
        is_repeat: tells whether a message is a repeat of another that is settled; waits where that is still in work.
    """

    def around(rest: Step[Outcome]) -> Step[Outcome]:
        async def step(message: Message) -> Outcome:
            if may_repeat(message) and await is_repeat(message):
                return Repeated()
            return await rest(message)

        return step

    return Layer("dedupe", around)
