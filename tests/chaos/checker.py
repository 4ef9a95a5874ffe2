"""The checker: what a run must come to, whatever its nemesis did.

`check` is pure. It judges by what callers, handlers and Kafka say, never by how the engine works, after these rules:

- lost: what Kafka acknowledged is in its topic; what the group has committed was handled or is a dead letter, and is
  answered where a caller waits.
- order: no handling begins before what is ahead of it in its key's log has succeeded or failed for good, within each
  partition, and across partitions where the mesh itself has added some; repeats may come later.
- overlap: no two handlings of a key at the same time, but for the late end of one whose partition was given up, or
  whose process could not know yet that it was.
- fence: no handling begins in a process that was told that the partition is no longer its own.
- duplicate: what was handled, answered or kept twice was not settled when its partition was given up, or a fault struck
  who did it first, or the brokers, about when it was done; and between two handlings that may both have had their
  effect, the partition was taken over. Nothing is answered more often than it was settled.
- dead letter: only after all attempts, and only for what fails.
- stuck: everything is committed at the end, no caller waits for a reply that is there, each recovery is bounded.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from itertools import pairwise
from typing import Literal, NamedTuple

from tests.chaos.evidence import FOREVER, Case, Evidence, Handling, Timeline, gather
from tests.chaos.faults import SECOND, Disturbance, Excuses, disturbances
from tests.chaos.history import Exited, History, Memory
from tests.chaos.stored import Partition, Stored
from tests.chaos.verdict import Verdict, Violation

_HANDOVER = SECOND // 4  # a thread may have been started, and not have written yet, when its partition went
_HEARING = 5 * SECOND
_HANDED_BACK = SECOND  # so long after its handler has ended a request may not be settled yet


class Rules(NamedTuple):
    """What is expected of a run.

    Args:
        orderings: of each operation, by name.
        attempts: how many a request has before it becomes a dead letter.
        commit_seconds, recovery_seconds, stale_seconds: windows of `faults.Excuses`.
        longest_recovery_seconds: from a fault to the next progress of what it hit, at most.
        memory_bytes: of one process, at most.
    """

    orderings: Mapping[str, Literal["key", "none"]]
    attempts: int
    commit_seconds: float = 20.0
    recovery_seconds: float = 60.0
    stale_seconds: float = 15.0
    longest_recovery_seconds: float = 90.0
    memory_bytes: int = 400 * 2**20


def check(history: History, stored: Stored, rules: Rules) -> Verdict:
    """Judge a run by its history and by what Kafka holds at its end."""
    faults = disturbances(history)
    evidence = gather(history, stored, faults)
    excuses = Excuses(
        faults,
        commit_seconds=rules.commit_seconds,
        recovery_seconds=rules.recovery_seconds,
        stale_seconds=rules.stale_seconds,
    )
    duplicates: Counter[str] = Counter(dict.fromkeys(("handlings", "replies", "dead letters", "writes"), 0))
    violations: list[Violation] = []
    orderly = {
        f"{entry.process}@{entry.pid}"
        for each in history
        for entry in each.entries
        if isinstance(entry, Exited) and entry.status == 0
    }
    for case in evidence.cases.values():
        violations += _judge_case(case, rules, orderly)
        violations += _repeats(case, evidence, excuses, duplicates)
        violations += _unfenced(case, evidence)
    violations += _keys(evidence, rules, excuses)
    violations += [
        Violation("log", f"a reply to {reply.message}, which is in no topic")
        for reply in evidence.unknown_replies
    ]
    violations += [
        Violation("stuck", f"{count} records of {topic}/{partition} are not committed")
        for (topic, partition), count in stored.lag.items()
    ]
    recovery = _longest_recovery(evidence, faults)
    if recovery[0] > rules.longest_recovery_seconds:
        violations.append(Violation("stuck", f"nothing moved for {recovery[0]:.1f} s after {recovery[1]}"))
    peaks = [entry for each in history for entry in each.entries if isinstance(entry, Memory)]
    violations += [
        Violation("memory", f"{process} held {peak / 2**20:.0f} MiB")
        for process, peak in _largest(peaks).items()
        if peak > rules.memory_bytes
    ]
    return Verdict(
        requests=len(stored.requests),
        handlings=sum(len(case.handlings) for case in evidence.cases.values()),
        faults=faults,
        duplicates=duplicates,
        dead_letters=sum(bool(case.dead) for case in evidence.cases.values()),
        longest_recovery=recovery,
        peak_memory=max((entry.rss_bytes for entry in peaks), default=0),
        violations=violations,
    )


# ── one request ───────────────────────────────────────────────────────────────────────────────────────────────


def _judge_case(case: Case, rules: Rules, orderly: Collection[str]) -> Iterator[Violation]:
    if len(case.sending) != 1:
        yield Violation("harness", f"{case.id} was sent {len(case.sending)} times", case.id)
    if not case.stored:
        if case.acknowledged is not None:
            yield Violation("lost", f"{case.id} was acknowledged, and is in no topic", case.id)
        elif case.handlings:
            yield Violation("log", f"{case.id} was handled, and is in no topic", case.id)
        return
    told = case.acknowledged
    if told is not None and told.offset >= 0:
        places = {(record.topic, record.partition, record.offset) for record in case.stored}
        if (told.topic, told.partition, told.offset) not in places:
            yield Violation("log", f"{case.id} is not where it was acknowledged: {told}", case.id)
    if case.dead:
        failures = sum(handling.how != "ok" for handling in case.handlings)
        if failures < rules.attempts:
            yield Violation(
                "dead letter", f"{case.id} became one after {failures} of {rules.attempts} attempts", case.id
            )
    elif case.due:
        return  # not lost, but not done: what is not committed is told by partition
    elif case.success is None:
        yield Violation("lost", f"{case.id} was not handled and is no dead letter", case.id)
        return
    if case.stored[0].expects_reply:
        yield from _judge_answers(case, orderly)


def _judge_answers(case: Case, orderly: Collection[str]) -> Iterator[Violation]:
    if not case.replies:
        yield Violation("lost", f"{case.id} has no reply", case.id)
        return
    statuses = {reply.status for reply in case.replies}
    if not case.dead and "OK" not in statuses:
        yield Violation("answer", f"{case.id} was answered with {statuses}, and is no dead letter", case.id)
    if case.acknowledged is not None and not case.answers and case.sending[0][0] in orderly:
        yield Violation("stuck", f"the caller of {case.id} has ended, and tells of no answer", case.id)
    for answer in case.answers:
        if answer.status == "PENDING":
            if case.replies[0].at > answer.at - _HEARING:
                continue  # it came when the caller was about to go
            yield Violation("stuck", f"the caller of {case.id} waits, and its reply is there", case.id)
        elif answer.status not in statuses:
            yield Violation("answer", f"the caller of {case.id} heard {answer.status}", case.id)


def _repeats(
    case: Case, evidence: Evidence, excuses: Excuses, duplicates: Counter[str]
) -> Iterator[Violation]:
    """Count what was done more than once; a retry of what failed is no duplicate.

    A fault has to explain that somebody took over what was done already, and did not know of it; how long that one then
    takes until it comes to it is no question of duplicates.
    """
    earlier: Handling | None = None  # the last one that may have had its effect
    for handling in case.handlings:
        if earlier is not None:
            duplicates["handlings"] += 1
            if not _may_repeat(case, earlier, handling, evidence, excuses):
                why = f"after {earlier.incarnation}, though nobody had taken its partition over"
            elif not (
                _is_explained(case, earlier, handling.began, evidence, excuses)
                or _was_overtaken(case, handling, evidence, excuses)
            ):
                why = "without a fault that explains it"
            else:
                why = ""
            if why:
                yield Violation(
                    "duplicate", f"{case.id} was handled again by {handling.incarnation} {why}", case.id
                )
        if handling.how != "raised":
            earlier = handling
    settled = sum(handling.succeeded for handling in case.handlings) + len(case.dead)
    if len(case.replies) > settled > 0:
        yield Violation(
            "duplicate",
            f"{case.id} was answered {len(case.replies)} times, and settled {settled} times",
            case.id,
        )
    written = (
        ("writes", "is in its topic", [record.at for record in case.stored]),
        ("replies", "was answered", [reply.at for reply in case.replies]),
        ("dead letters", "became a dead letter", [record.at for record in case.dead]),
    )
    for kind, what, times in written:
        for first, second in pairwise(times):
            duplicates[kind] += 1
            if kind == "writes":
                senders = {caller.rpartition("@")[0] for caller, _ in case.sending}
                explained = excuses.undone(senders, first, second)
            else:
                explained = _may_settle_again(case, first, second, evidence, excuses)
            if not explained:
                yield Violation(
                    "duplicate", f"{case.id} {what} more than once without a fault that explains it", case.id
                )


def _is_explained(case: Case, earlier: Handling, again: float, evidence: Evidence, excuses: Excuses) -> bool:
    """Tell whether a fault explains that a handling which may have had its effect is repeated from a time on.

    What had not come to its end when its partition was given up is handed back, whatever moved the partition. What had
    is known to the next owner, unless something struck who did it, or the brokers.
    """
    if not case.stored:
        return True
    ownership, partitions = evidence.ownership, _both(case.stored[0].topic, case.stored[0].partition)
    taken_over = ownership.first_takeover(partitions, earlier.began, again)
    was_handed_back = earlier.how in ("unfinished", "cancelled") or any(
        ownership.lost_between(earlier.incarnation, partition, earlier.began, earlier.ended + _HANDED_BACK)
        for partition in partitions
    )
    if was_handed_back and excuses.moved(earlier.ended, taken_over):
        return True
    if excuses.undone([earlier.process], earlier.ended, taken_over):
        return True
    if not case.parked:
        return False
    # A copy in the retry topic may be that of an owner before, who has handled it or has only put it in line.
    if any(_was_overtaken(case, each, evidence, excuses) for each in case.handlings if each.began <= again):
        return True
    since = case.stored[0].at
    owners = ownership.owners(partitions, since) | {each.process for each in case.handlings}
    first = ownership.first_takeover(partitions, since, again)
    return first < again and any(
        excuses.undone(owners, at, first) for at in (since, *(each.ended for each in case.handlings))
    )


def _was_overtaken(case: Case, handling: Handling, evidence: Evidence, excuses: Excuses) -> bool:
    """Tell whether a handling began where another owner had taken the partition over, which could not be known yet."""
    return excuses.stale_owner([handling.process], handling.began) and any(
        evidence.ownership.latest(partition, handling.began) not in ("", handling.incarnation)
        for record in case.stored[:1]
        for partition in _both(record.topic, record.partition)
    )


def _may_settle_again(case: Case, first: float, second: float, evidence: Evidence, excuses: Excuses) -> bool:
    """Tell whether a request may be answered, or kept, twice: when it may be handled again, by then."""
    if any(
        _is_explained(case, each, second, evidence, excuses) or _was_overtaken(case, each, evidence, excuses)
        for each in case.handlings
        if each.began <= second
    ):
        return True
    # Of what ends its process one owner after the other makes a dead letter, without handling it.
    partitions = _both(case.stored[0].topic, case.stored[0].partition) if case.stored else ()
    taken_over = evidence.ownership.first_takeover(partitions, first, second)
    return taken_over < second and excuses.undone(
        evidence.ownership.owners(partitions, first), first, taken_over
    )


def _may_repeat(
    case: Case, earlier: Handling, handling: Handling, evidence: Evidence, excuses: Excuses
) -> bool:
    """Tell whether a record may be handled again: within one assignment of its partition it never is.

    But for one that was parked: its write to the retry topic may have come late, when a new owner had handled it.
    """
    if case.parked or not case.stored:
        return True
    same = earlier.incarnation == handling.incarnation
    if any(
        evidence.ownership.taken_over_between(
            partition, earlier.began, handling.began, handling.incarnation if same else None
        )
        for partition in _both(case.stored[0].topic, case.stored[0].partition)
    ):
        return True
    processes = earlier.process, handling.process
    return not same and any(excuses.stale_owner(processes, each.began) for each in (earlier, handling))


def _unfenced(case: Case, evidence: Evidence) -> Iterator[Violation]:
    for place in case.stored[:1]:
        for handling in case.handlings:
            who, at = handling.incarnation, handling.began
            main, retry = _both(place.topic, place.partition)
            # It may have come by the retry topic, which goes with the operation's: both have to be given up.
            if evidence.ownership.gave_up(who, main, at - _HANDOVER, at) and not evidence.ownership.owns(
                who, retry, at
            ):
                yield Violation(
                    "fence",
                    f"{who} began {case.id} after it had given up {place.topic}/{place.partition}",
                    case.id,
                )


def _both(topic: str, partition: int) -> tuple[Partition, Partition]:
    return (topic, partition), (f"{topic}.retry", partition)


# ── one key ───────────────────────────────────────────────────────────────────────────────────────────────────


def _keys(evidence: Evidence, rules: Rules, excuses: Excuses) -> Iterator[Violation]:
    by_key: dict[str, list[Case]] = defaultdict(list)
    for case in evidence.cases.values():
        if case.stored:
            by_key[case.key].append(case)
    for key, cases in by_key.items():
        by_partition: dict[Partition, list[Case]] = defaultdict(list)
        for case in sorted(cases, key=lambda case: case.stored[0].offset):
            by_partition[case.stored[0].topic, case.stored[0].partition].append(case)
        topic, last = cases[0].stored[0].topic, max(case.stored[0].at for case in cases)
        for in_order in by_partition.values():
            yield from _log_order(in_order)
            if rules.orderings[topic] == "key":
                yield from _order(in_order, rules.attempts)
        if len(by_partition) > 1 and not excuses.grown(topic, last, managed=False):
            if not excuses.grown(topic, last, managed=True):
                yield Violation("log", f"{key} is in several partitions: {sorted(by_partition)}", cases[0].id)
            if rules.orderings[topic] == "key":
                yield from _order(_as_sent(cases), rules.attempts)
        if rules.orderings[topic] == "key":
            yield from _overlaps(cases, evidence, excuses)


def _as_sent(cases: Iterable[Case]) -> list[Case]:
    """Give what was acknowledged, in the order of sending: the next is sent when the last is acknowledged."""
    known = [case for case in cases if case.acknowledged is not None and case.sending]
    return sorted(known, key=lambda case: case.sending[0][1].at)


def _log_order(cases: Iterable[Case]) -> Iterator[Violation]:
    """What a caller sent after an acknowledgement stands behind what was acknowledged."""
    latest_sent: dict[str, tuple[int, str]] = {}
    for case in cases:
        for caller, sending in case.sending:
            after, id_after = latest_sent.get(caller, (0, ""))
            if case.acknowledged is not None and case.acknowledged.at < after:
                yield Violation("log", f"{case.id} stands behind {id_after}, which was sent later", case.id)
            latest_sent[caller] = max((sending.at, case.id), latest_sent.get(caller, (0, "")))


def _order(cases: Iterable[Case], attempts: int) -> Iterator[Violation]:
    """No handling begins before what is ahead of it has come to its end; of what is done twice the first counts."""
    latest, before = 0.0, ""
    for case in cases:
        if case.handlings and case.handlings[0].began < latest:
            yield Violation(
                "order", f"{case.id} began before {before} had ended, which is ahead of it", case.id
            )
        if (ended := case.ended(attempts)) > latest:
            latest, before = ended, case.id


def _overlaps(cases: Iterable[Case], evidence: Evidence, excuses: Excuses) -> Iterator[Violation]:
    runs = sorted(
        ((handling, case) for case in cases for handling in case.handlings), key=lambda run: run[0].began
    )
    active: list[tuple[Handling, Case]] = []
    for handling, case in runs:
        active = [run for run in active if run[0].ended > handling.began]
        for other, other_case in active:
            if not _may_overlap(other, other_case, handling, case, evidence, excuses):
                yield Violation(
                    "overlap",
                    f"{case.id} began in {handling.incarnation} while {other_case.id} ran in {other.incarnation}",
                    case.id,
                )
        active.append((handling, case))


def _may_overlap(
    first: Handling,
    first_case: Case,
    second: Handling,
    second_case: Case,
    evidence: Evidence,
    excuses: Excuses,
) -> bool:
    place, other_place = first_case.stored[0], second_case.stored[0]
    if place.partition != other_place.partition and excuses.grown(place.topic, second.began, managed=False):
        return True
    if any(
        evidence.ownership.lost_between(first.incarnation, partition, first.began, second.began)
        for partition in _both(place.topic, place.partition)
    ):
        return True  # a late completion
    return first.incarnation != second.incarnation and excuses.stale_owner(
        (first.process, second.process), second.began
    )


# ── the run ───────────────────────────────────────────────────────────────────────────────────────────────────


def _longest_recovery(evidence: Evidence, faults: Iterable[Disturbance]) -> tuple[float, Disturbance | None]:
    """Find the longest time from a fault to the next progress of what it hit, while something waited there.

    A fault of a service instance hits the partitions that it had then, one of a broker or of the network all
    partitions and all callers' sending, one of a caller its sending.
    """
    handled: dict[Partition, list[tuple[float, float]]] = defaultdict(list)
    sent: dict[str, list[tuple[float, float]]] = defaultdict(list)
    for case in evidence.cases.values():
        if case.stored and case.settled < FOREVER:
            place = case.stored[0]
            handled[place.topic, place.partition].append((place.at, case.settled))
        if case.acknowledged is not None:
            for caller, sending in case.sending:
                sent[caller.rpartition("@")[0]].append((sending.at, case.acknowledged.at))
    partitions = {key: Timeline(work) for key, work in handled.items()}
    callers = {name: Timeline(work) for name, work in sent.items()}
    longest: tuple[float, Disturbance | None] = 0.0, None
    for fault in faults:
        hit = []
        if fault.hits_all:
            hit = [*partitions.values(), *callers.values()]
        elif fault.target in callers:
            hit = [callers[fault.target]]
        else:
            owned = evidence.ownership.owned_by(fault.target, fault.begin)
            hit = [timeline for key, timeline in partitions.items() if key in owned]
        seconds = max((timeline.recovery(fault.begin) for timeline in hit), default=0.0) / SECOND
        if seconds > longest[0]:
            longest = seconds, fault
    return longest


def _largest(peaks: Iterable[Memory]) -> dict[str, int]:
    largest: dict[str, int] = {}
    for entry in peaks:
        largest[entry.process] = max(entry.rss_bytes, largest.get(entry.process, 0))
    return largest
