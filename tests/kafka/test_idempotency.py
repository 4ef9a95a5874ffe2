"""Idempotency keys on a real Kafka: one run for each key, whatever repeats, fails, moves or dies."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import AdminClient
from pydantic import BaseModel

from broker_mesh import Context, Mesh, Operation, Retry
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import InternalError, InvalidArgument, NotFound, Unavailable
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import FIND_AIRCRAFT, FindAircraft, make_mesh
from tests.support.groups import shorten_sessions
from tests.support.names import fresh
from tests.support.processes import Processes, wait_for_line

PATIENCE = 40.0


class Book(BaseModel):
    seat: str
    passenger: str = ""


class Booked(BaseModel):
    number: int


@pytest.fixture
async def caller(kafka: EmbeddedKafka) -> AsyncIterator[Mesh]:
    async with make_mesh("dispatch", kafka.bootstrap_servers) as mesh:
        yield mesh


def declare(key: str | None = "seat") -> Operation[Book, Booked]:
    return Operation(f"{fresh('seats')}.v1.book", request=Book, reply=Booked, key=key)


def serve(kafka: EmbeddedKafka, book: Operation[Book, Booked], runs: list[str], **options: Any) -> Mesh:
    """A service whose every run gives another number."""
    mesh = make_mesh(book.name.split(".")[0], kafka.bootstrap_servers)

    @mesh.operation(book, **options)
    async def handle(request: Book, context: Context) -> Booked:
        runs.append(request.seat)
        return Booked(number=len(runs))

    return mesh


def topics(kafka: EmbeddedKafka) -> dict[str, int]:
    """The topics there are, with their numbers of partitions."""
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    return {name: len(topic.partitions) for name, topic in admin.list_topics(timeout=20).topics.items()}


async def test_a_repeat_gets_the_first_reply_and_other_keys_callers_and_operations_run(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    book, other, runs, others = declare(), declare(), [], []
    async with serve(kafka, book, runs).serving(), serve(kafka, other, others).serving():
        await caller.request(book, Book(seat="0A"), timeout=PATIENCE)
        assert f"{book.name}.idempotency" not in topics(kafka)  # who uses no key pays nothing
        runs.clear()
        first = await caller.request(book, Book(seat="1A"), timeout=PATIENCE, idempotency_key="k")
        assert topics(kafka)[f"{book.name}.idempotency"] == topics(kafka)[book.name]
        again = await caller.request(book, Book(seat="1A"), timeout=PATIENCE, idempotency_key="k")
        assert again == first
        assert runs == ["1A"]
        await caller.request(book, Book(seat="1A"), timeout=PATIENCE, idempotency_key="k2")
        await caller.request(book, Book(seat="1A"), timeout=PATIENCE)
        async with make_mesh("board", kafka.bootstrap_servers) as board:
            await board.request(book, Book(seat="1A"), timeout=PATIENCE, idempotency_key="k")
        assert len(runs) == 4
        await caller.request(other, Book(seat="1A"), timeout=PATIENCE, idempotency_key="k")
        assert others == ["1A"]


async def test_a_key_with_another_body_is_refused_and_kept_as_a_dead_letter(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    book, runs = declare(), []
    async with serve(kafka, book, runs).serving():
        handle = await caller.call(book, Book(seat="1A", passenger="Ada"), idempotency_key="k")
        await handle.reply(PATIENCE)
        with pytest.raises(InvalidArgument, match=f"'k' was used for another body, in request {handle.id}"):
            await caller.request(
                book, Book(seat="1A", passenger="Bob"), timeout=PATIENCE, idempotency_key="k"
            )
        assert (await dead_letters.next(book.name)).envelope.idempotency_key == "k"
    assert runs == ["1A"]


async def test_an_error_that_is_an_answer_is_a_result_too(kafka: EmbeddedKafka, caller: Mesh) -> None:
    book, runs = declare(), []
    mesh = make_mesh(book.name.split(".")[0], kafka.bootstrap_servers)

    @mesh.operation(book)
    async def handle(request: Book, context: Context) -> Booked:
        runs.append(request.seat)
        raise NotFound(f"there is no seat {request.seat}", details={"rows": 30})

    async with mesh.serving():
        for _ in range(2):
            with pytest.raises(NotFound, match="there is no seat 99Z") as raised:
                await caller.request(book, Book(seat="99Z"), timeout=PATIENCE, idempotency_key="k")
            assert raised.value.details == {"rows": 30}
    assert runs == ["99Z"]


@pytest.mark.parametrize("key", ["seat", None])
async def test_of_repeats_at_the_same_time_one_runs(
    kafka: EmbeddedKafka, caller: Mesh, key: str | None
) -> None:
    book, runs = declare(key), []
    mesh = make_mesh(book.name.split(".")[0], kafka.bootstrap_servers, concurrency=2)

    @mesh.operation(book, ordering="none")
    async def handle(request: Book, context: Context) -> Booked:
        runs.append(request.seat)
        if request.seat == "1A":
            # Another handler has its turn though more repeats wait than there are places.
            await context.request(book, Book(seat="2B"), timeout=PATIENCE)
        return Booked(number=len(runs))

    async with mesh.serving():
        asked = [
            caller.request(book, Book(seat="1A"), timeout=PATIENCE, idempotency_key="k") for _ in range(20)
        ]
        replies = await asyncio.gather(*asked)
    assert Counter(runs) == {"1A": 1, "2B": 1}
    assert len({reply.number for reply in replies}) == 1


async def test_after_a_failure_the_next_runs(
    kafka: EmbeddedKafka, caller: Mesh, dead_letters: DeadLetters
) -> None:
    book, runs = declare(), []
    mesh = make_mesh(book.name.split(".")[0], kafka.bootstrap_servers)

    @mesh.operation(book, ordering="none")
    async def handle(request: Book, context: Context) -> Booked:
        runs.append(request.seat)
        if len(runs) == 1:
            raise InternalError("out of order")
        return Booked(number=len(runs))

    async with mesh.serving():
        asked = [
            caller.request(book, Book(seat="1A"), timeout=PATIENCE, idempotency_key="k") for _ in range(3)
        ]
        answers = await asyncio.gather(*asked, return_exceptions=True)
        await dead_letters.next(book.name)
    assert sorted(type(answer).__name__ for answer in answers) == ["Booked", "Booked", "InternalError"]
    assert len(runs) == 2


@pytest.mark.parametrize("ordering", ["partition", "none"])
async def test_attempts_of_one_request_do_not_let_its_repeat_run_beside_them(
    kafka: EmbeddedKafka, caller: Mesh, ordering: Any
) -> None:
    book, succeeded, running = declare(), [], 0
    mesh = make_mesh(book.name.split(".")[0], kafka.bootstrap_servers)

    @mesh.operation(book, ordering=ordering, retry=Retry(attempts=4, backoff=0.05))
    async def handle(request: Book, context: Context) -> Booked:
        nonlocal running
        running += 1
        assert running == 1
        await asyncio.sleep(0.01)
        running -= 1
        if context.attempt < 3:
            raise Unavailable("not yet")
        succeeded.append(context.id)
        return Booked(number=len(succeeded))

    async with mesh.serving():
        asked = [
            caller.request(book, Book(seat="1A"), timeout=PATIENCE, idempotency_key="k") for _ in range(3)
        ]
        replies = await asyncio.gather(*asked)
    assert [reply.number for reply in replies] == [1, 1, 1]
    assert len(succeeded) == 1


async def test_a_one_way_repeat_is_dropped(kafka: EmbeddedKafka, caller: Mesh) -> None:
    retire: Operation[Book, None] = Operation(f"{fresh('seats')}.v1.retire", request=Book, key="seat")
    runs: asyncio.Queue[str] = asyncio.Queue()
    mesh = make_mesh(retire.name.split(".")[0], kafka.bootstrap_servers)

    @mesh.operation(retire)
    async def handle(request: Book, context: Context) -> None:
        runs.put_nowait(context.idempotency_key or "last")

    async with mesh.serving():
        for key in ("k", "k", "k", None):
            await caller.send(retire, Book(seat="1A"), idempotency_key=key)
        async with asyncio.timeout(PATIENCE):
            assert [await runs.get(), await runs.get()] == ["k", "last"]


async def test_whoever_takes_a_partition_over_knows_its_results(kafka: EmbeddedKafka, caller: Mesh) -> None:
    book, runs = declare(), []

    async def ask_all() -> list[int]:
        asked = [
            caller.request(book, Book(seat=f"{n}A"), timeout=PATIENCE, idempotency_key=f"k{n}")
            for n in range(12)
        ]
        return [reply.number for reply in await asyncio.gather(*asked)]

    async with serve(kafka, book, runs).serving():
        before = await ask_all()
        leaving = serve(kafka, book, runs)
        async with leaving.serving():  # takes some of the partitions, and gives them back
            assert await ask_all() == before
        assert await ask_all() == before
    async with serve(kafka, book, runs).serving():
        assert await ask_all() == before
    assert len(runs) == 12


async def test_without_its_topic_of_results_an_operation_makes_it_anew(
    kafka: EmbeddedKafka, caller: Mesh
) -> None:
    book, runs = declare(), []
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    results = f"{book.name}.idempotency"
    async with serve(kafka, book, runs).serving():
        await caller.request(book, Book(seat="1"), timeout=PATIENCE, idempotency_key="before")
        await asyncio.to_thread(admin.delete_topics([results])[results].result)
        for seat in ("2", "1"):  # of a partition whose results were not read yet, and of the other
            first = await caller.request(book, Book(seat=seat), timeout=PATIENCE, idempotency_key=seat)
            again = await caller.request(book, Book(seat=seat), timeout=PATIENCE, idempotency_key=seat)
            assert again == first
    assert topics(kafka)[results] == topics(kafka)[book.name]


@pytest.mark.parametrize(
    ("step", "expected"), [("handled, result not kept", 2), ("result kept, not answered", 1)]
)
async def test_a_callee_killed_around_its_result_answers_once_it_is_back(
    kafka: EmbeddedKafka, processes: Processes, tmp_path: Path, step: str, expected: int
) -> None:
    shorten_sessions(kafka.bootstrap_servers, "fleet")
    effects, mark, key = tmp_path / "effects", tmp_path / "crashed", fresh("key")
    environment = {"CRASH_AT": step, "CRASH_MARK": str(mark)}
    dying = processes.start("tests.support.fleet", kafka.bootstrap_servers, str(effects), **environment)
    async with make_mesh("dispatch", kafka.bootstrap_servers) as dispatch:
        await asyncio.to_thread(wait_for_line, dying, "ready")
        body = FindAircraft(tailnum=f"N{key}")
        handle = await dispatch.call(FIND_AIRCRAFT, body, idempotency_key=key)
        assert await asyncio.to_thread(dying.wait, PATIENCE) == -9, "the process did not reach the step"
        processes.start("tests.support.fleet", kafka.bootstrap_servers, str(effects), **environment)
        first = await handle.reply(PATIENCE)
        assert await dispatch.request(FIND_AIRCRAFT, body, timeout=PATIENCE, idempotency_key=key) == first
    ran = [line for line in effects.read_text().splitlines() if line.split()[1] == body.tailnum]
    assert len(ran) == expected
    assert {line.split()[2] for line in ran} == {handle.id}
