"""Dead letters and their replay on a real Kafka: what is kept, what is put back where, and who hears of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest
from pydantic import BaseModel

from broker_mesh import Context, Event, Mesh, MeshError, Operation, Retry, StatusCode
from broker_mesh.dead_letters import DeadLetter, DeadLetters, Selection
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import FailedPrecondition, InvalidArgument, NotFound
from broker_mesh.message import received
from broker_mesh.replay import Replayer, Report
from tests.support.fleet import make_mesh
from tests.support.letters import (
    Refuel,
    all_of,
    ids_in,
    make_operation,
    own,
    records_of,
    settings_for,
    write_letters,
)
from tests.support.names import fresh

PATIENCE = 40.0


class Ask(BaseModel):
    tailnum: str


class Answer(BaseModel):
    tailnum: str
    seats: int


@asynccontextmanager
async def replayer(kafka: EmbeddedKafka) -> AsyncIterator[Replayer]:
    async with Replayer(settings_for(kafka.bootstrap_servers), client_id="test-replay", environ={}) as ready:
        yield ready


async def replay(kafka: EmbeddedKafka, selection: Selection, **options: Any) -> Report:
    async with replayer(kafka) as ready:
        return await ready.replay(selection, **options)


async def letters(kafka: EmbeddedKafka, selection: Selection) -> list[DeadLetter]:
    reading = DeadLetters(settings_for(kafka.bootstrap_servers), client_id="test-letters")
    return [letter async for batch in reading.letters(selection) for letter in batch]


class Desk:
    """A service that fails until it is mended, and its caller."""

    def __init__(self, kafka: EmbeddedKafka) -> None:
        self.broken = True
        self.seen: list[tuple[str, str | None]] = []
        service = fresh("desk")
        self.operation = Operation(f"{service}.v1.find", request=Ask, reply=Answer, key="tailnum")
        self.mesh = make_mesh(service, kafka.bootstrap_servers)
        self.caller_name = fresh("dispatch")
        self.caller = make_mesh(self.caller_name, kafka.bootstrap_servers)

        @self.mesh.operation(self.operation, retry=Retry(attempts=1))
        async def find(request: Ask, context: Context) -> Answer:
            replay_id = context.headers.get("mesh-replay-id")
            self.seen.append((context.id, None if replay_id is None else replay_id.decode()))
            if self.broken:
                raise ValueError(f"no seats known of {request.tailnum!r}")
            return Answer(tailnum=request.tailnum, seats=len(request.tailnum))


@asynccontextmanager
async def desk(kafka: EmbeddedKafka) -> AsyncIterator[Desk]:
    made = Desk(kafka)
    async with made.mesh.serving(), made.caller:
        yield made


async def test_what_failed_is_replayed_and_its_caller_gets_the_new_answer(kafka: EmbeddedKafka) -> None:
    async with desk(kafka) as on, asyncio.timeout(PATIENCE):
        handle = await on.caller.call(on.operation, Ask(tailnum="N14228"), expires_in=3600)
        with pytest.raises(MeshError) as failed:
            await handle.reply()
        waiting = asyncio.create_task(handle.reply(wait_for_replay=True))
        (letter,) = await letters(kafka, all_of(on.operation.name))
        assert failed.value.dead_letter == str(letter.place)
        assert (letter.envelope.id, letter.body) == (handle.id, {"tailnum": "N14228"})
        assert (letter.envelope.status, letter.envelope.exception) == (StatusCode.UNKNOWN, "ValueError")

        on.broken = False
        report = await replay(kafka, Selection(ids=frozenset({handle.id})), expires_in=60)

        assert (report.selected, report.replayed, report.refused) == (1, 1, 0)
        assert (await waiting).seats == 6
        assert (await handle).seats == 6
        async with make_mesh(on.caller_name, kafka.bootstrap_servers) as later:
            assert (await later.attach(str(handle), on.operation).reply()).seats == 6
        assert on.seen == [(handle.id, None), (handle.id, report.replay_id)]
        first, second = await asyncio.to_thread(
            lambda: sorted(
                records_of(kafka.bootstrap_servers, on.operation.name), key=lambda record: record.offset
            )
        )
    assert (second.key, second.value, second.partition) == (first.key, first.value, first.partition)
    old, new = received(first, "").envelope, received(second, "").envelope
    assert new.origin == (first.topic, first.partition, first.offset)
    assert new.replay_id == report.replay_id
    assert (new.id, new.reply_to, new.source, new.time) == (old.id, old.reply_to, old.source, old.time)
    assert old.traceparent
    assert new.traceparent
    assert new.traceparent[:35] == old.traceparent[:35]  # the same trace
    assert new.traceparent != old.traceparent  # another span
    assert old.deadline is not None
    assert new.deadline is not None
    assert new.deadline < old.deadline
    assert (new.status, new.exception, new.attempt, new.last_failure) == (None, None, 1, None)
    assert await letters(kafka, all_of(on.operation.name)) == []


async def test_attach_gives_the_newest_answer_where_a_replay_failed_again(kafka: EmbeddedKafka) -> None:
    async with desk(kafka) as on, asyncio.timeout(PATIENCE):
        handle = await on.caller.call(on.operation, Ask(tailnum="N1"))
        with pytest.raises(MeshError) as first:
            await handle.reply()
        await replay(kafka, all_of(on.operation.name))
        async with make_mesh(on.caller_name, kafka.bootstrap_servers) as later:
            attached = later.attach(str(handle), on.operation)
            while True:  # until the replay's answer is there
                with pytest.raises(MeshError) as second:
                    await attached.reply()
                if second.value.dead_letter != first.value.dead_letter:
                    break
                await asyncio.sleep(0.02)
        with pytest.raises(MeshError) as now:
            await handle.reply()
        (letter,) = await letters(kafka, all_of(on.operation.name))
        found = await DeadLetters(settings_for(kafka.bootstrap_servers), client_id="t").find(handle.id)
    assert second.value.dead_letter == now.value.dead_letter == str(letter.place)
    assert [claim is None for _, claim in found] == [False, True]
    assert found[0][0].envelope.origin == found[1][0].envelope.origin


async def test_what_is_settled_already_is_said_with_when_and_by_which_replay(kafka: EmbeddedKafka) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    first, second = await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 2)
    done = await replay(kafka, Selection(ids=frozenset({first})))
    with pytest.raises(
        FailedPrecondition, match=rf"was replayed at 20.* by replay {done.replay_id}, to {operation}"
    ):
        await replay(kafka, Selection(ids=frozenset({f"{operation}.dead/0/0"})))
    both = await replay(kafka, Selection(ids=frozenset({first, second})))
    assert (both.selected, both.replayed, both.already_settled) == (1, 1, 1)
    with pytest.raises(NotFound, match="no dead letter has the id"):
        await replay(kafka, Selection(ids=frozenset({"nobody"})))
    assert (await replay(kafka, all_of(operation))).selected == 0
    assert ids_in(kafka.bootstrap_servers, operation) == {first: 1, second: 1}


async def test_what_is_dropped_is_neither_listed_nor_replayed_and_the_other_way_round(
    kafka: EmbeddedKafka,
) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    ids = await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 20)
    async with replayer(kafka) as ready:
        dropped = await ready.drop(all_of(operation), limit=5)
        assert (dropped.selected, dropped.dropped, dropped.replayed) == (5, 5, 0)
        assert len(await letters(kafka, all_of(operation))) == 15
        planned = await ready.replay(all_of(operation), dry_run=True, limit=7)
        assert (planned.selected, planned.replayed) == (7, 0)
        replayed = await ready.replay(all_of(operation), rate=1000)
        assert replayed.replayed == 15
        assert (await ready.drop(all_of(operation))).selected == 0
        with pytest.raises(FailedPrecondition, match="was replayed at"):
            await ready.drop(Selection(ids=frozenset(ids[-1:])))
    put_back = ids_in(kafka.bootstrap_servers, operation)
    assert len(put_back) == 15
    assert set(put_back.values()) == {1}
    assert set(put_back) < set(ids)


async def test_a_subscriber_s_replay_reaches_that_subscriber_alone(kafka: EmbeddedKafka) -> None:
    publisher = fresh("dispatch")
    event = Event(f"{publisher}.v1.events.departed", Ask, key="tailnum")
    broken = True
    seen: dict[str, list[str]] = {"weather": [], "board": []}
    subscribers: list[Mesh] = []
    for name in seen:
        subscriber = make_mesh(fresh(name), kafka.bootstrap_servers)

        @subscriber.subscribe(event, retry=Retry(attempts=1))
        async def on_departure(body: Ask, context: Context, name: str = name) -> None:
            seen[name].append(context.id)
            if broken and name == "weather":
                raise ValueError("no forecast")

        subscribers.append(subscriber)
    weather, board = subscribers
    async with make_mesh(publisher, kafka.bootstrap_servers) as dispatch, asyncio.timeout(PATIENCE):
        await dispatch.publish(event, Ask(tailnum="N1"))
        async with weather.serving(), board.serving():
            stem = f"{weather.service}.v1.from.{event.name}"
            while not (found := await letters_or_none(kafka, stem)) or not seen["board"]:
                await asyncio.sleep(0.05)
            assert (found[0].operation, found[0].subscriber) == (event.name, weather.service)
            broken = False
            report = await replay(kafka, all_of(event.name))
            assert report.replayed == 1
            while len(seen["weather"]) < 2:
                await asyncio.sleep(0.02)
            await dispatch.publish(
                event, Ask(tailnum="N1")
            )  # of the same key: what came before it has been seen
            while len(seen["weather"]) < 3 or len(seen["board"]) < 2:
                await asyncio.sleep(0.02)
    assert seen["weather"][0] == seen["weather"][1]
    assert len(set(seen["board"])) == 2
    assert len(seen["board"]) == 2


async def letters_or_none(kafka: EmbeddedKafka, stem: str) -> list[DeadLetter]:
    try:
        return await letters(kafka, all_of(stem))
    except NotFound:  # the subscriber has not made its topics yet
        return []


class RefuelV2(BaseModel):
    tailnum: str
    litres: int
    note: str = "none"


class Strict(BaseModel):
    tailnum: str
    litres: str


async def test_dead_letters_go_to_another_version_or_are_refused_where_they_do_not_fit(
    kafka: EmbeddedKafka,
) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    service = operation.partition(".")[0]
    v2 = Operation(f"{service}.v2.refuel", request=RefuelV2, key="tailnum")
    strict = Operation(f"{service}.v3.refuel", request=Strict, key="litres")
    async with make_mesh(service, kafka.bootstrap_servers) as mesh:
        await own(mesh, v2, RefuelV2(tailnum="", litres=0))
        await own(mesh, strict, Strict(tailnum="", litres=""))
        ids = await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 3)

        refused = await replay(kafka, all_of(operation), to=strict.name)
        assert (refused.refused, refused.replayed) == (3, 0)
        assert "litres" in refused.refusals[0].reason
        with pytest.raises(NotFound, match=f"did you mean '{operation}'"):
            await replay(kafka, all_of(operation), to=operation[:-1] + "x")
        with pytest.raises(InvalidArgument, match="is not valid"):
            await replay(kafka, all_of(operation), to="nonsense")

        assert (await replay(kafka, all_of(operation), to=v2.name)).replayed == 3
        codec = mesh._connected().catalog.codec(v2)
        moved = list(await asyncio.to_thread(lambda: list(records_of(kafka.bootstrap_servers, v2.name))))
    assert {received(record, "").envelope.id for record in moved} == set(ids)
    assert {received(record, "").envelope.type for record in moved} == {v2.name}
    assert {record.key for record in moved} == {b"N14228"}
    assert [codec.decode(record.value) for record in moved] == [RefuelV2(tailnum="N14228", litres=7)] * 3


async def test_an_edited_letter_has_to_fit_and_is_linked_to_the_original(kafka: EmbeddedKafka) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    bad, good, left = await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 3)
    bodies: list[Any] = []

    def edit(letter: DeadLetter, body: Any) -> Any:
        bodies.append(body)
        changed = {bad: {**body, "litres": "many"}, good: {**body, "tailnum": "N2", "litres": 8}}
        return changed.get(letter.envelope.id)

    report = await replay(kafka, all_of(operation), edit=edit)

    assert (report.selected, report.replayed, report.refused) == (3, 1, 2)
    assert bodies == [{"tailnum": "N14228", "litres": 7}] * 3
    kept, misfit = sorted(refusal.reason for refusal in report.refusals)
    assert kept == "it was left as it is"
    assert misfit.startswith(f"{operation}-value: field 'litres'")
    (record,) = await asyncio.to_thread(lambda: list(records_of(kafka.bootstrap_servers, operation)))
    assert record.key == b"N2"
    envelope = received(record, "").envelope
    assert (envelope.id, str(envelope.origin)) == (good, f"{operation}/1/1")
    assert {letter.envelope.id for letter in await letters(kafka, all_of(operation))} == {bad, left}


async def test_what_the_present_schema_does_not_take_is_refused(kafka: EmbeddedKafka) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, b"no avro", 2)
    fits = await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 1)
    report = await replay(kafka, all_of(operation))
    assert (report.selected, report.replayed, report.refused) == (3, 1, 2)
    assert "not the magic byte" in report.refusals[0].reason
    assert ids_in(kafka.bootstrap_servers, operation) == {fits[0]: 1}


async def test_dead_letters_of_an_operation_that_is_gone_stay_where_they_are(kafka: EmbeddedKafka) -> None:
    from confluent_kafka.admin import AdminClient

    operation, value = await make_operation(kafka.bootstrap_servers)
    await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 2)
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    await asyncio.to_thread(admin.delete_topics([operation])[operation].result)
    async with make_mesh(operation.partition(".")[0], kafka.bootstrap_servers) as mesh:
        successor = Operation(operation.replace("v1", "v2"), request=Refuel, key="tailnum")
        await own(mesh, successor, Refuel(tailnum=""))
    with pytest.raises(
        NotFound, match=f"operation '{operation}' does not exist: did you mean '{successor.name}'"
    ):
        await replay(kafka, all_of(operation))
    assert (await replay(kafka, all_of(operation), to=successor.name)).replayed == 2


async def test_a_record_that_became_too_large_is_refused_alone(kafka: EmbeddedKafka) -> None:
    from confluent_kafka.admin import (
        AdminClient,
        AlterConfigOpType,
        ConfigEntry,
        ConfigResource,
        ResourceType,
    )

    operation, value = await make_operation(kafka.bootstrap_servers)
    small = await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 3, keys=1)
    await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 1, size=3000)
    resource = ConfigResource(
        ResourceType.TOPIC,
        operation,
        incremental_configs=[
            ConfigEntry("max.message.bytes", "2000", incremental_operation=AlterConfigOpType.SET)
        ],
    )
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    await asyncio.to_thread(admin.incremental_alter_configs([resource])[resource].result)
    report = await replay(kafka, all_of(operation))
    assert (report.selected, report.replayed, report.refused) == (4, 3, 1)
    assert "too large" in report.refusals[0].reason
    assert ids_in(kafka.bootstrap_servers, operation) == dict.fromkeys(small, 1)


async def test_causes_are_counted_and_progress_reaches_the_end(kafka: EmbeddedKafka) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    ids = await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 1200)
    told: list[tuple[int, int]] = []
    reading = DeadLetters(settings_for(kafka.bootstrap_servers), client_id="test")
    (cause,) = await reading.causes(all_of(operation), on_progress=lambda *counts: told.append(counts))
    await asyncio.sleep(0)
    assert (cause.operation, cause.status, cause.exception, cause.count) == (
        operation,
        StatusCode.INTERNAL,
        "ValueError",
        1200,
    )
    assert cause.message == "tank … of '…' leaks"
    assert cause.example in ids
    assert told[-1] == (1200, 1200)
    assert len(told) > 2
    assert told == sorted(told)
    where = Selection(operation=operation, where="litres == `7` && tailnum == 'N14228'", key=b"key-3")
    assert len(await letters(kafka, where)) == 24
    assert await letters(kafka, Selection(operation=operation, where="litres > `7`")) == []
    with pytest.raises(NotFound, match=f"did you mean '{operation}'"):
        await letters(kafka, all_of(operation + "l"))


async def test_a_replay_that_is_cancelled_ends_between_two_batches(kafka: EmbeddedKafka) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    ids = await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 60)
    async with replayer(kafka) as ready, asyncio.timeout(PATIENCE):
        slow = asyncio.create_task(ready.replay(all_of(operation), rate=5))
        while not ids_in(kafka.bootstrap_servers, operation):
            await asyncio.sleep(0.05)
        slow.cancel()
        with pytest.raises(asyncio.CancelledError):
            await slow
        before = ids_in(kafka.bootstrap_servers, operation)
        rest = await ready.replay(all_of(operation))
    assert rest.replayed == 60 - len(before)
    assert ids_in(kafka.bootstrap_servers, operation) == dict.fromkeys(ids, 1)


async def test_the_new_deadline_counts_from_when_a_letter_is_put_back(kafka: EmbeddedKafka) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 3)
    await replay(kafka, all_of(operation), rate=2, expires_in=60)
    records = await asyncio.to_thread(lambda: list(records_of(kafka.bootstrap_servers, operation)))
    deadlines = sorted(received(record, "").envelope.deadline or 0 for record in records)
    # Put back one by one, or two together and one half a second or more after them.
    assert len(deadlines) == 3
    assert deadlines[-1] - deadlines[0] >= 450


async def test_what_was_edited_is_put_back_before_the_next_is_asked_for(kafka: EmbeddedKafka) -> None:
    operation, value = await make_operation(kafka.bootstrap_servers)
    ids = await asyncio.to_thread(write_letters, kafka.bootstrap_servers, operation, value, 7)

    def edit(letter: DeadLetter, body: Any) -> Any:
        if letter.envelope.id == ids[6]:  # the second of the first partition
            raise FailedPrecondition("the editor failed")
        return {**body, "litres": 8}

    with pytest.raises(FailedPrecondition, match="the editor failed"):
        await replay(kafka, all_of(operation), edit=edit)
    assert ids_in(kafka.bootstrap_servers, operation) == {ids[0]: 1}
