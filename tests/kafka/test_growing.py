"""Topics that get more partitions while they are in use: each key stays in order, and nothing is lost."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest
from confluent_kafka import Producer

from broker_mesh import Context, Event, Mesh, Receipt, naming
from broker_mesh.control.partitioning import murmur2
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import Unavailable
from broker_mesh.kafka.admin import Admin
from broker_mesh.kafka.crossing import Ways
from broker_mesh.kafka.groups import Groups
from broker_mesh.kafka.topics import TopicSpec
from broker_mesh.settings import Settings
from tests.support.commands import Commands
from tests.support.groups import shorten_sessions
from tests.support.growing import STEPS
from tests.support.growth import (
    BEFORE,
    REFRESH_MS,
    Handled,
    Step,
    check_order,
    grow_unmanaged,
    make_growing,
    make_step,
    now_ns,
    read_journal,
    unhandled,
)
from tests.support.names import fresh
from tests.support.processes import Processes, wait_for_line

AFTER = 6
PATIENCE = 90.0
KEYS = [f"N{number}" for number in range(50)]
SOME_KEYS = KEYS[:12]
SETTLE = ("--settle-seconds", f"{2 * REFRESH_MS}ms")


@pytest.fixture
def mesh(kafka: EmbeddedKafka) -> Commands:
    return Commands(kafka.bootstrap_servers)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.05)


async def partitions_of(kafka: EmbeddedKafka, topic: str) -> int:
    admin = Admin(Settings(bootstrap_servers=kafka.bootstrap_servers), "test")
    return (await admin.describe([topic]))[topic].partitions


class Gate:
    """Handles steps; those that it keeps wait until it is opened."""

    def __init__(self, keeps: Callable[[Step], bool] = lambda _: False) -> None:
        self._keeps = keeps
        self.opened = asyncio.Event()
        self.handled: list[Handled] = []

    async def handle(self, step: Step, context: Context) -> None:
        begun = now_ns()
        if self._keeps(step):
            await self.opened.wait()
        self.handled.append(Handled(begun, now_ns(), step.key, step.number))

    @property
    def steps(self) -> set[tuple[str, int]]:
        return {(each.key, each.number) for each in self.handled}


class Sent:
    """Steps of some keys that were sent, with the partition of each."""

    def __init__(self, send: Callable[[Step], Awaitable[Receipt]]) -> None:
        self._send = send
        self._number = 0
        self.places: dict[tuple[str, int], int] = {}

    async def more(self, rounds: int = 1) -> None:
        """Send the next steps of all keys."""
        for number in range(self._number, self._number + rounds):
            for key in SOME_KEYS:
                self.places[key, number] = (await self._send(Step(key=key, number=number))).partition
        self._number += rounds

    async def until_beyond(self, partitions: int) -> None:
        """Send on until there is something in a partition that was added to so many."""
        while max(self.places.values()) < partitions:
            await self.more()

    def below(self, partitions: int) -> set[tuple[str, int]]:
        """The steps in partitions of lower numbers."""
        return {step for step, partition in self.places.items() if partition < partitions}

    @property
    def all(self) -> set[tuple[str, int]]:
        return set(self.places)


@pytest.mark.long
async def test_a_barrier_stands_behind_records_not_behind_markers_of_transactions(
    kafka: EmbeddedKafka,
) -> None:
    settings = Settings(bootstrap_servers=kafka.bootstrap_servers)
    admin, topic = Admin(settings, "test"), f"{fresh('steps')}.v1.step"
    await admin.create([TopicSpec(topic, 2, 1, {})])
    ways = Ways(settings, "test", admin, Groups(settings, "test"))
    assert await ways.ends(topic, 2) == {(topic, 0): 0, (topic, 1): 0}
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers, "transactional.id": topic})
    await asyncio.to_thread(producer.init_transactions, 30)
    for number in range(2):
        producer.begin_transaction()
        producer.produce(topic, value=b"step", partition=0)
        assert await asyncio.to_thread(producer.flush, 30) == 0
        assert await ways.ends(topic, 2) is None, "what is in an open transaction may count or not"
        await asyncio.to_thread(producer.commit_transaction, 30)
        while (ends := await ways.ends(topic, 2)) is None:  # Kafka is about to write the marker
            await asyncio.sleep(0.05)
        assert ends == {(topic, 0): 2 * number + 1, (topic, 1): 0}


# ── under load ────────────────────────────────────────────────────────────────────────────────────────────


async def test_an_operation_grows_under_load_while_a_service_is_killed(
    kafka: EmbeddedKafka, mesh: Commands, processes: Processes, tmp_path: Path
) -> None:
    service, journal = fresh("steps"), tmp_path / "journal"
    topic = make_step(service).name
    shorten_sessions(kafka.bootstrap_servers, service)

    async def start(role: str, rest: str) -> subprocess.Popen[str]:
        process = processes.start("tests.support.growth", role, kafka.bootstrap_servers, service, rest)
        await asyncio.to_thread(wait_for_line, process, "ready")
        return process

    doomed = await start("handle", str(journal))
    await start("handle", str(journal))
    callers = [await start("send", ",".join(keys)) for keys in (KEYS[:25], KEYS[25:])]
    await until(lambda: len(read_journal(journal)) > 300)
    command = ("topics", "grow", topic, "--partitions", str(AFTER), "--yes")
    growing = asyncio.create_task(mesh(*command, "--no-wait", *SETTLE))
    while await partitions_of(kafka, topic) < AFTER:
        await asyncio.sleep(0.05)
    doomed.send_signal(signal.SIGKILL)
    await start("handle", str(journal))
    await growing
    sent: dict[str, int] = {}
    for caller in callers:
        caller.terminate()
        assert caller.stdout is not None
        sent |= json.loads(await asyncio.to_thread(caller.stdout.readline))
    assert min(sent.values()) > 10
    settings = Settings(bootstrap_servers=kafka.bootstrap_servers)
    ends = (
        await Ways(settings, "test", Admin(settings, "test"), Groups(settings, "test")).ends(topic, AFTER)
        or {}
    )
    assert any(end for (_, number), end in ends.items() if number >= BEFORE), (
        "nothing has come to a new partition"
    )
    await until(lambda: not unhandled(read_journal(journal), sent))
    check_order(read_journal(journal))
    assert f"{service} has handled what came before" in await mesh(*command)


# ── who waits for what ────────────────────────────────────────────────────────────────────────────────────


def is_stuck(step: Step) -> bool:
    """One step of one key waits: others of its partition go on."""
    return (step.key, step.number) == (SOME_KEYS[0], 0)


@pytest.mark.long
async def test_each_group_of_an_event_waits_for_itself_also_one_that_comes_later(
    kafka: EmbeddedKafka, mesh: Commands
) -> None:
    publisher, quick, slow, late = (fresh(name) for name in ("publisher", "quick", "slow", "late"))
    event = Event(f"{publisher}.v1.events.stepped", Step, key="key")
    gates = {quick: Gate(), slow: Gate(is_stuck), late: Gate()}

    def subscriber(name: str) -> Mesh:
        subscribed = make_growing(name, kafka.bootstrap_servers)
        subscribed.subscribe(event)(gates[name].handle)
        return subscribed

    async with AsyncExitStack() as stack:
        publishing = await stack.enter_async_context(make_growing(publisher, kafka.bootstrap_servers))
        sent = Sent(lambda step: publishing.publish(event, step))
        await sent.more(5)
        for name in (quick, slow):
            await stack.enter_async_context(subscriber(name).serving())
        command = ("topics", "grow", event.name, "--partitions", str(AFTER), "--yes")
        grown = await mesh.json(*command, "--no-wait", *SETTLE)
        assert {row["group"]: row["passed"] for row in grown["groups"]}[slow] is False
        for name in (quick, slow):
            for topic in (naming.retry_topic, naming.dead_topic):
                assert await partitions_of(kafka, topic(f"{name}.v1.from.{event.name}")) == AFTER
        await sent.more(5)
        await sent.until_beyond(BEFORE)
        moved = sent.all - sent.below(BEFORE)
        await until(lambda: gates[quick].steps == sent.all)
        assert not gates[slow].steps & moved, "it did not wait for what came before"
        gates[slow].opened.set()
        await stack.enter_async_context(subscriber(late).serving())
        for gate in gates.values():
            await until(lambda gate=gate: gate.steps == sent.all)  # type: ignore[misc]
            check_order(gate.handled)
        again = await mesh.json(*command)
        assert again["grown"] == []
        assert {row["group"] for row in again["groups"] if row["passed"]} == {quick, slow, late}


@pytest.mark.long
async def test_a_key_that_waits_in_the_retry_topic_is_waited_for(
    kafka: EmbeddedKafka, mesh: Commands
) -> None:
    service = fresh("steps")
    operation, gate = make_step(service), Gate()
    failing = next(key for key in SOME_KEYS if murmur2(key.encode()) % AFTER >= BEFORE)
    serving = make_growing(service, kafka.bootstrap_servers)

    @serving.operation(operation)
    async def step(request: Step, context: Context) -> None:
        if (request.key, request.number, context.attempt) == (failing, 0, 1):
            raise Unavailable("not now", retry_after=15)
        await gate.handle(request, context)

    async with serving.serving(), make_growing(fresh("caller"), kafka.bootstrap_servers) as caller:
        settings = serving.reachable_settings()
        ways = Ways(settings, "test", Admin(settings, "test"), Groups(settings, "test"))
        sent = Sent(lambda body: caller.send(operation, body))
        await sent.more(2)
        while not any((await ways.ends(naming.retry_topic(operation.name), BEFORE) or {}).values()):
            await asyncio.sleep(0.05)
        command = ("topics", "grow", operation.name, "--partitions", str(AFTER), "--yes")
        await mesh(*command, "--no-wait", *SETTLE)
        await sent.until_beyond(BEFORE)
        assert f"{service} has handled what came before" in await mesh(*command)
        await until(lambda: gate.steps == sent.all)
    check_order(gate.handled)


@pytest.mark.long
async def test_partitions_that_others_add_begin_at_once_and_break_the_order_which_the_check_sees(
    kafka: EmbeddedKafka, mesh: Commands
) -> None:
    service = fresh("steps")
    operation, gate = make_step(service), Gate(lambda step: step.number < 5)

    def serving() -> Mesh:
        made = make_growing(service, kafka.bootstrap_servers)
        made.operation(operation)(gate.handle)
        return made

    # Two instances: within one, a key that is in work is not handled beside itself.
    async with (
        serving().serving(),
        serving().serving(),
        make_growing(fresh("caller"), kafka.bootstrap_servers) as caller,
    ):
        sent = Sent(lambda step: caller.send(operation, step))
        await sent.more(5)
        grow_unmanaged(kafka.bootstrap_servers, operation.name, AFTER)
        await sent.until_beyond(BEFORE)
        await until(lambda: bool(gate.handled))  # the service goes on: new partitions are found and handled
        gate.opened.set()
        await until(lambda: gate.steps == sent.all)
    with pytest.raises(AssertionError, match="was begun before"):
        check_order(gate.handled)
    advice = f"mesh topics grow {operation.name} --partitions {AFTER}"
    assert any(advice in str(finding) for finding in await mesh.json("check", code=1))
    await mesh(*advice.split()[1:], "--yes")
    assert await partitions_of(kafka, naming.retry_topic(operation.name)) == AFTER


def times_lost(said: Iterable[str], partition: str) -> int:
    """How often the log says of a partition that it was not given up in order, and that its records come again."""
    lost = re.compile(rf"(?:: lost|did not give up) (?:.*, )?{re.escape(partition)}\b.* again")
    return sum(lost.search(each) is not None for each in said)


async def test_a_growth_that_is_killed_goes_on_where_it_stopped_and_holds_until_then(
    kafka: EmbeddedKafka, mesh: Commands, processes: Processes, caplog: pytest.LogCaptureFixture
) -> None:
    service = fresh("steps")
    operations = {step: make_step(service, f"killed-after-{step}") for step in STEPS}
    gates = {step: Gate() for step in STEPS}
    serving = make_growing(service, kafka.bootstrap_servers)
    for step, operation in operations.items():
        serving.operation(operation)(gates[step].handle)

    async def grow(caller: Mesh, step: str) -> None:
        topic, gate = operations[step].name, gates[step]
        sent = Sent(lambda body: caller.send(operations[step], body))
        command = ("topics", "grow", topic, "--partitions", str(AFTER), "--yes")
        killed = processes.start(
            *("tests.support.growing", step, *command, *SETTLE),
            MESH_BOOTSTRAP_SERVERS=kafka.bootstrap_servers,
        )
        await sent.more()
        assert await asyncio.to_thread(killed.wait) == -signal.SIGKILL
        assert await partitions_of(kafka, topic) == (BEFORE if step == "record" else AFTER)
        if step in ("add", "settle"):
            await sent.until_beyond(BEFORE)
            await until(lambda: f"'{' '.join(('mesh', *command[:-1]))}' goes on" in caplog.text)
            await until(lambda: gate.steps == sent.below(BEFORE))
        if step == "add":
            findings = str(await Commands(kafka.bootstrap_servers).json("check", code=None))
            assert f"if it was broken off, run {' '.join(('mesh', *command[:-1]))}" in findings
        again = Commands(kafka.bootstrap_servers)
        assert f"{service} has handled what came before" in await again(*command, *SETTLE)
        await sent.until_beyond(BEFORE)
        await until(lambda: gate.steps == sent.all)
        check_order(gate.handled)
        # Only a member that is cut off from its group, as on a machine that is too busy, has anything handled again.
        for step_sent, times in Counter((each.key, each.number) for each in gate.handled).items():
            losses = times_lost(caplog.messages, f"{topic}/{sent.places[step_sent]}")
            assert times <= 1 + losses, (step_sent, sent.places[step_sent], times, losses, caplog.text)

    async with (
        serving.serving(),
        make_growing(fresh("caller"), kafka.bootstrap_servers) as caller,
        asyncio.TaskGroup() as growths,
    ):
        for step in STEPS:
            growths.create_task(grow(caller, step))
    topic = operations["add"].name
    await mesh("topics", "grow", topic.replace("killed", "skilled"), "--partitions", "12", code=3)
    assert f"did you mean {topic!r}" in mesh.said
