"""Flights of 2013 through a wrapped producer and wrapped consumers that are killed: none lost, order, traces.

`make flights` takes all of them, `make test` the first 30,000.
"""

from __future__ import annotations

import os
import random
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from confluent_kafka import Consumer, ConsumerGroupTopicPartitions, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic

from broker_mesh.dev.cluster import EmbeddedKafka
from tests.support.flights import FAILS_AT, FAILS_EVERY, GROUP, SERVICE, TOPIC
from tests.support.journals import (
    Journal,
    check_none_lost,
    check_nothing_passed_over,
    check_order_by_key,
    check_sent_in_order,
    read_journal,
)
from tests.support.otlp import CollectedSpan, CollectorStub
from tests.support.processes import Processes, wait_for_line

FLIGHTS = int(os.environ.get("FLIGHTS", "30000"))
PARTITIONS = 6
KILLS = 4
SAMPLED = 0.004
PATIENCE_SECONDS = 600.0  # several times what all of them take on two idle cores
LOOK_AGAIN_SECONDS = 0.1

DEAD, RETRY = f"{SERVICE}.v1.from.{TOPIC}.dead", f"{SERVICE}.v1.from.{TOPIC}.retry"


@pytest.mark.timeout(PATIENCE_SECONDS + 60)
def test_every_flight_is_handled_in_order_within_its_trace_while_consumers_are_killed(
    kafka: EmbeddedKafka, processes: Processes, tmp_path: Path
) -> None:
    servers = kafka.bootstrap_servers
    admin = AdminClient({"bootstrap.servers": servers})
    kept = {"retention.ms": "2592000000"}  # as the mesh would: other tests on this Kafka look at all topics
    admin.create_topics([NewTopic(TOPIC, PARTITIONS, config=kept)])[TOPIC].result(30)
    chance = random.Random(2013)
    kill_at = sorted(chance.uniform(0.05, 0.9) * FLIGHTS for _ in range(KILLS))
    with CollectorStub() as collector:
        sampling = {
            "OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint,
            "OTEL_TRACES_SAMPLER": "parentbased_traceidratio",
            "OTEL_TRACES_SAMPLER_ARG": str(SAMPLED),
            "OTEL_BSP_SCHEDULE_DELAY": "200",
        }
        fleet = Fleet(processes, servers, tmp_path, sampling)
        sender = processes.start("tests.support.flights", "send", servers, str(FLIGHTS), **sampling)
        wait_for_line(sender, "ready")
        for name in fleet.names:
            fleet.start(name)
        until = time.monotonic() + PATIENCE_SECONDS
        while not (fleet.handled >= FLIGHTS and is_done(admin, sender)):
            assert time.monotonic() < until, f"only {fleet.handled} of {FLIGHTS} flights were handled"
            fleet.require_alive()
            if kill_at and fleet.handled >= kill_at[0]:
                kill_at.pop(0)
                fleet.kill(fleet.names[len(kill_at) % 2])
            time.sleep(LOOK_AGAIN_SECONDS)
        wait_for_line(sender, f"sent {FLIGHTS}")
        fleet.stop()
    assert not kill_at
    journals = fleet.journals
    ends = end_offsets(servers, TOPIC)
    assert sum(ends.values()) == FLIGHTS
    check_none_lost(journals, ends)
    check_nothing_passed_over(journals)
    check_order_by_key(journals)
    check_sent_in_order(journals)
    assert committed(admin) == {number: end for number, end in ends.items() if end}
    assert not any(end_offsets(servers, DEAD).values())
    assert not any(
        end_offsets(servers, RETRY).values()
    )  # with ordering="key", the default, retries are made in place
    check_retried(journals)
    check_traces(journals, collector.spans)


class Fleet:
    """Two handlers, each started anew after its SIGKILL."""

    names = ("left", "right")

    def __init__(
        self, processes: Processes, servers: str, directory: Path, environment: dict[str, str]
    ) -> None:
        self._processes = processes
        self._servers = servers
        self._directory = directory
        self._environment = environment
        self._running: dict[str, subprocess.Popen[str]] = {}
        self._counts: dict[Path, tuple[int, int]] = {}  # bytes read, lines counted
        self._starts: Counter[str] = Counter()

    def start(self, name: str) -> None:
        self._starts[name] += 1
        journal = self._directory / f"{name}-{self._starts[name]}.journal"
        journal.touch()
        self._running[name] = self._processes.start(
            "tests.support.flights", "handle", self._servers, str(journal), **self._environment
        )

    def kill(self, name: str) -> None:
        self._running[name].kill()
        self._running[name].wait()
        self.start(name)

    def require_alive(self) -> None:
        for name, process in self._running.items():
            assert process.poll() is None, f"{name} has ended with {process.returncode}"

    def stop(self) -> None:
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            assert process.wait(30) == 0

    @property
    def handled(self) -> int:
        """How many lines the journals have: repeated and first attempts alike."""
        for path in self._paths():
            read, lines = self._counts.get(path, (0, 0))
            with path.open("rb") as file:
                file.seek(read)
                new = file.read()
            self._counts[path] = read + len(new), lines + new.count(b"\n")
        return sum(lines for _, lines in self._counts.values())

    @property
    def journals(self) -> list[Journal]:
        return [read_journal(path) for path in self._paths()]

    def _paths(self) -> Iterator[Path]:
        yield from sorted(self._directory.glob("*.journal"))


def is_done(admin: AdminClient, sender: subprocess.Popen[str]) -> bool:
    return sender.poll() is not None and sum(committed(admin).values()) == FLIGHTS


def committed(admin: AdminClient) -> dict[int, int]:
    (future,) = admin.list_consumer_group_offsets([ConsumerGroupTopicPartitions(GROUP)]).values()
    places = future.result(30).topic_partitions
    return {place.partition: place.offset for place in places if place.topic == TOPIC}


def end_offsets(servers: str, topic: str) -> dict[int, int]:
    consumer = Consumer({"bootstrap.servers": servers, "group.id": "ends"})
    try:
        return {
            number: consumer.get_watermark_offsets(TopicPartition(topic, number), 30)[1]
            for number in range(PARTITIONS)
        }
    finally:
        consumer.close()


def check_retried(journals: list[Journal]) -> None:
    """What failed once was tried again; nothing else was."""
    for journal in journals:
        for each in journal.handled:
            assert each.attempt == (2 if each.number % FAILS_EVERY == FAILS_AT else 1), each


def check_traces(journals: list[Journal], spans: list[CollectedSpan]) -> None:
    """Each message was handled in the trace that it was sent in; of a sample, the spans say who is whose parent."""
    sent_in: dict[str, tuple[int, int]] = {}
    traceparents: dict[tuple[int, int], str] = {}
    for journal in journals:
        for each in journal.handled:
            place = each.partition, each.offset
            assert each.traceparent.split("-")[1] == each.trace_id, f"{each} was handled in another trace"
            assert sent_in.setdefault(each.trace_id, place) == place, f"{each} shares its trace with another"
            traceparents[place] = each.traceparent
    sends = {
        (
            int(span.attributes["messaging.destination.partition.id"]),
            span.attributes["messaging.kafka.offset"],
        ): span
        for span in spans
        if span.name == f"send {TOPIC}"
    }
    assert len(sends) > FLIGHTS * SAMPLED / 2
    for place, span in sends.items():
        assert traceparents[place].startswith(f"00-{span.trace_id}-{span.span_id}-")
        assert not span.parent_span_id
    processed = [span for span in spans if span.name == f"process {TOPIC}"]
    by_id = {span.span_id: span for span in sends.values()}
    for span in processed:
        parent = by_id[span.parent_span_id]
        assert parent.trace_id == span.trace_id
        assert parent.attributes["messaging.kafka.offset"] == span.attributes["messaging.kafka.offset"]
    # A SIGKILL takes the spans along that were not exported yet.
    assert len({span.parent_span_id for span in processed}) > 0.9 * len(sends)
