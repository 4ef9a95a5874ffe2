"""Options and texts that several commands share."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Annotated

import typer

from broker_mesh.status import StatusCode

_DURATION = re.compile(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?")
_SECONDS = {None: 1.0, "ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}


def duration(text: str) -> float:
    """Read a duration: a number of seconds, or a number with ms, s, m, h or d; gives seconds.

    Raises:
        typer.BadParameter: it is none, or not above 0.
    """
    match = _DURATION.fullmatch(text)
    seconds = float(match[1]) * _SECONDS[match[2]] if match else 0.0
    if seconds <= 0:
        raise typer.BadParameter(
            f"{text!r} is no duration above 0: write seconds, or as in 500ms, 30s, 10m, 2h, 7d"
        )
    return seconds


def moment(text: str) -> int:
    """Read a point in time: how long ago, as a duration, or an ISO 8601 time; gives epoch ms.

    A time without an offset is this machine's own.

    Raises:
        typer.BadParameter: it is none.
    """
    if _DURATION.fullmatch(text):
        return round((time.time() - duration(text)) * 1000)
    try:
        return max(0, round(datetime.fromisoformat(text).timestamp() * 1000))
    except (ValueError, OverflowError) as error:
        raise typer.BadParameter(
            f"{text!r} is no time: write how long ago it was, as in 30s, 10m, 2h, 7d, "
            "or when, as in 2013-01-01T05:17:00Z"
        ) from error


def one_of(what: str, names: Iterable[str]) -> Callable[[str], str]:
    """Make what reads one of some names, in upper or lower case, and offers the nearest for another.

    Args:
        what: is named, as in "status".
        names: that there are.
    """
    lower = {name.lower(): name for name in names}

    def read(text: str) -> str:
        from broker_mesh.settings import nearest

        if text.lower() in lower:
            return lower[text.lower()]
        hint = nearest(text.lower(), lower) or f" (there are {', '.join(lower)})"
        raise typer.BadParameter(f"there is no {what} {text!r}{hint}")

    return read


BootstrapServers = Annotated[
    str | None,
    typer.Option(
        "--bootstrap-servers",
        metavar="HOST:PORT,…",
        help="Kafka's addresses. Default: MESH_BOOTSTRAP_SERVERS, mesh.toml, then a running `mesh dev`.",
        show_default=False,
    ),
]

Identity = Annotated[
    str,
    typer.Option("--as", metavar="SERVICE", help="The service that the message comes from."),
]

ExpiresIn = Annotated[
    float | None,
    typer.Option(
        "--expires-in",
        parser=duration,
        metavar="DURATION",
        help="How long the work is worth doing, as in 30s or 10m. Default: as long as the topic keeps it.",
        show_default=False,
    ),
]

IdempotencyKey = Annotated[
    str | None,
    typer.Option(
        "--idempotency-key",
        metavar="KEY",
        help="The same for requests that ask for the same work: one of them is run.",
    ),
]


Statuses = Annotated[
    list[str] | None,
    typer.Option(
        "--status",
        parser=one_of("status", (status.name for status in StatusCode)),
        metavar="STATUS",
        help="Only those with this status, as in UNAVAILABLE; may be repeated.",
        show_default=False,
    ),
]

Kinds = Annotated[
    list[str] | None,
    typer.Option(
        "--kind",
        parser=one_of("kind", ("request", "reply", "event", "retry", "dead", "record")),
        metavar="KIND",
        help="Only request, reply, event, retry, dead, or record (other programs'); may be repeated.",
        show_default=False,
    ),
]

Since = Annotated[
    int | None,
    typer.Option(
        "--since",
        parser=moment,
        metavar="DURATION|TIME",
        help="Begin with what came within this time, as in 10m, or since then, as in 2013-01-01T05:17:00Z.",
        show_default=False,
    ),
]

Key = Annotated[str | None, typer.Option("--key", help="Only those with this key.", show_default=False)]

Where = Annotated[
    str | None,
    typer.Option(
        "--where",
        metavar="JMESPATH",
        help="Only those for whose decoded value this holds, as in \"carrier == 'UA'\".",
        show_default=False,
    ),
]


Failed = Annotated[
    str | None,
    typer.Argument(
        metavar="SERVICE|OPERATION|EVENT",
        help="Only those of this service, operation, event or subscription.",
        show_default=False,
    ),
]

Service = Annotated[
    str | None,
    typer.Option("--service", help="Only those that this service has failed on.", show_default=False),
]

OfOperation = Annotated[
    str | None,
    typer.Option(
        "--operation",
        metavar="OPERATION|EVENT",
        help="Only those of this operation or event.",
        show_default=False,
    ),
]

Raised = Annotated[
    str | None,
    typer.Option(
        "--exception",
        metavar="TYPE",
        help="Only those whose last attempt raised this type, as in ValueError.",
        show_default=False,
    ),
]

FailedSince = Annotated[
    int | None,
    typer.Option(
        "--since",
        parser=moment,
        metavar="DURATION|TIME",
        help="Only those that failed within this time, as in 2h, or since then, as in 2013-01-01T05:17:00Z.",
        show_default=False,
    ),
]

FailedUntil = Annotated[
    int | None,
    typer.Option(
        "--until",
        parser=moment,
        metavar="DURATION|TIME",
        help="Only those that failed before that, in the same forms.",
        show_default=False,
    ),
]

Ids = Annotated[
    list[str] | None,
    typer.Option(
        "--id",
        metavar="ID|PLACE",
        help="Only the message with this id, or the record at this place; may be repeated.",
        show_default=False,
    ),
]


def examples(*lines: str) -> str:
    """Make the epilog of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
