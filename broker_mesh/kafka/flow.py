"""Flow control: which partitions of a group's consumer rest, so that no more is taken than can be worked on.

On the way of a message: before it is taken. The consumer's thread counts what it has delivered of each topic, the loop
what it has finished. At as many in flight as its window holds (`window.py`) the topic is paused while polling goes on,
so that slow handlers never cost the membership. Each topic by itself: one operation's handlers may wait for another's,
which has to go on then. A record that waits for its time does not count while it does (`waiting.py` bounds those), or
what is due would stand behind what is not.
"""

from __future__ import annotations

import threading
from collections.abc import Collection, Iterable, Mapping, Sequence

from confluent_kafka import Consumer

from broker_mesh.kafka.positions import Partition, places
from broker_mesh.kafka.window import Window
from broker_mesh.message import Record

_BATCH = 500
# What is left of a window may be little, and stay so, while other topics have much to deliver.
_SMALLEST_BATCH = 50


class Flow:
    """The flow control of one consumer.

    Args:
        topics: what is subscribed to.
        concurrency: how many handlers may run at once.
        max_in_flight: how many records of a topic may be delivered and not finished at most.
    """

    def __init__(self, topics: Iterable[str], concurrency: int, max_in_flight: int) -> None:
        self._windows = {topic: Window(concurrency, max_in_flight) for topic in topics}  # the loop's alone
        self._limits = {
            topic: window.limit for topic, window in self._windows.items()
        }  # written by the loop alone
        self._delivered = dict.fromkeys(self._windows, 0)  # written by the thread alone
        self._finished = dict.fromkeys(self._windows, 0)  # written by the loop alone
        self._fills = dict.fromkeys(
            self._windows, 0
        )  # written by the thread alone: how often a topic became full
        self._fills_seen = dict(self._fills)  # the loop's alone
        self._full: set[str] = set()
        self._held: frozenset[Partition] = frozenset()  # replaced by the loop, read by the thread
        self._paused: set[Partition] = set()  # what librdkafka was told to pause
        self._stopping = threading.Event()
        self._turn = 0  # the thread's alone, as what follows
        self._one_is_ahead = False

    # ── on the loop ───────────────────────────────────────────────────────────────────────────────────────

    @property
    def delivered(self) -> Mapping[str, int]:
        """How many records of each topic have been delivered; for any thread."""
        return self._delivered.copy()

    @property
    def windows(self) -> Mapping[str, int]:
        """How many records of each topic may be in flight now."""
        return self._limits.copy()

    def finished(self, topic: str, count: int) -> None:
        """Note that records are no longer in flight; a negative count takes as many back."""
        self._finished[topic] += count

    def adapt(self, now: float, *, idle: bool) -> None:
        """Adapt the windows to the handlers; some times a second.

        Args:
            now: seconds of a clock that only grows.
            idle: whether a handler could run and has nothing to do.
        """
        for topic, window in self._windows.items():
            fills = self._fills[topic]
            kept_out = topic in self._full or fills != self._fills_seen[topic]
            self._fills_seen[topic] = fills
            self._limits[topic] = window.look(now, self._finished[topic], kept_out=kept_out, idle=idle)

    def lacks_room(self, topic: str, waiting: int) -> bool:
        """Tell whether a topic rests, or soon will, and may go on resting for what waits.

        Args:
            topic: which one.
            waiting: how many of its records in flight wait for a next attempt, with what stands behind them.
        """
        # What was full rests until half of it is free: where more than that waits, as long as nothing succeeds. Where
        # less waits what is in work makes the room, and a short back-off is better spent in place.
        if topic in self._full and waiting > self._limits[topic] // 2:
            return True
        return 4 * self._in_flight(topic) >= 3 * self._limits[topic]

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

    def control(self, consumer: Consumer, assigned: Collection[Partition]) -> int:
        """Pause what is to rest of the partitions that are assigned, resume what is not.

        Returns:
            How many records may be taken at once, so that no window is exceeded by more than a small batch.
        """
        batch = _BATCH
        for topic, limit in self._limits.items():
            room = limit - self._in_flight(topic)
            if room <= 0:
                if topic not in self._full:
                    self._full.add(topic)
                    self._fills[topic] += 1
            elif room >= limit - limit // 2:
                self._full.discard(topic)
            if topic not in self._full:
                batch = min(batch, room)
        everything = self._stopping.is_set()
        rests = {key for key in assigned if everything or key[0] in self._full or key in self._held}
        if rests - self._paused:
            consumer.pause(places(rests - self._paused))
        rested = (self._paused - rests).intersection(assigned)
        going_on = self._going_on(rested)
        if going_on:
            consumer.resume(places(going_on))
        self._paused = rests | (rested - going_on)
        return max(batch, _SMALLEST_BATCH)

    def _going_on(self, rested: set[Partition]) -> set[Partition]:
        """Choose which partitions go on now: one, and with the next look all others, if there is room for them still.

        Pausing throws away what was fetched ahead, and the first partition that is fetched then may fill the window
        alone: seen as partitions that were drained one after the other. So each begins in its turn. Meanwhile half a
        window is in work, so that no handler waits for it.
        """
        one_is_ahead, self._one_is_ahead = self._one_is_ahead, False
        if one_is_ahead or len(rested) < 2:
            return rested
        self._one_is_ahead = True
        self._turn += 1
        return {sorted(rested)[self._turn % len(rested)]}

    def forget(self, partitions: Collection[Partition]) -> None:
        """Forget partitions that were given up."""
        # What the loop has put on hold stays as it said: it hears of the loss itself, and it alone writes that.
        self._paused.difference_update(partitions)

    # ── on both ───────────────────────────────────────────────────────────────────────────────────────────

    def _in_flight(self, topic: str) -> int:
        return self._delivered[topic] - self._finished[topic]
