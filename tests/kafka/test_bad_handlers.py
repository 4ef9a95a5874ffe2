"""What handlers can do wrong, on a real Kafka: callers are told, records are kept, others go on."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest
from pydantic import BaseModel, field_validator

from broker_mesh import Context, Mesh, MeshError, Operation, Retry, StatusCode
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import (
    DeadlineExceeded,
    InternalError,
    NotFound,
    ResourceExhausted,
    Unavailable,
    UnknownError,
)
from broker_mesh.headers import MAX_TEXT_BYTES
from broker_mesh.message import now_ms
from broker_mesh.status import STATUS_RULES, DeadLettered
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import make_mesh
from tests.support.names import fresh
from tests.support.topics import Topics

PATIENCE = 60.0
ONCE = Retry(attempts=1)


class Ask(BaseModel):
    key: str


class Answer(BaseModel):
    text: str


class Number(BaseModel):
    number: int


@pytest.fixture
async def caller(kafka: EmbeddedKafka) -> AsyncIterator[Mesh]:
    async with make_mesh("dispatch", kafka.bootstrap_servers) as mesh:
        yield mesh


def service(kafka: EmbeddedKafka, reply: Any = Answer, **settings: Any) -> tuple[Mesh, Operation[Ask, Any]]:
    name = fresh("bad")
    mesh = make_mesh(name, kafka.bootstrap_servers, **settings)
    return mesh, Operation(f"{name}.v1.ask", request=Ask, reply=reply, key="key")


async def test_each_status_does_what_the_table_says(kafka: EmbeddedKafka, caller: Mesh) -> None:
    mesh, ask = service(kafka)

    @mesh.operation(ask, retry=Retry(attempts=3, backoff=0.01))
    async def handle(request: Ask, context: Context) -> Answer:
        raise MeshError.of(
            StatusCode[request.key], f"it is {request.key}", details={"key": request.key, "facts": [1, {}]}
        )

    kept = set()
    async with mesh.serving():
        for status in list(StatusCode)[1:]:
            rule = STATUS_RULES[status]
            pending = await caller.call(ask, Ask(key=status.name))
            with pytest.raises(MeshError) as caught:
                await pending.reply(PATIENCE)
            error = caught.value
            assert type(error) is type(MeshError.of(status, ""))
            assert (error.status, error.message) == (status, f"it is {status.name}")
            assert error.details == {"key": status.name, "facts": [1, {}]}
            assert error.attempts == (3 if rule.retriable else 1)
            assert error.handle == str(pending)
            if rule.dead_lettered is DeadLettered.ALWAYS:
                kept.add(status)
    letters = {
        letter.envelope.status for letter in await Topics(kafka.bootstrap_servers).read(f"{ask.name}.dead")
    }
    assert letters == kept


class TextRaises(Exception):
    def __str__(self) -> str:
        raise RuntimeError("no text")


class Uninitialised(NotFound):
    def __init__(self) -> None:
        Exception.__init__(self)


class Odd(BaseException):
    pass


def grouped() -> ExceptionGroup[Exception]:
    return ExceptionGroup("several", [ValueError("a"), ExceptionGroup("more", [NotFound("b"), OSError("c")])])


RAISED: dict[str, Callable[[], BaseException]] = {
    "ValueError": lambda: ValueError("an everyday bug"),
    "TextRaises": TextRaises,
    "ExceptionGroup": grouped,
    "KeyboardInterrupt": KeyboardInterrupt,
    "SystemExit": lambda: SystemExit("bye"),
    "GeneratorExit": GeneratorExit,
    "StopIteration": lambda: StopIteration(7),
    "StopAsyncIteration": StopAsyncIteration,
    "Odd": lambda: Odd("derived from BaseException"),
    "Uninitialised": Uninitialised,
    "UnicodeEncodeError": lambda: UnicodeEncodeError("utf-8", "\udcff", 0, 1, "surrogates"),
    "surrogates": lambda: ValueError("\udcff\ud800 \x00 \N{SNOWMAN}"),
    "huge": lambda: ValueError("x" * 5_000_000),
    "huge details": lambda: UnknownError("much", details={"blob": "y" * 5_000_000}),
    "odd details": lambda: UnknownError("odd", details={"set": {1}, "text": "\udcff", "nan": float("nan")}),
    "details of no kind": lambda: UnknownError("odd", details={(1, 2): "a tuple is no key"}),  # type: ignore[dict-item]
    "no text": lambda: UnknownError(b"bytes"),  # type: ignore[arg-type]
    "OK": lambda: MeshError("all is well", status=StatusCode.OK),
    "a number for a status": lambda: MeshError("x", status=99),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("plain", [False, True], ids=["coroutine", "plain function"])
async def test_whatever_a_handler_raises_is_answered_and_kept_and_stops_nobody(
    kafka: EmbeddedKafka, caller: Mesh, plain: bool
) -> None:
    mesh, ask = service(kafka)

    async def handle(request: Ask, context: Context) -> Answer:
        if request.key in RAISED:
            raise RAISED[request.key]()
        return Answer(text="fine")

    def handle_in_thread(request: Ask, context: Context) -> Answer:
        if request.key in RAISED:
            raise RAISED[request.key]()
        return Answer(text="fine")

    mesh.operation(ask, retry=ONCE)(handle_in_thread if plain else handle)
    async with mesh.serving() as serving:
        for key in RAISED:
            with pytest.raises(UnknownError) as caught:
                await caller.request(ask, Ask(key=key), timeout=PATIENCE)
            assert len(caught.value.message.encode()) <= MAX_TEXT_BYTES
            assert (await caller.request(ask, Ask(key="good"), timeout=PATIENCE)).text == "fine"
        assert not serving._failure.done()
    letters = await Topics(kafka.bootstrap_servers).read(f"{ask.name}.dead")
    assert {letter.key and letter.key.decode() for letter in letters} == RAISED.keys()
    for letter in letters:
        assert letter.record is not None
        assert sum(len(name) + len(value or b"") for name, value in letter.record.headers) < 10_000
        assert letter.fault is None, "what the mesh writes it can read"


async def test_a_reply_that_can_not_be_written_is_an_internal_error_and_its_request_is_kept(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    mesh, ask = service(kafka, reply=Number)
    replies: dict[str, Any] = {
        "nothing": None,
        "a dict": {"number": 1},
        "another model": Answer(text="x"),
        "a class": Number,
        "too large a number": Number.model_construct(number=2**80),
        "the wrong type": Number.model_construct(number="seven"),  # type: ignore[arg-type]
        "a field is missing": Number.model_construct(),  # type: ignore[call-arg]
    }

    @mesh.operation(ask, retry=ONCE)
    async def handle(request: Ask, context: Context) -> Number:
        reply: Number = replies.get(request.key, Number(number=7))
        return reply

    async with mesh.serving():
        for key in replies:
            with pytest.raises(InternalError, match=r"returned|does not fit|can't be encoded") as caught:
                await caller.request(ask, Ask(key=key), timeout=PATIENCE)
            assert "\n" not in caught.value.message
            letter = await dead_letters.next(ask.name)
            assert (letter.key, letter.envelope.status) == (key.encode(), StatusCode.INTERNAL)
        assert (await caller.request(ask, Ask(key="good"), timeout=PATIENCE)).number == 7


async def test_a_request_whose_own_validators_raise_anything_is_kept_and_stops_nobody(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    raised = {"ValueError": ValueError("no"), "KeyError": KeyError("no"), "SystemExit": SystemExit(1)}

    class Checked(BaseModel):
        key: str

        @field_validator("key")
        @classmethod
        def _check(cls, key: str) -> str:
            if key in raised:
                raise raised[key]
            return key

    name = fresh("bad")
    mesh = make_mesh(name, kafka.bootstrap_servers)
    ask = Operation(f"{name}.v1.ask", request=Checked, reply=Answer, key="key")

    @mesh.operation(ask)
    async def handle(request: Checked, context: Context) -> Answer:
        return Answer(text="fine")

    async with mesh.serving():
        for key in raised:
            with pytest.raises(MeshError) as caught:
                await caller.request(ask.name, {"key": key}, timeout=PATIENCE)
            assert caught.value.status in (StatusCode.INVALID_ARGUMENT, StatusCode.INTERNAL)
            assert (await dead_letters.next(ask.name)).key == key.encode()
        assert (await caller.request(ask, Checked(key="good"), timeout=PATIENCE)).text == "fine"


async def test_plain_functions_that_never_return_hold_their_keys_and_nobody_s_place(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    mesh, ask = service(kafka, concurrency=2, grace_seconds=0.5)
    never = threading.Event()

    @mesh.operation(ask)
    def handle(request: Ask, context: Context) -> Answer:
        if request.key.startswith("stuck"):
            never.wait()
        return Answer(text="fine")

    async with mesh.serving():
        await caller.request(ask, Ask(key="warm"), timeout=PATIENCE)
        stuck = [await caller.call(ask, Ask(key=f"stuck{n}"), expires_in=2.0) for n in range(5)]
        for pending in stuck:  # more than there are places
            with pytest.raises(DeadlineExceeded):
                await pending.reply(PATIENCE)
        assert (await caller.request(ask, Ask(key="other"), timeout=PATIENCE)).text == "fine"
    never.set()


async def test_one_way_work_that_expires_is_kept_before_it_begins_and_while_it_runs(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    name = fresh("bad")
    retire = Operation(f"{name}.v1.retire", request=Ask, key="key")
    mesh = make_mesh(name, kafka.bootstrap_servers)
    begun: asyncio.Queue[str] = asyncio.Queue()

    @mesh.operation(retire)
    async def handle(request: Ask, context: Context) -> None:
        await begun.put(request.key)
        if request.key == "runs":
            await asyncio.Event().wait()

    async with mesh.serving():
        await caller.send(retire, Ask(key="warm"))
        assert await asyncio.wait_for(begun.get(), PATIENCE) == "warm"
        await caller.send(retire, Ask(key="runs"), expires_in=3.0)
        assert await asyncio.wait_for(begun.get(), PATIENCE) == "runs"
        while_it_ran = await dead_letters.next(retire.name)
    await caller.send(retire, Ask(key="waits"), expires_in=1.0)
    expired = now_ms() + 1000
    while now_ms() < expired:
        await asyncio.sleep(0.05)
    async with mesh.serving():
        before_it_began = await dead_letters.next(retire.name)
    assert begun.empty()
    for letter, said in ((while_it_ran, "did not finish"), (before_it_began, "before it was begun")):
        assert letter.envelope.status is StatusCode.DEADLINE_EXCEEDED
        assert said in (letter.envelope.status_message or "")
        assert (letter.envelope.deadline or 0) < now_ms()


async def test_an_exhausted_request_whose_dead_letter_can_not_be_written_waits_unanswered(
    kafka: EmbeddedKafka, caller: Mesh, caplog: pytest.LogCaptureFixture
) -> None:
    mesh, ask = service(kafka, partitions=1)
    topics = Topics(kafka.bootstrap_servers)
    order: list[str] = []

    @mesh.operation(ask, retry=Retry(attempts=2, backoff=0.01))
    async def handle(request: Ask, context: Context) -> Answer:
        order.append(f"{request.key}{context.attempt}")
        if request.key == "k" and "k2" not in order:
            raise ResourceExhausted("no room", retry_after=0.01)
        if request.key == "k" and order[-1] == "k2":
            raise Unavailable("no room")
        return Answer(text="fine")

    async with mesh.serving():
        await caller.request(ask, Ask(key="warm"), timeout=PATIENCE)
        await topics.limit_message_bytes(f"{ask.name}.dead", 100)
        held = await caller.call(ask, Ask(key="k"))
        behind = await caller.call(ask, Ask(key="k"))
        async with asyncio.timeout(PATIENCE):
            while not any("its dead letter to" in entry.getMessage() for entry in caplog.records):
                await asyncio.sleep(0.02)
        assert (await caller.request(ask, Ask(key="other"), timeout=PATIENCE)).text == "fine"
        with pytest.raises(DeadlineExceeded):  # nobody is told of a dead letter that is not there
            await held.reply(0.3)
        assert order == ["warm1", "k1", "k2", "other1"], "its successor must not pass it"
        assert await topics.committed(mesh.service, ask.name, 0) == 1, "the offset passed what is held"
        await topics.limit_message_bytes(f"{ask.name}.dead", 2_000_000)
        with pytest.raises(Unavailable, match="no room") as caught:
            await held.reply(PATIENCE)
        (letter,) = await topics.read(f"{ask.name}.dead", 1)
        await behind.reply(PATIENCE)
    assert letter.envelope.id == held.id
    assert (caught.value.attempts, letter.envelope.attempt) == (2, 2)
    assert order == ["warm1", "k1", "k2", "other1", "k1"]
