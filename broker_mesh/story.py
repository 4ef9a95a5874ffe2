"""The story of one message: what its records on several topics tell of it together, in the order in which it happened.

On the way of a message: beside it, afterwards. `mesh trace` gathers the records; what they say is decided here. Pure.
An attempt made in place leaves no record: the dead letter or the reply that follows tells how many there were.
Each record has the time of who wrote it, and a handler is faster than clocks agree: cause stands before effect.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from types import MappingProxyType
from typing import NamedTuple

from broker_mesh import naming
from broker_mesh.headers import Envelope, Place
from broker_mesh.message import Record, received

# W3C Trace Context, "traceparent Header Field Values": version, trace-id, parent-id, flags.
_TRACEPARENT = re.compile(r"[0-9a-f]{2}-([0-9a-f]{32})-[0-9a-f]{16}-[0-9a-f]{2}.*")


class What(StrEnum):
    """What happened at a step, in the order in which it happens within a millisecond."""

    SENT = "sent"
    REPLAYED = "replayed"
    FAILED = "failed"
    RETRY = "retry"
    DEAD_LETTER = "dead-letter"
    ANSWERED = "answered"
    DROPPED = "dropped"


_BEGINNINGS = frozenset({What.SENT, What.REPLAYED})

HANDED = _BEGINNINGS | {What.RETRY}
"""What hands a message over for an attempt."""


class Dropped(NamedTuple):
    """A dead letter that was dropped for good.

    Args:
        place: of the dead letter.
        at: when, epoch ms.
    """

    place: Place
    at: int


class Step(NamedTuple):
    """One step of a story.

    Args:
        at: when, epoch ms.
        what: happened.
        stem: whose doing it is: the operation, or the subscription.
        place: the record that tells it; None for a failure in place, of which a later record tells.
        envelope: what that record's headers say.
        key: that record's.
        attempt: the attempt it speaks of: the one that failed or answered, or that is put aside for later.
        in_place: how many attempts before it failed in place, without a step of their own.
        behind: how far the clock of `at` is behind the one of what led to the step, at least, ms.
    """

    at: int
    what: What
    stem: str
    place: Place | None
    envelope: Envelope
    key: bytes | None = None
    attempt: int = 1
    in_place: int = 0
    behind: int = 0

    @property
    def since_cause(self) -> int:
        """When, epoch ms, never before what led to it."""
        return self.at + self.behind

    @property
    def stands_in_line(self) -> bool:
        """Whether it is put behind an earlier message of its key, without a failure of its own."""
        return self.what is What.RETRY and self.envelope.retry_at is None and self.envelope.status is None


class Story(NamedTuple):
    """All that is known of one message.

    Args:
        id: its id.
        operation: the operation or event.
        envelope: what its first record's headers say.
        key: of that record.
        trace_ids: W3C trace ids, in the order of their first step; one unless a replay or its sender began another.
        steps: in the order of time, and none before what led to it.
    """

    id: str
    operation: str
    envelope: Envelope
    key: bytes | None
    trace_ids: tuple[str, ...]
    steps: tuple[Step, ...]


def stem_of(record: Record) -> str:
    """Tell whose record it is: the operation or event, or the subscription that failed on it."""
    if naming.source_of_failures(record.topic) is not None:
        return record.topic.rpartition(".")[0]
    if record.topic.endswith(naming.reply_topic("")):
        return received(record, record.topic).envelope.type.removesuffix(".reply")
    return record.topic


def operation_of(stem: str) -> str:
    """Tell the operation or topic behind a stem; of a subscription, what it subscribes to."""
    subscription = naming.parse_subscription(stem)
    return stem if subscription is None else subscription.source


def id_of(record: Record) -> str:
    """Tell the id of the message that a record belongs to; of a reply, that is its request's."""
    envelope = received(record, record.topic).envelope
    if envelope.correlation_id is not None and record.topic.endswith(naming.reply_topic("")):
        return envelope.correlation_id
    place = Place(record.topic, record.partition, record.offset)
    if envelope.id == str(place) and envelope.origin is not None:
        return str(envelope.origin)  # a record without an id is known by the place where it first stood
    return envelope.id


def tell(
    message_id: str,
    records: Iterable[Record],
    dropped: Iterable[Dropped] = (),
    put_back: Mapping[Place, str] = MappingProxyType({}),
) -> Story:
    """Make the story of the records that belong to one message.

    Args:
        message_id: its id.
        records: its own, its retries, dead letters, replays and replies, in any order; at least one.
        dropped: those of its dead letters that were dropped.
        put_back: those that were put back, each with the id of the replay.
    """
    drops = {drop.place: drop.at for drop in dropped}
    own = sorted(_behind_their_causes([_step(record) for record in records], put_back), key=_order)
    steps: list[Step] = []
    handed: dict[str, Step] = {}  # by stem: the last step that handed the message over for an attempt
    for step in own:
        last = handed.get(step.stem)
        if last is not None and _is_same_wait(last, step):
            # What is not due yet is put back at the end of its topic, as it is: one wait, at its latest place.
            steps[steps.index(last)] = handed[step.stem] = last._replace(place=step.place)
            continue
        before, told = _with_failures(step, last)
        if steps and told.what is What.ANSWERED and _is_told(told, steps[-1]):
            told = told._replace(in_place=0)
        steps += [*before, told]
        if step.place in drops:
            steps.append(step._replace(at=drops[step.place], what=What.DROPPED))
        if step.what in HANDED:
            handed[step.stem] = step
    first = own[0]
    traces = [found[1] for step in own if (found := _TRACEPARENT.fullmatch(step.envelope.traceparent or ""))]
    return Story(
        message_id,
        _operation(own),
        first.envelope,
        first.key,
        tuple(dict.fromkeys(traces)),
        tuple(sorted(steps, key=_order)),
    )


def _step(record: Record) -> Step:
    envelope = received(record, record.topic).envelope
    return Step(
        record.timestamp,
        _what(record.topic, envelope),
        stem_of(record),
        Place(record.topic, record.partition, record.offset),
        envelope,
        record.key,
        envelope.attempt,
    )


def _behind_their_causes(steps: Sequence[Step], put_back: Mapping[Place, str]) -> Iterator[Step]:
    """Say of each step how far its clock is behind: a handler's behind the sender's, a replay's behind the handler's.

    All that one handler did with what it was handed once has one clock, so that its steps keep their distances.
    """
    runs: dict[str | None, list[Step]] = {}  # by the replay that began them; None for the first
    for step in sorted(steps, key=_order):
        runs.setdefault(step.envelope.replay_id, []).append(step)
    failed: dict[str, int] = {}  # by replay: when all that it puts back had failed, and was answered
    for replay_id, run in sorted(runs.items(), key=lambda found: found[0] is not None):
        begun: int | None = None
        late: dict[str, int] = {}  # by stem
        for step in sorted(run, key=lambda step: step.what not in _BEGINNINGS):
            if step.what in _BEGINNINGS:
                behind = max(0, failed.get(replay_id or "", 0) - step.at)
                begun = step.at + behind if begun is None else begun
            else:
                told = min(
                    step.at, step.envelope.last_failure or step.at
                )  # its record tells of an attempt before it
                behind = late.setdefault(step.stem, 0 if begun is None else max(0, begun - told))
            letter = step.envelope.dead_letter if step.what is What.ANSWERED else step.place
            if letter is not None and letter in put_back:
                by = put_back[letter]
                failed[by] = max(failed.get(by, 0), step.at + behind + 1)
            yield step._replace(behind=behind)


def _what(topic: str, envelope: Envelope) -> What:
    is_of_failures = naming.source_of_failures(topic) is not None
    if is_of_failures and topic.endswith(naming.dead_topic("")):
        return What.DEAD_LETTER
    if topic.endswith(naming.reply_topic("")):
        return What.ANSWERED
    # Replays of a subscription go to its retry topic too; only what is put aside there has a time when it is due.
    if is_of_failures and (envelope.retry_at is not None or envelope.replay_id is None):
        return What.RETRY
    return What.SENT if envelope.replay_id is None else What.REPLAYED


def _with_failures(step: Step, handed: Step | None) -> tuple[list[Step], Step]:
    """Give the failures that a step tells of, and the step with the number of those whose time it does not tell.

    Args:
        step: of a record.
        handed: the last step before it that handed the message over; None where that is no longer kept.
    """
    if step.what in _BEGINNINGS:
        return [], step
    begun = 1 if handed is None else handed.attempt
    envelope = step.envelope
    if step.what is What.ANSWERED:
        return [], step._replace(in_place=max(0, step.attempt - begun))
    if step.stands_in_line:
        return [], step
    # What is put aside for attempt 3 tells that 2 failed; a dead letter of attempt 3, that 3 did.
    last = step.attempt - 1 if step.what is What.RETRY else step.attempt
    failures = []
    first_at = envelope.first_failure
    if (
        begun == 1
        and last > 1
        and first_at is not None
        and (handed is None or first_at + step.behind >= handed.since_cause)
    ):
        failures.append(_failure(step._replace(envelope=Envelope()), first_at, 1))
    untold = max(0, last - begun - len(failures))
    if step.what is What.DEAD_LETTER:
        return failures, step._replace(in_place=untold)
    failed_at = envelope.last_failure or step.at
    return [*failures, _failure(step, failed_at, last)._replace(in_place=untold)], step


def _is_told(answer: Step, before: Step) -> bool:
    """Tell whether the attempts before an answer were told with the dead letter that it goes with."""
    return before.what is What.DEAD_LETTER and (before.stem, before.attempt) == (answer.stem, answer.attempt)


def _is_same_wait(last: Step, step: Step) -> bool:
    return last.what is step.what is What.RETRY and (
        (last.attempt, last.envelope.retry_at, last.envelope.replay_id)
        == (step.attempt, step.envelope.retry_at, step.envelope.replay_id)
    )


def _failure(step: Step, at: int, attempt: int) -> Step:
    return step._replace(at=at, what=What.FAILED, place=None, attempt=attempt)


def _order(step: Step) -> tuple[int, int]:
    return step.since_cause, list(What).index(step.what)


def _operation(steps: Sequence[Step]) -> str:
    for step in steps:
        if step.what is not What.ANSWERED:
            # On topics of other programs a message's type is theirs to choose.
            kind, source = step.envelope.type, operation_of(step.stem)
            return kind if naming.is_target(kind) and naming.is_target(source) else source
    return steps[0].stem
