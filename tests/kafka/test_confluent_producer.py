"""Programs for confluent_kafka's producers, with the plain class and with the wrapped one: the same is seen to happen.

Each program follows what confluent_kafka documents of a feature. It gets what makes its clients, runs on a topic of its
own, and tells all it has seen: return values, callbacks' arguments, exceptions. The records on the topic are compared
as well.
"""

from __future__ import annotations

import asyncio
import json
import threading
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import confluent_kafka as plain
import pytest
from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.aio import AIOProducer as PlainAIOProducer
from confluent_kafka.serialization import SerializationContext, StringSerializer

from broker_mesh import Mesh
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh_adapters.confluent_kafka import AIOProducer, Producer, SerializingProducer, wrap
from tests.support.fleet import make_mesh
from tests.support.names import fresh
from tests.support.plain_kafka import PlainKafka, PlainRecord

PATIENCE = 30.0
GIVEN_TIME = 1_700_000_000_000


class World:
    """The plain classes, or the wrapped ones, or a plain producer that is wrapped afterwards.

    Args:
        kind: "plain", "wrapped" or "wrap".
        mesh: of the wrapped ones.
    """

    def __init__(self, kind: str, mesh: Mesh) -> None:
        self.kind = kind
        self.mesh = mesh
        self.bootstrap_servers = str(mesh.settings.bootstrap_servers)
        self.Producer: type = plain.Producer if kind == "plain" else Producer
        self._made: list[Any] = []

    def __enter__(self) -> World:
        return self

    def __exit__(self, *_: object) -> None:
        for producer in self._made:
            producer.close()

    def made(self, cls: type, conf: dict[str, Any]) -> Any:
        if self.kind == "plain":
            return self._kept(cls({"bootstrap.servers": self.bootstrap_servers, **conf}))
        return self._kept(cls(conf, mesh=self.mesh))

    def producer(self, conf: dict[str, Any]) -> Any:
        if self.kind == "wrap":
            whole = {"bootstrap.servers": self.bootstrap_servers, **conf}
            return self._kept(wrap(plain.Producer(whole), mesh=self.mesh, conf=whole))
        return self.made(self.Producer, conf)

    def serializing(self, conf: dict[str, Any]) -> Any:
        return self.made(plain.SerializingProducer if self.kind == "plain" else SerializingProducer, conf)

    def aio(self, conf: dict[str, Any]) -> Any:
        if self.kind == "plain":
            return PlainAIOProducer({"bootstrap.servers": self.bootstrap_servers, **conf})
        return AIOProducer(conf, mesh=self.mesh)

    def _kept(self, producer: Any) -> Any:
        self._made.append(producer)
        return producer


@pytest.fixture
def plain_kafka(kafka: EmbeddedKafka) -> PlainKafka:
    return PlainKafka(kafka.bootstrap_servers)


@pytest.fixture(scope="module")
def mesh(kafka: EmbeddedKafka) -> Iterator[Mesh]:
    """One mesh for all programs, and one client that keeps it connected between them."""
    mesh = make_mesh(fresh("orders"), kafka.bootstrap_servers)
    with Producer({}, mesh=mesh):
        yield mesh


def error_of(attempt: Callable[[], Any]) -> Any:
    """What an attempt gives, or the exception in a form that can be compared."""
    try:
        return attempt()
    except KafkaException as error:
        return "KafkaException", error.args[0].name(), error.args[0].str()
    except Exception as error:  # noqa: BLE001 - whichever it is, it must be the same
        return type(error).__name__, str(error)


class Reports:
    """A delivery callback that notes what it is given."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __call__(self, error: Any, message: Any) -> None:
        assert message.latency() is not None
        self.seen.append(
            (
                error.name() if error is not None else None,
                message.partition(),
                message.offset(),
                message.key(),
                message.value(),
                message.headers(),
                message.error() is None,
            )
        )

    @property
    def sorted(self) -> list[Any]:
        return sorted(self.seen, key=repr)


# ── programs ──────────────────────────────────────────────────────────────────────────────────────────────


def simple(world: World, topic: str) -> Any:
    reports = Reports()
    producer = world.producer({"linger.ms": 200})
    for number in range(20):
        producer.produce(topic, f"value {number}", f"key {number % 5}", callback=reports)
    queued = len(producer)
    served = producer.poll(0)
    left = producer.flush()
    return queued, served, left, len(producer), bool(producer), reports.sorted


def positional_and_named(world: World, topic: str) -> Any:
    reports = Reports()
    producer = world.producer({})
    producer.produce(
        topic, b"all", b"key", 1, reports, None, GIVEN_TIME, {"a": "text", "b": b"bytes", "c": None}
    )
    producer.produce(topic, b"on_delivery", b"key", 1, reports, reports, GIVEN_TIME, [("a", "1"), ("a", "2")])
    producer.produce(topic=topic, headers=[("x", "ä")], value="ü", partition=0, timestamp=GIVEN_TIME)
    producer.produce(topic, partition=0)
    producer.produce(topic, None, "tombstone", partition=0, timestamp=GIVEN_TIME + 1)
    producer.produce(topic, "", "", partition=0, timestamp=GIVEN_TIME + 2, headers={})
    producer.produce(topic, b"odd", partition=0, headers=[(b"name", b"1"), ("cut\0off", b"2"), ("", b"3")])
    return producer.flush(PATIENCE), reports.seen


def partitioned(conf: dict[str, Any], world: World, topic: str) -> Any:
    producer = world.producer(conf)
    for number in range(100):
        producer.produce(topic, str(number), f"key {number % 30}")
    return producer.flush()


def default_callback(world: World, topic: str) -> Any:
    default, own = Reports(), Reports()
    producer = world.producer({"on_delivery": default})
    producer.produce(topic, "default", partition=0)
    producer.produce(topic, "own", partition=0, callback=own)
    producer.produce(topic, "none given", partition=0, callback=None, on_delivery=None)
    producer.flush()
    return default.seen, own.seen


def errors_only(world: World, topic: str) -> Any:
    reports = Reports()
    producer = world.producer({"delivery.report.only.error": True, "linger.ms": 60_000})
    producer.produce(topic, "good", partition=0, callback=reports)
    producer.flush()
    producer.produce(topic, "purged", partition=0, callback=reports)
    producer.purge(in_flight=False)
    return producer.flush(), reports.seen


def purged(world: World, topic: str) -> Any:
    reports = Reports()
    producer = world.producer({"linger.ms": 60_000})
    for number in range(3):
        producer.produce(topic, str(number), partition=0, callback=reports)
    producer.purge()
    return len(producer), producer.flush(), reports.seen


def raising_callback(world: World, topic: str) -> Any:
    def fail(error: Any, message: Any) -> None:
        raise ValueError(f"no {message.value()!r}")

    reports = Reports()
    producer = world.producer({"linger.ms": 100})
    producer.produce(topic, "1", partition=0, callback=fail)
    producer.produce(topic, "2", partition=0, callback=reports)
    flushed = error_of(producer.flush)
    again = producer.flush(), len(producer)
    producer.produce(topic, "3", partition=0, callback=fail)
    return flushed, again, error_of(partial(producer.poll, PATIENCE)), producer.flush(), reports.seen


def refused_by_the_client(world: World, topic: str) -> Any:
    producer = world.producer(
        {
            "queue.buffering.max.messages": 3,
            "linger.ms": 500,
            "message.max.bytes": 2000,
            "topic.metadata.propagation.max.ms": 500,
        }
    )
    missing = "no_such_topic_for_" + topic.split("_")[0]
    producer.produce(topic, "known")
    producer.flush()
    attempts = [
        *(
            partial(producer.produce, topic, value)
            for value in (1, 1.5, bytearray(b"x"), memoryview(b"x"), [])
        ),
        *(partial(producer.produce, topic, b"", key) for key in (1, bytearray(b"x"), {})),
        *(
            partial(producer.produce, topic, headers=headers)
            for headers in ({"a": 1}, [("a",)], [["a", "b"]], (("a", "b"),), "x", 5, [("a", bytearray(b"1"))])
        ),
        partial(producer.produce, topic, partition="x"),
        partial(producer.produce, topic, partition=None),
        partial(producer.produce, topic, partition=99),
        partial(producer.produce, topic, timestamp="x"),
        partial(producer.produce, topic, "\ud800"),
        partial(producer.produce, None),
        partial(producer.produce, b"topic"),
        partial(producer.produce, topic, b"x" * 5000),
        *[partial(producer.produce, topic, "queued")] * 5,
        *[len, bool],
    ]
    seen = [error_of(partial(each, producer) if each in (len, bool) else each) for each in attempts]
    producer.flush()
    reports = Reports()
    missed = error_of(partial(producer.produce, missing, "x", callback=reports))
    return seen, missed, producer.flush(), [report[0] for report in reports.seen]


def closed(world: World, topic: str) -> Any:
    reports = Reports()
    producer = world.producer({"linger.ms": 60_000})
    producer.produce(topic, "queued", partition=0, callback=reports)
    ends = [producer.close(), producer.close()]
    later = [
        error_of(attempt)
        for attempt in (
            partial(producer.produce, topic, "x"),
            partial(producer.produce_batch, topic, [{"value": "x"}]),
            partial(producer.poll, 0),
            producer.flush,
            producer.purge,
            producer.begin_transaction,
            partial(producer.list_topics, topic),
            partial(len, producer),
            partial(bool, producer),
        )
    ]
    return ends, reports.seen, later


def context_manager(world: World, topic: str) -> Any:
    reports = Reports()
    with world.producer({"linger.ms": 60_000}) as producer:
        producer.produce(topic, "queued", partition=0, callback=reports)
    try:
        with world.producer({"linger.ms": 60_000}) as second:
            second.produce(topic, "queued too", partition=0, callback=reports)
            raise KeyError("ends the block")
    except KeyError as error:
        left = repr(error)
    return left, error_of(partial(second.produce, topic, "x")), reports.seen


def batches(world: World, topic: str) -> Any:
    default, own = Reports(), Reports()
    producer = world.producer(
        {"linger.ms": 500, "queue.buffering.max.messages": 3, "message.max.bytes": 2000}
    )
    producer.produce(topic, "known", partition=0)
    producer.flush()
    mixed: list[dict[str, Any]] = [
        {"value": "a", "key": "k"},
        {"value": b"x" * 5000},
        {"value": "b", "callback": own},
        {},
    ]
    counts = [
        error_of(partial(producer.produce_batch, topic, mixed, 0, on_delivery=default)),
        producer.flush(),
    ]
    full: list[dict[str, Any]] = [{"value": str(number)} for number in range(5)]
    counts += [producer.produce_batch(topic, full, partition=1, callback=default), producer.flush()]
    counts.append(producer.produce_batch(topic, []))
    wrong: list[Any] = [
        "x",
        (1,),
        [5],
        [{"value": 5}],
        [{"key": 5}],
        [{"partition": "x"}],
        [{"value": "not sent"}, {"value": 5}],
    ]
    refusals = [error_of(partial(producer.produce_batch, topic, each)) for each in wrong]
    noted = [message["_error"].name() if "_error" in message else None for message in (*mixed, *full)]
    return counts, refusals, noted, producer.flush(), default.seen, own.seen


def transactions(world: World, topic: str) -> Any:
    reports = Reports()
    producer = world.producer({"transactional.id": fresh("tx")})
    early = error_of(producer.begin_transaction)
    producer.init_transactions(PATIENCE)
    producer.begin_transaction()
    for number in range(3):
        producer.produce(topic, f"committed {number}", "key", 0, callback=reports)
    producer.commit_transaction(PATIENCE)
    outside = error_of(partial(producer.produce, topic, "outside of a transaction"))
    producer.begin_transaction()
    for number in range(3):
        producer.produce(topic, f"aborted {number}", "key", 0)
    producer.abort_transaction(PATIENCE)
    producer.begin_transaction()
    producer.produce(topic, "after it", "key", 0)
    producer.commit_transaction()
    return early, outside, reports.seen, error_of(producer.commit_transaction)


def serializers(world: World, topic: str) -> Any:
    def to_json(value: Any, context: SerializationContext) -> bytes:
        return json.dumps([value, context.topic == topic, context.field]).encode()

    reports = Reports()
    producer = world.serializing({"key.serializer": StringSerializer("utf_8"), "value.serializer": to_json})
    producer.produce(topic, "key", {"n": 1}, 0, reports, GIVEN_TIME, {"a": "b"})
    producer.produce(topic=topic, value=[2], partition=0, on_delivery=reports)
    wrong = [
        error_of(partial(producer.produce, topic, 5, {})),
        error_of(partial(producer.produce, topic, "key", object())),
        error_of(partial(producer.produce, 5, "key")),
    ]
    left = producer.flush()
    ends = [producer.close(), error_of(partial(producer.produce, topic, "key", 1))]
    return wrong, left, reports.seen, ends


def avro(world: World, topic: str) -> Any:
    with warnings.catch_warnings(record=True):  # of what its registry client imports
        from confluent_kafka.schema_registry import SchemaRegistryClient
        from confluent_kafka.schema_registry.avro import AvroSerializer

    schema = {"type": "record", "name": "Order", "fields": [{"name": "id", "type": "long"}]}
    serializer = AvroSerializer(SchemaRegistryClient.new_client({"url": "mock://"}), json.dumps(schema))
    reports = Reports()
    producer = world.serializing({"value.serializer": serializer})
    for number in range(3):
        producer.produce(topic, key=str(number), value={"id": number}, partition=0, on_delivery=reports)
    wrong = error_of(partial(producer.produce, topic, value={"id": "no number"}))
    return wrong[0], producer.flush(), reports.seen


def threads(world: World, topic: str) -> Any:
    reports = Reports()
    producer = world.producer({})

    def produce(thread: int) -> None:
        for number in range(50):
            producer.produce(topic, f"{thread} {number}", str(thread), thread % 2, callback=reports)
            producer.poll(0)

    started = [threading.Thread(target=produce, args=(number,)) for number in range(4)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()
    return producer.flush(), len(reports.seen), [report[0] for report in reports.seen]


def subclassed(world: World, topic: str) -> Any:
    class Counting(world.Producer):  # type: ignore[misc,name-defined]
        count = 0

        def produce(self, *args: Any, **named: Any) -> None:
            self.count += 1
            super().produce(*args, **named)

    producer = world.made(Counting, {})
    producer.produce(topic, "1", partition=0)
    producer.produce(topic, value="2", partition=0)
    producer.flush()
    return producer.count, isinstance(producer, plain.Producer)


def metadata(world: World, topic: str) -> Any:
    producer = world.producer({})
    described = producer.list_topics(topic, timeout=PATIENCE).topics[topic]
    producer.set_sasl_credentials("user", "secret")
    return len(described.partitions), producer.cluster_id(), producer.cluster_id(timeout=PATIENCE)


def consume_process_produce(world: World, topic: str) -> Any:
    """Read a topic, write to another, and commit what was read in the same transaction."""
    group = fresh("copying")
    feeding = plain.Producer({"bootstrap.servers": world.bootstrap_servers})
    for number in range(5):
        feeding.produce(topic, f"in {number}", partition=0)
    feeding.flush()
    consumer = plain.Consumer(
        {
            "bootstrap.servers": world.bootstrap_servers,
            "group.id": group,
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "isolation.level": "read_committed",
        }
    )
    producer = world.producer({"transactional.id": fresh("copying")})
    producer.init_transactions()
    committed = []
    try:
        consumer.assign([TopicPartition(topic, 0, 0)])
        for end in ("abort", "commit"):
            consumer.seek(TopicPartition(topic, 0, 0)) if end == "commit" else None
            producer.begin_transaction()
            for message in [consumer.poll(PATIENCE) for _ in range(5)]:
                producer.produce(topic, message.value().replace(b"in", end.encode()), partition=1)
            producer.send_offsets_to_transaction(
                consumer.position(consumer.assignment()), consumer.consumer_group_metadata(), PATIENCE
            )
            producer.abort_transaction() if end == "abort" else producer.commit_transaction()
            committed += [each.offset for each in consumer.committed([TopicPartition(topic, 0)], PATIENCE)]
    finally:
        consumer.close()
    return committed


def asynchronous(world: World, topic: str) -> Any:
    async def run() -> Any:
        producer = world.aio({})
        futures = [await producer.produce(topic, f"{number}", "key", partition=0) for number in range(5)]
        flushed = await producer.flush()
        messages = await asyncio.gather(*futures)
        told = [
            (each.topic() == topic, each.partition(), each.offset(), each.key(), each.value())
            for each in messages
        ]
        too_large = await producer.produce(topic, b"x" * 5_000_000)
        await producer.flush()
        failed = type(too_large.exception()).__name__, too_large.exception().args[0].name()
        topics = (await producer.list_topics(topic, timeout=PATIENCE)).topics
        state = len(producer), list(topics) == [topic], await producer.cluster_id()
        await producer.close()
        return flushed, told, failed, state, len(producer), [type(each).__name__ for each in futures]

    return asyncio.run(run())


def asynchronous_transactions(world: World, topic: str) -> Any:
    async def run() -> Any:
        producer = world.aio({"transactional.id": fresh("aio")})
        await producer.init_transactions(PATIENCE)
        ends = []
        for end in (producer.commit_transaction, producer.abort_transaction, producer.commit_transaction):
            await producer.begin_transaction()
            futures = [
                await producer.produce(topic, f"{end.__name__} {number}", partition=0) for number in range(3)
            ]
            await end()
            ends.append([each.offset() for each in await asyncio.gather(*futures)])
        await producer.close()
        return ends

    return asyncio.run(run())


PROGRAMS = {
    each.__name__: each
    for each in (
        simple,
        positional_and_named,
        default_callback,
        purged,
        raising_callback,
        refused_by_the_client,
        closed,
        context_manager,
        batches,
        transactions,
        consume_process_produce,
        threads,
        metadata,
    )
} | {
    "partitioned by default": partial(partitioned, {}),
    "partitioned as Java does": partial(partitioned, {"partitioner": "murmur2_random"}),
}
OF_CLASSES = {
    each.__name__: each
    for each in (errors_only, subclassed, serializers, avro, asynchronous, asynchronous_transactions)
}
CASES = [(name, "wrapped") for name in (*PROGRAMS, *OF_CLASSES)] + [(name, "wrap") for name in PROGRAMS]


@pytest.mark.parametrize(("program", "kind"), CASES)
def test_a_program_sees_the_same_as_with_the_plain_class(
    program: str, kind: str, plain_kafka: PlainKafka, mesh: Mesh
) -> None:
    run = {**PROGRAMS, **OF_CLASSES}[program]
    seen, records = [], []
    for world_kind in ("plain", kind):
        topic = plain_kafka.make_topic()
        with World(world_kind, mesh) as world:
            seen.append(run(world, topic))
        records.append([comparable(each) for each in plain_kafka.read(topic)])
    if program in ("threads", "refused_by_the_client"):  # their order, or their partition, is chance
        records = [sorted(each._replace(partition=0) for each in some) for some in records]
    assert seen[1] == seen[0]
    assert records[1] == records[0]


def comparable(record: PlainRecord) -> PlainRecord:
    """A record without what the mesh adds to it, and without the time of day."""
    is_given = GIVEN_TIME <= record.timestamp < GIVEN_TIME + 10
    return record._replace(added={}, timestamp=record.timestamp if is_given else 0)
