"""Wrapped, native and plain programs on the same topics: each understands what the others send, and nothing is lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.trace import get_current_span

from broker_mesh import Context, Event, Mesh, Operation, Retry
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import DeadlineExceeded, MeshError, NotFound, PermissionDenied, Unavailable
from broker_mesh_adapters.confluent_kafka import Producer
from tests.support.access import Rules, applying_rules
from tests.support.commands import Commands
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import Aircraft, FindAircraft, Retire, Retired, make_mesh
from tests.support.names import fresh
from tests.support.processes import Processes, wait_for_line
from tests.support.wrapped_program import WrappedProgram

PATIENCE = 60.0


@pytest.fixture
def rules(kafka: EmbeddedKafka) -> Iterator[Rules]:
    with applying_rules(kafka.bootstrap_servers) as made:
        yield made


class World:
    """Names of one test's own: a fleet, whose operations and event others know of, and who it is that calls."""

    def __init__(self, servers: str) -> None:
        self.servers = servers
        self.fleet = fresh("fleet")
        self.find = Operation(
            f"{self.fleet}.v1.find-aircraft", request=FindAircraft, reply=Aircraft, key="tailnum"
        )
        self.retire = Operation(f"{self.fleet}.v1.retire", request=Retire, key="tailnum")
        self.retired = Event(f"{self.fleet}.v1.events.aircraft-retired", Retired, key="tailnum")
        self.handled: list[Any] = []

    def mesh(self, service: str) -> Mesh:
        return make_mesh(service, self.servers)

    def native_fleet(self) -> Mesh:
        fleet = self.mesh(self.fleet)

        @fleet.operation(self.find)
        async def find_aircraft(request: FindAircraft, context: Context) -> Aircraft:
            if request.tailnum.startswith("X"):
                raise NotFound(f"no aircraft is registered as {request.tailnum}")
            return Aircraft(tailnum=request.tailnum, seats=149)

        @fleet.operation(self.retire)
        async def retire(request: Retire, context: Context) -> None:
            await context.publish(self.retired, Retired(tailnum=request.tailnum))
            self.handled.append((request.tailnum, context.caller, trace_id()))

        return fleet

    def wrapped_fleet(self, handle: Any, **options: Any) -> WrappedProgram:
        options = {"declared": [self.find], "retry": Retry(attempts=2, backoff=0.01), **options}
        return WrappedProgram(self.mesh(self.fleet), [self.find.name], handle, self.fleet, **options)


@pytest.fixture
def world(kafka: EmbeddedKafka) -> World:
    return World(kafka.bootstrap_servers)


def trace_id() -> int:
    return get_current_span().get_span_context().trace_id


async def until(holds: Any) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.02)


# ── a wrapped producer and a native service ───────────────────────────────────────────────────────────────


async def test_a_wrapped_producer_speaks_to_a_native_service(world: World) -> None:
    shop = fresh("shop")

    def speak() -> None:
        producer = Producer({"linger.ms": 1}, mesh=world.mesh(shop), declared=[world.find, world.retire])
        try:
            producer.produce(world.retire.name, Retire(tailnum="N1"), key="N1")
            producer.produce(world.retire.name, {"tailnum": "N2"}, key="N2")
            assert producer.flush(30) == 0
            reply = producer.request(world.find, FindAircraft(tailnum="N14228"), timeout=PATIENCE)
            assert reply == Aircraft(tailnum="N14228", seats=149)
            handle = producer.call(world.find, FindAircraft(tailnum="X1"))
            with pytest.raises(NotFound, match="no aircraft is registered as X1"):
                handle.reply(PATIENCE)
        finally:
            producer.close()

    async with world.native_fleet().serving():
        await asyncio.to_thread(speak)
        await until(lambda: len(world.handled) == 2)
    assert {(tailnum, caller) for tailnum, caller, _ in world.handled} == {("N1", shop), ("N2", shop)}


async def test_a_wrapped_consumer_hears_a_native_service_within_its_trace(world: World) -> None:
    heard: list[Any] = []

    def hear(message: Any) -> None:
        heard.append((message.data, message.context.caller, trace_id()))

    async with world.native_fleet().serving(), world.mesh(fresh("dispatch")) as dispatch:
        await dispatch.send(world.retire, Retire(tailnum="N1"))
        await until(lambda: world.handled)  # the event exists from now on
        name = fresh("board")
        board = WrappedProgram(world.mesh(name), [world.retired.name], hear, name, declared=[world.retired])
        async with board:
            await until(lambda: heard)
    ((_, _, trace),) = world.handled
    assert heard == [(Retired(tailnum="N1"), world.fleet, trace)]
    assert trace


# ── a wrapped consumer that serves an operation ───────────────────────────────────────────────────────────


async def test_a_wrapped_consumer_answers_native_callers(world: World) -> None:
    attempts: list[tuple[str, int]] = []

    def find(message: Any) -> None:
        request: FindAircraft = message.data
        attempts.append((request.tailnum, message.attempt))
        if request.tailnum.startswith("X"):
            raise NotFound(f"no aircraft is registered as {request.tailnum}")
        if request.tailnum == "N-late" and message.attempt == 1:
            raise Unavailable("the register is being read")
        if request.tailnum == "N-dict":
            message.reply({"tailnum": request.tailnum, "seats": 2, "handled_by": 0})
        elif request.tailnum != "N-silent":
            message.reply(Aircraft(tailnum=request.tailnum, seats=149))

    async with world.wrapped_fleet(find), world.mesh(fresh("dispatch")) as dispatch:

        async def ask(tailnum: str) -> Aircraft:
            return await dispatch.request(world.find, FindAircraft(tailnum=tailnum), timeout=PATIENCE)

        assert (await ask("N1")).seats == 149
        assert (await ask("N-dict")).seats == 2
        assert (await ask("N-late")).seats == 149
        with pytest.raises(NotFound, match="no aircraft is registered as X1"):
            await ask("X1")
        with pytest.raises(MeshError, match="was handled and no reply was given"):
            await ask("N-silent")
    assert attempts == [("N1", 1), ("N-dict", 1), ("N-late", 1), ("N-late", 2), ("X1", 1), ("N-silent", 1)]


async def test_a_dead_letter_of_a_wrapped_consumer_is_replayed_and_its_caller_gets_the_new_answer(
    world: World, dead_letters: DeadLetters
) -> None:
    is_mended = False

    def find(message: Any) -> None:
        if not is_mended:
            raise ValueError("the register is not readable")
        message.reply(Aircraft(tailnum=message.data.tailnum, seats=3))

    mesh = Commands(world.servers)
    async with world.wrapped_fleet(find), world.mesh(fresh("dispatch")) as dispatch:
        handle = await dispatch.call(world.find, FindAircraft(tailnum="N1"))
        with pytest.raises(MeshError, match="the register is not readable"):
            await handle.reply(PATIENCE)
        letter = await dead_letters.next(world.find.name)
        assert letter.envelope.id == handle.id
        assert letter.envelope.attempt == 2
        is_mended = True
        await mesh("dead-letters", "replay", "--id", handle.id)
        reply = await handle.reply(PATIENCE, wait_for_replay=True)
        assert reply.seats == 3
        story = await mesh.json("trace", str(handle))
    assert [step["what"] for step in story["steps"]] == [
        "sent",
        "failed",
        "dead-letter",
        "answered",
        "replayed",
        "answered",
    ]


async def test_expired_requests_are_answered_and_not_handled(world: World) -> None:
    handled: list[str] = []

    def find(message: Any) -> None:
        handled.append(message.data.tailnum)
        message.reply(Aircraft(tailnum=message.data.tailnum, seats=1))

    async with world.wrapped_fleet(find):
        pass  # its operation exists from now on
    async with world.mesh(fresh("dispatch")) as dispatch:
        handle = await dispatch.call(world.find, FindAircraft(tailnum="N1"), expires_in=0.05)
        last = await dispatch.call(world.find, FindAircraft(tailnum="N2"))
        await asyncio.sleep(0.1)  # its time passes
        async with world.wrapped_fleet(find):
            with pytest.raises(DeadlineExceeded):
                await handle.reply(PATIENCE)
            assert (await last.reply(PATIENCE)).seats == 1
    assert handled == ["N2"]


async def test_a_repeated_idempotency_key_is_answered_without_being_handled_again(world: World) -> None:
    handled: list[str] = []

    def find(message: Any) -> None:
        handled.append(message.data.tailnum)
        message.reply(Aircraft(tailnum=message.data.tailnum, seats=len(handled)))

    async with world.wrapped_fleet(find), world.mesh(fresh("dispatch")) as dispatch:
        for _ in range(3):
            reply = await dispatch.request(
                world.find, FindAircraft(tailnum="N1"), timeout=PATIENCE, idempotency_key="once"
            )
            assert reply.seats == 1
    assert handled == ["N1"]


async def test_a_native_caller_that_no_rule_lets_pass_is_refused_by_a_wrapped_consumer(
    world: World, rules: Rules, dead_letters: DeadLetters
) -> None:
    handled: list[str] = []
    caller = fresh("dispatch")

    def find(message: Any) -> None:
        handled.append(message.data.tailnum)
        message.reply(Aircraft(tailnum=message.data.tailnum, seats=1))

    async with world.wrapped_fleet(find), world.mesh(caller) as dispatch:
        assert (await dispatch.request(world.find, FindAircraft(tailnum="N1"), timeout=PATIENCE)).seats == 1
        rules.apply(fresh("no-dispatch"), "deny", to=world.fleet, callers=[caller])

        async def is_refused(tailnum: str) -> bool:
            try:
                await dispatch.request(world.find, FindAircraft(tailnum=tailnum), timeout=PATIENCE)
            except PermissionDenied:
                return True
            return False

        number = 2
        while not await is_refused(f"N{number}"):  # until the rule has reached one of both
            number += 1
        assert handled == [f"N{each}" for each in range(1, number)]


@pytest.mark.parametrize("where", ["before", "after"])
async def test_a_request_whose_consumer_is_killed_is_handled_by_another_instance(
    world: World, processes: Processes, tmp_path: Path, where: str
) -> None:
    effects = tmp_path / "effects"
    first = processes.start(
        "tests.support.wrapped_desk", world.servers, world.find.name, str(effects), DIE=where
    )
    await asyncio.to_thread(wait_for_line, first, "ready")
    async with world.mesh(fresh("dispatch")) as dispatch:
        handle = await dispatch.call(world.find, FindAircraft(tailnum="N1"))
        await asyncio.to_thread(first.wait, PATIENCE)
        assert first.returncode == -9
        second = processes.start("tests.support.wrapped_desk", world.servers, world.find.name, str(effects))
        answered_by = second if where == "before" else first
        assert (await handle.reply(PATIENCE)).handled_by == answered_by.pid
        await until(lambda: len(effects.read_text().split()) == 2)
        second.terminate()
        assert await asyncio.to_thread(second.wait, PATIENCE) == 0
    assert effects.read_text().split() == [f"{first.pid}", f"{second.pid}"]
