"""`python -m benchmarks.wrapped`: wrapped clients beside plain ones that do Avro and validation by hand.

Exit codes: 0 measured; 1 something failed; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from statistics import median
from typing import NamedTuple

from confluent_kafka.admin import AdminClient, NewTopic
from rich.box import SIMPLE_HEAD
from rich.table import Table

from benchmarks.clients import PLAIN_TOPIC, Pace, Task
from benchmarks.contracts import PARTITIONS
from benchmarks.figures import Ratio, ratio
from benchmarks.machine import Machine, machine
from benchmarks.measuring import in_turn
from benchmarks.processes import BenchmarkFailed, Worker, worker
from benchmarks.report import rounded
from broker_mesh import MeshError
from broker_mesh.cli.output import print_json, print_note, stdout
from broker_mesh.testing import embedded_kafka

INTERRUPTED = 130
TASK_PATIENCE_SECONDS = 120.0

PAIRS = (
    ("confluent_kafka", "producer", "plain_client", "wrapped_client"),
    ("confluent_kafka", "consumer", "plain_client", "wrapped_client"),
)


class Row(NamedTuple):
    """A wrapped client beside its plain one, over all rounds; medians.

    Args:
        client: whose class it is.
        role: producer or consumer.
        plain_per_second, wrapped_per_second: messages.
        of_plain: wrapped messages a second by plain ones, round by round.
        plain_cpu_us, wrapped_cpu_us: CPU time of the process for each message, microseconds.
    """

    client: str
    role: str
    plain_per_second: float
    wrapped_per_second: float
    of_plain: Ratio
    plain_cpu_us: float
    wrapped_cpu_us: float


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the arguments say; give the exit code."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.wrapped", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--rounds", type=int, default=5, metavar="N", help="how often each is measured (default 5)"
    )
    parser.add_argument(
        "--messages", type=int, default=20_000, metavar="N", help="how many each time (default 20000)"
    )
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="for people or programs"
    )
    given = parser.parse_args(arguments)
    if given.rounds < 1 or given.messages < 1:
        parser.error("give numbers above 0")
    signal.signal(signal.SIGINT, signal.default_int_handler)
    facts = machine()
    try:
        with embedded_kafka() as kafka:
            rows = asyncio.run(measure(given.rounds, given.messages, kafka.bootstrap_servers, print_note))
    except (MeshError, BenchmarkFailed) as error:
        print_note(str(error))
        return 1
    except KeyboardInterrupt:
        print_note("Interrupted; all processes and Kafka are stopped.")
        return INTERRUPTED
    if given.output == "json":
        print_json({"machine": facts.model_dump(), "results": [rounded(_as_json(row)) for row in rows]})
        return 0
    stdout().print(_table(rows))
    for note in _notes(given.rounds, given.messages, facts):
        stdout().print(note, highlight=False, soft_wrap=True)
    return 0


async def measure(
    rounds: int, messages: int, bootstrap_servers: str, tell: Callable[[str], None]
) -> list[Row]:
    """Start the clients, measure them in interleaved rounds, and stop them.

    Raises:
        BenchmarkFailed: a client gave up.
    """
    await asyncio.to_thread(_make_plain_topic, bootstrap_servers)
    paces: dict[tuple[str, str], list[Pace]] = {}
    async with AsyncExitStack() as running:
        workers: dict[tuple[str, str], Worker] = {}
        # The wrapped producer first: it makes the topic that all consumers read, and fills it while it warms up.
        for _, role, plain, wrapped in PAIRS:
            for name in (wrapped, plain):
                started = await running.enter_async_context(worker(name, role, bootstrap_servers))
                workers[name, role] = started
                await _ask(started, messages, f"warming-up-{name}-{role}")
        for number in range(rounds):
            for client, role, plain, wrapped in PAIRS:
                for name in in_turn((plain, wrapped), number):
                    pace = await _ask(workers[name, role], messages, f"{name}-{role}-{number}")
                    paces.setdefault((name, role), []).append(pace)
                    tell(
                        f"round {number + 1} of {rounds}: {client} {role}, {name}: "
                        f"{messages / pace.seconds:,.0f} messages a second"
                    )
    return [
        _row(client, role, messages, paces[plain, role], paces[wrapped, role])
        for client, role, plain, wrapped in PAIRS
    ]


async def _ask(client: Worker, messages: int, group: str) -> Pace:
    task = Task(messages=messages, group=group)
    return Pace.model_validate_json(await client.ask(task.model_dump_json(), TASK_PATIENCE_SECONDS))


def _make_plain_topic(bootstrap_servers: str) -> None:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})  # kept: its futures end with it
    admin.create_topics([NewTopic(PLAIN_TOPIC, PARTITIONS, 1)])[PLAIN_TOPIC].result()


def _row(client: str, role: str, messages: int, plain: Sequence[Pace], wrapped: Sequence[Pace]) -> Row:
    rates = {
        name: [messages / pace.seconds for pace in found]
        for name, found in (("plain", plain), ("wrapped", wrapped))
    }
    return Row(
        client,
        role,
        median(rates["plain"]),
        median(rates["wrapped"]),
        ratio(rates["wrapped"], rates["plain"]),
        median(pace.cpu_seconds / messages * 1e6 for pace in plain),
        median(pace.cpu_seconds / messages * 1e6 for pace in wrapped),
    )


def _as_json(row: Row) -> Mapping[str, object]:
    return {**row._asdict(), "of_plain": row.of_plain.model_dump()}


def _table(rows: Sequence[Row]) -> Table:
    drawn = Table(title="Wrapped clients", title_justify="left", box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for heading in ("client", ""):
        drawn.add_column(heading, no_wrap=True)
    for heading in ("plain msg/s", "wrapped msg/s", "of plain", "plain µs", "wrapped µs"):
        drawn.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        found = row.of_plain
        drawn.add_row(
            row.client,
            row.role,
            f"{row.plain_per_second:,.0f}",
            f"{row.wrapped_per_second:,.0f}",
            f"{found.median:.2f} ({found.lowest:.2f}-{found.highest:.2f})",
            f"{row.plain_cpu_us:,.0f}",
            f"{row.wrapped_cpu_us:,.0f}",
        )
    return drawn


def _notes(rounds: int, messages: int, facts: Machine) -> list[str]:
    versions = ", ".join(f"{name} {version}" for name, version in facts.versions.items())
    return [
        f"Medians of {rounds} interleaved rounds of {messages:,} messages. “of plain”: median of the rounds' ratios, "
        "in brackets the lowest and the highest.",
        "µs: CPU time of the process, all its threads, for each message.",
        f"{facts.cores} cores, {facts.system}, Python {facts.python}; load average before the run "
        f"{facts.load_average:.2f}; {versions}.",
    ]


if __name__ == "__main__":
    sys.exit(main())
