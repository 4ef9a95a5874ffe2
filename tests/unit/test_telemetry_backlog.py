"""What waits: what the service has taken and what its consumer knows, put together."""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Mapping

import pytest

from broker_mesh.errors import Unavailable
from broker_mesh.kafka.offsets import OffsetTracker
from broker_mesh.telemetry import backlog, instruments
from broker_mesh.telemetry.aggregation import Samples
from broker_mesh.telemetry.backlog import BacklogWatch, Seen, Taken, backlog_of
from broker_mesh.telemetry.metrics import Metrics, PartitionState

A, B, C = ("fleet.v1.find", 0), ("fleet.v1.find", 1), ("fleet.v1.find", 2)


def test_lag_is_from_the_first_record_that_is_not_settled_to_the_end() -> None:
    taken = {
        A: Taken(position=5, in_work=2, oldest=1000, held=False),
        B: Taken(position=9, in_work=0, oldest=None, held=True),
        C: Taken(position=0, in_work=0, oldest=None, held=False),
    }
    seen = Seen(ends={A: 8, B: 7}, paused={A, B}, delivered={}, firsts={A: 3})
    told = backlog_of(taken, seen, asked={A: 50, C: 4})
    assert [(each.partition, each.lag, each.state) for each in told] == [
        (0, 45, PartitionState.PAUSED),  # what Kafka said later counts
        (1, 0, PartitionState.HELD),  # settled already, though the end that is known is older
        (2, 4, PartitionState.RUNNING),
    ]
    assert backlog_of({C: taken[C]}, Seen({}, (), {}), {})[0].lag is None


def test_what_retention_has_dropped_waits_no_more_unless_it_is_taken() -> None:
    seen = Seen(ends={A: 100, B: 100}, paused=(), delivered={}, firsts={A: 99, B: 100})
    taken = {
        A: Taken(position=5, in_work=0, oldest=None, held=False),
        B: Taken(position=5, in_work=3, oldest=1000, held=False),
    }
    assert [each.lag for each in backlog_of(taken, seen, asked={})] == [1, 3]


def test_parked_keys_and_windows_are_told_by_topic() -> None:
    taken = {
        A: Taken(position=5, in_work=2, oldest=None, held=False, parked=3),
        B: Taken(position=9, in_work=0, oldest=None, held=False, parked=1),
    }
    seen = Seen(ends={}, paused=(), delivered={}, windows={A[0]: 200})
    metrics = Metrics("fleet")
    metrics.observe(backlog_of(taken, seen, asked={}))
    told = {family.instrument.name: family.samples for family in metrics.collect()}
    assert told["mesh.parked_keys"] == {(A[0],): 4}
    assert told["mesh.window"] == {(A[0],): 200}


def test_the_oldest_record_that_is_not_done() -> None:
    tracker = OffsetTracker(0)
    assert tracker.oldest is None
    for offset, timestamp in ((3, 100), (4, 200), (7, -1)):
        tracker.take(offset, timestamp)
    tracker.done(4)
    assert tracker.oldest == 100
    tracker.done(3)
    assert tracker.oldest is None  # the next one has no timestamp
    tracker.done(7)
    assert tracker.oldest is None


class Partitions:
    """A service and its consumer, as the watch sees them."""

    def __init__(self) -> None:
        self.ends: dict[tuple[str, int], int] = {A: 10}
        self.paused: set[tuple[str, int]] = set()
        self.delivered = {A[0]: 10}
        self.asked: list[set[tuple[str, int]]] = []
        self.away = False

    def taken(self) -> Mapping[tuple[str, int], Taken]:
        return {A: Taken(position=5, in_work=5, oldest=None, held=False)}

    def see(self) -> Seen:
        return Seen(self.ends, frozenset(self.paused), dict(self.delivered))

    async def ask(self, partitions: Collection[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        self.asked.append(set(partitions))
        if self.away:
            raise Unavailable("no broker answers")
        return {A: 500}


def samples(metrics: Metrics, name: str) -> Samples:
    return next(family.samples for family in metrics.collect() if family.instrument.name == name)


async def test_an_answer_that_takes_long_holds_up_no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(backlog, "_ASK_SECONDS", 0.002)
    partitions, metrics = Partitions(), Metrics("fleet")
    asked = asyncio.Event()

    async def ask(_: Collection[tuple[str, int]]) -> Mapping[tuple[str, int], int]:
        asked.set()
        await asyncio.Event().wait()
        return {}

    partitions.paused = {A}
    running = asyncio.create_task(BacklogWatch(metrics, partitions.taken, partitions.see, ask).run())
    async with asyncio.timeout(10):
        await asked.wait()
        partitions.ends[A] = 90
        while samples(metrics, instruments.LAG.name) != {(A[0], "0"): 85}:
            await asyncio.sleep(0.001)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running


async def test_a_watch_that_fails_says_so_and_leaves_no_figures_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    partitions, metrics = Partitions(), Metrics("fleet")

    def broken() -> Mapping[tuple[str, int], Taken]:
        raise ZeroDivisionError

    async with asyncio.timeout(10):
        await BacklogWatch(metrics, broken, partitions.see, partitions.ask).run()
    assert "messages are not affected" in caplog.text
    assert samples(metrics, instruments.LAG.name) == {}


async def test_partitions_that_rest_are_asked_for_and_an_outage_leaves_what_was_known(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(backlog, "_LOOK_SECONDS", 0.001)
    monkeypatch.setattr(backlog, "_ASK_SECONDS", 0.002)
    partitions, metrics = Partitions(), Metrics("fleet")
    watch = BacklogWatch(metrics, partitions.taken, partitions.see, partitions.ask)
    running = asyncio.create_task(watch.run())
    lag = instruments.LAG.name

    async def until_lag(expected: int) -> None:
        async with asyncio.timeout(10):
            while samples(metrics, lag).get((A[0], "0")) != expected:
                await asyncio.sleep(0.001)

    await until_lag(5)
    assert partitions.asked == []  # nothing rests
    partitions.paused = {A}
    await until_lag(495)
    partitions.away = True
    asked = len(partitions.asked)
    async with asyncio.timeout(10):
        while len(partitions.asked) < asked + 2:
            await asyncio.sleep(0.001)
    await until_lag(495)
    partitions.delivered[A[0]] = 12
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert samples(metrics, lag) == {}  # nothing waits for a process that has stopped
    assert samples(metrics, instruments.CONSUMED.name) == {(A[0],): 12}
