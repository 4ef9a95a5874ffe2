"""Each dead letter is put back exactly once: counted from the topic, with rivals, and with replays killed midway."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterable
from typing import Any

import pytest
from confluent_kafka import KafkaError, Producer, TopicPartition

from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import Aborted, FailedPrecondition, Unavailable
from broker_mesh.kafka import claims as claims_module
from broker_mesh.kafka.claims import CLAIMS_TOPIC, Action, Claim, Claims, claim_record
from broker_mesh.kafka.fenced import FencedWriter, NewRecord
from broker_mesh.kafka.outages import OutageLog
from broker_mesh.kafka.reader import open_consumer
from broker_mesh.replay import Replayer, job
from tests.support.letters import (
    PARTITIONS,
    all_of,
    ids_in,
    make_operation,
    records_of,
    settings_for,
    write_letters,
)
from tests.support.processes import Processes, last_words

LETTERS = 5_000


def run_until(
    processes: Processes, servers: str, operation: str, deaths: list[tuple[str, int]]
) -> Counter[str]:
    """Run replays one after the other, each to be killed at a transaction of its own; the last one to its end."""
    for where, at in deaths:
        doomed = processes.start(
            "tests.support.replaying", servers, operation, BATCH="40", DIE=where, DIE_AT=str(at)
        )
        doomed.communicate(timeout=120)
        # A rival may have left it too little to get there.
        assert doomed.returncode in (-signal.SIGKILL, 0), last_words(doomed)
    last = processes.start("tests.support.replaying", servers, operation, BATCH="40")
    printed, _ = last.communicate(timeout=120)
    assert last.returncode == 0, last_words(last)
    return Counter(json.loads(printed))


async def test_two_replays_at_once_killed_again_and_again_put_each_letter_back_once(
    kafka: EmbeddedKafka, processes: Processes
) -> None:
    servers = kafka.bootstrap_servers
    operation, value = await make_operation(servers)
    ids = await asyncio.to_thread(write_letters, servers, operation, value, LETTERS)

    one, other = await asyncio.gather(
        asyncio.to_thread(
            run_until, processes, servers, operation, [("inside", 2), ("after", 3), ("inside", 4)]
        ),
        asyncio.to_thread(run_until, processes, servers, operation, [("after", 2), ("inside", 3)]),
    )

    put_back = await asyncio.to_thread(ids_in, servers, operation)
    assert len(put_back) == LETTERS
    assert put_back == dict.fromkeys(ids, 1)
    assert one["replayed"] + other["replayed"] < LETTERS  # those that were killed have put back some of them
    assert await asyncio.to_thread(aborted, servers, operation) > 0  # the kills within transactions were such


def aborted(servers: str, topic: str) -> int:
    """Count the records of a topic that stand in aborted transactions."""
    committed = sum(ids_in(servers, topic).values())
    consumer = open_consumer(
        settings_for(servers),
        "test",
        OutageLog("test"),
        {"isolation.level": "read_uncommitted", "enable.partition.eof": True},
    )
    written, ended = 0, 0
    try:
        consumer.assign([TopicPartition(topic, number, 0) for number in range(PARTITIONS)])
        while ended < PARTITIONS:
            for message in consumer.consume(500, 0.2):
                error = message.error()
                written += error is None
                ended += error is not None and error.code() == KafkaError._PARTITION_EOF
    finally:
        consumer.close()
    return written - committed


async def test_a_claim_behind_another_replay_s_open_transaction_is_waited_for(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = settings_for(kafka.bootstrap_servers)
    operation, _ = await make_operation(kafka.bootstrap_servers)
    partition, claim = (f"{operation}.dead", 0), Claim(Action.REPLAYED, "the-replay", 1, operation)
    ids = {partition[0]: "topic-id"}

    def check() -> None:
        Claims(settings, ids, client_id="test").read_all()  # makes the topic
        open_one = Producer(
            {
                "bootstrap.servers": kafka.bootstrap_servers,
                "transactional.id": f"open-{operation}",
                "transaction.timeout.ms": 60_000,
            }
        )
        open_one.init_transactions(20)
        open_one.begin_transaction()
        open_one.produce(CLAIMS_TOPIC, key=f"{operation}/1/0".encode(), value=b"{}", partition=0)
        assert open_one.flush(20) == 0
        with FencedWriter(
            settings, f"x-{operation}", client_id="test", deadline=time.monotonic() + 20
        ) as writer:
            writer.commit([claim_record(partition, "topic-id", [4, 5, 6], claim)])

        looking = Claims(settings, ids, client_id="test")
        looking.read()
        assert looking.of(partition, 5) is None  # what is committed is hidden from a reader
        monkeypatch.setattr(claims_module, "_COMPLETE_SECONDS", 0.5)
        with pytest.raises(Unavailable, match="a replay was ended in a transaction"):
            looking.read_all()
        monkeypatch.undo()

        acting = Claims(settings, ids, client_id="test")
        done = threading.Event()
        waiting = threading.Thread(target=lambda: (acting.read_all(), done.set()))
        waiting.start()
        assert not done.is_set()
        open_one.abort_transaction(20)
        waiting.join(30)
        assert done.is_set()
        found = acting.of(partition, 5)
        assert found is not None
        assert found._replace(position=-1) == claim
        assert acting.of(partition, 7) is None
        remade = Claims(settings, {partition[0]: "another-id"}, client_id="test")
        remade.read_all()
        assert remade.of(partition, 5) is None

    await asyncio.to_thread(check)


async def test_who_is_fenced_while_it_still_writes_is_told_so(kafka: EmbeddedKafka) -> None:
    settings, deadline = settings_for(kafka.bootstrap_servers), time.monotonic() + 60
    operation, _ = await make_operation(kafka.bootstrap_servers)

    def many(value: bytes) -> Iterable[NewRecord]:
        while time.monotonic() < deadline:  # until the refusal of the first has come back
            yield NewRecord(operation, b"key", value)
            time.sleep(0.01)

    def check() -> None:
        with (
            FencedWriter(settings, operation, client_id="one", deadline=deadline) as one,
            FencedWriter(settings, operation, client_id="two", deadline=deadline) as two,
        ):
            with pytest.raises(Aborted, match=r"writing as .* a rival has taken over"):
                one.commit(many(b"one"))
            two.commit([NewRecord(operation, b"key", b"two")])

    await asyncio.to_thread(check)
    found = await asyncio.to_thread(lambda: list(records_of(kafka.bootstrap_servers, operation)))
    assert [record.value for record in found] == [b"two"]


async def test_who_is_fenced_in_the_middle_goes_on_with_what_is_left(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = kafka.bootstrap_servers
    operation, value = await make_operation(servers)
    ids = await asyncio.to_thread(write_letters, servers, operation, value, 240)
    monkeypatch.setattr(job, "_BATCH", 10)
    async with (
        Replayer(settings_for(servers), client_id="one", environ={}) as one,
        Replayer(settings_for(servers), client_id="two", environ={}) as two,
        asyncio.timeout(60),
    ):
        first, second = await asyncio.gather(one.replay(all_of(operation)), two.replay(all_of(operation)))
    assert first.replayed + second.replayed == 240
    # What the other had settled before one began is no loss to it.
    assert first.taken_by_others + first.already_settled == second.replayed
    assert second.taken_by_others + second.already_settled == first.replayed
    assert await asyncio.to_thread(ids_in, servers, operation) == dict.fromkeys(ids, 1)


async def test_a_limit_holds_where_the_end_of_a_transaction_was_not_told(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = kafka.bootstrap_servers
    operation, value = await make_operation(servers)
    await asyncio.to_thread(write_letters, servers, operation, value, 60)
    original = FencedWriter.commit
    told: list[bool] = []

    def commit(self: FencedWriter, records: Iterable[NewRecord], **options: Any) -> None:
        original(self, records, **options)
        told.append(len(told) > 0)
        if not told[-1]:
            raise Aborted("a rival came while it was being told")

    monkeypatch.setattr(FencedWriter, "commit", commit)
    async with Replayer(settings_for(servers), client_id="one", environ={}) as replayer:
        report = await replayer.replay(all_of(operation), limit=4)
    assert report.replayed == 4
    assert sum((await asyncio.to_thread(ids_in, servers, operation)).values()) == 4


@pytest.mark.parametrize(
    "value",
    [
        b"no JSON",
        b'{"topic_id": "id", "ranges": [[0, 1]]}',
        # More than an offset can be.
        b'{"topic_id": "id", "ranges": [[0, 1%s]], "action": "dropped", "replay_id": "r", "at": 1, "target": ""}'
        % (b"0" * 30),
    ],
)
async def test_what_is_no_claim_stops_all_until_its_key_is_deleted(
    kafka: EmbeddedKafka, value: bytes
) -> None:
    settings = settings_for(kafka.bootstrap_servers)
    claims = Claims(settings, {}, client_id="test")
    await asyncio.to_thread(claims.read_all)  # makes the topic
    producer = Producer({"bootstrap.servers": kafka.bootstrap_servers})
    key = b"hostile.v1.claim.dead/0/0"
    producer.produce(CLAIMS_TOPIC, key=key, value=value, partition=0)
    try:
        assert producer.flush(20) == 0
        for look in (claims.read, claims.read_all, Claims(settings, {}, client_id="test").read_all):
            with pytest.raises(FailedPrecondition, match="is no claim of the mesh"):
                await asyncio.to_thread(look)
    finally:
        producer.produce(CLAIMS_TOPIC, key=key, value=None, partition=0)
        assert producer.flush(20) == 0
    await asyncio.to_thread(claims.read)
    await asyncio.to_thread(Claims(settings, {}, client_id="test").read_all)
