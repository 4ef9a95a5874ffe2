"""The evidence of a run, put together by request: what its caller, its handlers and Kafka say of it."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from tests.chaos.faults import Disturbance
from tests.chaos.history import (
    Acknowledged,
    Answered,
    Assigned,
    Began,
    Ended,
    Exited,
    History,
    Incarnation,
    Lost,
    Sending,
)
from tests.chaos.stored import Partition, Record, Reply, Stored

FOREVER = float("inf")


class Handling(NamedTuple):
    """One run of a handler.

    Args:
        process, incarnation: who ran it.
        began, ended: when, ns; what never ended did so when its process was gone, or never.
        how: as `history.Ended` says; "unfinished" where the process was gone.
    """

    process: str
    incarnation: str
    began: int
    ended: float
    how: str

    @property
    def succeeded(self) -> bool:
        """Whether it came to a result."""
        return self.how in ("ok", "answered")


@dataclass(slots=True)
class Case:
    """One request, with all that is known of it; each list in order of time.

    `sending` is with the caller's incarnation; `success` the first handling that came to a result; `settled` when the
    request was first handled or kept as a dead letter, ns; `parked` whether it was ever written to a retry topic;
    `due` whether the group has it before it still.
    """

    id: str
    key: str
    sending: list[tuple[str, Sending]] = field(default_factory=list)
    acknowledged: Acknowledged | None = None
    answers: list[Answered] = field(default_factory=list)
    stored: list[Record] = field(default_factory=list)
    handlings: list[Handling] = field(default_factory=list)
    replies: list[Reply] = field(default_factory=list)
    dead: list[Record] = field(default_factory=list)
    success: Handling | None = None
    settled: float = FOREVER
    parked: bool = False
    due: bool = False

    def ended(self, attempts: int) -> float:
        """Tell by when it had come to its end, if it has: by a success, or by so many attempts in vain; ns.

        Nothing of an earlier owner counts too much here: the first success, and the earliest ends, are no later than
        those by which whoever went on had settled it.
        """
        found = 0.0 if self.success is None else self.success.ended
        if self.dead:
            failures = sorted(each.ended for each in self.handlings if not each.succeeded)
            vain = failures[attempts - 1] if len(failures) >= attempts else 0.0
            found = min(found, vain) if self.success is not None else vain
        return found

    def conclude(self) -> None:
        """Put in order what has been gathered."""
        for times in (self.handlings, self.stored, self.replies, self.dead):
            if len(times) > 1:
                times.sort(key=_time)
        for handling in self.handlings:
            if handling.succeeded and (self.success is None or handling.ended < self.success.ended):
                self.success = handling
        if self.success is not None:
            self.settled = self.success.ended
        if self.dead:
            self.settled = min(self.settled, self.dead[0].at)


def _time(event: Handling | Record | Reply) -> int:
    return event.began if isinstance(event, Handling) else event.at


class Ownership:
    """Who owned which partition when, by what the instances themselves were told."""

    def __init__(self, history: History) -> None:
        # By incarnation and partition: times, and whether it was its own from then on.
        self._changes: dict[tuple[str, Partition], tuple[list[int], list[bool]]] = {}
        self._takeovers: dict[Partition, list[tuple[int, str]]] = defaultdict(list)
        for each in history:
            for entry in each.entries:
                if isinstance(entry, Assigned | Lost):
                    place = each.name, (entry.topic, entry.partition)
                    times, owned = self._changes.setdefault(place, ([], []))
                    times.append(entry.at)
                    owned.append(isinstance(entry, Assigned))
                if isinstance(entry, Assigned):
                    self._takeovers[entry.topic, entry.partition].append((entry.at, each.name))
        for takeovers in self._takeovers.values():
            takeovers.sort()

    def taken_over_between(self, partition: Partition, begin: float, end: float, by: str | None) -> bool:
        """Tell whether a partition was taken over within a time, by an incarnation, or by any where None is given."""
        takeovers = self._takeovers.get(partition, [])
        first = bisect_left(takeovers, (begin, ""))
        last = bisect_right(takeovers, (end, "\U0010ffff"))
        return any(by in (None, who) for _, who in takeovers[first:last])

    def first_takeover(self, partitions: Iterable[Partition], begin: float, end: float) -> float:
        """Tell when one of some partitions was first taken over within a time, by whomever; its end where none was."""
        found = end
        for partition in partitions:
            takeovers = self._takeovers.get(partition, [])
            index = bisect_left(takeovers, (begin, ""))
            if index < len(takeovers):
                found = min(found, takeovers[index][0])
        return found

    def latest(self, partition: Partition, at: float) -> str:
        """Tell which incarnation was the last one to take a partition over before a time; empty for none."""
        takeovers = self._takeovers.get(partition, [])
        index = bisect_right(takeovers, (at, "")) - 1
        return takeovers[index][1] if index >= 0 else ""

    def owners(self, partitions: Iterable[Partition], at: float) -> set[str]:
        """Give the processes that had one of some partitions at a time, those included that had died with it."""
        wanted = set(partitions)
        return {
            incarnation.rpartition("@")[0]
            for incarnation, partition in self._changes
            if partition in wanted and self.owns(incarnation, partition, at)
        }

    def owns(self, incarnation: str, partition: Partition, at: float) -> bool:
        """Tell whether a partition was an incarnation's own at a time."""
        times, owned = self._changes.get((incarnation, partition), ([], []))
        index = bisect_right(times, at) - 1
        return index >= 0 and owned[index]

    def gave_up(self, incarnation: str, partition: Partition, before: float, until: float) -> bool:
        """Tell whether an incarnation had given up a partition before a time, and not taken it over until another."""
        times, owned = self._changes.get((incarnation, partition), ([], []))
        index = bisect_right(times, before) - 1
        return index >= 0 and not owned[index] and index == bisect_right(times, until) - 1

    def lost_between(self, incarnation: str, partition: Partition, begin: float, end: float) -> bool:
        """Tell whether an incarnation gave up a partition within a time."""
        times, owned = self._changes.get((incarnation, partition), ([], []))
        return any(begin <= at <= end and not mine for at, mine in zip(times, owned, strict=True))

    def owned_by(self, process: str, at: int) -> set[Partition]:
        """Give the partitions that a process had at a time."""
        owned = set()
        for (incarnation, partition), (times, mine) in self._changes.items():
            index = bisect_right(times, at) - 1
            if incarnation.rpartition("@")[0] == process and index >= 0 and mine[index]:
                owned.add(partition)
        return owned


class Evidence(NamedTuple):
    """All of a run.

    Args:
        cases: by request.
        ownership: of partitions.
        unknown_replies: replies to what is in no topic.
    """

    cases: dict[str, Case]
    ownership: Ownership
    unknown_replies: list[Reply]


def gather(history: History, stored: Stored, faults: Iterable[Disturbance]) -> Evidence:
    """Put a history and what Kafka holds together."""
    cases: dict[str, Case] = {}

    def case(request: str) -> Case:
        found = cases.get(request)
        if found is None:
            found = cases[request] = Case(request, request.rpartition("#")[0])
        return found

    gone = _ends_of_life(history, faults)
    for each in history:
        for entry in each.entries:
            if isinstance(entry, Sending):
                case(entry.id).sending.append((each.name, entry))
            elif isinstance(entry, Acknowledged):
                case(entry.id).acknowledged = entry
            elif isinstance(entry, Answered):
                case(entry.id).answers.append(entry)
        for request, handling in _handlings(each, gone[each.name]):
            case(request).handlings.append(handling)
    by_message: dict[str, Case] = {}
    for record in stored.requests:
        found = case(record.id)
        found.stored.append(record)
        by_message[record.message] = found
    for record in stored.dead:
        case(record.id).dead.append(record)
    for record in stored.retries:
        case(record.id).parked = True
    for record in (*stored.requests, *stored.retries):
        if record.offset >= stored.committed.get((record.topic, record.partition), 0):
            case(record.id).due = True
    unknown = []
    for reply in stored.replies:
        if reply.message in by_message:
            by_message[reply.message].replies.append(reply)
        else:
            unknown.append(reply)
    for found in cases.values():
        found.conclude()
    return Evidence(cases, Ownership(history), unknown)


def _handlings(incarnation: Incarnation, gone: float) -> Iterable[tuple[str, Handling]]:
    ends = {entry.handling: entry for entry in incarnation.entries if isinstance(entry, Ended)}
    for entry in incarnation.entries:
        if isinstance(entry, Began):
            end = ends.get(entry.handling)
            ended, how = (gone, "unfinished") if end is None else (end.at, end.how)
            yield (
                entry.id,
                Handling(incarnation.process, incarnation.name, entry.at, max(ended, entry.at), how),
            )


def _ends_of_life(history: History, faults: Iterable[Disturbance]) -> dict[str, float]:
    """Tell when each incarnation was gone: at a fault that ended it, at the latest when its successor wrote."""
    exits = {
        (entry.process, entry.pid): entry.at
        for each in history
        for entry in each.entries
        if isinstance(entry, Exited)
    }
    deadly: dict[str, list[int]] = defaultdict(list)
    for fault in faults:
        if fault.kind in ("kill", "crash"):
            deadly[fault.target].append(fault.begin)
    lives: dict[str, list[Incarnation]] = defaultdict(list)
    for each in history:
        lives[each.process].append(each)
    gone: dict[str, float] = {}
    for process, incarnations in lives.items():
        incarnations.sort(key=_first)
        for each, following in zip(incarnations, [*incarnations[1:], None], strict=True):
            until = FOREVER if following is None else _first(following)
            last = each.entries[-1].at if each.entries else 0
            # What it wrote after a kill was told, it wrote before it died.
            deaths = [max(at, last) for at in deadly[process] if _first(each) <= at <= until]
            gone[each.name] = min([*deaths, exits.get((process, each.pid), FOREVER), until])
    return gone


def _first(incarnation: Incarnation) -> float:
    return incarnation.entries[0].at if incarnation.entries else FOREVER


class Timeline:
    """Work that comes and is done, to tell when the next of it was done after a time.

    Args:
        work: when each piece came, and when it was done, ns.
    """

    def __init__(self, work: Sequence[tuple[float, float]]) -> None:
        by_end = sorted((done, came) for came, done in work)
        self._done = [done for done, _ in by_end]
        self._first_came = [came for _, came in by_end]
        for index in range(len(by_end) - 2, -1, -1):
            self._first_came[index] = min(self._first_came[index], self._first_came[index + 1])

    def recovery(self, at: int) -> float:
        """Tell how long after a time nothing was done though something waited, ns; 0 where nothing came any more."""
        index = bisect_right(self._done, at)
        if index == len(self._done):
            return 0.0
        return max(0.0, self._done[index] - max(at, self._first_came[index]))
