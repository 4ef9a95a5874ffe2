"""Access rules on a real Kafka: both sides refuse, nothing refused is handled or lost, changes are followed live."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from broker_mesh import Context, Event, Mesh, Operation, StatusCode
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import FailedPrecondition, InvalidArgument, PermissionDenied
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.reader import end_offset, open_consumer, scan
from broker_mesh.message import Message, received
from broker_mesh.settings import Settings
from tests.support.access import Rules, applying_rules
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import make_mesh
from tests.support.guarded import Ask, operation_of
from tests.support.names import fresh
from tests.support.processes import Processes, wait_for_line

PATIENCE = 60.0
PARTITIONS = 6


@pytest.fixture
def rules(kafka: EmbeddedKafka) -> Iterator[Rules]:
    with applying_rules(kafka.bootstrap_servers) as made:
        yield made


async def until(holds: Any) -> None:
    """Wait until a condition holds."""
    async with asyncio.timeout(PATIENCE):
        while not holds():
            await asyncio.sleep(0.02)


def read_all(bootstrap_servers: str, topic: str) -> list[Message]:
    settings = Settings(bootstrap_servers=bootstrap_servers)
    consumer = open_consumer(settings, "test", OutageLog("test"))
    try:
        ends = {(topic, number): end_offset(consumer, topic, number) for number in range(PARTITIONS)}
    finally:
        consumer.close()
    records = scan(settings, client_id="test", partitions=ends, since=None, stop=threading.Event())
    return [received(record, topic) for record in records]


# ── both sides ────────────────────────────────────────────────────────────────────────────────────────────


class Gone(BaseModel):
    key: str


class Bench:
    """A callee that serves requests, one-way messages and publishes events; two callers, one of them deaf to rules."""

    def __init__(self, kafka: EmbeddedKafka) -> None:
        self.name = fresh("guarded")
        self.ask = operation_of(f"{self.name}.v1.ask")
        self.tell = Operation(f"{self.name}.v1.tell", request=Ask, key="key")
        self.gone = Event(f"{self.name}.v1.events.gone", Gone, key="key")
        self.handled: list[str] = []
        self.callee = make_mesh(self.name, kafka.bootstrap_servers)
        self.caller = make_mesh(fresh("guest"), kafka.bootstrap_servers)
        self.deaf = make_mesh(fresh("deaf"), kafka.bootstrap_servers)

        @self.callee.operation(self.ask)
        async def ask(request: Ask, context: Context) -> Ask:
            self.handled.append(f"ask {request.key}")
            return request

        @self.callee.operation(self.tell)
        async def tell(request: Ask, context: Context) -> None:
            self.handled.append(f"tell {request.key}")

        @self.callee.subscribe(self.gone)
        async def hear(event: Gone, context: Context) -> None:
            self.handled.append(f"hear {event.key}")

    def follows(self, mesh: Mesh, caller: str, allowed: bool) -> bool:
        """Whether a mesh has heard of what holds for a caller."""
        rules = mesh._connected().policy.rules
        return rules.verdict(caller, self.ask.name).allowed is allowed


@asynccontextmanager
async def bench(kafka: EmbeddedKafka) -> AsyncIterator[Bench]:
    made = Bench(kafka)
    async with made.callee.serving() as service, made.caller, made.deaf:
        await service.joined()
        # What a caller does that has not heard of a rule, or does not ask: only the callee's check is left.
        await made.deaf._connected().policy.close()
        yield made


async def test_a_caller_that_may_not_sends_nothing_and_hears_which_rule(
    kafka: EmbeddedKafka, rules: Rules
) -> None:
    async with bench(kafka) as on:
        await on.caller.request(on.ask, Ask(key="before"), timeout=PATIENCE)
        name = fresh("closed")
        await asyncio.to_thread(
            rules.apply, name, "deny", to=on.name, callers=[on.caller.service], operations="v1.ask"
        )
        await until(lambda: on.follows(on.caller, on.caller.service, False))
        with pytest.raises(PermissionDenied, match=f"access rule '{name}' denies it") as caught:
            await on.caller.request(on.ask, Ask(key="denied"), timeout=PATIENCE)
        assert caught.value.details["rule"] == name
        assert caught.value.handle is None
        await on.caller.send(on.tell, Ask(key="other"))
        await until(lambda: "tell other" in on.handled)
        await asyncio.to_thread(rules.delete, name)
        await until(lambda: on.follows(on.caller, on.caller.service, True))
        await on.caller.request(on.ask, Ask(key="after"), timeout=PATIENCE)
    assert [entry for entry in on.handled if entry.startswith("ask")] == ["ask before", "ask after"]
    assert len(read_all(kafka.bootstrap_servers, on.ask.name)) == 2


async def test_a_callee_refuses_what_was_sent_all_the_same(
    kafka: EmbeddedKafka, rules: Rules, dead_letters: DeadLetters
) -> None:
    async with bench(kafka) as on:
        name = fresh("closed")
        await asyncio.to_thread(rules.apply, name, "deny", to=on.name, callers=[on.deaf.service, on.name])
        await until(lambda: on.follows(on.callee, on.deaf.service, False))
        with pytest.raises(PermissionDenied, match=f"access rule '{name}' denies it") as caught:
            await on.deaf.request(on.ask, Ask(key="waits"), timeout=PATIENCE)
        assert caught.value.handle is not None  # it was sent, and answered
        await on.deaf.send(on.tell, Ask(key="one-way"))
        letter = await dead_letters.next(on.tell.name)
        assert letter.envelope.status is StatusCode.PERMISSION_DENIED
        assert letter.envelope.status_details["rule"] == name
        # An event is refused for its subscriber, whoever published it.
        await on.callee.publish(on.gone, Gone(key="event"))
        heard = await dead_letters.next(f"{on.name}.v1.from.{on.gone.name}")
        assert "may not hear" in (heard.envelope.status_message or "")
        assert on.handled == []
        assert dead_letters.all(on.ask.name) == []  # its caller was answered: nothing is kept


async def test_where_the_default_is_deny_only_what_a_rule_allows_is_handled(
    kafka: EmbeddedKafka, tmp_path: Path
) -> None:
    """By files of one process, since the default of all would be that of other tests too."""
    defaults = "kind: Mesh\nname: default\nspec: {access: {default: deny}}\n"
    callee = fresh("guarded")
    ask = operation_of(f"{callee}.v1.ask")
    spec = f"{{to: {callee}, operations: [v1.ask], from: [friend-*], action: allow}}"
    (tmp_path / "rules.yaml").write_text(f"{defaults}---\nkind: Access\nname: friends\nspec: {spec}\n")
    mesh = make_mesh(callee, kafka.bootstrap_servers, policy=tmp_path)

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Ask:
        return request

    async with (
        mesh.serving(),
        make_mesh(fresh("friend"), kafka.bootstrap_servers) as friend,
        make_mesh(fresh("stranger"), kafka.bootstrap_servers) as stranger,
    ):
        assert await friend.request(ask, Ask(key="k"), timeout=PATIENCE) == Ask(key="k")
        with pytest.raises(PermissionDenied, match="no access rule allows it, and the default is deny"):
            await stranger.request(ask, Ask(key="k"), timeout=PATIENCE)


async def test_a_folder_of_rules_that_is_wrong_stops_the_start(kafka: EmbeddedKafka, tmp_path: Path) -> None:
    (tmp_path / "rules.yaml").write_text("kind: Access\nname: x\nspec: {too: fleet}\n")
    with pytest.raises(
        InvalidArgument, match=r"rules\.yaml:3: Access 'x': unknown field 'too' in spec: did you"
    ):
        async with make_mesh("dispatch", kafka.bootstrap_servers, policy=tmp_path):
            pass


async def test_a_record_that_nobody_understands_stops_a_start_and_changes_nothing_while_running(
    kafka: EmbeddedKafka, rules: Rules, caplog: pytest.LogCaptureFixture
) -> None:
    name = fresh("closed")
    async with bench(kafka) as on:
        caller = on.caller.service
        await asyncio.to_thread(rules.apply, name, "deny", to=on.name, callers=[caller])
        await until(lambda: on.follows(on.caller, caller, False))
        try:
            await asyncio.to_thread(rules.write, f"Access/{name}", b'{"format": 99}')
            await until(lambda: "its format is 99" in caplog.text)
            assert on.follows(on.caller, caller, False)
            with pytest.raises(
                FailedPrecondition, match=f"key 'Access/{name}': its format is 99, and this version"
            ):
                async with make_mesh("late", kafka.bootstrap_servers):
                    pass
        finally:
            await asyncio.to_thread(rules.delete, name)
        await until(lambda: on.follows(on.caller, caller, True))
    async with make_mesh("late", kafka.bootstrap_servers):
        pass


async def test_while_kafka_is_away_the_last_known_rules_hold(tmp_path: Path) -> None:
    """A Kafka of its own, since it is killed."""
    with EmbeddedKafka(tmp_path / "kafka", ephemeral=True, attached=True) as kafka:
        rules = Rules(kafka.bootstrap_servers)
        ask = operation_of("fleet.v1.ask")
        callee = make_mesh("fleet", kafka.bootstrap_servers)
        callee.operation(ask)(lambda request, context: request)
        async with callee.serving():
            pass
        async with make_mesh("guest", kafka.bootstrap_servers) as guest:
            await guest.call(ask, Ask(key="k"))
            await asyncio.to_thread(rules.apply, "closed", "deny", to="fleet", callers=["guest"])
            policy = guest._connected().policy
            await until(lambda: not policy.rules.verdict("guest", ask.name).allowed)
            await asyncio.to_thread(kafka.kill)
            with pytest.raises(PermissionDenied, match="'closed' denies it"):
                await guest.call(ask, Ask(key="k"))


# ── ten processes ─────────────────────────────────────────────────────────────────────────────────────────


class Notes:
    """What a process under rules has noticed, and when; `tests.support.guarded` writes it."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def lines(self) -> list[list[str]]:
        if not self.file.exists():
            return []
        return [
            line.split() for line in self.file.read_text().splitlines(keepends=True) if line.endswith("\n")
        ]

    def noticed(self, count: int) -> float | None:
        """When it noticed a change the given number of times, epoch seconds; None for not yet."""
        lines = self.lines()
        return float(lines[count - 1][1]) if len(lines) >= count else None


async def noticed_by_all(notes: list[Notes], count: int) -> float:
    """Wait until every process has noticed this many changes; gives when the last did."""
    await until(lambda: all(process.noticed(count) is not None for process in notes))
    return max(process.noticed(count) or 0.0 for process in notes)


@pytest.mark.alone
async def test_ten_processes_follow_a_changed_rule_within_a_second_and_lose_nothing(
    kafka: EmbeddedKafka, rules: Rules, processes: Processes, tmp_path: Path
) -> None:
    servers, service, guests = kafka.bootstrap_servers, fresh("guarded"), fresh("guest")
    operation = f"{service}.v1.ask"
    notes = [Notes(tmp_path / f"notes-{number}") for number in range(10)]

    def start(role: str, name: str, number: int) -> Any:
        return processes.start(
            "tests.support.guarded", role, servers, name, operation, str(notes[number].file)
        )

    callees = [start("callee", service, number) for number in range(2)]
    for process in callees:
        await asyncio.to_thread(wait_for_line, process, "ready")
    callers = [start("caller", guests, number) for number in range(2, 10)]
    deaf = make_mesh(fresh("deaf"), servers)
    stopped = asyncio.Event()
    counts: Counter[str] = Counter()

    async def ask_all_the_same(key: str) -> None:
        """Have requests that should not be sent arrive at both callees: it is they who refuse."""
        while not stopped.is_set():
            try:
                await deaf.request(operation_of(operation), Ask(key=key), timeout=PATIENCE)
            except PermissionDenied:
                counts["refused"] += 1
            else:
                counts["answered"] += 1
            await asyncio.sleep(0.02)

    lateness: list[tuple[float, float]] = []
    async with deaf:
        await deaf._connected().policy.close()
        asking = [asyncio.create_task(ask_all_the_same(f"k{number}")) for number in range(12)]
        await noticed_by_all(notes, 1)
        for attempt in range(3):  # the machine may be busy with others for a moment
            name = fresh("closed")
            applied = await asyncio.to_thread(
                rules.apply, name, "deny", to=service, callers=[guests, deaf.service]
            )
            denied = await noticed_by_all(notes, 2 + 2 * attempt) - applied
            deleted = await asyncio.to_thread(rules.delete, name)
            allowed = await noticed_by_all(notes, 3 + 2 * attempt) - deleted
            lateness.append((denied, allowed))
            if max(lateness[-1]) <= 1.0:
                break
        for process in callers:
            process.send_signal(signal.SIGTERM)
        await until(lambda: all(process.poll() is not None for process in callers))
        stopped.set()
        await asyncio.gather(*asking)
    print(f"noticed after (denied, allowed), seconds: {lateness}")
    assert max(lateness[-1]) <= 1.0

    totals = [
        list(map(int, process.lines()[-1][1:])) for process in notes[2:] if process.lines()[-1][0] == "done"
    ]
    assert len(totals) == 8
    answered = sum(total[0] for total in totals) + counts["answered"]
    refused = sum(total[1] for total in totals) + counts["refused"]
    assert sum(total[2] for total in totals) > 0
    assert counts["refused"] > 0
    requests = {message.envelope.id for message in read_all(servers, operation)}
    replies = {
        reply.envelope.correlation_id: reply.envelope.status
        for topic in (f"{guests}.replies", f"{deaf.service}.replies")
        for reply in read_all(servers, topic)
    }
    assert requests == set(replies)
    assert Counter(replies.values()) == {StatusCode.OK: answered, StatusCode.PERMISSION_DENIED: refused}
