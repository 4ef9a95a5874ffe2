"""What `mesh dead-letters` says of dead letters and their causes: as lines for people, as JSON for programs."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from broker_mesh.cli.output import printable
from broker_mesh.cli.records import Value, as_clock, as_text, as_time, content

if TYPE_CHECKING:
    from broker_mesh.dead_letters import Cause, Claim, DeadLetter
    from broker_mesh.replay import Report

CAUSE_HEADINGS = ("COUNT", "OPERATION", "BY", "STATUS", "EXCEPTION", "MESSAGE", "FIRST", "LAST", "EXAMPLE")
_SHOWN_REFUSALS = 5


def cause_row(cause: Cause) -> list[str]:
    """Give a row for a cause, by `CAUSE_HEADINGS`."""
    cells = [
        str(cause.count),
        cause.operation,
        cause.subscriber or "",
        cause.status.name if cause.status is not None else "",
        cause.exception or "",
        cause.message,
        as_clock(cause.first),
        as_clock(cause.last),
        cause.example,
    ]
    return [printable(cell) for cell in cells]


def cause_as_json(cause: Cause) -> dict[str, Any]:
    """Describe a cause for programs."""
    return {
        "count": cause.count,
        "operation": cause.operation,
        "subscriber": cause.subscriber,
        "status": cause.status.name if cause.status is not None else None,
        "exception": cause.exception,
        "message": cause.message,
        "first": as_time(cause.first),
        "last": as_time(cause.last),
        "example": cause.example,
    }


def letter_line(letter: DeadLetter) -> str:
    """Describe a dead letter in one line."""
    envelope = letter.envelope
    status = envelope.status.name if envelope.status is not None else "-"
    raised = f" ({envelope.exception})" if envelope.exception else ""
    parts = [
        as_clock(letter.last_failure),
        str(letter.place),
        f"key={as_text(letter.record.key) or '-'}",
        envelope.id,
        f"{status}: {envelope.status_message or ''}{raised}",
        content(letter.record, Value(letter.body, letter.problem)),
    ]
    return printable(" ".join(parts))


def letter_as_json(letter: DeadLetter) -> dict[str, Any]:
    """Describe a dead letter for programs: where it failed and why, its body, and the bytes it was made of."""
    envelope, record = letter.envelope, letter.record
    return {
        "id": envelope.id,
        "place": str(letter.place),
        "operation": letter.operation,
        "subscriber": letter.subscriber,
        "source": envelope.source or None,
        "origin": None if envelope.origin is None else str(envelope.origin),
        "status": None if envelope.status is None else envelope.status.name,
        "message": envelope.status_message,
        "details": dict(envelope.status_details),
        "exception": envelope.exception,
        "attempts": envelope.attempt,
        "first_failure": as_time(letter.first_failure),
        "last_failure": as_time(letter.last_failure),
        "replay_id": envelope.replay_id,
        "key": as_text(record.key),
        "body": letter.body,
        "problem": letter.problem,
        "headers": [[name, as_text(value)] for name, value in record.headers],
        "raw": {
            "key": _base64(record.key),
            "value": _base64(record.value),
            "headers": [[name, _base64(value)] for name, value in record.headers],
        },
    }


def claim_as_json(claim: Claim | None) -> dict[str, Any] | None:
    """Describe what was done with a dead letter for programs; None where it is still open."""
    if claim is None:
        return None
    return {
        "action": claim.action.value,
        "replay_id": claim.replay_id,
        "time": as_time(claim.at),
        "target": claim.target or None,
    }


def letter_page(letter: DeadLetter, claim: Claim | None) -> Iterable[str]:
    """Tell all about a dead letter, in lines."""
    envelope, record = letter.envelope, letter.record
    failed = f", as {letter.subscriber} had it" if letter.subscriber is not None else ""
    facts = [
        ("dead letter", str(letter.place)),
        ("message", f"{envelope.id}: {letter.operation}{failed}"),
        ("from", envelope.source),
        ("key", as_text(record.key)),
        ("status", envelope.status.name if envelope.status is not None else None),
        ("why", envelope.status_message),
        (
            "details",
            json.dumps(dict(envelope.status_details), ensure_ascii=False)
            if envelope.status_details
            else None,
        ),
        ("exception", envelope.exception),
        ("attempts", str(envelope.attempt)),
        ("failed", f"{as_clock(letter.first_failure)} to {as_clock(letter.last_failure)}"),
        ("first stood at", None if envelope.origin is None else str(envelope.origin)),
        ("came from replay", envelope.replay_id),
        ("now", _now(claim)),
    ]
    width = max(len(name) for name, _ in facts)
    for name, fact in facts:
        if fact:
            yield printable(f"{name.ljust(width)}  {fact}")
    yield ""
    yield "headers"
    for name, value in record.headers:
        yield printable(f"  {name}: {as_text(value)}")
    yield ""
    yield "body"
    if letter.body is None:
        yield printable(f"  {content(record, Value(None, letter.problem))}")
    else:
        for line in json.dumps(letter.body, indent=2, ensure_ascii=False).splitlines():
            yield f"  {printable(line)}"


def report_lines(report: Report, *, dry_run: bool, done: str) -> Iterable[str]:
    """Say what came of a replay or of dropping.

    Args:
        report: of it.
        dry_run: whether nothing was done.
        done: the word for what was done with each, as in "replayed".
    """
    count = report.replayed + report.dropped
    if dry_run:
        count = report.selected - report.taken_by_others - report.refused
    would = "would be " if dry_run else ""
    parts = [f"{report.selected} selected", f"{count} {would}{done}"]
    if report.taken_by_others:
        parts.append(f"{report.taken_by_others} taken by others meanwhile")
    if report.refused:
        parts.append(f"{report.refused} {would}refused")
    yield ", ".join(parts)
    if report.already_settled and not report.selected:
        yield f"{report.already_settled} had been replayed or dropped before"


def refusal_lines(report: Report) -> Iterable[str]:
    """Name the first refusals, and how to see the rest."""
    for refusal in report.refusals[:_SHOWN_REFUSALS]:
        yield printable(f"refused: {refusal.place}: {refusal.reason}")
    if report.refused > _SHOWN_REFUSALS:
        yield f"{report.refused - _SHOWN_REFUSALS} more were refused: -o json names the first {len(report.refusals)}"


def report_as_json(report: Report, *, dry_run: bool) -> dict[str, Any]:
    """Describe what came of a replay or of dropping for programs."""
    return {
        "replay_id": None if dry_run else report.replay_id,
        "dry_run": dry_run,
        "selected": report.selected,
        "replayed": report.replayed,
        "dropped": report.dropped,
        "taken_by_others": report.taken_by_others,
        "already_settled": report.already_settled,
        "refused": report.refused,
        "refusals": [{"place": str(refusal.place), "reason": refusal.reason} for refusal in report.refusals],
    }


def _now(claim: Claim | None) -> str:
    if claim is None:
        return "open: neither replayed nor dropped"
    where = f" to {claim.target}" if claim.target else ""
    return f"{claim.action.value}{where} at {as_clock(claim.at)}, by {claim.replay_id}"


def _base64(data: bytes | None) -> str | None:
    return None if data is None else base64.b64encode(data).decode()
