"""`python -m benchmarks`: a real Kafka, Broker Mesh beside raw Kafka and its peers, and a table of what each took.

Exit codes: 0 measured; 1 something failed, or with --check a limit was not reached; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import asyncio
import math
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

from benchmarks.collector import collecting
from benchmarks.floors import CHECKED, Verdict, verdicts
from benchmarks.machine import machine
from benchmarks.measuring import Plan, Stage
from benchmarks.plot import draw
from benchmarks.processes import BenchmarkFailed
from benchmarks.progress import shown
from benchmarks.report import Run, document, markdown, notes, rows_of, section_notes, table
from benchmarks.section import Result, Section
from benchmarks.sections import SECTIONS, request_reply
from broker_mesh import MeshError
from broker_mesh.cli.output import print_json, print_note, stdout
from broker_mesh.testing import embedded_kafka

INTERRUPTED = 130
_DOCS = Path(__file__).parents[1] / "docs"
_BY_NAME = {section.name: section for section in SECTIONS}
_CHECKED_SECONDS = 1.0


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure as the arguments say; give the exit code."""
    parser = _parser()
    given = parser.parse_args(arguments)
    # All is stopped in order; a shell that starts this in the background has had SIGINT ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, lambda *_: signal.raise_signal(signal.SIGINT))
    sections, facts = _sections(given), machine()
    if given.write and request_reply.SECTION not in sections:
        parser.error(f"--write draws {request_reply.SECTION.name}: don't leave it out")
    plan = Plan(
        rounds=given.rounds,
        seconds=given.seconds or (_CHECKED_SECONDS if given.check else Plan().seconds),
        messages=given.messages,
        backlog=given.backlog,
        pending=given.pending,
        peers=not given.no_peers,
    )
    try:
        run = Run(facts, plan, _measured(plan, sections))
        decided = verdicts({section.name: result.seen for section, result in run.results.items()})
        if given.write:
            _write(run)
    except (MeshError, BenchmarkFailed) as error:
        print_note(str(error))
        return 1
    except KeyboardInterrupt:
        print_note("Interrupted; all processes and Kafka are stopped.")
        return INTERRUPTED
    if given.output == "json":
        print_json(document(run, decided))
    else:
        _print(run)
    return judged(decided) if given.check else 0


def _measured(plan: Plan, sections: Sequence[Section]) -> dict[Section, Result]:
    print_note("starting Kafka; what it lacks is downloaded the first time")
    with embedded_kafka() as kafka, collecting() as collector, shown() as progress:
        broker_pid = kafka.state.running[0].pid
        assert broker_pid is not None
        stage = Stage(plan, kafka.bootstrap_servers, broker_pid, collector, progress)

        async def measure() -> dict[Section, Result]:
            results = {}
            for section in sections:
                progress.begin(section.title, section.steps(plan))
                results[section] = await section.measure(stage)
            return results

        return asyncio.run(measure())


def _print(run: Run) -> None:
    for section, result in run.results.items():
        stdout().print(table(section, result))
        for note in section_notes(section, result):
            stdout().print(note, highlight=False, soft_wrap=True)
        stdout().print()
    for note in notes(run.plan, run.machine):
        stdout().print(note, highlight=False, soft_wrap=True)


def _write(run: Run) -> None:
    page, plot = _DOCS / "benchmarks.md", _DOCS / "benchmarks.png"
    page.write_text(markdown(run))
    draw(rows_of(request_reply.SECTION, run.results[request_reply.SECTION]), run.machine, plot)
    print_note(f"wrote {page} and {plot}")


def judged(decided: Sequence[Verdict]) -> int:
    """Say what became of each limit; give the exit code."""
    for verdict in decided:
        print_note(f"{'FAILED' if verdict.failed else 'ok'}: {verdict}")
    failed = sum(verdict.failed for verdict in decided)
    print_note(f"{failed} of {len(decided)} limits are not reached" if failed else "all limits are reached")
    return 1 if failed else 0


def _sections(given: argparse.Namespace) -> list[Section]:
    if given.only:
        chosen = set(given.only)
    elif given.check:
        chosen = set(CHECKED)
    else:
        chosen = set(_BY_NAME)
    return [section for section in SECTIONS if section.name in chosen]


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks",
        description="Broker Mesh beside raw confluent-kafka and its peers, on this machine. All of it takes about "
        "twenty minutes; rounds, seconds and sections bound it, and no step waits without an end.",
    )
    parser.add_argument(
        "--only", type=_names, default=[], metavar="NAME,…", help=f"these sections: {', '.join(_BY_NAME)}"
    )
    add = parser.add_argument
    add(
        "--rounds",
        type=_count,
        default=Plan().rounds,
        metavar="N",
        help="how often each is measured (%(default)s)",
    )
    add(
        "--seconds",
        type=_seconds,
        metavar="S",
        help=f"how long each load is measured each time ({Plan().seconds:g}; with --check {_CHECKED_SECONDS:g})",
    )
    add(
        "--messages",
        type=_count,
        default=Plan().messages,
        metavar="N",
        help="messages of wrapped clients each time (%(default)s)",
    )
    add(
        "--backlog",
        type=_count,
        default=Plan().backlog,
        metavar="N",
        help="requests that wait for a service (%(default)s; a million is worth one round)",
    )
    add(
        "--pending",
        type=_count,
        default=Plan().pending,
        metavar="N",
        help="calls that wait for their replies, more in each round (%(default)s)",
    )
    add("--no-peers", action="store_true", help="leave out all but raw Kafka and the mesh")
    add(
        "-o",
        "--output",
        choices=("table", "json"),
        default="table",
        help="tables for people, or JSON for programs",
    )
    add("--write", action="store_true", help="write docs/benchmarks.md and docs/benchmarks.png, too")
    add(
        "--check",
        action="store_true",
        help="measure what limits are about; exit with 1 below any, and name it",
    )
    return parser


def _names(text: str) -> list[str]:
    names = text.split(",")
    for name in names:
        if name not in _BY_NAME:
            raise argparse.ArgumentTypeError(
                f"there is no section {name!r} (there are {', '.join(_BY_NAME)})"
            )
    return names


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
