"""Traps that have cost other systems their users' messages, sprung on purpose: processes stopped, killed, cut off.

docs/correctness.md lists all traps, each with its test; here are those that needed one of their own. What happened is
counted from the topics themselves and from a file that the handlers append to.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import threading
from collections import Counter
from contextlib import AsyncExitStack, suppress
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest

from broker_mesh import Context, Mesh, MeshError, Operation, Retry
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import DataLoss, InternalError
from broker_mesh.kafka import config
from broker_mesh.settings import Settings
from tests.kafka.test_requests import Answer, Ask, service
from tests.support.fleet import make_mesh
from tests.support.groups import shorten_sessions
from tests.support.names import fresh
from tests.support.processes import Processes, wait_for_line
from tests.support.stalling import CLASSIC, ENDS, Work, operations
from tests.support.topics import Topics, delete_records

PATIENCE = 60.0


async def until_said(log: Path, text: str) -> None:
    """Wait until a process has logged something."""
    async with asyncio.timeout(PATIENCE):
        while text not in log.read_text():
            await asyncio.sleep(0.05)


@pytest.mark.parametrize("kafka_properties", [{}, CLASSIC], ids=["848", "classic"])
async def test_who_was_stopped_past_its_session_settles_nothing_when_it_goes_on(
    kafka: EmbeddedKafka, processes: Processes, tmp_path: Path, kafka_properties: dict[str, object]
) -> None:
    servers, service, caller = kafka.bootstrap_servers, fresh("stalling"), fresh("caller")
    topics, (in_order, in_any_order) = Topics(servers), operations(service)
    shorten_sessions(servers, service)
    go, effects = tmp_path / "go", tmp_path / "effects"
    effects.touch()
    arguments = (servers, service, str(go), str(effects), json.dumps(kafka_properties))
    stopped = processes.start("tests.support.stalling", *arguments)
    await asyncio.to_thread(wait_for_line, stopped, "ready")

    async with make_mesh(caller, servers) as mesh:
        # One waits in the retry topic, and is done where it came from; one in its place; the others in their handlers.
        handles = [await mesh.call(in_any_order, Work(key="k", end="later"))]
        async with asyncio.timeout(PATIENCE):
            while await topics.settled(service, in_any_order.name) < 1:
                await asyncio.sleep(0.05)
        for operation, ends in ((in_order, ENDS), (in_any_order, ENDS[:-1])):
            handles += [await mesh.call(operation, Work(key=end, end=end)) for end in ends]
        async with asyncio.timeout(PATIENCE):
            while len(effects.read_text().splitlines()) < len(handles):
                await asyncio.sleep(0.02)
        os.kill(stopped.pid, signal.SIGSTOP)
        go.touch()  # whatever it was doing ends the moment it goes on
        processes.start("tests.support.stalling", *arguments)
        replies = await asyncio.gather(*(handle.reply(PATIENCE) for handle in handles))
        assert stopped.pid not in {reply.pid for reply in replies}
        async with asyncio.timeout(PATIENCE):
            while await topics.settled(service, in_order.name) < len(ENDS):
                await asyncio.sleep(0.05)
        os.kill(stopped.pid, signal.SIGCONT)
        await until_said(processes.log_of(0), "lost")
        stopped.terminate()  # what it has handed to its producer is in Kafka once it has ended
        assert await asyncio.to_thread(stopped.wait, PATIENCE) == 0

    answered = Counter(reply.envelope.correlation_id for reply in await topics.read(f"{caller}.replies"))
    assert answered == {handle.id: 1 for handle in handles}, "it answered what another instance had answered"
    for operation, written in ((in_order, 0), (in_any_order, 1)):
        retries = await topics.read(f"{operation.name}.retry")
        assert len(retries) == written, "it wrote retries of what another instance had settled"
        assert await topics.read(f"{operation.name}.dead") == [], "it kept what another instance had settled"
    assert await topics.settled(service, in_order.name) == len(ENDS), "an offset went back"


async def test_of_two_instances_under_one_static_name_the_older_one_stops(kafka: EmbeddedKafka) -> None:
    mesh, ask = service(kafka, kafka={**CLASSIC, "group.instance.id": "one"})
    other = make_mesh(mesh.service, kafka.bootstrap_servers, kafka={**CLASSIC, "group.instance.id": "one"})

    mesh.operation(ask)(_echo)
    other.operation(ask)(_echo)
    async with make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        with pytest.raises(MeshError, match="instance"):  # noqa: PT012 - the stop is part of it
            async with mesh.serving() as older:
                await caller.request(ask, Ask(key="a"), timeout=PATIENCE)
                async with other.serving(), asyncio.timeout(PATIENCE):
                    await caller.request(ask, Ask(key="b"), timeout=PATIENCE)
                    await older.failure()


@pytest.mark.parametrize("kafka_properties", [{}, CLASSIC], ids=["848", "classic"])
async def test_a_partition_and_its_retries_are_with_one_member(
    kafka: EmbeddedKafka, kafka_properties: dict[str, str | int]
) -> None:
    name = fresh("pairs")
    operations = [Operation(f"{name}.v1.{verb}", request=Ask, reply=Answer, key="key") for verb in ("a", "b")]

    def member() -> Mesh:
        mesh = make_mesh(name, kafka.bootstrap_servers, partitions=5, kafka=kafka_properties)
        for operation in operations:
            mesh.operation(operation)(_echo)
        return mesh

    async with AsyncExitStack() as stack:
        members = [await stack.enter_async_context(member().serving()) for _ in range(3)]
        async with asyncio.timeout(PATIENCE):
            while sum(each.partitions for each in members) != 10 or not all(m.partitions for m in members):
                await asyncio.sleep(0.05)
        for each in members:
            theirs = each.taken().keys()
            assert len(theirs) == 2 * each.partitions
            for operation in operations:
                numbers = {number for topic, number in theirs if topic == operation.name}
                assert {number for topic, number in theirs if topic == f"{operation.name}.retry"} == numbers


async def test_what_outlasts_the_drain_settles_nothing_when_it_ends(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("broker_mesh.service._REVOKE_BUDGET_SECONDS", 0.2)
    name, caller = fresh("drained"), fresh("caller")
    ask = Operation(f"{name}.v1.ask", request=Ask, reply=Answer, key="key")
    finish, begun, ended = threading.Event(), [], []

    def member(which: str) -> Mesh:
        mesh = make_mesh(name, kafka.bootstrap_servers, partitions=2)

        @mesh.operation(ask, retry=Retry(attempts=1))
        def handle(
            request: Ask, context: Context
        ) -> Answer:  # a plain function can't be stopped: it ends late
            begun.append((which, request.key))
            if which == "first":
                finish.wait(PATIENCE)
                ended.append(request.key)
                if request.key.startswith("fails"):
                    raise InternalError("late")
            return Answer(text=which)

        return mesh

    keys = [f"{end}{number}" for number in range(4) for end in ("fails", "replies")]
    async with member("first").serving() as first, make_mesh(caller, kafka.bootstrap_servers) as mesh:
        handles = {key: await mesh.call(ask, Ask(key=key)) for key in keys}
        async with asyncio.timeout(PATIENCE):
            while len(begun) < len(keys):
                await asyncio.sleep(0.02)
            async with member("second").serving():
                while not {key for which, key in begun if which == "second"}:
                    await asyncio.sleep(0.02)
                moved = {key for which, key in begun if which == "second"}
                replies = {key: await handles[key].reply(PATIENCE) for key in moved}
                finish.set()
                while len(ended) < len(keys) or first.in_flight:
                    await asyncio.sleep(0.02)
                for key in set(keys) - moved:
                    with suppress(MeshError):
                        await handles[key].reply(PATIENCE)
    assert {reply.text for reply in replies.values()} == {"second"}
    answered = Counter(
        reply.envelope.correlation_id
        for reply in await Topics(kafka.bootstrap_servers).read(f"{caller}.replies")
    )
    assert answered == {handle.id: 1 for handle in handles.values()}
    letters = {
        letter.envelope.id for letter in await Topics(kafka.bootstrap_servers).read(f"{ask.name}.dead", 2)
    }
    assert letters == {handles[key].id for key in set(keys) - moved if key.startswith("fails")}


async def test_the_first_reply_to_a_new_caller_is_not_missed(kafka: EmbeddedKafka) -> None:
    mesh, ask = service(kafka)
    mesh.operation(ask)(_echo)
    caller = fresh("caller")
    async with mesh.serving():
        for number in range(8):
            async with make_mesh(caller, kafka.bootstrap_servers) as new:
                reply = await new.request(ask, Ask(key=f"k{number}"), timeout=PATIENCE)
            assert reply.text == f"k{number}"


async def test_one_thread_makes_all_calls_on_a_consumer_and_none_of_them_waits_for_a_commit(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: set[str] = set()
    waited: list[bool] = []

    class Watched(confluent_kafka.Consumer):
        def __getattribute__(self, name: str) -> Any:
            if not name.startswith("__"):
                threads.add(threading.current_thread().name)
            return super().__getattribute__(name)

        def commit(self, *arguments: Any, **options: Any) -> Any:
            waited.append(not options.get("asynchronous", True))
            return super().commit(*arguments, **options)

    monkeypatch.setattr("broker_mesh.kafka.consumer.Consumer", Watched)
    mesh, ask = service(kafka)
    mesh.operation(ask)(_echo)
    async with mesh.serving() as first, make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        await caller.request(ask, Ask(key="a"), timeout=PATIENCE)
        other = make_mesh(mesh.service, kafka.bootstrap_servers)
        other.operation(ask)(_echo)
        async with other.serving() as second, asyncio.timeout(PATIENCE):
            while not (first.partitions and second.partitions):  # partitions come and go
                await asyncio.sleep(0.05)
            await asyncio.gather(
                *(caller.request(ask, Ask(key=f"k{n}"), timeout=PATIENCE) for n in range(20))
            )
    assert threads == {"mesh-consumer"}
    assert waited
    assert not any(waited)


async def test_no_hop_waits_for_a_batch_to_fill(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits: dict[str, set[float]] = {}

    class Watched(confluent_kafka.Consumer):
        def consume(self, num_messages: int = 1, timeout: float = -1) -> Any:
            waits.setdefault(threading.current_thread().name, set()).add(timeout)
            return super().consume(num_messages, timeout)

    monkeypatch.setattr("broker_mesh.kafka.consumer.Consumer", Watched)
    monkeypatch.setattr("broker_mesh.kafka.reader.Consumer", Watched)
    mesh, ask = service(kafka)
    mesh.operation(ask)(_echo)
    async with mesh.serving(), make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        await caller.request(ask, Ask(key="a"), timeout=PATIENCE)
    assert waits.keys() >= {"mesh-consumer", "mesh-reader"}
    assert set.union(*waits.values()) == {0}
    assert config.producer(Settings(), client_id="test", on_error=print)["linger.ms"] == 0


async def test_a_position_that_retention_has_passed_stops_the_service_instead_of_skipping(
    kafka: EmbeddedKafka,
) -> None:
    mesh, ask = service(kafka, partitions=1)
    handled: list[str] = []

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        handled.append(request.key)
        return Answer(text=request.key)

    async with make_mesh("dispatch", kafka.bootstrap_servers) as caller:
        async with mesh.serving():
            await caller.request(ask, Ask(key="a"), timeout=PATIENCE)
        for key in "bcd":
            await caller.call(ask, Ask(key=key))
        await asyncio.to_thread(delete_records, kafka.bootstrap_servers, ask.name, 0, 3)
        with pytest.raises(DataLoss, match="are gone by retention; accept the loss with"):
            async with mesh.serving() as serving:
                await asyncio.wait_for(serving.failure(), PATIENCE)
    assert handled == ["a"]


async def _echo(request: Ask, context: Context) -> Answer:
    return Answer(text=request.key)
