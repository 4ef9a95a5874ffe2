"""Flow control: which partitions of a group's consumer rest, so that no more is taken than can be worked on.

On the way of a message: before it is taken. The consumer's thread counts what it has delivered of each topic, the loop
what it has finished. At `max_in_flight` the topic is paused while polling goes on, so that slow handlers never cost the
membership. Each topic by itself: one operation's handlers may wait for another's, which has to go on then. A record
that waits for its time does not count while it does (`waiting.py` bounds those), or what is due would stand behind
what is not.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence

from confluent_kafka import Consumer

from broker_mesh.kafka.positions import Partition, places
from broker_mesh.message import Record


class Flow:
    """The flow control of one consumer.

    Args:
        topics: what is subscribed to.
        max_in_flight: how many records of a topic may be delivered and not finished.
    """

    def __init__(self, topics: Iterable[str], max_in_flight: int) -> None:
        self._max_in_flight = max_in_flight
        self._delivered = dict.fromkeys(topics, 0)  # written by the thread alone
        self._finished = dict.fromkeys(self._delivered, 0)  # written by the loop alone
        self._full: set[str] = set()
        self._held: frozenset[Partition] = frozenset()  # replaced by the loop, read by the thread
        self._paused: set[Partition] = set()  # what librdkafka was told to pause
        self._stopping = threading.Event()

    # ── on the loop ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def delivered(self) -> Mapping[str, int]:
        """How many records of each topic have been delivered; for any thread."""
        return self._delivered.copy()

    def finished(self, topic: str, count: int) -> None:
        """Note that records are no longer in flight; a negative count takes as many back."""
        self._finished[topic] += count

    def hold(self, partitions: Iterable[Partition]) -> None:
        """Have these partitions rest, and no others but for what is in flight."""
        self._held = frozenset(partitions)

    def stop(self) -> None:
        """Have all partitions rest from now on."""
        self._stopping.set()

    # ── on the consumer's thread ──────────────────────────────────────────────────────────────────────────

    @property
    def paused(self) -> Collection[Partition]:
        """The partitions that rest."""
        return self._paused

    def count(self, batch: Sequence[Record]) -> None:
        """Note records that are delivered."""
        for record in batch:
            self._delivered[record.topic] += 1

    def control(self, consumer: Consumer, assigned: Collection[Partition]) -> None:
        """Pause what is to rest of the partitions that are assigned, resume what is not."""
        for topic, delivered in self._delivered.items():
            in_flight = delivered - self._finished[topic]
            if in_flight >= self._max_in_flight:
                self._full.add(topic)
            elif in_flight <= self._max_in_flight // 2:
                self._full.discard(topic)
        everything = self._stopping.is_set()
        rests = {key for key in assigned if everything or key[0] in self._full or key in self._held}
        if rests - self._paused:
            consumer.pause(places(rests - self._paused))
        if self._paused - rests:
            consumer.resume(places((self._paused - rests).intersection(assigned)))
        self._paused = rests

    def forget(self, partitions: Collection[Partition]) -> None:
        """Forget partitions that were given up."""
        # What the loop has put on hold stays as it said: it hears of the loss itself, and it alone writes that.
        self._paused.difference_update(partitions)
