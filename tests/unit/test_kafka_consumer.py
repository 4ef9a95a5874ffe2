"""The group's consumer at its end, without a broker."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Sequence
from typing import Any, cast

import pytest
from confluent_kafka import (
    OFFSET_BEGINNING,
    OFFSET_INVALID,
    Consumer,
    KafkaError,
    KafkaException,
    Message,
    TopicPartition,
)

from broker_mesh.kafka import consumer as module
from broker_mesh.kafka.consumer import (
    NOTHING_COMMITTED,
    GroupConsumer,
    GroupListener,
    Partition,
    Position,
    Positions,
)
from broker_mesh.message import Record
from broker_mesh.settings import Settings

A = ("fleet.v1.retire", 0)
B = ("fleet.v1.retire", 1)


async def test_the_last_commit_is_sent_also_where_its_partition_is_revoked_before_its_turn(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It was put beside the poll loop; the poll that still runs then may bring the revocation."""
    settings = Settings(bootstrap_servers="127.0.0.1:1")
    member = GroupConsumer(
        settings, client_id="fleet", group="fleet", topics=[A[0]], listener=cast(GroupListener, None)
    )
    sent: list[int] = []

    class Client:
        def commit(self, offsets: list[TopicPartition], **_: Any) -> None:
            sent.extend(place.offset for place in offsets)

    real = member._consumer
    monkeypatch.setattr(member, "_consumer", Client())
    member._assigned[A] = 1
    member.commit({A: Position(1, 7)})
    member._closing.set()
    member._on_revoke(cast(Consumer, None), [TopicPartition(*A)])
    assert sent == [7]
    real.close()


async def test_a_drain_that_the_loop_comes_to_too_late_spares_the_assignment_that_has_followed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A handler that blocks the loop: with all it hears at once, the new assignment would be drained and dropped."""
    monkeypatch.setattr(module, "_DRAIN_PATIENCE_SECONDS", 0.01)
    heard: list[str] = []

    class Listener:
        async def drain(self, _: Sequence[Partition]) -> Positions:
            heard.append("drain")
            return {}

        def lost(self, _: Sequence[Partition]) -> None:
            heard.append("lost")

        def assigned(self, _: Positions) -> None:
            heard.append("assigned")

    listener = cast(GroupListener, Listener())
    settings = Settings(bootstrap_servers="127.0.0.1:1")
    member = GroupConsumer(settings, client_id="fleet", group="fleet", topics=[A[0]], listener=listener)
    member._assigned[A] = 1

    def rebalance() -> None:
        member._on_revoke(cast(Consumer, None), [TopicPartition(*A)])
        member._tell(listener.assigned, {A: Position(2, 7)})

    thread = threading.Thread(target=rebalance)
    thread.start()
    thread.join()  # the loop is blocked meanwhile
    for _ in range(5):
        await asyncio.sleep(0)
    assert heard == ["lost", "assigned"]
    member._consumer.close()


class Stored:
    """A record as the client hands it over."""

    def __init__(self, partition: Partition, offset: int) -> None:
        self._at = (*partition, offset)

    def error(self) -> None:
        return None

    def topic(self) -> str:
        return self._at[0]

    def partition(self) -> int:
        return self._at[1]

    def offset(self) -> int:
        return self._at[2]

    def timestamp(self) -> tuple[int, int]:
        return 1, 1

    def key(self) -> bytes:
        return b"k"

    value = key

    def headers(self) -> list[tuple[str, bytes]]:
        return []


class Rebalancing:
    """A client that serves a rebalance while it collects a batch, and has thrown a record away by then."""

    def __init__(self, serve: Callable[[], None], position: int) -> None:
        self._serve = serve
        self.at = position
        self.sought: list[tuple[str, int, int]] = []
        self.refusals: list[int] = []

    def consume(self, _: int, __: float) -> list[Stored]:
        self._serve()
        return []

    def position(self, asked: list[TopicPartition]) -> list[TopicPartition]:
        return [TopicPartition(each.topic, each.partition, self.at) for each in asked]

    def seek(self, place: TopicPartition) -> None:
        if self.refusals:
            raise KafkaException(KafkaError(self.refusals.pop()))
        self.sought.append((place.topic, place.partition, place.offset))
        self.at = OFFSET_INVALID  # until something is read from there

    def get_watermark_offsets(self, *_: object, **__: object) -> tuple[int, int]:
        return 0, 9


class Hearing:
    """What the service hears."""

    def __init__(self) -> None:
        self.offsets: list[int] = []
        self.reached_at: list[int] = []

    def received(self, batch: Sequence[Record]) -> None:
        self.offsets += [record.offset for record in batch]

    def reached(self, positions: Positions) -> None:
        self.reached_at += [position.offset for position in positions.values()]

    def lost(self, _: Sequence[Partition]) -> None: ...

    def assigned(self, _: Positions) -> None: ...


def reading(hearing: Hearing) -> GroupConsumer:
    settings = Settings(bootstrap_servers="127.0.0.1:1")
    listener = cast(GroupListener, hearing)
    member = GroupConsumer(settings, client_id="fleet", group="fleet", topics=[A[0]], listener=listener)
    member._assigned[A] = 1
    member._reading.begin({A: 49}, {})
    return member


def look(member: GroupConsumer) -> None:
    member.watch._looked_at = float("-inf")
    assert member.watch.look(member._consumer, member._assigned, ())
    member._tell_reached()


async def test_what_a_rebalance_within_a_batch_threw_away_is_read_again_and_never_passed_over() -> None:
    """librdkafka sets the position behind a marker that follows a record which it then drops from the batch."""
    hearing = Hearing()
    member = reading(hearing)
    client = Rebalancing(lambda: member._on_lost(cast(Consumer, None), []), position=52)
    member._consumer = cast(Consumer, client)
    member._deliver_batch(cast(Message, Stored(A, 49)), 10)
    assert client.sought == [(*A, 50)]
    look(member)
    await asyncio.sleep(0)
    assert (hearing.offsets, hearing.reached_at) == ([49], []), "nobody may take 50 and 51 for read"
    member._deliver([cast(Message, Stored(A, 50))])
    client.at = 52
    look(member)
    await asyncio.sleep(0)
    assert (hearing.offsets, hearing.reached_at) == ([49, 50], [52])


async def test_going_back_is_tried_again_where_the_next_rebalance_begins_at_the_same_moment() -> None:
    member = reading(Hearing())
    client = Rebalancing(lambda: member._on_lost(cast(Consumer, None), []), position=51)
    client.refusals = [KafkaError._PREV_IN_PROGRESS, KafkaError._OUTDATED]
    member._consumer = cast(Consumer, client)
    member._deliver_batch(cast(Message, Stored(A, 49)), 10)
    assert client.sought == [(*A, 50)]
    client.at, client.refusals = 51, [KafkaError._STATE]
    with pytest.raises(KafkaException):
        member._deliver_batch(cast(Message, Stored(A, 49)), 10)


async def test_a_marker_that_stands_last_is_passed_also_where_it_is_read_again() -> None:
    """No record may follow it for weeks, and retention take it meanwhile."""
    hearing = Hearing()
    member = reading(hearing)
    client = Rebalancing(lambda: member._on_lost(cast(Consumer, None), []), position=51)
    member._consumer = cast(Consumer, client)
    member._deliver_batch(cast(Message, Stored(A, 49)), 10)
    assert client.sought == [(*A, 50)]
    client.at = 51  # the marker again, and nothing behind it
    look(member)
    await asyncio.sleep(0)
    assert hearing.reached_at == [51]


async def test_what_was_thrown_away_is_read_from_the_first_record_where_none_was_delivered_yet() -> None:
    member = reading(Hearing())
    member._assigned[B] = 2
    member._reading.begin({B: NOTHING_COMMITTED}, {})
    client = Rebalancing(lambda: member._on_lost(cast(Consumer, None), []), position=50)
    member._consumer = cast(Consumer, client)
    member._deliver_batch(cast(Message, Stored(A, 49)), 10)
    assert client.sought == [(*B, OFFSET_BEGINNING)]


async def test_a_record_of_an_assignment_that_ended_within_its_batch_is_not_taken_in_the_next_one() -> None:
    hearing = Hearing()
    member = reading(hearing)

    def come_back() -> None:
        member._on_lost(cast(Consumer, None), [TopicPartition(*A)])
        member._assigned[A] = 2
        member._reading.begin({A: 40}, {})

    member._consumer = cast(Consumer, Rebalancing(come_back, position=-1001))
    member._deliver_batch(cast(Message, Stored(A, 49)), 10)
    await asyncio.sleep(0)
    assert hearing.offsets == []


async def test_a_position_of_an_earlier_assignment_is_not_taken_for_what_was_read() -> None:
    """What was collected when the partition went away was dropped, and nobody has handled it."""
    hearing = Hearing()
    member = reading(hearing)
    member._reading.begin({A: 49}, {A: 75})
    client = Rebalancing(lambda: None, position=75)
    member._consumer = cast(Consumer, client)
    look(member)
    await asyncio.sleep(0)
    assert hearing.reached_at == []
    client.at = 50
    look(member)
    await asyncio.sleep(0)
    assert hearing.reached_at == [50]
