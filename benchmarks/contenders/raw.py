"""Raw confluent-kafka: bytes only, as durable as the mesh, and as fast as one Python thread a side gets.

No schema, no headers, no deadline, no retry, and an offset that moves whether its reply is acknowledged or not.
A reply finds its request by its key.
"""

from __future__ import annotations

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

from confluent_kafka import Consumer, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from benchmarks.contracts import PARTITIONS, RAW_VALUE, key_of
from benchmarks.load import ANSWER_PATIENCE_SECONDS, Load, Measurement, Window, cpu_seconds

REQUESTS = "raw.requests"
REPLIES = "raw.replies"
REPLY_PARTITION = 0

_POLL_SECONDS = 0.05
_BATCH = 500
_COMMIT_INTERVAL_SECONDS = 0.2  # as often as the mesh
_FLUSH_SECONDS = 10.0


def callee(bootstrap_servers: str) -> None:
    """Answer requests until stdin ends."""
    _make_topics(bootstrap_servers)
    producer = _producer(bootstrap_servers)
    consumer = _consumer(bootstrap_servers, **{"group.protocol": "consumer"})
    consumer.subscribe([REQUESTS])
    stop = threading.Event()
    threading.Thread(target=_set_at_end_of_stdin, args=(stop,), daemon=True).start()
    print("ready", flush=True)
    uncommitted, commit_at = False, 0.0
    while not stop.is_set():
        for request in _batch(consumer):
            producer.produce(REPLIES, key=request.key(), value=RAW_VALUE, partition=REPLY_PARTITION)
            uncommitted = True
        producer.poll(0)
        if uncommitted and time.monotonic() >= commit_at:
            consumer.commit(asynchronous=True)
            uncommitted, commit_at = False, time.monotonic() + _COMMIT_INTERVAL_SECONDS
    producer.flush(_FLUSH_SECONDS)
    consumer.close()


def caller(bootstrap_servers: str) -> None:
    """Take loads from stdin until it ends."""
    producer = _producer(bootstrap_servers)
    consumer = _consumer(bootstrap_servers)
    replies = TopicPartition(REPLIES, REPLY_PARTITION)
    _, replies.offset = consumer.get_watermark_offsets(replies)
    consumer.assign([replies])
    print("ready", flush=True)
    for line in sys.stdin:
        measured = _drive(Load.model_validate_json(line), producer, consumer)
        print(measured.model_dump_json(), flush=True)
    consumer.close()


def _drive(load: Load, producer: Producer, consumer: Consumer) -> Measurement:
    window = Window(load, time.perf_counter, cpu_seconds)
    numbers = itertools.count()
    sent: dict[bytes, float] = {}

    def send() -> None:
        key = key_of(next(numbers)).encode()
        sent[key] = time.perf_counter()
        producer.produce(REQUESTS, key=key, value=RAW_VALUE)

    for _ in range(load.in_flight):
        send()
    heard_at = time.perf_counter()
    while sent:  # until all are answered: the next load begins with none in flight
        for reply in _batch(consumer):
            heard_at = time.perf_counter()
            window.answered(sent.pop(reply.key() or b""), heard_at)
            if not window.closed:
                send()
        producer.poll(0)
        if time.perf_counter() - heard_at > ANSWER_PATIENCE_SECONDS:
            raise TimeoutError(
                f"{len(sent)} requests have had no answer for {ANSWER_PATIENCE_SECONDS:g} s; is the callee running?"
            )
    return window.measurement()


def _set_at_end_of_stdin(stop: threading.Event) -> None:
    sys.stdin.read()
    stop.set()


def _batch(consumer: Consumer) -> Iterator[Message]:
    first = consumer.poll(_POLL_SECONDS)
    if first is None:
        return
    for message in [first, *consumer.consume(_BATCH - 1, 0)]:
        error = message.error()
        if error is not None:
            raise KafkaException(error)
        yield message


def _make_topics(bootstrap_servers: str) -> None:
    topics = [NewTopic(name, PARTITIONS, 1) for name in (REQUESTS, REPLIES)]
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})  # kept: its futures end with it
    for made in admin.create_topics(topics).values():
        made.result()


def _producer(bootstrap_servers: str) -> Producer:
    return Producer(
        {
            "bootstrap.servers": bootstrap_servers,
            "log_level": 0,  # what can't be cured is raised; the rest heals
            "acks": "all",
            "enable.idempotence": True,
            "linger.ms": 0,
            "partitioner": "murmur2_random",
        }
    )


def _consumer(bootstrap_servers: str, **more: Any) -> Consumer:
    return Consumer(
        {
            "bootstrap.servers": bootstrap_servers,
            "log_level": 0,
            "group.id": f"raw-{os.getpid()}",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            **more,
        }
    )


if __name__ == "__main__":
    {"callee": callee, "caller": caller}[sys.argv[1]](sys.argv[2])
