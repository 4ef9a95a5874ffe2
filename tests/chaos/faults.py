"""Faults as the checker sees them: with a beginning and an end, and what each may explain.

Beside what the nemesis did there are crashes, which requests' plans ask for, and exits, where a process ended by
itself: both disturb a service as a kill does.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import NamedTuple

from tests.chaos.history import Crashing, Entry, Exited, Fault, History, Incarnation

_MOMENTS = frozenset({"kill", "crash", "exit", "restart", "grow", "rebalance"})
_ORDERLY = frozenset({"restart", "grow", "rebalance"})  # partitions move, and nothing that was done is undone
SECOND = 1_000_000_000


class Disturbance(NamedTuple):
    """One fault.

    Args:
        kind: "kill", "stop", "cut", …
        target: what it hit.
        begin, end: when, ns; one that had no end told ends when it begins where it is a moment's work, else never.
    """

    kind: str
    target: str
    begin: int
    end: float

    @property
    def hits_services(self) -> bool:
        """Whether it disturbs the handling of requests, of whatever instance: all share a group and the brokers."""
        return not self.target.startswith("caller-")

    @property
    def hits_all(self) -> bool:
        """Whether no single process is its target."""
        return not self.target.startswith(("caller-", "service-"))


def disturbances(history: History) -> list[Disturbance]:
    """Give all faults of a history, in order."""
    entries = [
        (each, entry)
        for each in history
        for entry in each.entries
        if isinstance(entry, Fault | Crashing | Exited)
    ]
    found = [*_of_nemesis(entries), *_of_themselves(entries)]
    return sorted(found, key=lambda fault: fault.begin)


def _of_nemesis(entries: Iterable[tuple[Incarnation, Entry]]) -> Iterable[Disturbance]:
    told = [entry for _, entry in entries if isinstance(entry, Fault)]
    ends = {fault.number: fault.at for fault in told if fault.phase == "end"}
    for fault in told:
        if fault.phase == "begin":
            default = fault.at if fault.kind in _MOMENTS else float("inf")
            yield Disturbance(fault.kind, fault.target, fault.at, ends.get(fault.number, default))


def _of_themselves(entries: Iterable[tuple[Incarnation, Entry]]) -> Iterable[Disturbance]:
    crashed = {each.pid for each, entry in entries if isinstance(entry, Crashing)}
    killed = {entry.target for _, entry in entries if isinstance(entry, Fault) and entry.kind == "kill"}
    for each, entry in entries:
        if isinstance(entry, Crashing):
            yield Disturbance("crash", each.process, entry.at, entry.at)
        elif isinstance(entry, Exited) and entry.status and entry.pid not in crashed:
            told_already = entry.status == -signal.SIGKILL and entry.process in killed
            if not told_already:
                yield Disturbance("exit", entry.process, entry.at, entry.at)


class Excuses:
    """Tells what a fault explains.

    Args:
        faults: all of a run, in order.
        commit_seconds: how long before a fault work may have ended whose settlement or commit the fault undid.
        recovery_seconds: how long after a fault's end a partition may be taken over on account of it.
        stale_seconds: how long after a fault's end a process may not know yet that it has lost a partition, or can't
            settle and commit yet.
    """

    def __init__(
        self,
        faults: Iterable[Disturbance],
        *,
        commit_seconds: float,
        recovery_seconds: float,
        stale_seconds: float,
    ) -> None:
        self._faults = [fault for fault in faults if fault.hits_services]
        self._commit = commit_seconds * SECOND
        self._recovery = recovery_seconds * SECOND
        self._stale = stale_seconds * SECOND

    def moved(self, earlier_ended: float, taken_over: float) -> bool:
        """Tell whether a partition may have been taken over by a time, away from work that had not ended, or just had.

        Whatever strikes one instance moves the partitions of the others too.
        """
        return any(
            earlier_ended >= fault.begin - self._commit
            and fault.begin <= taken_over <= fault.end + self._recovery
            for fault in self._faults
        )

    def undone(self, processes: Iterable[str], done: float, taken_over: float) -> bool:
        """Tell whether what one of these processes did may have been unknown to who took over from it.

        Only what struck that process, or the brokers, about when it was done, undoes its settlement or its commit.
        """
        names = set(processes)
        return any(
            (fault.hits_all or fault.target in names)
            and fault.kind not in _ORDERLY
            and fault.begin - self._commit <= done <= fault.end + self._stale
            and fault.begin <= taken_over <= fault.end + self._recovery
            for fault in self._faults
        )

    def stale_owner(self, processes: Iterable[str], at: int) -> bool:
        """Tell whether one of these processes may not have known at a time what had become of its partitions."""
        names = set(processes)
        return any(
            (fault.hits_all or fault.target in names) and fault.begin <= at <= fault.end + self._stale
            for fault in self._faults
        )

    def grown(self, topic: str, at: float, *, managed: bool) -> bool:
        """Tell whether a topic had more partitions by a time: from the mesh, which keeps order, or behind its back."""
        kind = "rebalance" if managed else "grow"
        return any(
            fault.kind == kind and fault.target == topic and fault.begin <= at for fault in self._faults
        )
