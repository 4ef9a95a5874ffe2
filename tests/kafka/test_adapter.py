"""What adapters build on, on a real Kafka: a tiny adapter, its connection's life, native services beside it."""

from __future__ import annotations

import asyncio
import gc
import json
import sys
import time
from collections import Counter
from collections.abc import Callable

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic
from pydantic import BaseModel

from broker_mesh import Context, MeshError, Operation, Retry
from broker_mesh.adapter import Delivery, State, connect
from broker_mesh.control.store import POLICY_TOPIC
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.dev.ports import pick
from broker_mesh.errors import FailedPrecondition, NotFound, Unavailable
from broker_mesh.message import is_for
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import make_mesh
from tests.support.names import fresh
from tests.support.otlp import CollectorStub
from tests.support.processes import Processes
from tests.support.tiny_adapter import Receiver, Sender
from tests.support.topics import Topics

PATIENCE = 60.0


class Ask(BaseModel):
    key: str


class Answer(BaseModel):
    times: int


@pytest.fixture
def topics(kafka: EmbeddedKafka) -> Topics:
    return Topics(kafka.bootstrap_servers)


def make_topic(kafka: EmbeddedKafka, name: str, partitions: int = 6) -> str:
    admin = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    admin.create_topics([NewTopic(name, partitions, 1)])[name].result(30)
    return name


def conf_of(kafka: EmbeddedKafka, **more: str) -> dict[str, str]:
    return {"bootstrap.servers": kafka.bootstrap_servers, **more}


def until(holds: Callable[[], bool]) -> None:
    patience = time.monotonic() + PATIENCE
    while not holds():
        assert time.monotonic() < patience, "it has not come true"
        time.sleep(0.01)


def read(receiver: Receiver, handle: Callable[[Delivery], None], until: Callable[[], bool]) -> None:
    """Poll until that is so; what raises is the message's failure."""
    patience = time.monotonic() + PATIENCE
    while not until():
        delivery = receiver.poll(0.5)
        assert time.monotonic() < patience, "nothing more comes"
        if delivery is not None:
            patience = time.monotonic() + PATIENCE
            with delivery.settling():
                handle(delivery)


# ── the tiny adapter ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("ordering", ["key", "none"])
async def test_messages_pass_and_failures_are_retried_or_kept(
    kafka: EmbeddedKafka, dead_letters: DeadLetters, ordering: str
) -> None:
    service, topic = fresh("shop"), make_topic(kafka, fresh("orders"))
    mesh = make_mesh(service, kafka.bootstrap_servers)
    seen: list[tuple[int, int, str]] = []

    def handle(delivery: Delivery) -> None:
        number = json.loads(delivery.data)
        seen.append((number, delivery.attempt, delivery.topic))
        if number == 3 or (number == 5 and delivery.attempt == 1):
            raise ValueError("no")

    def run() -> None:
        sender = Sender(conf_of(kafka), mesh)
        for number in range(10):
            sender.send(topic, json.dumps(number).encode(), b"%d" % (number % 3))
        sender.close()
        receiver = Receiver(
            conf_of(kafka, **{"group.id": fresh("group")}),
            mesh,
            [topic],
            ordering=ordering,
            retry=Retry(attempts=3, backoff=0.01, max_backoff=0.01),
        )
        read(receiver, handle, lambda: len(seen) == 13)
        receiver.close()

    await asyncio.to_thread(run)
    assert Counter(number for number, _, _ in seen) == {**dict.fromkeys(range(10), 1), 3: 3, 5: 2}
    assert {named for _, _, named in seen} == {topic}
    if ordering == "key":
        firsts = [number for number, attempt, _ in seen if attempt == 1 and number % 3 == 0]
        assert firsts == [0, 3, 6, 9]
        assert seen.index((6, 1, topic)) > seen.index((3, 3, topic)), "its key waits"
    letter = await dead_letters.next(f"{service}.v1.from.{topic}")
    assert letter.value == b"3"
    assert letter.envelope.attempt == 3


def test_records_that_are_not_due_hold_back_none_that_are(kafka: EmbeddedKafka) -> None:
    service, topic, hours = fresh("shop"), make_topic(kafka, fresh("orders"), 1), 150
    mesh = make_mesh(service, kafka.bootstrap_servers, max_in_flight=20)
    done: list[int] = []

    def handle(delivery: Delivery) -> None:
        number = int(delivery.data)
        if number < hours:
            delivery.retry(after=3600)
        elif delivery.attempt < 3:
            delivery.retry(after=0.05)
        else:
            done.append(number)

    sender = Sender(conf_of(kafka), mesh)
    for number in range(hours + 50):
        sender.send(topic, b"%d" % number)
    sender.close()
    group = fresh("group")
    receiver = Receiver(
        conf_of(kafka, **{"group.id": group}), mesh, [topic], ordering="none", retry=Retry(attempts=10)
    )
    read(receiver, handle, lambda: len(done) == 50)
    receiver.close()
    assert sorted(done) == list(range(hours, hours + 50))


# ── with native services ──────────────────────────────────────────────────────────────────────────────────


async def test_a_wrapped_consumer_answers_native_callers_and_a_repeat_gets_the_earlier_reply(
    kafka: EmbeddedKafka,
) -> None:
    service = fresh("counter")
    count = Operation(f"{service}.v1.count", request=Ask, reply=Answer, key="key")
    answered: list[str] = []
    stop = False

    def serve(ready: Callable[[], None]) -> None:
        receiver = Receiver(
            conf_of(kafka, **{"group.id": service}),
            make_mesh(service, kafka.bootstrap_servers),
            [count.name],
            declare=[count],
        )
        ready()
        kept: Delivery | None = None
        while not stop:
            delivery = receiver.poll(0.2)
            if kept is not None:  # polled on: it was not settled by that
                with pytest.raises(FailedPrecondition, match="waits for its reply"):
                    kept.done()
                kept.reply(Answer(times=len(answered)))
            if delivery is not None:
                assert isinstance(delivery.data, Ask)
                answered.append(delivery.data.key)
            kept = delivery
        receiver.close()

    loop, ready = asyncio.get_running_loop(), asyncio.Event()
    serving = asyncio.create_task(asyncio.to_thread(serve, lambda: loop.call_soon_threadsafe(ready.set)))
    try:
        async with asyncio.timeout(PATIENCE), make_mesh("dispatch", kafka.bootstrap_servers) as caller:
            await ready.wait()
            first = await caller.request(count, Ask(key="a"), idempotency_key="once")
            again = await caller.request(count, Ask(key="a"), idempotency_key="once")
            other = await caller.request(count, Ask(key="a"))
    finally:
        stop = True
        await serving
    assert (first.times, again.times, other.times) == (1, 1, 2)
    assert answered == ["a", "a"]


def test_who_waits_for_a_key_goes_on_when_the_partition_goes(kafka: EmbeddedKafka) -> None:
    mesh, topic = make_mesh(fresh("shop"), kafka.bootstrap_servers), make_topic(kafka, fresh("orders"), 1)
    producer = Producer(conf_of(kafka))
    for _ in range(2):
        headers = [("ce_source", b"dispatch"), ("mesh-idempotency-key", b"once")]
        producer.produce(topic, b"1", headers=headers)
    assert producer.flush(30) == 0
    other = Sender(conf_of(kafka), mesh)  # keeps the connection
    receiver = Receiver(conf_of(kafka, **{"group.id": fresh("group")}), mesh, [topic])
    at_work = receiver._connection.background._tasks
    first: Delivery | None = None
    while first is None:
        first = receiver.poll(0.5)
    first.hold()
    until(lambda: receiver.poll(0.1) is None and bool(at_work))  # the second waits for the first one's key
    receiver.close()
    assert first.state is State.GONE
    until(lambda: not at_work)
    other.close()


async def test_native_services_leave_retries_of_other_groups_alone(
    kafka: EmbeddedKafka, topics: Topics
) -> None:
    service = fresh("shop")
    tell = Operation(f"{service}.v1.tell", request=Ask, key="key")
    handled: Counter[str] = Counter()
    native = make_mesh(service, kafka.bootstrap_servers)

    @native.operation(tell, ordering="none", retry=Retry(attempts=3, backoff=0.01, max_backoff=0.01))
    async def handle(request: Ask, context: Context) -> None:
        handled["native"] += 1
        if context.attempt == 1:
            raise ValueError("the native service's own failure")

    def wrapped(delivery: Delivery) -> None:
        handled["wrapped"] += 1
        if delivery.attempt < 3:
            raise ValueError("the program's own failure")

    def read_all() -> None:
        receiver = Receiver(
            conf_of(kafka, **{"group.id": fresh("audit")}),
            make_mesh(service, kafka.bootstrap_servers),
            [tell.name],
            ordering="none",
            retry=Retry(attempts=5, backoff=0.01, max_backoff=0.01),
        )
        read(receiver, wrapped, lambda: handled["wrapped"] == 6)
        receiver.close()

    async with asyncio.timeout(PATIENCE), native.serving() as serving:
        await serving.joined()
        async with make_mesh("dispatch", kafka.bootstrap_servers) as caller:
            for key in ("a", "b"):
                await caller.send(tell, Ask(key=key))
        await asyncio.to_thread(read_all)
        retries = [
            record
            for record in await topics.read(f"{tell.name}.retry")
            if is_for(record._replace(operation=tell.name), None)
        ]
        while True:  # until the native service has passed everything
            ends = [await topics.committed(service, f"{tell.name}.retry", number) for number in range(6)]
            if sum(max(0, end) for end in ends) == 6:
                break
            await asyncio.sleep(0.05)
    assert len(retries) == 2
    assert handled == {"native": 4, "wrapped": 6}


# ── the connection's life ─────────────────────────────────────────────────────────────────────────────────


def test_all_clients_of_a_mesh_share_a_connection_that_ends_with_the_last(kafka: EmbeddedKafka) -> None:
    mesh, topic = make_mesh(fresh("shop"), kafka.bootstrap_servers), make_topic(kafka, fresh("orders"))
    first, second = Sender(conf_of(kafka), mesh), Sender(conf_of(kafka), mesh)
    connection = first._connection
    assert second._connection is connection
    first.close()
    first.close()
    assert not connection.is_closed
    second.send(topic, b"v")
    second.close()
    assert connection.is_closed
    with pytest.raises(FailedPrecondition, match="the mesh is disconnected: its wrapped clients were closed"):
        second.send(topic, b"v")
    with pytest.raises(FailedPrecondition, match="its wrapped clients were closed"):
        connection.wait(asyncio.sleep(0))
    third = Sender(conf_of(kafka), mesh)
    assert third._connection is not connection
    third.close()


def test_a_client_that_is_collected_lets_the_connection_go(kafka: EmbeddedKafka) -> None:
    mesh, topic = make_mesh(fresh("shop"), kafka.bootstrap_servers), make_topic(kafka, fresh("orders"))
    sender = Sender(conf_of(kafka), mesh)
    sender.send(topic, b"v")
    sender._producer.flush()
    held = sender._outbound.prepare(topic, b"never sent")
    connection = sender._connection
    del sender, held
    gc.collect()
    connection._thread.join(PATIENCE)
    assert connection.is_closed


async def test_a_mesh_may_be_used_natively_beside_its_wrapped_clients(kafka: EmbeddedKafka) -> None:
    mesh, topic = make_mesh(fresh("shop"), kafka.bootstrap_servers), make_topic(kafka, fresh("orders"))
    sender = await asyncio.to_thread(Sender, conf_of(kafka), mesh)
    async with mesh:
        await asyncio.to_thread(sender.send, topic, b"v")
        with pytest.raises(NotFound):
            await mesh.send("nobody.v1.knows", {})
    await asyncio.to_thread(sender.send, topic, b"v")
    await asyncio.to_thread(sender.close)


@pytest.mark.parametrize(("what", "code"), [("end", 0), ("raise", 1)])
async def test_a_program_that_ends_without_closing_loses_nothing(
    kafka: EmbeddedKafka, processes: Processes, dead_letters: DeadLetters, what: str, code: int
) -> None:
    topic = make_topic(kafka, fresh("orders"))
    with CollectorStub() as collector:
        process = processes.start(
            "tests.support.unclosed",
            *(kafka.bootstrap_servers, topic, what),
            OTEL_EXPORTER_OTLP_ENDPOINT=collector.endpoint,
            OTEL_EXPORTER_OTLP_PROTOCOL="http/protobuf",
        )
        assert await asyncio.to_thread(process.wait, PATIENCE) == code
        printed = processes.log_of(0).read_text()
        assert printed.count("Traceback") == code, printed
        letter = await dead_letters.next(f"shop.v1.from.{topic}")
        assert letter.value == b"one"
        names = {span.name for span in collector.spans}
    assert {f"send {topic}", f"process {topic}"} <= names


@pytest.mark.skipif(sys.platform == "win32", reason="there is no fork")
async def test_a_forked_child_is_told_and_its_parent_goes_on(
    kafka: EmbeddedKafka, processes: Processes
) -> None:
    topic = make_topic(kafka, fresh("orders"))
    process = processes.start("tests.support.unclosed", kafka.bootstrap_servers, topic, "fork")
    printed, _ = await asyncio.to_thread(process.communicate, None, PATIENCE)
    assert process.returncode == 0, processes.log_of(0).read_text()
    assert "child: " in printed
    assert "this process was forked after its mesh was connected" in printed
    assert "child ended with 0" in printed


# ── when the mesh can't be had ────────────────────────────────────────────────────────────────────────────


class Client:
    """Something to connect for."""


def test_a_kafka_that_can_not_be_reached_is_one_sentence() -> None:
    mesh = make_mesh("shop", f"127.0.0.1:{pick(1)[0]}", connect_timeout_seconds=1.0)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1") as raised:
        connect(mesh, Client())
    assert "\n" not in raised.value.message


def test_a_policy_that_can_not_be_understood_is_one_sentence(kafka: EmbeddedKafka) -> None:
    mesh = make_mesh("shop", kafka.bootstrap_servers)
    client = Client()
    connect(mesh, client).release(client)  # makes the topic
    producer = Producer(conf_of(kafka))
    producer.produce(POLICY_TOPIC, b"{no json", b"Access/broken", partition=0)
    producer.flush()
    try:
        with pytest.raises(MeshError, match="what can't be enforced is not left out") as raised:
            connect(mesh, client)
        assert "\n" not in raised.value.message
    finally:
        producer.produce(POLICY_TOPIC, None, b"Access/broken", partition=0)
        producer.flush()
    connect(mesh, client).release(client)
