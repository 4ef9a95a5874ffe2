"""What the checker found, and how it is told: the figures, and where something is wrong, its story."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from tests.chaos.faults import SECOND, Disturbance
from tests.chaos.history import Began, Crashing, Ended, Entry, Exited, Fault, History, Note
from tests.chaos.stored import Stored

_STORIES = 5
_STORY_LINES = 80


class Violation(NamedTuple):
    """Something that no correct engine does.

    Args:
        kind: "lost", "order", "overlap", "fence", "duplicate", "dead letter", "answer", "log", "stuck", "memory",
            or "harness" for a mistake of the callers.
        sentence: what is wrong.
        id: the request that it is about; empty for none.
    """

    kind: str
    sentence: str
    id: str = ""


class Verdict(NamedTuple):
    """What became of a run.

    Args:
        requests: how many are in Kafka.
        handlings: how often handlers began.
        faults: of the run.
        duplicates: by kind, how much was done or written more than once: explained ones, and those that are not.
        dead_letters: how many requests became one.
        longest_recovery: seconds, with the fault that took so long.
        peak_memory: of the largest process, bytes.
        violations: all that is wrong.
    """

    requests: int
    handlings: int
    faults: list[Disturbance]
    duplicates: Mapping[str, int]
    dead_letters: int
    longest_recovery: tuple[float, Disturbance | None]
    peak_memory: int
    violations: list[Violation]

    @property
    def passed(self) -> bool:
        """Whether nothing is wrong."""
        return not self.violations

    def count(self, *kinds: str) -> int:
        """Tell how many violations there are of some kinds."""
        return sum(violation.kind in kinds for violation in self.violations)

    def summary(self) -> str:
        """Give the figures, a line each."""
        kinds = Counter(f"{fault.kind} {fault.target.partition('-')[0]}" for fault in self.faults)
        seconds, slowest = self.longest_recovery
        repeated = ", ".join(f"{count:,} {kind}" for kind, count in self.duplicates.items())
        lines = [
            f"requests          {self.requests:,} in {self.handlings:,} handlings",
            f"faults            {len(self.faults)}: "
            + ", ".join(f"{n} × {kind}" for kind, n in kinds.items()),
            f"lost              {self.count('lost')}",
            f"order violations  {self.count('order', 'overlap')}",
            f"duplicates        {repeated}; unexplained: {self.count('duplicate')}",
            f"dead letters      {self.dead_letters}",
            f"longest recovery  {seconds:.1f} s"
            + (f" (after {slowest.kind} of {slowest.target})" if slowest else ""),
            f"largest process   {self.peak_memory / 2**20:.0f} MiB",
        ]
        others = Counter(violation.kind for violation in self.violations)
        lines += [f"{kind}: {count}" for kind, count in others.items()]
        return "\n".join([*lines, "passed" if self.passed else "FAILED"])

    def report(self, history: History, stored: Stored) -> str:
        """Give the figures; and where something is wrong, its story, and the time line of the run."""
        if self.passed:
            return self.summary()
        start = min((entry.at for each in history for entry in each.entries), default=0)
        parts = [self.summary(), "", "── what is wrong ──"]
        parts += [f"{violation.kind}: {violation.sentence}" for violation in self.violations[:50]]
        if len(self.violations) > 50:
            parts.append(f"… and {len(self.violations) - 50} more")
        for violation in _first_of_each_kind(self.violations):
            parts += ["", f"── the story of {violation.id}: {violation.sentence} ──"]
            parts += _story(violation.id, history, stored, start)
        parts += ["", "── the time line ──", *_time_line(history, start)]
        return "\n".join(parts)


def _first_of_each_kind(violations: Iterable[Violation]) -> list[Violation]:
    first: dict[str, Violation] = {}
    for violation in violations:
        if violation.id:
            first.setdefault(violation.kind, violation)
    return list(first.values())[:_STORIES]


class _Line(NamedTuple):
    at: int
    who: str
    text: str


def _story(request: str, history: History, stored: Stored, start: int) -> list[str]:
    """Give all that happened to a request and its neighbours of the same key, with the faults in between."""
    key = request.rpartition("#")[0]
    number = int(request.rpartition("#")[2])
    near = {f"{key}#{n}" for n in range(number - 3, number + 4)}
    lines = [
        _Line(entry.at, each.name, _text(entry))
        for each in history
        for entry in each.entries
        if getattr(entry, "id", None) in near
    ]
    for topic in (stored.requests, stored.retries, stored.dead):
        lines += [
            _Line(record.at, "kafka", f"{record.id} in {record.topic}/{record.partition}/{record.offset}")
            for record in topic
            if record.id in near
        ]
    messages = {record.message: record.id for record in stored.requests if record.id in near}
    lines += [
        _Line(reply.at, "kafka", f"reply to {messages[reply.message]}: {reply.status}")
        for reply in stored.replies
        if reply.message in messages
    ]
    if lines:
        begin, end = min(line.at for line in lines), max(line.at for line in lines)
        lines += [line for line in _events(history) if begin - 30 * SECOND <= line.at <= end]
    return [_written(line, start) for line in sorted(lines)[:_STORY_LINES]]


def _time_line(history: History, start: int) -> list[str]:
    lines = list(_events(history))
    lines += [
        _Line(each.entries[0].at, each.name, f"writes its first of {len(each.entries)} entries")
        for each in history
        if each.entries
    ]
    return [_written(line, start) for line in sorted(lines)]


def _events(history: History) -> Iterator[_Line]:
    for each in history:
        for entry in each.entries:
            if isinstance(entry, Fault | Crashing | Exited | Note):
                yield _Line(entry.at, each.name, _text(entry))


def _text(entry: Entry) -> str:
    if isinstance(entry, Fault):
        return f"FAULT {entry.number} {entry.phase}s: {entry.kind} {entry.target}"
    if isinstance(entry, Note):
        return entry.text
    if isinstance(entry, Began):
        return f"began {entry.id}, attempt {entry.attempt} (handling {entry.handling})"
    if isinstance(entry, Ended):
        return f"ended {entry.id}: {entry.how} (handling {entry.handling})"
    fields = ", ".join(f"{name} {value}" for name, value in entry._asdict().items() if name != "at")
    return f"{type(entry).__name__.lower()}: {fields}"


def _written(line: _Line, start: int) -> str:
    return f"{(line.at - start) / SECOND:10.3f} s  {line.who:<18} {line.text}"
