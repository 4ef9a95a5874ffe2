"""A correct engine in miniature, which writes a history and what Kafka would hold: what the checker must let pass.

Tests spoil what it gives, and the checker has to see it.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.chaos.checker import Rules
from tests.chaos.faults import SECOND
from tests.chaos.history import (
    Acknowledged,
    Answered,
    Assigned,
    Began,
    Ended,
    Ending,
    Entry,
    Fault,
    History,
    Incarnation,
    Memory,
    Sending,
)
from tests.chaos.stored import Record, Reply, Stored

TOPIC = "chaos.v1.apply"
KEYS = 4
PARTITIONS = 2
ATTEMPTS = 3
RULES = Rules(orderings={TOPIC: "key"}, attempts=ATTEMPTS)


class Step(NamedTuple):
    """One thing that happens: `what` on the key or partition of a number."""

    what: str
    where: int


class Miniature:
    """One caller, and a service whose instances are killed and replaced; each step takes 0.1 s."""

    def __init__(self) -> None:
        self._now = 0
        self._caller: list[Entry] = []
        self._nemesis: list[Entry] = []
        self._services: list[list[Entry]] = []
        self._owner = [0] * PARTITIONS
        self._numbers = [0] * KEYS
        self._logs: list[list[Record]] = [[] for _ in range(PARTITIONS)]
        self._position = [0] * PARTITIONS
        self._committed = [0] * PARTITIONS
        self._answered: set[str] = set()
        self.stored = Stored([], [], [], [], {}, {})
        self._start_service(range(PARTITIONS))

    def play(self, steps: list[Step]) -> tuple[History, Stored]:
        """Go through steps, then finish what is left; give what that has left behind."""
        for what, where in steps:
            self._tick()
            if what in ("send", "lose acknowledgement", "never send"):
                self._send(where % KEYS, what)
            elif what == "commit":
                self._committed[where % PARTITIONS] = self._position[where % PARTITIONS]
            elif what == "kill":
                self._kill(self._owner[where % PARTITIONS])
            else:
                self._handle(where % PARTITIONS, what)
        for partition in range(PARTITIONS):
            while self._position[partition] < len(self._logs[partition]):
                self._handle(partition, "succeed")
            place = TOPIC, partition
            self.stored.committed[place] = self.stored.ends[place] = len(self._logs[partition])  # type: ignore[index]
        return self._history(), self.stored

    def _history(self) -> History:
        services = [
            Incarnation("service-1", 100 + number, entries) for number, entries in enumerate(self._services)
        ]
        return [Incarnation("caller-1", 1, self._caller), Incarnation("nemesis", 2, self._nemesis), *services]

    def _tick(self) -> int:
        self._now += SECOND // 10
        return self._now

    def _start_service(self, partitions: range | list[int]) -> None:
        number = len(self._services)
        self._services.append([Assigned(self._tick(), TOPIC, each, 0) for each in partitions])
        self._services[-1].append(Memory(self._now, "service-1", 2**20))
        for each in partitions:
            self._owner[each] = number

    def _send(self, key: int, how: str) -> None:
        number, partition = self._numbers[key], key % PARTITIONS
        self._numbers[key] += 1
        request = f"caller-1-{key}-apply#{number}"
        self._caller.append(Sending(self._tick(), request, request.rpartition("#")[0], number, TOPIC, "ok"))
        if how == "never send":
            return
        log = self._logs[partition]
        record = Record(TOPIC, partition, len(log), self._tick(), request, f"m-{request}", True)
        log.append(record)
        self.stored.requests.append(record)
        if how == "send":
            self._caller.append(Acknowledged(self._tick(), request, TOPIC, partition, record.offset))

    def _handle(self, partition: int, how: str) -> None:
        if self._position[partition] == len(self._logs[partition]):
            return
        record = self._logs[partition][self._position[partition]]
        if how == "poison":
            for _ in range(ATTEMPTS):
                self._run(partition, record, "raised")
            self.stored.dead.append(record._replace(topic=f"{TOPIC}.dead", at=self._tick()))
            self._answer(record, "UNKNOWN")
        elif how == "die":
            self._services[self._owner[partition]].append(Began(self._tick(), self._now, record.id, 1))
            self._kill(self._owner[partition])
            return
        else:
            if how == "fail":
                self._run(partition, record, "raised")
            self._run(partition, record, "ok")
            self._answer(record, "OK")
        self._position[partition] += 1

    def _run(self, partition: int, record: Record, how: Ending) -> None:
        service = self._services[self._owner[partition]]
        service.append(Began(self._tick(), self._now, record.id, 1))
        service.append(Ended(self._tick(), service[-1].at, record.id, how))

    def _answer(self, record: Record, status: str) -> None:
        self.stored.replies.append(Reply(self._tick(), record.message, status))
        if record.id not in self._answered:
            self._answered.add(record.id)
            self._caller.append(Answered(self._tick(), record.id, status))

    def _kill(self, owner: int) -> None:
        """Kill the instance: another one owns what it had, and begins where it had committed."""
        self._nemesis.append(Fault(self._tick(), self._now, "kill", "service-1", "begin"))
        self._now += 3 * SECOND
        had = [each for each in range(PARTITIONS) if self._owner[each] == owner]
        for each in had:
            self._position[each] = self._committed[each]
        self._start_service(had)
