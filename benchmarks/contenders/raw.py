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

from benchmarks.contracts import RAW_VALUE, key_of
from benchmarks.load import (
    ANSWER_PATIENCE_SECONDS,
    First,
    Held,
    Hold,
    Load,
    Measurement,
    Window,
    cpu_seconds,
    order_of,
    resident_bytes,
)
from benchmarks.scene import Scene

REPLY_PARTITION = 0

_POLL_SECONDS = 0.05
_BATCH = 500
_COMMIT_INTERVAL_SECONDS = 0.2  # as often as the mesh
_FLUSH_SECONDS = 10.0


def requests_of(scene: str) -> str:
    """Name the topic of a scene's requests."""
    return f"raw-{scene}.requests"


def replies_of(scene: str) -> str:
    """Name the topic of a scene's replies."""
    return f"raw-{scene}.replies"


def messages_of(scene: str) -> str:
    """Name the topic of a scene's messages that nobody reads."""
    return f"raw-{scene}.messages"


def callee(scene: Scene) -> None:
    """Answer requests until stdin ends."""
    _make_topics(scene)
    producer = _producer(scene.bootstrap_servers)
    consumer = _consumer(
        scene.bootstrap_servers, **{"group.id": f"raw-{scene.group}", "group.protocol": "consumer"}
    )
    consumer.subscribe([requests_of(scene.name)])
    replies = replies_of(scene.name)
    stop = threading.Event()
    threading.Thread(target=_set_at_end_of_stdin, args=(stop,), daemon=True).start()
    print("ready", flush=True)
    uncommitted, commit_at = False, 0.0
    while not stop.is_set():
        for request in _batch(consumer):
            _produce(producer, replies, key=request.key(), value=request.value(), partition=REPLY_PARTITION)
            uncommitted = True
        producer.poll(0)
        if uncommitted and time.monotonic() >= commit_at:
            consumer.commit(asynchronous=True)
            uncommitted, commit_at = False, time.monotonic() + _COMMIT_INTERVAL_SECONDS
    producer.flush(_FLUSH_SECONDS)
    if uncommitted:  # else the next callee answers these again, and a load counts the answers as its own
        consumer.commit(asynchronous=False)
    consumer.close()


def caller(scene: Scene) -> None:
    """Do what stdin says until it ends."""
    producer = _producer(scene.bootstrap_servers)
    consumer = _consumer(scene.bootstrap_servers, **{"group.id": f"raw-callers-{scene.name}-{os.getpid()}"})
    replies = TopicPartition(replies_of(scene.name), REPLY_PARTITION)
    _, replies.offset = consumer.get_watermark_offsets(replies)
    consumer.assign([replies])
    requests, messages = requests_of(scene.name), messages_of(scene.name)
    print("ready", flush=True)
    for line in sys.stdin:
        match order_of(line):
            case Load(way="message") as load:
                print(_send(load, producer, messages).model_dump_json(), flush=True)
            case Load() as load:
                print(_drive(load, producer, consumer, requests).model_dump_json(), flush=True)
            case First():
                producer.produce(requests, key=key_of(0), value=RAW_VALUE)
                while not list(_batch(consumer)):
                    producer.poll(0)
                print(flush=True)
            case Hold(calls=calls):
                for number in range(calls):
                    _produce(producer, requests, key=key_of(number), value=RAW_VALUE)
                producer.flush(_FLUSH_SECONDS)
                print(Held(resident_bytes=resident_bytes()).model_dump_json(), flush=True)
    consumer.close()


def _drive(load: Load, producer: Producer, consumer: Consumer, requests: str) -> Measurement:
    window = Window(load, time.perf_counter, cpu_seconds)
    numbers = itertools.count()
    sent: dict[bytes, float] = {}
    value = RAW_VALUE + bytes(load.extra_bytes)

    def send() -> None:
        key = key_of(next(numbers)).encode()
        sent[key] = time.perf_counter()
        producer.produce(requests, key=key, value=value)

    for _ in range(load.in_flight):
        send()
    heard_at = time.perf_counter()
    while sent:  # until all are answered: the next load begins with none in flight
        for reply in _batch(consumer):
            heard_at = time.perf_counter()
            sent_at = sent.pop(reply.key() or b"", None)
            if sent_at is None:  # of an earlier load: a callee repeats what it had not committed
                continue
            window.answered(sent_at, heard_at)
            if not window.closed:
                send()
        producer.poll(0)
        if time.perf_counter() - heard_at > ANSWER_PATIENCE_SECONDS:
            raise TimeoutError(
                f"{len(sent)} requests have had no answer for {ANSWER_PATIENCE_SECONDS:g} s; is the callee running?"
            )
    return window.measurement()


def _send(load: Load, producer: Producer, messages: str) -> Measurement:
    """Keep messages in flight; what answers each is Kafka's acknowledgement."""
    window = Window(load, time.perf_counter, cpu_seconds)
    numbers = itertools.count()
    value = RAW_VALUE + bytes(load.extra_bytes)

    def send() -> None:
        sent_at = time.perf_counter()

        def acknowledged(error: Any, _: Message) -> None:
            if error is not None:
                raise KafkaException(error)
            window.answered(sent_at, time.perf_counter())
            if not window.closed:
                send()

        producer.produce(messages, key=key_of(next(numbers)), value=value, on_delivery=acknowledged)

    for _ in range(load.in_flight):
        send()
    while len(producer):
        producer.poll(_POLL_SECONDS)
    return window.measurement()


def _produce(producer: Producer, topic: str, **record: Any) -> None:
    """Produce; a full queue, as a backlog makes it, is waited for."""
    while True:
        try:
            producer.produce(topic, **record)
        except BufferError:
            producer.poll(_POLL_SECONDS)
        else:
            return


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


def _make_topics(scene: Scene) -> None:
    admin = AdminClient({"bootstrap.servers": scene.bootstrap_servers})  # kept: its futures end with it
    wanted = {requests_of(scene.name), replies_of(scene.name), messages_of(scene.name)}
    missing = (
        wanted - admin.list_topics(timeout=_FLUSH_SECONDS).topics.keys()
    )  # a callee before may have made them
    if missing:
        for made in admin.create_topics([NewTopic(name, scene.partitions, 1) for name in missing]).values():
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
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            **more,
        }
    )


if __name__ == "__main__":
    {"callee": callee, "caller": caller}[sys.argv[1]](Scene.model_validate_json(sys.argv[2]))
