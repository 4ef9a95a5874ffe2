"""Retries on a real Kafka: through the retry topic where order does not matter, in the key's place where it does."""

from __future__ import annotations

import asyncio
import functools
import random
import statistics
import threading
from collections import Counter, defaultdict
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from broker_mesh import Context, Mesh, MeshError, Operation, Retry, StatusCode
from broker_mesh.assignment import Assignment
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import ResourceExhausted, Unavailable
from broker_mesh.headers import Envelope, Place, write
from broker_mesh.kafka.producer import Producer
from broker_mesh.message import Message, new_id, now_ms
from broker_mesh.settings import Settings
from broker_mesh.waiting import WaitingRoom
from tests.support.dead_letters import DeadLetters
from tests.support.failing import Work, operations
from tests.support.fleet import make_mesh
from tests.support.groups import shorten_sessions
from tests.support.names import fresh
from tests.support.processes import Processes, wait_for_line
from tests.support.topics import Topics

PATIENCE = 60.0
HOUR = 3600.0
PATIENT = Retry(attempts=100, backoff=0.001, max_backoff=0.001)  # what the errors themselves ask for decides


class Ask(BaseModel):
    key: str
    number: int = 0
    delay: float = 0.0


class Answer(BaseModel):
    attempt: int


@pytest.fixture
async def caller(kafka: EmbeddedKafka) -> AsyncIterator[Mesh]:
    async with make_mesh("dispatch", kafka.bootstrap_servers) as mesh:
        yield mesh


@pytest.fixture
def topics(kafka: EmbeddedKafka) -> Topics:
    return Topics(kafka.bootstrap_servers)


def service(kafka: EmbeddedKafka, **settings: Any) -> tuple[Mesh, Operation[Ask, Answer]]:
    name = fresh("retry")
    mesh = make_mesh(name, kafka.bootstrap_servers, **settings)
    return mesh, Operation(f"{name}.v1.ask", request=Ask, reply=Answer, key="key")


def handle_late(mesh: Mesh, ask: Operation[Ask, Answer], late: list[float]) -> None:
    """Fail each request once with the delay it asks for; note by how much it came late, seconds."""

    @mesh.operation(ask, ordering="none", retry=PATIENT)
    async def handle(request: Ask, context: Context) -> Answer:
        if context.attempt == 1 and request.delay:
            raise Unavailable("come back", retry_after=request.delay)
        if context.attempt > 1:
            due = int(context.headers["mesh-retry-at"] or b"")
            late.append((now_ms() - due) / 1000)
        return Answer(attempt=context.attempt)


async def test_a_retry_is_the_record_as_it_came_with_the_facts_of_its_latest_failure(
    kafka: EmbeddedKafka, caller: Mesh, topics: Topics, dead_letters: DeadLetters
) -> None:
    mesh, ask = service(kafka)
    seen: list[tuple[int, bytes | None, int]] = []

    @mesh.operation(ask, ordering="none", retry=Retry(attempts=5, backoff=0.05, max_backoff=0.1))
    async def handle(request: Ask, context: Context) -> Answer:
        seen.append((context.attempt, context.headers["traceparent"], now_ms()))
        if context.attempt == 1:
            raise Unavailable("first", details={"only": "the first"})
        raise KeyError("x" * 5000 * context.attempt)

    async with mesh.serving():
        with pytest.raises(MeshError) as caught:
            await caller.request(ask, Ask(key="k"), timeout=PATIENCE)
        letter = await dead_letters.next(ask.name)
    (request,) = await topics.read(ask.name)
    retries = await topics.read(f"{ask.name}.retry")
    assert request.record is not None
    assert (caught.value.status, caught.value.attempts) == (StatusCode.UNKNOWN, 5)
    assert [attempt for attempt, _, _ in seen] == [1, 2, 3, 4, 5]
    assert {trace for _, trace, _ in seen} == {dict(request.record.headers)["traceparent"]}
    origin = Place(request.record.topic, request.record.partition, request.record.offset)
    for number, retry in enumerate([*retries, letter], 1):
        facts = retry.envelope
        assert (retry.key, retry.value, retry.partition) == (request.key, request.value, request.partition)
        assert facts.id == request.envelope.id
        assert facts.origin == origin
        assert facts.status is (StatusCode.UNAVAILABLE if number == 1 else StatusCode.UNKNOWN)
        assert facts.exception == ("Unavailable" if number == 1 else "KeyError")
        assert ("only" in facts.status_details) is (number == 1)
        assert facts.first_failure == retries[0].envelope.first_failure
        assert facts.last_failure is not None
        assert facts.first_failure is not None
        assert facts.last_failure >= facts.first_failure
        assert retry.record is not None
        assert set(request.record.headers) <= set(retry.record.headers)
    for (_, _, at), retry in zip(seen[1:], retries, strict=True):
        assert at >= (retry.envelope.retry_at or 0), "handed to the handler before its time"
    assert [retry.envelope.attempt for retry in [*retries, letter]] == [2, 3, 4, 5, 5]
    assert letter.envelope.retry_at is None
    sizes = [_header_names(retry) for retry in retries]
    assert sizes[1] == sizes[2] == sizes[3], "headers must not grow over retries"


def _header_names(message: Message) -> list[str]:
    assert message.record is not None
    names = [name for name, _ in message.record.headers]
    assert len(names) == len(set(names))
    return sorted(names)


async def test_a_record_of_a_plain_client_keeps_its_name_over_retries(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka)
    seen: asyncio.Queue[str] = asyncio.Queue()

    @mesh.operation(ask, ordering="none", retry=PATIENT)
    async def handle(request: Ask, context: Context) -> Answer:
        await seen.put(context.id)
        if context.attempt < 3:
            raise Unavailable("not yet")
        return Answer(attempt=3)

    async with mesh.serving():
        await _write(kafka, caller, ask, ask.name, Envelope())
        async with asyncio.timeout(PATIENCE):
            ids = {await seen.get() for _ in range(3)}
    assert len(ids) == 1


async def test_what_waits_takes_nobody_s_place_and_holds_no_later_record(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka, concurrency=1, max_in_flight=2, partitions=1)
    handle_late(mesh, ask, [])
    async with mesh.serving() as serving:
        for _ in range(20):
            await caller.send(ask, Ask(key="k", delay=HOUR))
        async with asyncio.timeout(PATIENCE):
            while serving.waiting < 20:
                await asyncio.sleep(0.02)
        # One handler at a time, two records in flight, twenty that wait an hour: of the same key, in its partition.
        assert (await caller.request(ask, Ask(key="k"), timeout=PATIENCE)).attempt == 1
        assert (await caller.request(ask, Ask(key="k", delay=0.1), timeout=PATIENCE)).attempt == 2
        assert serving.waiting == 20


@pytest.mark.alone
async def test_mixed_delays_start_when_they_are_due(kafka: EmbeddedKafka, caller: Mesh) -> None:
    mesh, ask = service(kafka, max_in_flight=50)
    late: list[float] = []
    handle_late(mesh, ask, late)
    draw = random.Random(7)
    async with mesh.serving():
        await asyncio.gather(*(caller.send(ask, Ask(key=f"k{n}", delay=HOUR)) for n in range(400)))
        asked = [Ask(key=f"s{number}", delay=draw.uniform(0.2, 5.0)) for number in range(300)]
        handles = await asyncio.gather(*(caller.call(ask, each) for each in asked))
        replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
    assert {reply.attempt for reply in replies} == {2}
    assert len(late) == 300
    assert min(late) >= 0
    # The promise is a second for each; nine of ten leaves room for a machine that is busy otherwise.
    assert statistics.quantiles(late, n=10)[-1] < 1.0, f"late by {sorted(late)[-5:]}"


async def test_a_record_that_waits_long_gives_way_to_those_behind_it(
    kafka: EmbeddedKafka, caller: Mesh, topics: Topics
) -> None:
    mesh, ask = service(kafka, max_in_flight=20, partitions=1)
    handle_late(mesh, ask, [])
    retry_topic = f"{ask.name}.retry"
    async with mesh.serving() as serving:
        await caller.send(ask, Ask(key="long", delay=HOUR))
        async with asyncio.timeout(PATIENCE):
            while not serving.waiting:
                await asyncio.sleep(0.02)
        # Far more than may be done behind one that is not; without a move the partition would rest for an hour.
        handles = [await caller.call(ask, Ask(key=f"s{n}", delay=0.01)) for n in range(200)]
        replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
        async with asyncio.timeout(PATIENCE):
            while await topics.committed(mesh.service, retry_topic, 0) < 100:
                await asyncio.sleep(0.05)
        async with asyncio.timeout(PATIENCE):
            while serving.waiting != 1:
                await asyncio.sleep(0.02)
    assert {reply.attempt for reply in replies} == {2}
    copies = [each for each in await topics.read(retry_topic, 1) if each.key == b"long"]
    assert len(copies) > 1
    assert len({each.envelope.retry_at for each in copies}) == 1
    assert len({tuple(each.record.headers) for each in copies if each.record}) == 1


async def test_what_is_due_is_found_behind_far_more_than_the_waiting_room_holds(
    kafka: EmbeddedKafka, caller: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_mesh.service.WaitingRoom", functools.partial(WaitingRoom, max_records=50))
    monkeypatch.setattr("broker_mesh.waiting.ROTATION_MS", 500)
    mesh, ask = service(kafka, max_in_flight=20, partitions=1)
    handle_late(mesh, ask, [])
    async with mesh.serving() as serving:
        await asyncio.gather(*(caller.send(ask, Ask(key=f"k{n}", delay=HOUR)) for n in range(300)))
        async with asyncio.timeout(PATIENCE):
            while serving.waiting < 50:
                await asyncio.sleep(0.02)
        handles = [await caller.call(ask, Ask(key=f"s{n}", delay=0.01)) for n in range(10)]
        replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
        assert serving.waiting <= 50 + 500, "a batch or so may be on its way when the room is full"
    assert {reply.attempt for reply in replies} == {2}


async def test_a_full_waiting_room_finds_what_is_due_though_its_fullest_partition_can_not_give_way(
    kafka: EmbeddedKafka, caller: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_mesh.service.WaitingRoom", functools.partial(WaitingRoom, max_records=50))
    monkeypatch.setattr("broker_mesh.waiting.ROTATION_MS", 500)
    mesh, ask = service(kafka, partitions=2)
    hangs = asyncio.Event()

    @mesh.operation(ask, ordering="none", retry=PATIENT)
    async def handle(request: Ask, context: Context) -> Answer:
        if request.key == "hangs":
            await hangs.wait()
        if context.attempt == 1 and request.delay:
            raise Unavailable("come back", retry_after=request.delay)
        return Answer(attempt=context.attempt)

    async def put(key: str, count: int, partition: int) -> None:
        waits = Envelope(id=new_id(), source="dispatch", attempt=2, retry_at=now_ms() + 3_600_000)
        named = waits if key == "long" else waits._replace(retry_at=None)
        await _write(kafka, caller, ask, f"{ask.name}.retry", named, Ask(key=key), partition, count)

    async with mesh.serving() as serving:
        await put("hangs", 1, 0)  # what waits behind it can't move: its offset waits for the handler
        await put("long", 40, 0)
        await put("long", 20, 1)
        async with asyncio.timeout(PATIENCE):
            while serving.waiting < 50:
                await asyncio.sleep(0.02)
        assert (await caller.request(ask, Ask(key="s", delay=0.01), timeout=PATIENCE)).attempt == 2
        hangs.set()


async def test_a_retry_that_asks_for_a_time_out_of_all_reason_is_handled_at_once(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka)
    seen: asyncio.Queue[int] = asyncio.Queue()

    @mesh.operation(ask, ordering="none", retry=PATIENT)
    async def handle(request: Ask, context: Context) -> Answer:
        await seen.put(context.attempt)
        return Answer(attempt=context.attempt)

    async with mesh.serving():
        in_microseconds = Envelope(id=new_id(), attempt=7, retry_at=now_ms() * 1000)
        await _write(kafka, caller, ask, f"{ask.name}.retry", in_microseconds)
        assert await asyncio.wait_for(seen.get(), PATIENCE) == 7


async def test_a_partition_that_rested_goes_on_though_a_plain_function_outlasts_its_record(
    kafka: EmbeddedKafka, caller: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    mesh, ask = service(kafka, max_in_flight=4, partitions=1)
    monkeypatch.setattr(
        Assignment, "is_crowded", lambda self, rests: self.tracker.beyond >= (2 if rests else 4)
    )
    release = threading.Event()

    @mesh.operation(ask)
    def handle(request: Ask, context: Context) -> Answer:
        if request.key == "stuck":
            release.wait(2 * PATIENCE)
        return Answer(attempt=1)

    async with mesh.serving() as serving:
        stuck = await caller.call(ask, Ask(key="stuck"), expires_in=3.0)
        others: list[Any] = []
        async with asyncio.timeout(PATIENCE):
            while not serving._held:
                others.append(await caller.call(ask, Ask(key=f"k{len(others)}")))
                await asyncio.sleep(0.02)
        others += [await caller.call(ask, Ask(key=f"more-{n}")) for n in range(5)]
        with pytest.raises(MeshError):
            await stuck.reply(PATIENCE)
        assert len(await asyncio.gather(*(other.reply(PATIENCE) for other in others))) == len(others)
        release.set()


async def test_what_waits_is_handed_on_to_the_next_instances_and_its_attempts_go_on(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    name = fresh("retry")
    ask = Operation(f"{name}.v1.ask", request=Ask, reply=Answer, key="key")
    handled: dict[int, list[int]] = defaultdict(list)
    released = asyncio.Event()

    def instance() -> Mesh:
        mesh = make_mesh(name, kafka.bootstrap_servers)

        @mesh.operation(ask, ordering="none", retry=PATIENT)
        async def handle(request: Ask, context: Context) -> Answer:
            handled[request.number].append(context.attempt)
            if not released.is_set():
                # Longer than both handovers take: what is in work at one of them may rightly be made twice.
                raise Unavailable("not yet", retry_after=12 if context.attempt == 1 else 0.2)
            return Answer(attempt=context.attempt)

        return mesh

    async with instance().serving() as first:
        handles = [await caller.call(ask, Ask(key=f"k{n}", number=n)) for n in range(60)]
        async with asyncio.timeout(PATIENCE):
            while first.waiting < 60:
                await asyncio.sleep(0.02)
        async with instance().serving() as second:  # a rebalance, while all of them wait
            async with asyncio.timeout(PATIENCE):
                while not (first.partitions and second.partitions):
                    await asyncio.sleep(0.05)
                while first.waiting + second.waiting < 60:
                    await asyncio.sleep(0.02)
    async with instance().serving() as third:  # a stop of both, while all of them wait
        async with asyncio.timeout(PATIENCE):
            while third.waiting + sum(len(attempts) > 1 for attempts in handled.values()) < 60:
                await asyncio.sleep(0.02)
        released.set()
        replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
    assert all(reply.attempt >= 2 for reply in replies)
    for attempts in handled.values():
        assert attempts == list(range(1, len(attempts) + 1)), "an attempt was lost, or made twice"


async def test_what_is_done_behind_one_that_waits_does_not_run_again_after_an_orderly_stop(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    name = fresh("retry")
    ask = Operation(f"{name}.v1.ask", request=Ask, reply=Answer, key="key")
    runs: Counter[tuple[str, int]] = Counter()

    def instance() -> Mesh:
        mesh = make_mesh(name, kafka.bootstrap_servers, partitions=1)

        @mesh.operation(ask, ordering="none", retry=PATIENT)
        async def handle(request: Ask, context: Context) -> Answer:
            runs[request.key, context.attempt] += 1
            if context.attempt <= 2 and request.delay:
                raise Unavailable("come back", retry_after=request.delay)
            return Answer(attempt=context.attempt)

        return mesh

    async with instance().serving() as first:
        await caller.send(ask, Ask(key="long", delay=HOUR))
        async with asyncio.timeout(PATIENCE):
            while not first.waiting:
                await asyncio.sleep(0.02)
        handles = [await caller.call(ask, Ask(key=f"s{n}", delay=0.01)) for n in range(50)]
        await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
    async with instance().serving() as second:
        async with asyncio.timeout(PATIENCE):
            while not second.waiting:  # it is behind all the others now: whatever comes again came before it
                await asyncio.sleep(0.02)
            while second.in_flight:
                await asyncio.sleep(0.02)
    assert set(runs.values()) == {1}, "settled attempts were made again"


@pytest.mark.parametrize("step", ["handled, not settled", "settled, not done", "done, not committed"])
async def test_a_service_killed_around_a_retry_that_it_writes_loses_none(
    kafka: EmbeddedKafka, caller: Mesh, topics: Topics, processes: Processes, tmp_path: Path, step: str
) -> None:
    name, flag, done = fresh("retry"), tmp_path / "fails", tmp_path / "done"
    shorten_sessions(kafka.bootstrap_servers, name)
    _, ask = operations(name)
    flag.touch()
    arguments = ("tests.support.failing", kafka.bootstrap_servers, name, str(flag), str(done), "600")
    environment = {"CRASH_AT": step, "CRASH_MARK": str(tmp_path / "crashed")}
    dying = processes.start(*arguments, **environment)
    await asyncio.to_thread(wait_for_line, dying, "ready")
    handles = [await caller.call(ask, Work(key=f"k{n % 5}", number=n)) for n in range(30)]
    assert await asyncio.to_thread(dying.wait, PATIENCE) == -9, "the process did not reach the step"
    processes.start(*arguments, **environment)
    async with asyncio.timeout(PATIENCE):
        while {each.envelope.id for each in await topics.read(f"{ask.name}.retry")} < {
            each.id for each in handles
        }:
            await asyncio.sleep(0.1)
    flag.unlink()
    replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
    assert [reply.number for reply in replies] == list(range(30))
    assert await topics.read(f"{ask.name}.dead") == []


async def test_a_retry_topic_that_takes_nothing_holds_its_records_and_skips_none(
    kafka: EmbeddedKafka, caller: Mesh, topics: Topics, caplog: pytest.LogCaptureFixture
) -> None:
    mesh, ask = service(kafka, partitions=1)
    handle_late(mesh, ask, [])
    async with mesh.serving():
        await caller.request(ask, Ask(key="warm"), timeout=PATIENCE)
        await topics.limit_message_bytes(f"{ask.name}.retry", 100)
        held = await caller.call(ask, Ask(key="k", delay=0.01))
        async with asyncio.timeout(PATIENCE):
            while not any("its retry to" in entry.getMessage() for entry in caplog.records):
                await asyncio.sleep(0.02)
        assert (await caller.request(ask, Ask(key="k"), timeout=PATIENCE)).attempt == 1, "others go on"
        async with asyncio.timeout(PATIENCE):
            while await topics.committed(mesh.service, ask.name, 0) < 1:
                await asyncio.sleep(0.05)
        await asyncio.sleep(0.5)  # longer than between two commits: a wrong one would be there by now
        assert await topics.committed(mesh.service, ask.name, 0) == 1, "the offset passed what is held"
        await topics.limit_message_bytes(f"{ask.name}.retry", 2_000_000)
        assert (await held.reply(PATIENCE)).attempt == 2


async def test_with_order_a_failing_record_waits_in_its_place_also_one_that_was_put_back(
    kafka: EmbeddedKafka, caller: Mesh, topics: Topics
) -> None:
    mesh, ask = service(kafka)
    running: dict[str, int] = defaultdict(int)
    order: asyncio.Queue[tuple[str, int, int]] = asyncio.Queue()

    @mesh.operation(ask, ordering="key", retry=Retry(attempts=3, backoff=0.05))
    async def handle(request: Ask, context: Context) -> Answer:
        running[request.key] += 1
        assert running[request.key] == 1, "two of one key at once"
        await asyncio.sleep(0.05)
        running[request.key] -= 1
        if context.attempt < 3:
            raise Unavailable("not yet")
        await order.put((request.key, request.number, context.attempt))
        return Answer(attempt=context.attempt)

    async with mesh.serving():
        first = await caller.call(ask, Ask(key="k", number=1))
        put_back = Envelope(id=new_id(), source="dispatch", type=ask.name)
        await _write(kafka, caller, ask, f"{ask.name}.retry", put_back, Ask(key="k", number=2))
        second = await caller.call(ask, Ask(key="k", number=3))
        await asyncio.gather(first.reply(PATIENCE), second.reply(PATIENCE))
        async with asyncio.timeout(PATIENCE):
            finished = [await order.get() for _ in range(3)]
    assert sorted(number for _, number, _ in finished) == [1, 2, 3]
    assert {attempt for _, _, attempt in finished} == {3}
    # What the test itself has put there, and what came behind it meanwhile.
    copies = Counter(each.envelope.id for each in await topics.read(f"{ask.name}.retry"))
    assert set(copies.values()) == {1}, "a failed attempt was written instead of waiting in its place"


async def test_a_policy_by_cause_decides_how_often(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    mesh, ask = service(kafka)
    policy = Retry(
        attempts=2,
        backoff=0.01,
        per={
            StatusCode.RESOURCE_EXHAUSTED: Retry(attempts=4, backoff=0.001),
            OSError: Retry(attempts=3, backoff=0.001),
            ValueError: Retry(attempts=1),
        },
    )
    raised = {
        "exhausted": (ResourceExhausted("full"), 4),
        "refused": (ConnectionRefusedError("no"), 3),
        "wrong": (ValueError("bad"), 1),
        "other": (KeyError("x"), 2),
    }

    @mesh.operation(ask, retry=policy)
    async def handle(request: Ask, context: Context) -> Answer:
        raise raised[request.key][0]

    async with mesh.serving():
        for key, (_, attempts) in raised.items():
            handle_ = await caller.call(ask, Ask(key=key))
            with pytest.raises(MeshError) as caught:
                await handle_.reply(PATIENCE)
            assert (caught.value.attempts, caught.value.handle) == (attempts, str(handle_))
            assert (await dead_letters.next(ask.name)).envelope.attempt == attempts


async def test_no_retry_outlasts_its_elapsed_limit_or_its_deadline(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka)
    for_ever = Retry(attempts=10**6, backoff=0.05, max_backoff=0.05)
    limited = Operation(f"{mesh.service}.v1.limited", request=Ask, reply=Answer, key="key")
    times: dict[str, list[int]] = defaultdict(list)

    async def fail(request: Ask, context: Context) -> Answer:
        times[request.key].append(now_ms())
        raise Unavailable("never")

    mesh.operation(ask, ordering="none", retry=for_ever)(fail)
    mesh.operation(limited, ordering="none", retry=replace(for_ever, elapsed=1.0))(fail)
    async with mesh.serving():
        with pytest.raises(Unavailable, match="never") as by_elapsed:
            await caller.request(limited, Ask(key="elapsed"), timeout=PATIENCE)
        with pytest.raises(MeshError):
            await caller.request(ask, Ask(key="deadline"), timeout=PATIENCE, expires_in=1.0)
    assert by_elapsed.value.attempts == len(times["elapsed"]) > 2
    assert len(times["deadline"]) > 2


async def _write(
    kafka: EmbeddedKafka,
    caller: Mesh,
    ask: Operation[Ask, Answer],
    topic: str,
    envelope: Envelope,
    body: Ask | None = None,
    partition: int = -1,
    count: int = 1,
) -> None:
    body = body or Ask(key="k")
    await caller._connected().ready(ask)
    value = caller._connected().catalog.codec(ask).encode(body)
    producer = Producer(Settings(bootstrap_servers=kafka.bootstrap_servers), "plain")
    raw = write(envelope) if envelope.id else []
    for _ in range(count):
        await producer.send(topic, key=body.key.encode(), value=value, headers=raw, partition=partition)
    await producer.close(10)
