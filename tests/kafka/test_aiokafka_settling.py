"""What becomes of messages that a program got from a wrapped aiokafka consumer: done, tried again, kept; never lost."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Collection, Mapping

import pytest
from aiokafka import TopicPartition

from broker_mesh import Retry
from broker_mesh.adapter import Reception
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from tests.support.aio import Plain, Wrapped, fill, make_topic, take
from tests.support.dead_letters import DeadLetters
from tests.support.names import fresh

SOON = Retry(attempts=3, backoff=0.02, max_backoff=0.05)


@pytest.fixture
async def clients(kafka: EmbeddedKafka) -> AsyncIterator[Wrapped]:
    """Of one service, whose connection lasts for the whole test."""
    made = Wrapped(kafka)
    async with made.producer():
        yield made


def stem(clients: Wrapped, topic: str) -> str:
    return f"{clients.mesh.service}.v1.from.{topic}"


async def committed(kafka: EmbeddedKafka, group: str, topic: str, partition: int = 0) -> int | None:
    """What the group has committed, looked at from outside; never joined."""
    consumer = Plain(kafka).consumer(group_id=group, enable_auto_commit=False)
    consumer.assign([TopicPartition(topic, partition)])
    async with consumer:
        offset: int | None = await consumer.committed(TopicPartition(topic, partition))
        return offset


# ── retries ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_a_failed_message_comes_again_in_place_before_its_key_goes_on(
    kafka: EmbeddedKafka, clients: Wrapped
) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    async with Plain(kafka).producer() as producer:
        for key, value in ((b"a", b"a1"), (b"a", b"a2"), (b"b", b"b1")):
            await producer.send_and_wait(topic, value, key)
    seen = []
    async with clients.consumer(topic, group_id=group, retry=SOON) as consumer:
        while len(seen) < 5:
            (message,) = await take(consumer, 1)
            seen.append((message.value, message.attempt, message.offset, message.topic))
            with message.settling():
                if message.value == b"a1" and message.attempt < 3:
                    raise ValueError("not yet")
    of_a = [each[:2] for each in seen if each[0] != b"b1"]
    assert of_a == [(b"a1", 1), (b"a1", 2), (b"a1", 3), (b"a2", 1)]
    assert {(each[2], each[3]) for each in seen if each[0] == b"a1"} == {(0, topic)}
    assert await committed(kafka, group, topic) == 3


async def test_a_parked_message_comes_again_as_from_its_own_place(
    kafka: EmbeddedKafka, clients: Wrapped
) -> None:
    topic, group = await make_topic(kafka, 2), fresh("group")
    place = TopicPartition(topic, 1)
    options = {"group_id": group, "retry": SOON, "ordering": "none"}
    async with clients.consumer(topic, **options) as consumer:
        async with Plain(kafka).producer() as producer:
            for n in range(4):
                await producer.send_and_wait(topic, b"%d" % n, b"same", 1)
        seen = []
        while len(seen) < 5:
            (message,) = await take(consumer, 1)
            seen.append((message.value, message.attempt))
            assert (message.topic, message.partition, message.offset) == (topic, 1, int(message.value))
            with message.settling():
                if message.value == b"1" and message.attempt == 1:
                    raise ValueError("not yet")
        assert seen.index((b"1", 2)) > seen.index((b"1", 1))
        assert consumer.subscription() == {topic}
        assert consumer.assignment() == {TopicPartition(topic, 0), place}
    assert await committed(kafka, group, topic, 1) == 4
    assert await committed(kafka, group, f"{stem(clients, topic)}.retry", 1) == 1


async def test_nothing_comes_again_where_the_program_subscribes_to_more(
    kafka: EmbeddedKafka, clients: Wrapped
) -> None:
    """aiokafka takes no commit of ours for what it had assigned, from the moment of another subscription on."""
    first, second, group = await make_topic(kafka), await make_topic(kafka), fresh("group")
    await fill(kafka, first, 3)
    await fill(kafka, second, 3)
    async with clients.consumer(first, group_id=group, auto_commit_interval_ms=600_000) as consumer:
        *_, last = await take(consumer, 3)
        last.done()
        consumer.subscribe([first, second])
        assert {message.topic for message in await take(consumer, 3)} == {second}, (
            "what is settled comes again"
        )
    assert await committed(kafka, group, first) == await committed(kafka, group, second) == 3


async def test_nothing_comes_again_where_retries_come_into_being_late(
    kafka: EmbeddedKafka, clients: Wrapped, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Kafka doesn't know a topic at once that was made a moment ago: its retries are subscribed to while it is read."""
    topic, group = await make_topic(kafka), fresh("group")
    await fill(kafka, topic, 4)
    prepare, loop = Reception.prepare, asyncio.get_running_loop()
    is_known: bool | None = None
    all_taken = asyncio.Event()

    async def late(self: Reception, subscribed: Collection[str]) -> Mapping[str, int]:
        nonlocal is_known
        if is_known is None:
            is_known = False
            return {}
        await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(all_taken.wait(), loop))
        is_known = True
        return await prepare(self, subscribed)

    monkeypatch.setattr(Reception, "prepare", late)
    async with clients.consumer(
        topic, group_id=group, retry=SOON, ordering="none", auto_commit_interval_ms=600_000
    ) as consumer:
        for _ in range(4):
            (message,) = await take(consumer, 1)
            if message.value == b"1":
                message.retry(after=0)
        all_taken.set()
        (again,) = await take(consumer, 1)
        assert (again.value, again.attempt) == (b"1", 2), "what is settled comes again"
    assert is_known
    assert await committed(kafka, group, topic) == 4


async def test_a_pattern_that_finds_the_same_topics_goes_on(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    """aiokafka changes nothing then: no rebalance follows."""
    topic, group = await make_topic(kafka), fresh("group")
    retries = TopicPartition(f"{stem(clients, topic)}.retry", 0)
    await fill(kafka, topic, 2)
    consumer = clients.consumer(group_id=group, metadata_max_age_ms=500, auto_commit_interval_ms=600_000)
    consumer.subscribe(pattern=f"^{topic}$")
    async with consumer:
        while retries not in consumer._inner.assignment():
            await asyncio.sleep(0.01)
        *_, last = await take(consumer, 2)
        last.done()
        consumer.subscribe(pattern=f"^({topic})$")
        await consumer._subscriber._task
        assert await committed(kafka, group, topic) == 2
        await fill(kafka, topic, 2)
        assert [each.offset for each in await take(consumer, 2)] == [2, 3]


async def test_the_commit_of_a_parked_message_leaves_its_partition_alone(
    kafka: EmbeddedKafka, clients: Wrapped
) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    place = TopicPartition(topic, 0)
    await fill(kafka, topic, 3)
    async with clients.consumer(
        topic, group_id=group, retry=SOON, ordering="none", enable_auto_commit=False
    ) as consumer:
        first, *_ = await take(consumer, 1)
        first.retry()
        await take(consumer, 2)
        await consumer.commit()
        (again,) = await take(consumer, 1)
        assert (again.value, again.attempt, again.offset) == (b"0", 2, 0)
        while await consumer.committed(place) != 3:  # held back while the retry was being written
            await consumer.commit({place: 3})
        await consumer.commit({place: again.offset + 1})
        assert await consumer.committed(place) == 3
    assert await committed(kafka, group, f"{stem(clients, topic)}.retry") == 1


async def test_retries_are_read_from_their_beginning_whatever_resets_say(
    kafka: EmbeddedKafka, clients: Wrapped
) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    await fill(kafka, topic, 1)
    async with clients.consumer(topic, group_id=group, retry=SOON, ordering="none") as consumer:
        (message,) = await take(consumer, 1)
        message.retry(after=0.5)
        await consumer.getmany(timeout_ms=1)
    for reset in ("latest", "none"):
        async with clients.consumer(
            topic, group_id=group, auto_offset_reset=reset, retry=SOON, enable_auto_commit=False
        ) as consumer:
            (again,) = await take(consumer, 1)
            assert (again.value, again.attempt) == (b"0", 2)


async def test_what_goes_on_failing_is_kept(
    kafka: EmbeddedKafka, clients: Wrapped, dead_letters: DeadLetters
) -> None:
    topic, group = await make_topic(kafka, 6), fresh("group")
    await fill(kafka, topic, 4)
    async with clients.consumer(topic, group_id=group, retry=SOON) as consumer:
        seen: set[tuple[bytes, int]] = set()
        while not seen >= {(b"0", 3), (b"3", 1)}:
            (message,) = await take(consumer, 1)
            seen.add((message.value, message.attempt))
            match message.value:
                case b"0":
                    with message.settling():
                        raise ValueError("never")
                case b"1":
                    message.dead_letter("no use")
                    with pytest.raises(FailedPrecondition, match="settled already"):
                        message.retry()
                case b"2":
                    with pytest.raises(InvalidArgument, match="seconds"):
                        message.retry(after=-1)
                    message.dead_letter(InvalidArgument("no use either"))
        letters = [await dead_letters.next(stem(clients, topic)) for _ in range(3)]
    by_value = {letter.value: letter.envelope for letter in letters}
    assert by_value[b"0"].attempt == 3
    assert by_value[b"0"].status_message is not None
    assert "never" in by_value[b"0"].status_message
    assert by_value[b"1"].status_message == "no use"
    assert by_value[b"2"].status_message == "no use either"
    assert await committed(kafka, group, topic) == 4


async def test_a_deserializer_that_raises_stops_nothing(
    kafka: EmbeddedKafka, clients: Wrapped, dead_letters: DeadLetters
) -> None:
    topic = await make_topic(kafka, 6)
    await fill(kafka, topic, 3)

    def odd_only(value: bytes) -> int:
        if int(value) == 1:
            raise LookupError("one is none")
        return int(value)

    async with clients.consumer(topic, group_id=fresh("group"), value_deserializer=odd_only) as consumer:
        assert [each.value for each in await take(consumer, 2)] == [0, 2]
        letter = await dead_letters.next(stem(clients, topic))
    assert letter.value == b"1"
    assert letter.envelope.status_message is not None
    assert "value_deserializer raised LookupError: one is none" in letter.envelope.status_message


# ── holding, and who is done when ─────────────────────────────────────────────────────────────────────────


async def test_a_held_message_is_not_passed(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    place = TopicPartition(topic, 0)
    await fill(kafka, topic, 3)
    async with clients.consumer(topic, group_id=group, enable_auto_commit=False) as consumer:
        held, _ = await take(consumer, 2)
        with pytest.raises(FailedPrecondition, match="settled already"):
            held.hold()  # the second call has settled it
        (held,) = await take(consumer, 1)
        held.hold()
        with pytest.raises(FailedPrecondition, match="offset 3 can't be committed: the message at 2"):
            await consumer.commit()
        await consumer.commit({place: 2})
        held.done()
        await consumer.commit()
        assert await consumer.committed(place) == 3


async def test_auto_commit_stops_before_what_is_held(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    place = TopicPartition(topic, 0)
    await fill(kafka, topic, 4)
    async with clients.consumer(topic, group_id=group, auto_commit_interval_ms=20) as consumer:
        await take(consumer, 1)
        (held,) = await take(consumer, 1)
        held.hold()
        await take(consumer, 2)
        while await consumer.committed(place) != 1:
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)  # five more intervals: none may pass it
        assert await consumer.committed(place) == 1
        held.done()
        while await consumer.committed(place) != 3:
            await asyncio.sleep(0.01)
    assert await committed(kafka, group, topic) == 4


async def test_a_partition_with_too_much_unsettled_rests_alone(kafka: EmbeddedKafka) -> None:
    topic, group = await make_topic(kafka, 2), fresh("group")
    clients = Wrapped(kafka, max_in_flight=5)
    async with Plain(kafka).producer() as producer:
        for n in range(200):
            await producer.send(topic, b"%d" % n, b"one key", partition=0)
        await producer.flush()
    async with clients.consumer(topic, group_id=group, auto_commit_interval_ms=20) as consumer:
        (held,) = await take(consumer, 1)
        held.hold()
        assert await consumer.getmany(timeout_ms=300) == {}
        assert consumer.paused() == set()  # by the program
        await fill(kafka, topic, 4, partitions=2)  # two of them to each
        others = [await take(consumer, 1) for _ in range(2)]
        assert {each.partition for (each,) in others} == {1}
        assert await consumer.position(TopicPartition(topic, 0)) == 1
        held.done()
        seen = [each for each in await take(consumer, 199) if each.partition == 0]
        assert [each.offset for each in seen] == list(range(1, 200))


async def test_what_another_task_works_on_is_not_done(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    await fill(kafka, topic, 3)
    async with clients.consumer(topic, group_id=group) as consumer:
        got, go_on = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await consumer.getone()
            got.set()
            await go_on.wait()

        working = asyncio.create_task(work())
        await asyncio.wait_for(got.wait(), 30)
        await take(consumer, 2)
        await consumer.getmany(timeout_ms=10)
        await consumer.stop()
        go_on.set()
        await working
    assert await committed(kafka, group, topic) == 0


async def test_what_a_task_had_that_failed_is_tried_again(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    topic = await make_topic(kafka)
    await fill(kafka, topic, 1)
    async with clients.consumer(topic, group_id=fresh("group"), retry=SOON) as consumer:

        async def work() -> None:
            message = await consumer.getone()
            raise LookupError(message.attempt)

        assert isinstance((await asyncio.gather(work(), return_exceptions=True))[0], LookupError) is True
        task = asyncio.create_task(work())
        with pytest.raises(LookupError, match="2"):
            await task
        (again,) = await take(consumer, 1)
        assert again.attempt == 3


async def test_an_exception_on_the_way_out_leaves_the_last_message(
    kafka: EmbeddedKafka, clients: Wrapped
) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    await fill(kafka, topic, 2)
    with pytest.raises(LookupError):  # noqa: PT012 - the way out is the test
        async with clients.consumer(topic, group_id=group) as consumer:
            await consumer.getone()
            await consumer.getone()
            raise LookupError
    assert await committed(kafka, group, topic) == 1
    consumer = clients.consumer(topic, group_id=group)
    await consumer.start()
    with pytest.raises(LookupError):  # noqa: PT012 - the way out is the test
        try:
            assert (await consumer.getone()).offset == 1
            raise LookupError
        finally:
            await consumer.stop()
    assert await committed(kafka, group, topic) == 1


async def test_a_cancelled_block_settles_nothing(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    await fill(kafka, topic, 1)
    async with clients.consumer(topic, group_id=group) as consumer:
        (message,) = await take(consumer, 1)

        async def work() -> None:
            async with message.settling():
                await asyncio.Event().wait()

        working = asyncio.create_task(work())
        await asyncio.sleep(0)
        working.cancel()
        with pytest.raises(asyncio.CancelledError):
            await working
    assert await committed(kafka, group, topic) == 0


# ── several tasks ─────────────────────────────────────────────────────────────────────────────────────────


async def test_a_caller_that_waits_by_another_task_keeps_its_message(
    kafka: EmbeddedKafka, clients: Wrapped
) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    await fill(kafka, topic, 4)
    async with clients.consumer(topic, group_id=group) as consumer:
        go_on = asyncio.Event()

        async def work(got: asyncio.Event, *, by_wait_for: bool) -> None:
            asking = consumer.getone()
            await (asyncio.wait_for(asking, 30) if by_wait_for else asyncio.create_task(asking))
            got.set()
            await go_on.wait()

        working = []
        for by_wait_for in (True, False):
            got = asyncio.Event()
            working.append(asyncio.create_task(work(got, by_wait_for=by_wait_for)))
            await asyncio.wait_for(got.wait(), 30)
        await take(consumer, 2)
        await asyncio.wait_for(consumer.stop(), 30)
        go_on.set()
        await asyncio.gather(*working)
    assert await committed(kafka, group, topic) == 0


async def test_what_a_caller_has_is_done_by_a_stop_with_a_time_limit(
    kafka: EmbeddedKafka, clients: Wrapped
) -> None:
    topic, group = await make_topic(kafka), fresh("group")
    await fill(kafka, topic, 2)
    consumer = clients.consumer(topic, group_id=group)
    await consumer.start()
    for _ in range(2):
        await consumer.getone()
    await asyncio.wait_for(consumer.stop(), 30)
    assert await committed(kafka, group, topic) == 2


async def test_a_key_that_one_task_works_on_waits_for_it(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    topic = await make_topic(kafka)
    async with clients.producer() as producer:
        for n in range(2):
            await producer.send_and_wait(topic, b"%d" % n, b"one key")
    async with clients.consumer(topic, group_id=fresh("group"), retry=SOON) as consumer:
        got, go_on = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await consumer.getone()
            got.set()
            await go_on.wait()
            raise LookupError

        working = asyncio.create_task(work())
        await asyncio.wait_for(got.wait(), 30)
        assert await consumer.getmany(timeout_ms=300) == {}
        go_on.set()
        await asyncio.wait([working])
        assert [(each.offset, each.attempt) for each in await take(consumer, 2)] == [(0, 2), (1, 1)]


async def test_what_an_ended_task_had_reaches_a_call_that_waits(
    kafka: EmbeddedKafka, clients: Wrapped
) -> None:
    topic = await make_topic(kafka)
    await fill(kafka, topic, 1)
    async with clients.consumer(topic, group_id=fresh("group"), retry=SOON) as consumer:
        got, go_on = asyncio.Event(), asyncio.Event()

        async def work() -> None:
            await consumer.getone()
            got.set()
            await go_on.wait()
            raise LookupError

        working = asyncio.create_task(work())
        await asyncio.wait_for(got.wait(), 30)
        waiting = asyncio.create_task(consumer.getone())
        await asyncio.wait([waiting], timeout=0.2)
        go_on.set()
        await asyncio.wait([working])
        assert (await asyncio.wait_for(waiting, 30)).attempt == 2


async def test_a_task_that_is_cancelled_costs_no_attempt(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    topic = await make_topic(kafka)
    await fill(kafka, topic, 1)
    async with clients.consumer(topic, group_id=fresh("group"), retry=SOON) as consumer:
        got = asyncio.Event()

        async def work() -> None:
            await consumer.getone()
            got.set()
            await asyncio.Event().wait()

        for _ in range(SOON.attempts + 1):
            got.clear()
            working = asyncio.create_task(work())
            await asyncio.wait_for(got.wait(), 30)
            working.cancel()
            await asyncio.wait([working])
        (again,) = await take(consumer, 1)
        assert again.attempt == 1


async def test_one_error_makes_no_dead_letters_of_a_batch(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    topic = await make_topic(kafka)
    await fill(kafka, topic, 3)
    async with clients.consumer(topic, group_id=fresh("group"), retry=SOON) as consumer:

        async def work() -> int:
            batch = await consumer.getmany(timeout_ms=30_000)
            raise PermissionDenied(f"of one of {len(batch[TopicPartition(topic, 0)])}")

        working = asyncio.create_task(work())
        await asyncio.wait([working])
        assert str(working.exception()).endswith("of one of 3")
        assert {(each.offset, each.attempt) for each in await take(consumer, 3)} == {(0, 2), (1, 2), (2, 2)}


async def test_a_task_that_fails_after_its_work_is_heard_of(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    topic = await make_topic(kafka)
    await fill(kafka, topic, 2)
    heard: list[object] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, facts: heard.append(facts.get("exception")))
    async with clients.consumer(topic, group_id=fresh("group")) as consumer:

        async def work() -> None:
            async with (await consumer.getone()).settling():
                pass
            raise LookupError

        working = asyncio.create_task(work())
        await asyncio.wait([working])
        del working
        (message,) = await take(consumer, 1)
        assert message.offset == 1
        gc.collect()
    assert [type(each) for each in heard] == [LookupError]


# ── what goes wrong ───────────────────────────────────────────────────────────────────────────────────────


async def test_a_call_that_waits_hears_of_what_goes_wrong(kafka: EmbeddedKafka, clients: Wrapped) -> None:
    async with clients.consumer(await make_topic(kafka), group_id=fresh("group")) as consumer:
        waiting = asyncio.create_task(consumer.getone())
        while not consumer.assignment():
            await asyncio.sleep(0.01)
        consumer.subscribe(["another.v1.operation"])
        with pytest.raises(FailedPrecondition, match="only that service handles"):
            await asyncio.wait_for(waiting, 30)


async def test_a_stop_that_is_given_up_disconnects_all_the_same(kafka: EmbeddedKafka) -> None:
    clients = Wrapped(kafka)
    topic = await make_topic(kafka)
    consumer = clients.consumer(topic, group_id=fresh("group"))
    await consumer.start()
    connection = consumer._connection
    assert connection is not None
    stopping = asyncio.create_task(consumer.stop())
    await asyncio.sleep(0)
    stopping.cancel()
    await asyncio.wait([stopping])
    assert connection.is_closed
