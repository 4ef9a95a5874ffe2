"""Options and texts that several commands share."""

from __future__ import annotations

import re
from typing import Annotated

import typer

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
        help="Travels with the request; a handler may recognise repeats by it.",
    ),
]


def examples(*lines: str) -> str:
    """Make the epilog of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)
