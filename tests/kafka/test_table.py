"""Tables on a real Kafka: what a read sees, and where it stops."""

from __future__ import annotations

import socket
import time
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import Producer, TopicPartition
from confluent_kafka.admin import AdminClient, ConfigResource, NewTopic, ResourceType

from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import Aborted, DataLoss, MessageTooLarge, NotFound, Unavailable
from broker_mesh.kafka.fenced import FencedWriter, NewRecord, send_all
from broker_mesh.kafka.table import CompactedTable, make_table_topic
from broker_mesh.settings import Settings


def in_seconds(seconds: float) -> float:
    return time.monotonic() + seconds


@pytest.fixture
def settings(kafka: EmbeddedKafka) -> Settings:
    return Settings(bootstrap_servers=kafka.bootstrap_servers)


@pytest.fixture
def topic(settings: Settings) -> str:
    name = f"_mesh.table-{uuid.uuid4().hex}"
    make_table_topic(settings, name, client_id="test")
    return name


@pytest.fixture
def transactional(settings: Settings) -> Iterator[Producer]:
    producer = Producer(
        {
            "bootstrap.servers": settings.bootstrap_servers,
            "transactional.id": uuid.uuid4().hex,
            "log_level": 0,
        }
    )
    producer.init_transactions(20)
    yield producer
    producer.close()


def write(settings: Settings, topic: str, **items: str | None) -> None:
    records = [NewRecord(topic, key.encode(), None if v is None else v.encode()) for key, v in items.items()]
    send_all(settings, records, client_id="test", deadline=in_seconds(20))


def test_a_read_gives_what_is_new_and_items_hold_the_latest(settings: Settings, topic: str) -> None:
    table = CompactedTable(settings, topic, client_id="test")
    assert table.read_to_end() == []
    write(settings, topic, a="1", b="2")
    assert [(r.key, r.value, r.offset) for r in table.read_to_end()] == [(b"a", b"1", 0), (b"b", b"2", 1)]
    write(settings, topic, a="3", b=None, c="")
    assert [r.offset for r in table.read_to_end()] == [2, 3, 4]
    assert table.read_to_end() == []
    assert dict(table.items) == {b"a": b"3", b"c": b""}
    assert table.position == 5


def test_a_missing_topic_is_an_error_unless_it_is_to_be_made(settings: Settings) -> None:
    name = f"_mesh.table-{uuid.uuid4().hex}"
    with pytest.raises(NotFound, match=name):
        CompactedTable(settings, name, client_id="test").read_to_end()
    assert CompactedTable(settings, name, client_id="test", create=True).read_to_end() == []
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    resource = ConfigResource(ResourceType.TOPIC, name)
    config = admin.describe_configs([resource])[resource].result()
    assert config["cleanup.policy"].value == "compact"
    assert config["min.insync.replicas"].value == "1"
    assert config["unclean.leader.election.enable"].value == "false"
    make_table_topic(settings, name, client_id="test")  # a second time changes nothing


def test_aborted_records_are_hidden_and_the_read_ends_behind_them(
    settings: Settings, topic: str, transactional: Producer
) -> None:
    table = CompactedTable(settings, topic, client_id="test")
    transactional.begin_transaction()
    transactional.produce(topic, key=b"a", value=b"kept")
    transactional.commit_transaction(20)
    transactional.begin_transaction()
    transactional.produce(topic, key=b"a", value=b"aborted")
    transactional.flush(20)
    # While the transaction is open the table ends before it.
    assert [r.value for r in table.read_to_end()] == [b"kept"]
    assert table.position == 2
    transactional.abort_transaction(20)
    assert table.read_to_end() == []
    assert table.position == 4  # record and marker
    assert dict(table.items) == {b"a": b"kept"}
    everything = CompactedTable(settings, topic, client_id="test", isolation="read_uncommitted")
    assert [r.value for r in everything.read_to_end()] == [b"kept", b"aborted"]


def test_a_read_starts_at_what_is_left_of_the_topic(settings: Settings) -> None:
    name = f"_mesh.table-{uuid.uuid4().hex}"
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    admin.create_topics([NewTopic(name, 1, 1)])[name].result()
    write(settings, name, a="1", b="2", c="3")
    cut = admin.delete_records([TopicPartition(name, 0, 2)])
    for future in cut.values():
        future.result()
    table = CompactedTable(settings, name, client_id="test")
    assert [r.key for r in table.read_to_end()] == [b"c"]


def test_a_topic_that_was_made_anew_is_no_continuation(settings: Settings, topic: str) -> None:
    table = CompactedTable(settings, topic, client_id="test", create=True)
    write(settings, topic, a="1", b="2")
    table.read_to_end()
    admin = AdminClient({"bootstrap.servers": settings.bootstrap_servers})
    admin.delete_topics([topic])[topic].result()
    with pytest.raises(DataLoss, match="was read to 2 before"):
        table.read_to_end()
    assert dict(table.items) == {b"a": b"1", b"b": b"2"}


def test_no_broker_is_unavailable(topic: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as held:
        port = held.getsockname()[1]
    table = CompactedTable(Settings(bootstrap_servers=f"127.0.0.1:{port}"), topic, client_id="test")
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}"):
        table.read_to_end(timeout=0.5)


def test_many_records_come_in_order(settings: Settings, topic: str) -> None:
    write(settings, topic, **{f"k{i}": "x" * 100 for i in range(5000)})
    records = CompactedTable(settings, topic, client_id="test").read_to_end()
    assert [r.offset for r in records] == list(range(5000))


def test_who_opens_the_writer_fences_who_had_it(settings: Settings, topic: str) -> None:
    domain = uuid.uuid4().hex
    table = CompactedTable(settings, topic, client_id="test")
    with FencedWriter(settings, domain, client_id="one", deadline=in_seconds(20)) as first:
        first.commit([NewRecord(topic, b"a", b"first")])
        with FencedWriter(settings, domain, client_id="two", deadline=in_seconds(20)) as second:
            with pytest.raises(Aborted, match="taken over"):
                first.commit([NewRecord(topic, b"a", b"fenced")])
            second.commit([NewRecord(topic, b"b", b"second")])
    table.read_to_end()
    assert dict(table.items) == {b"a": b"first", b"b": b"second"}


def test_a_transaction_that_can_not_be_is_undone_and_the_next_one_works(
    settings: Settings, topic: str
) -> None:
    with FencedWriter(settings, uuid.uuid4().hex, client_id="one", deadline=in_seconds(20)) as writer:
        with pytest.raises(MessageTooLarge):
            writer.commit([NewRecord(topic, b"a", b"1"), NewRecord(topic, b"b", b"x" * 2_000_000)])
        writer.commit([NewRecord(topic, b"c", b"3")])
    table = CompactedTable(settings, topic, client_id="test")
    table.read_to_end()
    assert dict(table.items) == {b"c": b"3"}
