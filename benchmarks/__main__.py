"""`python -m benchmarks`: a real Kafka, Broker Mesh beside raw confluent-kafka, and a table of what each took.

Exit codes: 0 measured; 1 something failed; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import sys
from collections.abc import Sequence

from benchmarks.figures import summed_up
from benchmarks.load import Measurement
from benchmarks.machine import machine
from benchmarks.measuring import Plan, measure
from benchmarks.processes import BenchmarkFailed
from benchmarks.report import document, notes, table
from broker_mesh import MeshError
from broker_mesh.cli.output import print_json, print_note, stdout
from broker_mesh.testing import embedded_kafka

INTERRUPTED = 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the arguments say; give the exit code."""
    given = _parser().parse_args(arguments)
    # All is stopped in order; a shell that starts this in the background has had SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    plan, facts = Plan(given.rounds, given.seconds), machine()
    try:
        measured = _measured(plan)
    except MeshError as error:
        print_note(error.message)
        return 1
    except BenchmarkFailed as error:
        print_note(str(error))
        return 1
    except KeyboardInterrupt:
        print_note("Interrupted; all processes and Kafka are stopped.")
        return INTERRUPTED
    rows = summed_up(measured)
    if given.output == "json":
        print_json(document(rows, plan, facts))
        return 0
    stdout().print(table(rows))
    for note in notes(plan, facts):
        stdout().print(note, highlight=False, soft_wrap=True)
    return 0


def _measured(plan: Plan) -> dict[tuple[str, int], list[Measurement]]:
    print_note("starting Kafka; what it lacks is downloaded the first time")
    with embedded_kafka() as kafka:
        broker_pid = kafka.state.running[0].pid
        assert broker_pid is not None
        return asyncio.run(measure(plan, kafka.bootstrap_servers, broker_pid, print_note))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks", description="Broker Mesh beside raw confluent-kafka, on this machine."
    )
    parser.add_argument(
        "--rounds", type=_count, default=5, metavar="N", help="how often each is measured (default 5)"
    )
    parser.add_argument(
        "--seconds", type=_seconds, default=1.5, metavar="S", help="how long each time (default 1.5)"
    )
    parser.add_argument(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table",
        help="a table for people, or JSON for programs",
    )
    return parser


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) >= 1):
        raise argparse.ArgumentTypeError(f"give a number above 0, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds <= 3600:
        raise argparse.ArgumentTypeError(f"give seconds above 0, not {text!r}")
    return seconds


if __name__ == "__main__":
    sys.exit(main())
