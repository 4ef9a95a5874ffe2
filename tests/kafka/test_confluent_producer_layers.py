"""Wrapped producers and the mesh: headers, values, access, deadlines, events, spans, calls on services, ends."""

from __future__ import annotations

import asyncio
import gc
import json
import threading
import time
import uuid
import weakref
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import confluent_kafka as plain
import pytest
from confluent_kafka import KafkaError, KafkaException
from pydantic import BaseModel

from broker_mesh import Event, Mesh
from broker_mesh.contracts.registry import Registry
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    SchemaError,
    SettingsError,
    Unavailable,
)
from broker_mesh.settings import Settings
from broker_mesh_adapters.confluent_kafka import AIOProducer, Consumer, Producer, SerializingProducer, wrap
from tests.support.access import applying_rules
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import FIND_AIRCRAFT, FindAircraft, make_fleet, make_mesh
from tests.support.names import fresh
from tests.support.otlp import CollectorStub
from tests.support.plain_and_wrapped import poll_until, read
from tests.support.plain_kafka import PlainKafka

PATIENCE = 30.0
ORDER = {"type": "record", "name": "Order", "namespace": "shop", "fields": [{"name": "id", "type": "long"}]}


class Order(BaseModel):
    id: int


class Departed(BaseModel):
    tailnum: str


@pytest.fixture
def plain_kafka(kafka: EmbeddedKafka) -> PlainKafka:
    return PlainKafka(kafka.bootstrap_servers)


@pytest.fixture(scope="module")
def mesh(kafka: EmbeddedKafka) -> Iterator[Mesh]:
    mesh = make_mesh(fresh("orders"), kafka.bootstrap_servers)
    with Producer({}, mesh=mesh):
        yield mesh


def register(bootstrap_servers: str, subject: str, schema: Any = ORDER) -> int:
    registry = Registry(Settings(bootstrap_servers=bootstrap_servers), client_id="test")
    return registry.register_all({subject: AvroSchema.of(schema, subject)})[subject].id


def in_wire_format(schema_id: int, body: bytes, magic: int = 0) -> bytes:
    return bytes([magic]) + schema_id.to_bytes(4, "big") + body


# ── headers ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_mesh_s_headers_stand_beside_the_program_s(mesh: Mesh, plain_kafka: PlainKafka) -> None:
    topic = plain_kafka.make_topic(partitions=1)
    given = [("a", b"1"), ("mesh-origin", b"forged"), ("mesh-idempotency-key", b"once"), ("a", b"2")]
    with Producer({}, mesh=mesh) as producer:
        producer.produce(topic, "x", headers=given)
        producer.produce(topic, "y")
    first, second = plain_kafka.read(topic)
    assert first.headers == [("a", b"1"), ("a", b"2")]
    assert first.added["ce_source"] == mesh.service.encode()
    assert first.added["ce_type"] == topic.encode()
    assert uuid.UUID((first.added["ce_id"] or b"").decode()).version == 7
    assert first.added["ce_id"] != second.added["ce_id"]
    assert first.added["mesh-idempotency-key"] == b"once"
    assert "mesh-origin" not in first.added
    assert second.added["traceparent"]


def test_work_that_has_expired_is_not_sent(mesh: Mesh, plain_kafka: PlainKafka) -> None:
    topic = plain_kafka.make_topic(partitions=1)
    with Producer({}, mesh=mesh) as producer:
        past, future = (str(int((time.time() + offset) * 1000)) for offset in (-1, 600))
        with pytest.raises(DeadlineExceeded):
            producer.produce(topic, "late", headers={"mesh-deadline": past})
        with pytest.raises(InvalidArgument, match="mesh-deadline"):
            producer.produce(topic, "odd", headers={"mesh-deadline": "soon"})
        producer.produce(topic, "in time", headers={"mesh-deadline": future})
    (record,) = plain_kafka.read(topic)
    assert record.value == b"in time"
    assert record.added["mesh-deadline"] == future.encode()


# ── values ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("mode", ["off", "audit", "enforce"])
def test_values_that_do_not_fit_are_refused_where_that_is_enforced(
    mode: str, kafka: EmbeddedKafka, plain_kafka: PlainKafka
) -> None:
    topic = plain_kafka.make_topic(partitions=1)
    schema_id = register(kafka.bootstrap_servers, f"{topic}-value")
    mesh = make_mesh(fresh("orders"), kafka.bootstrap_servers, topics={topic: {"validation": mode}})
    bad = [
        b'{"id": 1}',  # no magic byte
        in_wire_format(schema_id, b"\x02", magic=3),
        in_wire_format(schema_id, b""),  # cut off
        in_wire_format(2_000_000_000, b"\x02"),  # nobody has registered that
    ]
    good = in_wire_format(schema_id, b"\x02")
    with Producer({}, mesh=mesh) as producer:
        for value in bad:
            if mode == "enforce":
                with pytest.raises(SchemaError):
                    producer.produce(topic, value)
            else:
                producer.produce(topic, value)
        producer.produce(topic, good)
        producer.produce(topic, None, "tombstone")
        for value in ({"id": 1}, Order(id=1)):  # what the mesh encodes fits in every mode
            producer.produce(topic, value)
        for value in ({"id": "x"}, {}):
            with pytest.raises(SchemaError, match="id"):
                producer.produce(topic, value)
        assert producer.flush(PATIENCE) == 0
    passed = [] if mode == "enforce" else bad
    assert [record.value for record in plain_kafka.read(topic)] == [*passed, good, None, good, good]


def test_serialized_bytes_are_checked_too(kafka: EmbeddedKafka, plain_kafka: PlainKafka) -> None:
    topic = plain_kafka.make_topic(partitions=1)
    schema_id = register(kafka.bootstrap_servers, f"{topic}-value")
    mesh = make_mesh(fresh("orders"), kafka.bootstrap_servers, topics={topic: {"validation": "enforce"}})
    reports: list[Any] = []
    conf = {"value.serializer": lambda value, _: in_wire_format(schema_id, value)}
    with SerializingProducer(conf, mesh=mesh) as producer:
        producer.produce(topic, value=b"\x04", on_delivery=lambda error, message: reports.append(error))
        with pytest.raises(SchemaError):
            producer.produce(topic, value=b"")
    with SerializingProducer({}, mesh=mesh) as producer:
        producer.produce(topic, value=Order(id=2))
    assert reports == [None]
    assert [record.value for record in plain_kafka.read(topic)] == [in_wire_format(schema_id, b"\x04")] * 2


# ── events, operations, access ────────────────────────────────────────────────────────────────────────────


def test_a_declared_event_is_registered_and_its_topic_made(
    kafka: EmbeddedKafka, plain_kafka: PlainKafka
) -> None:
    mesh = make_mesh(fresh("dispatch"), kafka.bootstrap_servers)
    departed = Event(f"{mesh.service}.v1.events.flight-departed", Departed, key="tailnum")
    with Producer({}, mesh=mesh, declared=[departed]) as producer:
        assert plain_kafka.exists(departed.name)
        producer.produce(departed.name, Departed(tailnum="N14228"), "N14228")
        with pytest.raises(SchemaError, match="too few for a magic byte and a schema id"):
            producer.produce(departed.name, b"{}")
        with pytest.raises(SchemaError, match="the value is null"):
            producer.produce(departed.name)  # a tombstone is no event
    (record,) = plain_kafka.read(departed.name)
    assert record.key == b"N14228"
    assert record.value is not None
    assert record.value.endswith(b"N14228")


def test_an_event_of_the_folder_is_registered_with_its_first_message(
    kafka: EmbeddedKafka, plain_kafka: PlainKafka, tmp_path: Path
) -> None:
    service = fresh("dispatch")
    file = tmp_path / service / "v1.events.flight-departed.avsc"
    file.parent.mkdir()
    fields = [{"name": "tailnum", "type": "string"}]
    file.write_text(
        json.dumps({"type": "record", "name": "Departed", "mesh-key": "tailnum", "fields": fields})
    )
    mesh = make_mesh(service, kafka.bootstrap_servers, schemas=tmp_path)
    topic = f"{service}.v1.events.flight-departed"
    with Producer({}, mesh=mesh) as producer:
        assert not plain_kafka.exists(topic)
        producer.produce(topic, {"tailnum": "N14228"}, "N14228")
    with Producer({}, mesh=mesh) as producer:  # another connection: all is there already
        producer.produce(topic, {"tailnum": "N14228"}, "N14228")
    assert [record.key for record in plain_kafka.read(topic)] == [b"N14228"] * 2


def test_names_of_the_mesh_are_checked(mesh: Mesh, plain_kafka: PlainKafka) -> None:
    with Producer({}, mesh=mesh) as producer:
        with pytest.raises(NotFound, match="does not exist"):
            producer.produce(f"{mesh.service}.v1.events.nobody-declared-it", b"")
        with pytest.raises(NotFound, match="does not exist"):
            producer.produce(f"{fresh('fleet')}.v1.find-aircraft", b"")
        theirs = f"{fresh('weather')}.v1.events.storm"
        with pytest.raises(PermissionDenied, match="only its owner publishes it"):
            producer.produce(theirs, b"")
        producer._mesh_sender.connection._topics.add(theirs)  # as for a consumer that has subscribed to it
        with pytest.raises(PermissionDenied, match="only its owner publishes it"):
            producer.produce(theirs, b"")


def test_what_an_access_rule_denies_is_not_sent(kafka: EmbeddedKafka, plain_kafka: PlainKafka) -> None:
    service, owner, topic = fresh("guest"), fresh("owner"), plain_kafka.make_topic(partitions=1)
    adopted = {topic: {"owner": owner, "kind": "operation"}}
    with applying_rules(kafka.bootstrap_servers) as rules:
        rules.apply(name := fresh("closed"), "deny", to=owner, callers=[service])
        mesh = make_mesh(service, kafka.bootstrap_servers, topics=adopted)
        with Producer({}, mesh=mesh) as producer:
            with pytest.raises(PermissionDenied, match=f"access rule '{name}' denies it"):
                producer.produce(topic, "x")
            batch: list[dict[str, Any]] = [{"value": "x"}]
            assert producer.produce_batch(topic, batch) == 0
            assert isinstance(batch[0]["_error"], PermissionDenied)
    assert plain_kafka.read(topic) == []


def test_headers_that_are_passed_on_do_not_pass_for_their_first_sender(
    kafka: EmbeddedKafka, plain_kafka: PlainKafka, tmp_path: Path
) -> None:
    origin, relay, owner = fresh("origin"), fresh("relay"), fresh("owner")
    heard, topic = plain_kafka.make_topic(partitions=1), plain_kafka.make_topic(partitions=1)
    spec = f"{{to: {owner}, operations: ['*'], from: [{relay}], action: deny}}"
    (tmp_path / "rules.yaml").write_text(f"kind: Access\nname: no-relay\nspec: {spec}\n")
    adopted = {topic: {"owner": owner, "kind": "operation"}}
    judging = make_mesh(owner, kafka.bootstrap_servers, policy=tmp_path, topics=adopted)
    relaying = make_mesh(relay, kafka.bootstrap_servers)
    conf = {"group.id": fresh("group"), "auto.offset.reset": "earliest"}
    with Producer({}, mesh=make_mesh(origin, kafka.bootstrap_servers)) as producer:
        producer.produce(heard, "passed on")
        producer.produce(topic, "at first hand")
    with Consumer(conf, mesh=relaying) as consumer, Producer({}, mesh=relaying) as producer:
        consumer.subscribe([heard])
        (message,) = read(consumer, 1)
        assert dict(message.headers() or [])["ce_source"] == origin.encode()
        producer.produce(topic, message.value(), headers=message.headers())
    letters = DeadLetters(kafka.bootstrap_servers)
    with Consumer(conf, mesh=judging) as consumer:
        consumer.subscribe([topic])
        came = poll_until(consumer, lambda: letters.all(f"{owner}.v1.from.{topic}", 1) != [])
    assert [(message.value(), message.context.caller) for message in came] == [(b"at first hand", origin)]
    (letter,) = letters.all(f"{owner}.v1.from.{topic}", 1)
    kept = dict(letter.headers)
    assert (letter.value, kept["ce_source"], kept["mesh-source"]) == (
        b"passed on",
        origin.encode(),
        relay.encode(),
    )
    assert b"no-relay" in (kept["mesh-status-message"] or b"")


async def test_a_service_can_be_called(kafka: EmbeddedKafka, mesh: Mesh) -> None:
    async with make_fleet(kafka.bootstrap_servers).serving() as service:
        await service.joined()
        with Producer({}, mesh=mesh) as producer:
            reply = await asyncio.to_thread(
                producer.request, FIND_AIRCRAFT, FindAircraft(tailnum="N14228"), timeout=PATIENCE
            )
            assert reply.seats == 6
            handle = await asyncio.to_thread(producer.call, FIND_AIRCRAFT.name, {"tailnum": "N1"})
            assert (await asyncio.to_thread(handle.reply, PATIENCE))["seats"] == 2
            with pytest.raises(NotFound, match="no aircraft is registered as X1"):
                await asyncio.to_thread(
                    producer.request, FIND_AIRCRAFT.name, {"tailnum": "X1"}, timeout=PATIENCE
                )
        async with AIOProducer({}, mesh=mesh) as producer:
            reply = await producer.request(FIND_AIRCRAFT, FindAircraft(tailnum="N14228"), timeout=PATIENCE)
            assert reply.seats == 6
            call = await producer.call(FIND_AIRCRAFT, FindAircraft(tailnum="N1"))
            assert (await call.reply(PATIENCE)).seats == 2


# ── spans ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_send_has_a_span_that_ends_whatever_becomes_of_it(
    kafka: EmbeddedKafka, plain_kafka: PlainKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    topic = plain_kafka.make_topic(partitions=1)
    with CollectorStub() as collector:
        endpoint = "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", f"{collector.endpoint}/v1/traces"
        monkeypatch.setenv(*endpoint)  # the exporter reads it itself
        mesh = make_mesh(fresh("orders"), kafka.bootstrap_servers, dict([endpoint]))
        keeper = Producer({}, mesh=mesh)
        conf = {"linger.ms": 60_000, "queue.buffering.max.messages": 1, "message.max.bytes": 2000}
        producer = Producer(conf, mesh=mesh)
        producer.produce(topic, "delivered")
        producer.flush()
        producer.produce(topic, "purged")
        with pytest.raises(BufferError):
            producer.produce(topic, "queue full")
        producer.purge()
        producer.flush()
        with pytest.raises(KafkaException):
            producer.produce(topic, b"too large" * 1000)
        with pytest.raises(TypeError):
            producer.produce(topic, "no partition", partition="x")  # type: ignore[arg-type]
        producer.close()
        transactional = Producer({"transactional.id": fresh("tx"), "linger.ms": 30_000}, mesh=mesh)
        transactional.init_transactions()
        transactional.begin_transaction()
        transactional.produce(topic, "aborted")
        transactional.abort_transaction()
        transactional.close()
        keeper.close()
        spans = collector.wait_for(lambda spans: len(spans) >= 6)
    ended = Counter(span.attributes.get("error.type", span.status) for span in spans)
    assert ended == {
        "UNSET": 1,
        "INTERNAL": 2,  # purged, aborted
        "RESOURCE_EXHAUSTED": 2,  # queue full, too large
        "INVALID_ARGUMENT": 1,
    }
    assert {span.name for span in spans} == {f"send {topic}"}


# ── asyncio ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_the_asyncio_producer_carries_headers_and_timestamps(
    mesh: Mesh, plain_kafka: PlainKafka
) -> None:
    topic = plain_kafka.make_topic(partitions=2)
    heard: list[Any] = []
    async with AIOProducer({"linger.ms": 5}, mesh=mesh) as producer:
        future = await producer.produce(
            topic,
            "x",
            "k",
            partition=1,
            timestamp=5,
            headers={"a": "b"},
            on_delivery=lambda *args: heard.append(args),
        )
        message = await asyncio.wait_for(future, PATIENCE)  # without poll(), and without flush()
        assert (message.partition(), message.offset(), message.value()) == (1, 0, b"x")
        assert heard == [(None, message)]
        assert await producer.poll(0) == 1
        assert await producer.poll(0.01) == 0
        waiting = asyncio.create_task(producer.poll(-1))
        await asyncio.gather(
            *[await producer.produce(topic, str(number), partition=1) for number in range(3)]
        )
        assert await waiting >= 1
        purged = AIOProducer({"linger.ms": 60_000}, mesh=mesh)
        given_up = await purged.produce(topic, "purged")
        await purged.purge()
        with pytest.raises(KafkaException) as caught:
            await asyncio.wait_for(given_up, PATIENCE)
        assert caught.value.args[0].code() == KafkaError._PURGE_QUEUE
        await purged.close()
    first, *rest = await asyncio.to_thread(plain_kafka.read, topic)
    assert (first.headers, first.timestamp) == ([("a", b"b")], 5)
    assert [record.value for record in rest] == [b"0", b"1", b"2"]


async def test_the_asyncio_producer_refuses_as_the_other_does(mesh: Mesh, plain_kafka: PlainKafka) -> None:
    topic = await asyncio.to_thread(plain_kafka.make_topic)
    statistics: list[str] = []

    async def on_statistics(text: str) -> None:
        statistics.append(text)

    conf = {
        "stats_cb": on_statistics,
        "statistics.interval.ms": 50,
        "queue.buffering.max.messages": 1,
        "linger.ms": 5000,
    }
    producer = AIOProducer(conf, mesh=mesh)
    with pytest.raises(PermissionDenied):
        await producer.produce(f"{fresh('weather')}.v1.events.storm", "x")
    with pytest.raises(TypeError, match="argument 1 must be str"):
        await producer.produce(None, "x")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="a bytes-like object is required"):
        await producer.produce(topic, 5)  # type: ignore[arg-type]
    first, second = await producer.produce(topic, "1"), await producer.produce(topic, "2")
    assert second.exception().args[0].code() == KafkaError._QUEUE_FULL  # type: ignore[union-attr]
    first.cancel()  # nobody waits for it, and it is sent all the same
    async with asyncio.timeout(PATIENCE):
        while not statistics:
            await asyncio.sleep(0.02)
    await producer.close()
    await producer.close()
    with pytest.raises(RuntimeError, match="Producer has been closed"):
        await producer.produce(topic, "x")
    assert len(await asyncio.to_thread(plain_kafka.read, topic)) == 1


async def test_an_asyncio_producer_that_is_dropped_leaves_no_thread(mesh: Mesh) -> None:
    producer = AIOProducer({}, mesh=mesh)
    await producer.poll(0)
    poller = producer._poller
    del producer
    gc.collect()
    await asyncio.to_thread(poller.join, PATIENCE)
    assert not poller.is_alive()


async def test_the_asyncio_producer_connects_with_its_first_call() -> None:
    mesh = make_mesh("orders", "127.0.0.1:1", connect_timeout_seconds=0.2)
    producer = AIOProducer({"log_level": 0}, mesh=mesh)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        await producer.produce("topic", "x")
    await producer.close()


# ── wrapping, and ends ────────────────────────────────────────────────────────────────────────────────────


def test_what_can_t_be_wrapped_says_so(kafka: EmbeddedKafka, mesh: Mesh) -> None:
    conf = {"bootstrap.servers": kafka.bootstrap_servers}
    raw = plain.Producer(conf)
    attempts: list[tuple[Callable[[], Any], str]] = [
        (lambda: wrap(wrap(raw, mesh=mesh, conf=conf), mesh=mesh, conf=conf), "is wrapped already"),
        (lambda: wrap(Producer(conf, mesh=mesh), mesh=mesh, conf=conf), "is wrapped already"),
        (
            lambda: wrap(plain.SerializingProducer(conf), mesh=mesh, conf=conf),
            "SerializingProducer can't be wrapped",
        ),
        (lambda: wrap(raw, mesh=mesh, conf={"delivery.report.only.error": True}), "can't be wrapped"),
        (lambda: wrap("text", mesh=mesh, conf=conf), "give a Producer or Consumer"),
        (lambda: wrap(raw, mesh=None, conf=conf), "mesh is None: give a Mesh"),  # type: ignore[arg-type]
    ]
    for attempt, sentence in attempts:
        with pytest.raises(SettingsError, match=sentence):
            attempt()


def test_after_the_mesh_is_disconnected_nothing_is_sent(
    kafka: EmbeddedKafka, plain_kafka: PlainKafka
) -> None:
    topic = plain_kafka.make_topic(partitions=1)
    producer = Producer({}, mesh=make_mesh(fresh("orders"), kafka.bootstrap_servers))
    producer.produce(topic, "before")
    producer.flush()
    producer._mesh_sender.connection.close()
    with pytest.raises(FailedPrecondition, match="the mesh is disconnected"):
        producer.produce(topic, "after")
    with pytest.raises(FailedPrecondition, match="the mesh is disconnected"):
        producer.request("fleet.v1.find-aircraft", {})
    producer.close()
    assert len(plain_kafka.read(topic)) == 1


def test_the_last_client_to_close_disconnects_the_mesh(kafka: EmbeddedKafka) -> None:
    mesh = make_mesh(fresh("orders"), kafka.bootstrap_servers)
    first, second = (
        Producer({}, mesh=mesh),
        wrap(plain.Producer({"bootstrap.servers": kafka.bootstrap_servers}), mesh=mesh, conf={}),
    )
    connection = first._mesh_sender.connection
    first.close()
    first.close()
    assert not connection.is_closed
    second.close()
    assert connection.is_closed
    with Producer({}, mesh=mesh) as third:  # and a new one connects again
        assert third._mesh_sender.connection is not connection


def test_a_producer_that_is_dropped_with_messages_in_its_queue_is_collected(
    mesh: Mesh, plain_kafka: PlainKafka
) -> None:
    producer = Producer({"linger.ms": 60_000}, mesh=mesh)
    producer.produce(plain_kafka.make_topic(), "lost, as with the plain one")
    gone = weakref.ref(producer)
    del producer
    assert gone() is None


def test_the_first_messages_of_many_threads_find_the_topic_once_it_is_known(
    mesh: Mesh, plain_kafka: PlainKafka
) -> None:
    topic = plain_kafka.make_topic(partitions=1)
    with Producer({}, mesh=mesh) as producer:
        threads = [
            threading.Thread(target=producer.produce, args=(topic, str(number))) for number in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
    assert sorted(record.value or b"" for record in plain_kafka.read(topic)) == [
        b"%d" % number for number in range(8)
    ]
