"""Requests over a real Kafka, callee and caller in one process: what a user of the API relies on."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from broker_mesh import Context, Event, Mesh, MeshError, Operation, Retry, StatusCode
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SchemaError,
    SettingsError,
    UnknownError,
)
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import make_mesh
from tests.support.names import fresh

PATIENCE = timedelta(seconds=40).total_seconds()


class Ask(BaseModel):
    key: str
    number: int = 0


class Answer(BaseModel):
    text: str


class Other(BaseModel):
    other: int


@pytest.fixture
async def caller(kafka: EmbeddedKafka) -> AsyncIterator[Mesh]:
    async with make_mesh("dispatch", kafka.bootstrap_servers) as mesh:
        yield mesh


def service(kafka: EmbeddedKafka, /, **settings: Any) -> tuple[Mesh, Operation[Ask, Answer]]:
    """A service of its own name, so that tests share nothing but the broker."""
    name = fresh("svc")
    mesh = make_mesh(name, kafka.bootstrap_servers, **settings)
    return mesh, Operation(f"{name}.v1.ask", request=Ask, reply=Answer, key="key")


async def test_a_request_is_answered_with_a_typed_reply(kafka: EmbeddedKafka, caller: Mesh) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return Answer(
            text=f"{context.caller} {request.key} {context.attempt} {context.operation == ask.name}"
        )

    async with mesh.serving():
        assert await caller.request(ask, Ask(key="a"), timeout=PATIENCE) == Answer(text="dispatch a 1 True")


async def test_plain_functions_run_in_threads_and_call_through_the_blocking_context(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka)
    double = Operation(f"{mesh.service}.v1.double", request=Ask, reply=Answer, key="key")

    @mesh.operation(double)
    async def handle_double(request: Ask, context: Context) -> Answer:
        return Answer(text=str(request.number * 2))

    @mesh.operation(ask)
    def handle(request: Ask, context: Context) -> Answer:
        return context.sync().request(double, Ask(key=request.key, number=21), timeout=PATIENCE)

    async with mesh.serving():
        assert (await caller.request(ask, Ask(key="a"), timeout=PATIENCE)).text == "42"


async def test_a_call_by_name_takes_and_gives_dicts_and_finds_the_same_partition(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka)
    keys = []

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        keys.append((context.key, context._message.partition))
        return Answer(text=request.key)

    async with mesh.serving():
        await caller.request(ask, Ask(key="k"), timeout=PATIENCE)
        assert await caller.request(ask.name, {"key": "k", "number": 1}, timeout=PATIENCE) == {"text": "k"}
    assert keys[0] == keys[1]


async def test_requests_to_a_stopped_service_wait_and_are_answered_when_it_starts(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return Answer(text=request.key)

    async with mesh.serving():
        await caller.request(ask, Ask(key="warm"), timeout=PATIENCE)
    handles = [await caller.call(ask, Ask(key=f"k{n}")) for n in range(20)]
    with pytest.raises(DeadlineExceeded) as waited:
        await handles[0].reply(timeout=0.3)
    assert waited.value.handle == str(handles[0])
    async with mesh.serving():
        replies = [await handle.reply(timeout=PATIENCE) for handle in handles]
    assert [reply.text for reply in replies] == [f"k{n}" for n in range(20)]


async def test_a_later_process_of_the_service_attaches_to_a_pending_and_to_an_answered_request(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return Answer(text=request.key)

    async with mesh.serving():
        answered = await caller.call(ask, Ask(key="answered"))
        await answered.reply(timeout=PATIENCE)
    pending = str(await caller.call(ask, Ask(key="pending")))
    async with make_mesh("dispatch", kafka.bootstrap_servers) as later:
        assert await later.attach(str(answered)).reply(timeout=PATIENCE) == {"text": "answered"}
        waiting = asyncio.create_task(later.attach(pending, ask).reply(timeout=PATIENCE))
        async with mesh.serving():
            assert await waiting == Answer(text="pending")


async def test_a_handle_is_refused_by_another_service_and_when_garbled(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return Answer(text="")

    async with mesh.serving():
        text = str(await caller.call(ask, Ask(key="a")))
        async with make_mesh("stranger", kafka.bootstrap_servers) as stranger:
            with pytest.raises(PermissionDenied, match="'dispatch'"):
                await stranger.attach(text).reply(timeout=PATIENCE)
    for garbled in ("", "mesh1.", "mesh1.!!", text[:-8], "xyz" + text):
        with pytest.raises(InvalidArgument, match="not a handle"):
            caller.attach(garbled)


async def test_an_unknown_operation_is_not_found_at_once_with_the_nearest_name(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return Answer(text="")

    async with mesh.serving():
        with pytest.raises(NotFound, match=f"did you mean '{ask.name}'"):
            await caller.request(ask.name + "x", {"key": "a"}, timeout=PATIENCE)


@pytest.mark.parametrize(
    ("raised", "status", "attempts"),
    [
        (NotFound("no such aircraft", details={"key": "a"}), StatusCode.NOT_FOUND, 1),
        (FailedPrecondition("not now"), StatusCode.FAILED_PRECONDITION, 1),
        (MeshError("by code", status=StatusCode.ALREADY_EXISTS), StatusCode.ALREADY_EXISTS, 1),
        (InvalidArgument("never"), StatusCode.INVALID_ARGUMENT, 1),
        (ValueError("a bug"), StatusCode.UNKNOWN, 3),
        (SystemExit(3), StatusCode.UNKNOWN, 3),
        (asyncio.CancelledError(), StatusCode.INTERNAL, 1),
    ],
)
async def test_what_a_handler_raises_reaches_the_caller_typed(
    kafka: EmbeddedKafka, caller: Mesh, raised: BaseException, status: StatusCode, attempts: int
) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask, retry=Retry(attempts=3, backoff=0.01))
    async def handle(request: Ask, context: Context) -> Answer:
        raise raised

    async with mesh.serving():
        with pytest.raises(MeshError) as caught:
            await caller.request(ask, Ask(key="a"), timeout=PATIENCE)
    assert (caught.value.status, caught.value.attempts) == (status, attempts)
    if isinstance(raised, NotFound):
        assert (caught.value.message, caught.value.details) == ("no such aircraft", {"key": "a"})


async def test_a_failing_attempt_is_followed_by_one_that_succeeds(kafka: EmbeddedKafka, caller: Mesh) -> None:
    mesh, ask = service(kafka)
    seen = []

    @mesh.operation(ask, retry=Retry(attempts=4, backoff=0.01))
    async def handle(request: Ask, context: Context) -> Answer:
        seen.append((request.number, context.attempt))
        if request.number == 0 and context.attempt < 3:
            raise ConnectionError("not yet")
        return Answer(text=str(context.attempt))

    async with mesh.serving():
        first = await caller.call(ask, Ask(key="same", number=0))
        second = await caller.call(ask, Ask(key="same", number=1))
        assert (await first.reply(PATIENCE)).text == "3"
        assert (await second.reply(PATIENCE)).text == "1"
    assert seen == [(0, 1), (0, 2), (0, 3), (1, 1)], "a retry must not let its successor of the key pass"


async def test_a_handler_that_returns_the_wrong_type_is_an_internal_error(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return Other(other=1)  # type: ignore[return-value]

    async with mesh.serving():
        with pytest.raises(InternalError, match="returned Other, not Answer"):
            await caller.request(ask, Ask(key="a"), timeout=PATIENCE)


async def test_work_that_never_ends_is_given_up_when_it_expires_and_others_go_on(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        if request.key == "stuck":
            await asyncio.Event().wait()
        return Answer(text="free")

    async with mesh.serving():
        await caller.request(ask, Ask(key="warm"), timeout=PATIENCE)
        stuck = await caller.call(ask, Ask(key="stuck"), expires_in=1.0)
        assert (await caller.request(ask, Ask(key="other"), timeout=PATIENCE)).text == "free"
        with pytest.raises(DeadlineExceeded, match="did not finish before the work expired"):
            await stuck.reply(timeout=PATIENCE)


async def test_work_that_expired_while_the_service_was_away_is_not_begun(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka)
    begun = []

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        begun.append(request.key)
        return Answer(text="")

    async with mesh.serving():
        await caller.request(ask, Ask(key="warm"), timeout=PATIENCE)
    expiring = await caller.call(ask, Ask(key="late"), expires_in=0.05)
    with pytest.raises(DeadlineExceeded, match="still pending"):
        await expiring.reply(timeout=0.2)
    async with mesh.serving():
        with pytest.raises(DeadlineExceeded, match="expired"):
            await expiring.reply(timeout=PATIENCE)
    assert begun == ["warm"]


async def test_a_body_that_does_not_fit_never_reaches_kafka(kafka: EmbeddedKafka, caller: Mesh) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return Answer(text="")

    async with mesh.serving():
        for body in ({"number": 1}, {"key": 7}, {"key": "a", "number": "seven"}, {"key": "a", "more": 1}):
            with pytest.raises(SchemaError):
                await caller.request(ask.name, body, timeout=PATIENCE)


async def test_a_one_way_message_has_no_reply_and_its_failure_is_a_dead_letter(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    mesh, _ = service(kafka)
    retire = Operation(f"{mesh.service}.v1.retire", request=Ask, key="key")
    done = asyncio.Event()

    @mesh.operation(retire)
    async def handle(request: Ask, context: Context) -> None:
        if request.number:
            raise NotFound("nobody waits for this answer")
        done.set()

    async with mesh.serving():
        receipt = await caller.send(retire, Ask(key="a"))
        assert receipt.topic == retire.name
        await asyncio.wait_for(done.wait(), PATIENCE)
        with pytest.raises(FailedPrecondition, match="one-way"):
            await caller.request(retire, Ask(key="a"), timeout=PATIENCE)
        await caller.send(retire, Ask(key="b", number=1))
        letter = await dead_letters.next(retire.name)
    assert letter.envelope.status is StatusCode.NOT_FOUND
    assert letter.key == b"b"


async def test_an_event_reaches_every_subscribing_service_also_one_that_starts_later(
    kafka: EmbeddedKafka,
) -> None:
    name = fresh("pub")
    departed = Event(f"{name}.v1.events.departed", Ask, key="key")
    received: asyncio.Queue[tuple[str, str]] = asyncio.Queue()
    subscribers = []
    for who in (fresh("early"), fresh("late")):
        subscriber = make_mesh(who, kafka.bootstrap_servers)

        @subscriber.subscribe(departed)
        async def on_departed(event: Ask, context: Context, who: str = who) -> None:
            await received.put((who, event.key))

        subscribers.append(subscriber)
    early, late = subscribers
    async with early.serving(), make_mesh(name, kafka.bootstrap_servers) as publisher:
        await publisher.publish(departed, Ask(key="first"))
        assert await asyncio.wait_for(received.get(), PATIENCE) == (early.service, "first")
        with pytest.raises(PermissionDenied, match="only its owner publishes"):
            async with make_mesh("impostor", kafka.bootstrap_servers) as impostor:
                await impostor.publish(departed, Ask(key="forged"))
        async with late.serving():
            assert await asyncio.wait_for(received.get(), PATIENCE) == (late.service, "first")


async def test_calls_made_by_a_handler_inherit_its_deadline(kafka: EmbeddedKafka, caller: Mesh) -> None:
    mesh, ask = service(kafka)
    inner = Operation(f"{mesh.service}.v1.inner", request=Ask, reply=Answer, key="key")

    @mesh.operation(inner)
    async def handle_inner(request: Ask, context: Context) -> Answer:
        return Answer(text=str(context.deadline))

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        own = context.deadline
        reply = await context.request(inner, Ask(key="a"), expires_in=3600)
        return Answer(text=f"{own == int(reply.text)}")

    async with mesh.serving():
        assert (await caller.request(ask, Ask(key="a"), timeout=PATIENCE, expires_in=PATIENCE)).text == "True"


async def test_the_blocking_face_is_the_same_core(kafka: EmbeddedKafka) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        if request.key == "bad":
            raise NotFound("no")
        return Answer(text=request.key)

    def blocking() -> list[str]:
        with make_mesh("dispatch", kafka.bootstrap_servers).sync() as client:
            first = client.request(ask, Ask(key="one"), timeout=PATIENCE).text
            handle = client.call(ask, Ask(key="two"))
            attached = client.attach(str(handle)).reply(PATIENCE)
            with pytest.raises(NotFound):
                client.request(ask, Ask(key="bad"), timeout=PATIENCE)
            return [first, handle.reply(PATIENCE).text, attached["text"]]

    async with mesh.serving():
        assert await asyncio.to_thread(blocking) == ["one", "two", "two"]


async def test_a_service_that_stops_finishes_what_is_in_work(kafka: EmbeddedKafka, caller: Mesh) -> None:
    mesh, ask = service(kafka)
    begun, release = asyncio.Event(), asyncio.Event()

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        begun.set()
        await release.wait()
        return Answer(text="finished")

    async with mesh.serving():
        handle_ = await caller.call(ask, Ask(key="a"))
        await asyncio.wait_for(begun.wait(), PATIENCE)
        asyncio.get_running_loop().call_later(0.3, release.set)
    assert (await handle_.reply(PATIENCE)).text == "finished"


async def test_a_service_that_stops_hands_back_what_does_not_finish(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    attempts: list[str] = []

    def make(grace: float, stuck: bool) -> tuple[Mesh, asyncio.Event]:
        mesh = make_mesh(name, kafka.bootstrap_servers, grace_seconds=grace)
        begun = asyncio.Event()

        @mesh.operation(ask)
        async def handle(request: Ask, context: Context) -> Answer:
            attempts.append(context.id)
            begun.set()
            if stuck:
                await asyncio.Event().wait()
            return Answer(text="by the next instance")

        return mesh, begun

    name = fresh("svc")
    ask = Operation(f"{name}.v1.ask", request=Ask, reply=Answer, key="key")
    first, begun = make(0.2, stuck=True)
    async with first.serving():
        pending = await caller.call(ask, Ask(key="a"))
        await asyncio.wait_for(begun.wait(), PATIENCE)
    second, _ = make(20, stuck=False)
    async with second.serving():
        assert (await pending.reply(PATIENCE)).text == "by the next instance"
    assert attempts == [pending.id, pending.id]


async def test_a_reply_from_a_service_that_was_not_asked_is_ignored(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    from broker_mesh.headers import Envelope, write
    from broker_mesh.kafka.producer import Producer
    from broker_mesh.replies import HandleToken

    mesh, ask = service(kafka)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return Answer(text="genuine")

    async with mesh.serving():
        await caller.request(ask, Ask(key="warm"), timeout=PATIENCE)
    pending = await caller.call(ask, Ask(key="a"))
    address = HandleToken.decode(str(pending)).reply_to
    forged = Envelope(
        id="forged", source="mallory", type="x", correlation_id=pending.id, status=StatusCode.NOT_FOUND
    )
    forger = Producer(caller._connected().settings, "forger")
    await forger.send(address.topic, key=None, value=None, headers=write(forged), partition=address.partition)
    await forger.close(10)
    async with mesh.serving():
        assert (await pending.reply(PATIENCE)).text == "genuine"


def test_declarations_that_can_not_hold_are_refused(tmp_path: Path) -> None:
    mesh = make_mesh("fleet", "127.0.0.1:1")
    foreign = Operation("other.v1.ask", request=Ask, reply=Answer)
    own = Operation("fleet.v1.ask", request=Ask, reply=Answer)
    with pytest.raises(SettingsError, match="belongs to service 'other'"):
        mesh.operation(foreign)
    with pytest.raises(SettingsError, match="can't be promised yet"):
        mesh.operation(own, delivery="exactly-once")
    with pytest.raises(SettingsError, match="ordering 'keys' is unknown"):
        mesh.operation(own, ordering="keys")  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match=r"retry is 5: give a Retry"):
        mesh.operation(own, retry=5)  # type: ignore[arg-type]
    with pytest.raises(SettingsError, match="must take two arguments"):
        mesh.operation(own)(lambda: None)  # type: ignore[arg-type]
    mesh.operation(own)(lambda request, context: Answer(text=""))
    with pytest.raises(SettingsError, match="has a handler already"):
        mesh.operation(own)


async def test_an_exhausted_request_is_answered_and_kept_with_its_cause(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask, retry=Retry(attempts=2, backoff=0.01))
    async def handle(request: Ask, context: Context) -> Answer:
        raise ZeroDivisionError("by zero")

    async with mesh.serving():
        with pytest.raises(UnknownError, match="ZeroDivisionError: by zero"):
            await caller.request(ask, Ask(key="k", number=5), timeout=PATIENCE)
        letter = await dead_letters.next(ask.name)
    facts = letter.envelope
    assert (facts.status, facts.exception, facts.attempt) == (StatusCode.UNKNOWN, "ZeroDivisionError", 2)
    assert facts.origin is not None
    assert facts.origin.topic == ask.name
    assert facts.first_failure is not None
    assert facts.last_failure is not None
    assert facts.first_failure <= facts.last_failure
    assert facts.source == "dispatch"
    assert letter.record is not None
    assert letter.key == b"k"


async def test_the_classic_group_protocol_is_a_fallback_for_older_brokers(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka, kafka={"group.protocol": "classic"})

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        return Answer(text=request.key)

    for round_ in range(2):  # the second goes on from the first's commit
        async with mesh.serving():
            assert (await caller.request(ask, Ask(key=f"r{round_}"), timeout=PATIENCE)).text == f"r{round_}"


async def test_several_instances_share_the_work_of_a_service(kafka: EmbeddedKafka, caller: Mesh) -> None:
    name = fresh("svc")
    ask = Operation(f"{name}.v1.ask", request=Ask, reply=Answer, key="key")
    by: list[int] = []

    def instance(number: int) -> Mesh:
        mesh = make_mesh(name, kafka.bootstrap_servers)

        @mesh.operation(ask)
        async def handle(request: Ask, context: Context) -> Answer:
            by.append(number)
            return Answer(text=request.key)

        return mesh

    async with instance(1).serving() as first, instance(2).serving() as second:
        async with asyncio.timeout(PATIENCE):
            while (first.partitions, second.partitions) != (3, 3):
                await asyncio.sleep(0.05)
        await asyncio.gather(*(caller.request(ask, Ask(key=f"k{n}"), timeout=PATIENCE) for n in range(60)))
    assert len(by) == 60
    assert set(by) == {1, 2}


async def test_back_pressure_bounds_what_is_taken_and_loses_nothing(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka, max_in_flight=20, concurrency=5)
    running, most = 0, 0

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await asyncio.sleep(0.02)
        running -= 1
        return Answer(text=request.key)

    async with mesh.serving() as serving:
        handles = [await caller.call(ask, Ask(key=f"k{n}")) for n in range(300)]
        replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
        assert serving.in_flight <= 20 + 500  # one batch may be on its way when the limit is met
    assert [reply.text for reply in replies] == [f"k{n}" for n in range(300)]
    assert 2 <= most <= 5
