"""From the log of a broker that did not start to one sentence."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from broker_mesh.dev.failures import (
    JavaCrashed,
    PortTaken,
    explain,
    explain_os_error,
    meaningful_line,
    read_since,
)
from broker_mesh.errors import FailedPrecondition, MeshError, ResourceExhausted, Unavailable

LOG = Path("/data/broker-1/broker.log")

WRONG_CLUSTER = """\
[2026-11-23 06:00:00,000] WARN something harmless (kafka.Kafka$)
[2026-11-23 06:00:00,001] ERROR Exiting Kafka due to fatal exception (kafka.Kafka$)
java.lang.RuntimeException: Outer words
\tat kafka.server.KafkaRaftServer.startup(KafkaRaftServer.scala:97)
\tat kafka.Kafka$.main(Kafka.scala:90)
Caused by: org.apache.kafka.common.KafkaException: Stored node id 2 doesn't match previous node id 1.
\tat kafka.server.KafkaRaftServer$.initialize(KafkaRaftServer.scala:160)
\t... 4 more

"""


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (
            WRONG_CLUSTER,
            "org.apache.kafka.common.KafkaException: Stored node id 2 doesn't match previous node id 1.",
        ),
        ("java.lang.IllegalStateException: a\n\tat b(C.java)\n", "java.lang.IllegalStateException: a"),
        ("[x] ERROR it is broken (kafka)\n[x] WARN afterwards (kafka)\n", "[x] ERROR it is broken (kafka)"),
        ("one\ntwo\n", "two"),
        ("", "it wrote nothing to its log"),
    ],
)
def test_the_line_that_tells_most(text: str, line: str) -> None:
    assert meaningful_line(text) == line


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("Caused by: java.net.BindException: Address already in use", PortTaken, "took its port"),
        (
            "java.io.IOException: No space left on device",
            ResourceExhausted,
            "disk that holds /data/broker-1 is full",
        ),
        ("java.lang.OutOfMemoryError: Java heap space", ResourceExhausted, "too little memory"),
        ("java.nio.file.AccessDeniedException: /data", FailedPrecondition, "check its owner"),
        (
            "KafkaException: Failed to acquire lock on file .lock in /data",
            FailedPrecondition,
            "another Kafka",
        ),
        ("Error occurred during initialization of VM\nwhatever", JavaCrashed, "Java crashed"),
        ("# A fatal error has been detected by the Java Runtime Environment:", JavaCrashed, "Java crashed"),
        ("", JavaCrashed, "wrote nothing"),
        (
            WRONG_CLUSTER,
            Unavailable,
            r"doesn't match previous node id 1 \(more in /data/broker-1/broker.log\)",
        ),
    ],
)
def test_each_end_of_a_broker_has_its_sentence(text: str, kind: type[MeshError], words: str) -> None:
    error = explain("Broker 1", text, LOG)
    assert type(error) is kind
    with pytest.raises(kind, match=words):
        raise error
    assert "\n" not in error.message


def test_reads_only_what_this_start_wrote(tmp_path: Path) -> None:
    log = tmp_path / "broker.log"
    log.write_text("ERROR of an earlier start\n")
    offset = log.stat().st_size
    with log.open("a") as file:
        file.write("ERROR of this start\n")
    assert read_since(log, offset) == "ERROR of this start\n"
    assert read_since(tmp_path / "missing", 0) == ""


@pytest.mark.parametrize(
    ("number", "kind", "words"),
    [
        (
            errno.ENOSPC,
            ResourceExhausted,
            "It was not possible to start Kafka, since the disk is full at /data",
        ),
        (errno.EROFS, FailedPrecondition, "writing at /data is not allowed"),
        (errno.EACCES, FailedPrecondition, "writing at /data is not allowed"),
        (errno.ENOTDIR, FailedPrecondition, "not a directory at /data"),
    ],
)
def test_what_the_system_says_of_files(number: int, kind: type[MeshError], words: str) -> None:
    import os

    error = explain_os_error("start Kafka", OSError(number, os.strerror(number), "/data"))
    assert type(error) is kind
    assert words in error.message
