"""What waits for each group, operation by operation: put together from Kafka alone, and judged.

On the way of a message: beside it. Pure functions; `cli/queues.py` gathers the facts: where a group stands, where its
partitions end, how old the first record is that it has not done, and what its instances have written beside their
offsets (`progress.py`). So they hold wherever the service runs, and while it does not.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

from broker_mesh import naming
from broker_mesh.control.checks import Finding, Level
from broker_mesh.progress import Progress

LONG_WAIT_SECONDS = 300.0
"""From how long on a record that waits for a service which runs is worth a warning."""

_CIRCUITS = ("open", "ramping")  # in order of what is worse; anything else is fine


class PartitionFacts(NamedTuple):
    """A partition of a group.

    Args:
        topic: an operation, an event or another topic that is subscribed to, or the retry topic of one.
        waiting: how many records are not done, those in work included.
        oldest: when the first of them was written, epoch ms; None where nothing waits, or that is not known.
        progress: what the group has written beside its offset.
    """

    topic: str
    waiting: int
    oldest: int | None
    progress: Progress


class Queue(NamedTuple):
    """What one group has before it of one operation or event.

    Args:
        group: of a service.
        name: the operation, the event, or the topic.
        members: of the group.
        waiting: how many records are not done, retries included.
        retries: how many of them stand in the retry topic.
        oldest: when the first of them was written, epoch ms; None where nothing waits, or that is not known.
        in_flight: how many of them were in work when the group committed last.
        failing: how many of these have failed and wait for another attempt in their place.
        parked: how many keys stand in the retry topic, so that all that is theirs waits behind them.
        circuit: "open", "ramping" or "closed".
        crashes: how often in a row an instance has died with the same record in work.
    """

    group: str
    name: str
    members: int
    waiting: int
    retries: int
    oldest: int | None
    in_flight: int
    failing: int
    parked: int
    circuit: str
    crashes: int

    def figures(self, now: int) -> dict[str, Any]:
        """Give them as JSON values, at a time (epoch ms)."""
        figures = self._asdict()
        figures["oldest_seconds"] = _seconds(figures.pop("oldest"), now)
        return figures


def queues_of(group: str, members: int, partitions: Iterable[PartitionFacts]) -> list[Queue]:
    """Put together what waits for a group, by the operation or event that it belongs to; sorted by name."""
    by_name: dict[str, list[PartitionFacts]] = {}
    for facts in partitions:
        by_name.setdefault(naming.source_of_failures(facts.topic) or facts.topic, []).append(facts)
    return [_queue(group, members, name, found) for name, found in sorted(by_name.items())]


def check_queues(queues: Iterable[Queue], now: int) -> list[Finding]:
    """Judge what waits: a line for each operation, and what keeps it from being handled.

    Args:
        queues: of all services.
        now: epoch ms.
    """
    findings = []
    for queue in queues:
        problems = [*_problems(queue, now)]
        level = Level.WARNING if problems else Level.FINE
        advice = "; ".join(problems) or None
        findings.append(Finding("queues", level, told(queue, now), advice, queue.figures(now)))
    return findings


def told(queue: Queue, now: int) -> str:
    """Say what waits, in one line."""
    whose = "" if naming.owner(queue.name) == queue.group else f" for {queue.group}"
    parts = [f"{queue.name}{whose}: {_count(queue.waiting, 'record')} waiting"]
    if (oldest := _seconds(queue.oldest, now)) is not None:
        parts.append(f"the oldest for {duration(oldest)}")
    if queue.in_flight:
        parts.append(f"{queue.in_flight} in flight")
    if queue.failing:
        parts.append(f"{queue.failing} failing")
    if queue.retries:
        parts.append(f"{queue.retries} in its retry topic")
    if queue.parked:
        parts.append(f"{_count(queue.parked, 'key')} parked")
    if queue.circuit in _CIRCUITS:
        parts.append(f"its circuit is {queue.circuit}")
    if queue.crashes:
        parts.append(f"{_count(queue.crashes, 'crash', 'crashes')} at the same record")
    return ", ".join(parts)


def duration(seconds: float) -> str:
    """Say how long, in one unit for each size."""
    for unit, length in (("d", 86_400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


def _problems(queue: Queue, now: int) -> Iterable[str]:
    if queue.circuit == "open":
        yield (
            "what its handler needs fails for all: mend that, nothing is lost meanwhile, and it goes on by itself; the "
            "service's log names the cause"
        )
    elif queue.circuit == "ramping" and queue.waiting:
        yield "what its handler needs has failed for all, and works again: it goes on by itself"
    if queue.parked:
        yield "its log says why messages of these keys fail; all that is theirs waits in order behind them"
    if queue.crashes:
        yield "see why the process dies: that record runs by itself, and is dead-lettered after its attempts"
    # Of a group without members `check_groups` says what to do.
    if queue.members and (_seconds(queue.oldest, now) or 0) > LONG_WAIT_SECONDS:
        yield "see what its handlers wait for, or start more instances, up to one for each partition"


def _queue(group: str, members: int, name: str, found: Sequence[PartitionFacts]) -> Queue:
    known = [facts.oldest for facts in found if facts.oldest is not None]
    circuits = {facts.progress.circuit for facts in found}
    return Queue(
        group=group,
        name=name,
        members=members,
        waiting=sum(facts.waiting for facts in found),
        retries=sum(facts.waiting for facts in found if facts.topic != name),
        oldest=min(known, default=None),
        in_flight=sum(facts.progress.in_flight for facts in found),
        failing=sum(len(facts.progress.attempts) for facts in found),
        parked=sum(facts.progress.parked for facts in found),
        circuit=next((state for state in _CIRCUITS if state in circuits), "closed"),
        crashes=max((facts.progress.deaths for facts in found), default=0),
    )


def _seconds(since: int | None, now: int) -> float | None:
    return None if since is None else max(0, now - since) / 1000


def _count(number: int, noun: str, nouns: str | None = None) -> str:
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"
