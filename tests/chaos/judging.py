"""The verdict on a run: what the checker says of its history, and what only the run itself can know."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from tests.chaos.checker import Rules, check
from tests.chaos.cluster import Cluster
from tests.chaos.crew import last_line
from tests.chaos.history import Assigned, Crashing, Exited, History, Sending, read
from tests.chaos.operations import ATTEMPTS, Operations, operations
from tests.chaos.run import Plan, Ran
from tests.chaos.stored import read_stored
from tests.chaos.verdict import Verdict, Violation
from tests.chaos.workload import SERVICE

_KILLED = -9
_LAST_LINES = 6
_RECOVERY_SECONDS = 120.0


@dataclass(frozen=True)
class Outcome:
    """A run and its verdict.

    Args:
        plan: what was to be done.
        ran: what was done.
        verdict: what is to be said of it.
        story: figures, and where something is wrong, what happened, for people.
    """

    plan: Plan
    ran: Ran
    verdict: Verdict
    story: str

    @property
    def kinds(self) -> Counter[str]:
        """How often each kind of fault came to pass."""
        crashes = sum(fault.kind == "crash" for fault in self.verdict.faults)
        return Counter([str(each.kind) for each in self.ran.struck]) + Counter(
            {"a handler crashes its service": crashes}
        )

    def document(self) -> dict[str, Any]:
        """Give all as JSON values."""
        verdict = self.verdict
        seconds, fault = verdict.longest_recovery
        return {
            "passed": verdict.passed,
            "seed": self.plan.seed,
            "seconds": round(self.ran.seconds, 1),
            "requests": verdict.requests,
            "handlings": verdict.handlings,
            "faults": self.kinds.total(),
            "faults_by_kind": dict(sorted(self.kinds.items())),
            "lost": verdict.count("lost"),
            "order_violations": verdict.count("order", "overlap"),
            "duplicates": dict(verdict.duplicates),
            "duplicates_unexplained": verdict.count("duplicate"),
            "dead_letters": verdict.dead_letters,
            "longest_recovery_seconds": round(seconds, 1),
            "longest_recovery_after": None if fault is None else f"{fault.kind} {fault.target}",
            "peak_memory_bytes": verdict.peak_memory,
            "violations": [each._asdict() for each in verdict.violations],
            "folder": None if verdict.passed else str(self.ran.folder),
        }


def judge(plan: Plan, ran: Ran, cluster: Cluster) -> Outcome:
    """Read what a run has left behind, and give the verdict.

    Raises:
        TimeoutError: Kafka can't be read.
    """
    names = operations(SERVICE)
    stored = read_stored(cluster.direct_servers, SERVICE, list(names.orderings))
    history = read(ran.folder / "history")
    verdict = check(history, stored, _rules(names))
    more = [*_late(ran), *_exits(history, ran), *_too_few(plan, verdict)]
    verdict = verdict._replace(violations=[*verdict.violations, *more])
    return Outcome(plan, ran, verdict, verdict.report(history, stored))


def _rules(names: Operations) -> Rules:
    """Give what is expected: faults come on top of each other here, and two cores bear brokers and all processes."""
    return Rules(
        orderings=names.orderings,
        attempts=ATTEMPTS,
        recovery_seconds=_RECOVERY_SECONDS,
        longest_recovery_seconds=_RECOVERY_SECONDS,
    )


def _late(ran: Ran) -> Iterator[Violation]:
    for name in ran.late:
        yield Violation("stuck", f"{name} did not end in time")


def _exits(history: History, ran: Ran) -> Iterator[Violation]:
    """A process ends when it is told to, killed, or crashed by a handler; by itself it never does."""
    crashed = {each.pid for each in history for entry in each.entries if isinstance(entry, Crashing)}
    # While no broker answers, a start fails after a while, as it says; it is repeated.
    started = {
        each.pid for each in history for entry in each.entries if isinstance(entry, Assigned | Sending)
    }
    for each in history:
        for entry in each.entries:
            if (
                isinstance(entry, Exited)
                and entry.status not in (0, _KILLED)
                and entry.pid in started - crashed
            ):
                log = (ran.folder / "logs" / f"{entry.process}.log").read_text(errors="replace")
                said = "\n".join(log.partition(last_line(entry.pid))[0].splitlines()[-_LAST_LINES:])
                yield Violation(
                    "exit", f"{entry.process} ended by itself, with status {entry.status}:\n{said}"
                )


def _too_few(plan: Plan, verdict: Verdict) -> Iterator[Violation]:
    if verdict.requests < plan.requests:
        yield Violation(
            "load", f"{verdict.requests:,} requests came about, and {plan.requests:,} were wanted"
        )
