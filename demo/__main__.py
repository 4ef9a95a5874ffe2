"""`python -m demo`: a real Kafka, five services, real flights, one killed, one mended, and tables that have to add up.

Exit codes: 0 nothing was lost; 1 the sum does not add up, or something failed; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker_mesh import MeshError
from broker_mesh.cli.output import stderr, stdout
from broker_mesh.cli.progress import shown
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.dev.watchdog import Watchdog
from demo.data import FLIGHTS, read_flights
from demo.processes import ProcessFailed
from demo.report import bills_table, departures_table, events_table, expect, problems, requests_table
from demo.services import Services
from demo.stage import Stage
from demo.story import Story

INTERRUPTED = 130


def main() -> int:
    """Run the demo as the arguments say; give the exit code."""
    arguments = _arguments()
    # A shell that starts it in the background has it ignore SIGINT, on which the orderly stop rests.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):  # as Ctrl-C: everything is stopped in order
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        stage = Stage(expect(read_flights(arguments.flights)), stdout())
        with _kafka() as bootstrap_servers:
            asyncio.run(_play(stage, bootstrap_servers))
    except MeshError as error:
        return _fail(error.message)
    except ProcessFailed as error:
        return _fail(str(error), *error.last_lines)
    except KeyboardInterrupt:
        return _fail("Interrupted; all services and Kafka are stopped.", code=INTERRUPTED)
    return _conclude(stage)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m demo", description="Real flights over a real Kafka.")
    parser.add_argument(
        "--flights",
        type=_count,
        default=5_000,
        metavar="N",
        help=f"how many, at most {FLIGHTS:,} (default 5,000)",
    )
    parser.add_argument("--all", dest="flights", action="store_const", const=FLIGHTS, help="all of them")
    return parser.parse_args()


def _count(text: str) -> int:
    if not (text.isdecimal() and 1 <= int(text) <= FLIGHTS):
        raise argparse.ArgumentTypeError(f"give a number from 1 to {FLIGHTS}, not {text!r}")
    return int(text)


@contextmanager
def _kafka() -> Iterator[str]:
    """Give the bootstrap servers of the Kafka that the environment names, else of one that ends with the block."""
    if given := os.environ.get("MESH_BOOTSTRAP_SERVERS"):
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="broker-mesh-demo-") as folder:
        kafka = EmbeddedKafka(Path(folder) / "kafka", ephemeral=True, attached=True)
        try:
            with shown() as progress:
                kafka.start(progress)
            yield kafka.bootstrap_servers
        finally:
            kafka.stop()


async def _play(stage: Stage, bootstrap_servers: str) -> None:
    watchdog = Watchdog()
    try:
        with stage.shown():
            async with asyncio.TaskGroup() as group:
                services = Services(stage, bootstrap_servers, watchdog, group)
                await Story(stage, services, group).tell()
    except ExceptionGroup as group_of_failures:
        first: Exception = group_of_failures
        while isinstance(first, ExceptionGroup):
            first = first.exceptions[0]
        raise first from None
    finally:
        watchdog.close()


def _conclude(stage: Stage) -> int:
    progress, departures, bills = stage.progress, stage.departures, stage.bills
    tables = (
        requests_table(progress),
        bills_table(progress, bills),
        events_table(progress, departures),
        departures_table(departures),
    )
    for table in tables:
        stage.console.print(table)
    found = problems(stage.expected, progress, departures, bills)
    if found:
        return _fail("The sum does not add up.", *found)
    stage.console.print(
        f"Nothing is lost: all {progress.all_calls.sent:,} requests are answered, "
        f"all {progress.published:,} events are received, all {len(bills.flights):,} flights are billed, "
        f"{bills.replayed:,} of them by replay.",
        style="bold green",
        highlight=False,
    )
    return 0


def _fail(*lines: str, code: int = 1) -> int:
    for line in lines:
        stderr().print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return code


if __name__ == "__main__":
    sys.exit(main())
