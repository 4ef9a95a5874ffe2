"""The history of a run: what each process did and when, written so that it outlives the process.

One file per process incarnation, named `<process>@<pid>.jsonl`; a line per entry, appended with one `write` each: a
SIGKILL of the writer loses nothing that it has written, and at worst leaves the last line torn. A line is a list of the
entry's kind and fields. Times are CLOCK_MONOTONIC in ns, which all processes of a machine share.

A request is known by its `id`, which is `<key>#<number>`. A key belongs to one caller and one operation, and no
number of a key is ever sent twice.

A new kind of entry is a class here and a place in `Entry`: exactly-once will add its effects, each with the
outcome of its transaction.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal, NamedTuple, TypeAlias, get_args

Ending: TypeAlias = Literal["ok", "raised", "answered", "cancelled"]
Phase: TypeAlias = Literal["begin", "end"]


class Sending(NamedTuple):
    """A caller is about to send a request; whether Kafka gets it is open."""

    at: int
    id: str
    key: str
    number: int
    operation: str
    plan: str


class Acknowledged(NamedTuple):
    """Kafka has a request. Its place is told for one-way requests; elsewhere partition and offset are -1."""

    at: int
    id: str
    topic: str
    partition: int
    offset: int


class Refused(NamedTuple):
    """Sending a request raised: it may or may not be in Kafka."""

    at: int
    id: str
    error: str


class Answered(NamedTuple):
    """A caller has the reply: "OK", a status by name, or "PENDING" where it stopped waiting at its end."""

    at: int
    id: str
    status: str


class Assigned(NamedTuple):
    """A service instance took over a partition."""

    at: int
    topic: str
    partition: int
    position: int


class Lost(NamedTuple):
    """A service instance gave up a partition, or learned that it is no longer its own."""

    at: int
    topic: str
    partition: int


class Began(NamedTuple):
    """A handler began; `handling` is unique within the process and names its end."""

    at: int
    handling: int
    id: str
    attempt: int


class Ended(NamedTuple):
    """A handler ended: with a result, a failure, an error that is an answer, or cancelled by the mesh."""

    at: int
    handling: int
    id: str
    how: Ending


class Crashing(NamedTuple):
    """A handler is about to end its process, as its request's plan says."""

    at: int
    id: str


class Fault(NamedTuple):
    """The nemesis begins or ends a fault; one that has no end has a begin only.

    `kind` is one of "kill", "stop", "restart", "cut", "delay", "rebalance", "grow"; `target` a process
    ("service-1", "caller-2"), a broker ("broker-3"), "all", or a topic whose partitions become more: by the mesh, which
    is a "rebalance", or behind its back, which is "grow".
    """

    at: int
    number: int
    kind: str
    target: str
    phase: Phase


class Exited(NamedTuple):
    """A process was found to have ended, with its exit status as subprocess tells it."""

    at: int
    process: str
    pid: int
    status: int


class Memory(NamedTuple):
    """How much memory a process holds."""

    at: int
    process: str
    rss_bytes: int


class Note(NamedTuple):
    """Something for the reader of the time line."""

    at: int
    text: str


Entry: TypeAlias = (
    Sending
    | Acknowledged
    | Refused
    | Answered
    | Assigned
    | Lost
    | Began
    | Ended
    | Crashing
    | Fault
    | Exited
    | Memory
    | Note
)

_KINDS: dict[str, type[Entry]] = {kind.__name__: kind for kind in get_args(Entry)}


class Incarnation(NamedTuple):
    """All that one process wrote, in order.

    Args:
        process: its name, the same after a restart: "service-1".
        pid: tells its incarnations apart.
        entries: as written.
    """

    process: str
    pid: int
    entries: list[Entry]

    @property
    def name(self) -> str:
        """The incarnation by name, as in "service-1@4711"."""
        return f"{self.process}@{self.pid}"


History: TypeAlias = list[Incarnation]


class Journal:
    """What one process writes its history with.

    Args:
        directory: of the run; made where it is missing.
        process: its name.
    """

    def __init__(self, directory: Path, process: str) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / f"{process}@{os.getpid()}.jsonl"
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    def write(self, entry: Entry) -> None:
        """Append an entry; it is in the kernel's hands when this returns."""
        line = json.dumps([type(entry).__name__, *entry], separators=(",", ":")) + "\n"
        os.write(self._file, line.encode())

    def close(self) -> None:
        os.close(self._file)


def now() -> int:
    """Give the time of an entry."""
    return time.monotonic_ns()


def read(directory: Path, process: str = "*") -> History:
    """Read what the processes of a run wrote, or one of them in all its incarnations."""
    return [_read_file(file) for file in sorted(directory.glob(f"{process}@*.jsonl"))]


def _read_file(file: Path) -> Incarnation:
    process, _, pid = file.stem.rpartition("@")
    return Incarnation(process, int(pid), list(_entries(file)))


def _entries(file: Path) -> Iterator[Entry]:
    lines = file.read_bytes().split(b"\n")
    for line in lines[:-1]:  # behind the last line break is nothing, or the line that a kill has torn
        kind, *fields = json.loads(line)
        yield _KINDS[kind](*fields)
