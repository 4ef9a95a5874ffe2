"""Tells a message's story: as lines for people, as JSON for programs."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from broker_mesh import naming
from broker_mesh.cli.output import printable
from broker_mesh.cli.records import as_clock, as_text, as_time
from broker_mesh.headers import Envelope
from broker_mesh.standing import Ending, Standing
from broker_mesh.status import StatusCode
from broker_mesh.story import Step, Story, What

HEADINGS = ("TIME", "AFTER", "WHAT", "WHERE", "WHY")


def heading(story: Story) -> list[str]:
    """Give what is the same for the whole story, a line each."""
    envelope = story.envelope
    sender = f" from {envelope.source}" if envelope.source else ""
    kind = (
        "event" if naming.is_event(story.operation) else "message" if envelope.reply_to is None else "request"
    )
    key = f", key {as_text(story.key)}" if story.key is not None else ""
    lines = [f"{kind} {story.id}: {story.operation}{sender}{key}"]
    if story.trace_ids:
        lines.append(f"trace {', '.join(story.trace_ids)}")
    return [printable(line) for line in lines]


def rows(story: Story) -> list[list[str]]:
    """Give a row for each step, by `HEADINGS`."""
    before: int | None = None
    told = []
    for step in story.steps:
        # Below 0 where what follows was told by a clock that is behind.
        after = "" if before is None else f"{'+' if step.at >= before else ''}{span(step.at - before)}"
        before = step.at
        place = "" if step.place is None else str(step.place)
        told.append([as_clock(step.at), after, what(step), place, _why(step)])
    return [[printable(cell) for cell in row] for row in told]


def what(step: Step) -> str:
    """Say what happened at a step."""
    attempt = f"attempt {step.attempt}"
    in_place = f" ({_times(step.in_place)} before it failed in place)" if step.in_place else ""
    match step.what:
        case What.SENT:
            return f"sent by {step.envelope.source}" if step.envelope.source else "sent"
        case What.FAILED:
            return f"{attempt} failed{in_place}"
        case What.RETRY:
            if step.stands_in_line:
                return "put behind an earlier message of its key, which waits for another attempt"
            due = step.envelope.retry_at
            return f"put aside for {attempt}" + (f", due at {as_clock(due)}" if due is not None else "")
        case What.DEAD_LETTER:
            return f"{attempt} failed{in_place}: kept as a dead letter"
        case What.REPLAYED:
            return f"put back by replay {step.envelope.replay_id}"
        case What.DROPPED:
            return "dropped for good"
        case What.ANSWERED:
            status = step.envelope.status or StatusCode.OK
            return f"answered {status.name} by {attempt}{in_place}"


def ending(story: Story, standing: Standing, now: int) -> str:
    """Say where a message stands with one of those who handle it.

    Args:
        story: of the message.
        standing: as `story.standings` gives it.
        now: epoch ms.
    """
    group, last = standing.group, standing.last
    match standing.ending:
        case Ending.ANSWERED:
            taken = f" after {span(last.since_cause - story.steps[0].at)}"
            return printable(f"{group} has answered {_status(last.envelope, StatusCode.OK)}{taken}")
        case Ending.DEAD_LETTER:
            return (
                f"{group} has failed; it is kept at {last.place} and not put back: "
                # Whoever wrote the record chose its id, and this line is made to be pasted into a shell.
                f"mesh dead-letters replay --id {shlex.quote(story.id)}"
            )
        case Ending.DROPPED:
            return f"{group} has failed, and it was dropped for good at {as_clock(last.at)}"
        case Ending.HANDLED:
            gone = ", and no reply to it is kept any more" if story.envelope.reply_to is not None else ""
            return f"{group} has handled it{gone}"
        case Ending.RETRY_DUE if last.stands_in_line:
            return f"{group} handles it behind an earlier message of its key{_nobody(standing)}"
        case Ending.RETRY_DUE:
            wait = f" in {span((last.envelope.retry_at or now) - now)}"
            return f"{group} tries it again{wait}: attempt {last.attempt}{_nobody(standing)}"
        case Ending.WAITING:
            return _waiting(story, standing, now)


def as_json(story: Story, standings: Sequence[Standing]) -> dict[str, Any]:
    """Give the story for programs; times are epoch ms."""
    envelope = story.envelope
    return {
        "id": story.id,
        "operation": story.operation,
        "source": envelope.source or None,
        "key": as_text(story.key),
        "trace_ids": list(story.trace_ids),
        "deadline": envelope.deadline,
        "idempotency_key": envelope.idempotency_key,
        "steps": [_step_as_json(step, story.steps[0].at) for step in story.steps],
        "standings": [
            {
                "service": standing.group,
                "topic": standing.stem,
                "state": standing.ending.value,
                "place": None if standing.last.place is None else str(standing.last.place),
                "ahead": standing.ahead,
                "instances": standing.members,
            }
            for standing in standings
        ],
    }


def span(milliseconds: int) -> str:
    """Give a stretch of time in its two largest units."""
    if milliseconds < 60_000:
        return f"{milliseconds / 1000:.3f} s"
    seconds = round(milliseconds / 1000)
    for unit, length, below, parts in (("d", 86_400, "h", 3600), ("h", 3600, "min", 60), ("min", 60, "s", 1)):
        if seconds >= length:
            return f"{seconds // length} {unit} {seconds % length // parts} {below}"
    return f"{seconds} s"


def _step_as_json(step: Step, start: int) -> dict[str, Any]:
    envelope = step.envelope
    return {
        "time": as_time(step.at),
        "epoch_ms": step.at,
        "after_ms": step.at - start,
        "what": step.what.value,
        "place": None if step.place is None else str(step.place),
        "attempt": step.attempt,
        "failed_in_place": step.in_place,
        "status": None if envelope.status is None else envelope.status.name,
        "status_message": envelope.status_message,
        "exception": envelope.exception,
        "retry_at": envelope.retry_at,
        "replay_id": envelope.replay_id,
        "dead_letter": None if envelope.dead_letter is None else str(envelope.dead_letter),
    }


def _why(step: Step) -> str:
    """Say what a failure was, where the step's own record tells it; an answer's status stands in WHAT already."""
    if step.what is What.ANSWERED:
        return step.envelope.status_message or ""
    if step.what not in (What.FAILED, What.DEAD_LETTER) or step.envelope.status is None:
        return ""
    raised = f" ({step.envelope.exception})" if step.envelope.exception else ""
    return _status(step.envelope, StatusCode.UNKNOWN) + raised


def _status(envelope: Envelope, default: StatusCode) -> str:
    name = (envelope.status or default).name
    return f"{name}: {envelope.status_message}" if envelope.status_message else name


def _waiting(story: Story, standing: Standing, now: int) -> str:
    group, deadline = standing.group, story.envelope.deadline
    expired = (
        "; its time is over, so that it will be dropped" if deadline is not None and deadline <= now else ""
    )
    if standing.members == 0 or standing.ahead is None:
        return f"it waits for {group}{_nobody(standing)}{expired}"
    if standing.ahead > 0:
        return f"{group} is not known to be done with it, nor with up to {standing.ahead} records before it{expired}"
    return f"{group} takes it next, or is at it now: attempts made in place leave no record before the last{expired}"


def _nobody(standing: Standing) -> str:
    if standing.members:
        return ""
    return ", which has no instance now"


def _times(count: int) -> str:
    return "1 attempt" if count == 1 else f"{count} attempts"
