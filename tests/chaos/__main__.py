"""`python -m tests.chaos`: real brokers, services and callers under fire, and a verdict; `make chaos` runs it.

Exit codes: 0 nothing is wrong; 1 something is, or could not be carried out; 2 wrong usage; 130 interrupted.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from confluent_kafka import KafkaException

from broker_mesh import MeshError
from broker_mesh.cli.output import print_json, print_note, stdout
from tests.chaos.judging import Outcome, judge
from tests.chaos.plans import Mix
from tests.chaos.report import table
from tests.chaos.run import Plan, play

INTERRUPTED = 130
# Per second of the run, how many requests two busy cores bear beside three brokers and all faults.
_REQUESTS_PER_SECOND = 170
_MIX = Mix(crash=0.0001)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run as the arguments say; give the exit code."""
    given = _parser().parse_args(arguments)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have it ignored in the background
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    requests = given.requests or round(given.seconds * _REQUESTS_PER_SECOND)
    plan = Plan(given.seed, given.seconds, requests, services=given.services, callers=given.callers, mix=_MIX)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="broker-mesh-chaos-"))
    try:
        folder.mkdir(parents=True, exist_ok=True)
        outcome: Outcome = play(plan, folder, print_note, lambda ran, cluster: judge(plan, ran, cluster))
    except KeyboardInterrupt:
        print_note(f"Interrupted; all processes and brokers are stopped, what they wrote is in {folder}.")
        return INTERRUPTED
    except (MeshError, KafkaException, TimeoutError, RuntimeError, OSError) as error:
        print_note(f"The run with seed {plan.seed} could not be carried out: {error}\nSee {folder}.")
        return 1
    return _conclude(outcome, given.output, keep=given.folder is not None)


def _conclude(outcome: Outcome, output: str, *, keep: bool) -> int:
    folder = outcome.ran.folder
    (folder / "report.txt").write_text(outcome.story + "\n")
    if output == "json":
        print_json(outcome.document())
    else:
        stdout().print(table(outcome), highlight=False)
    if outcome.verdict.passed:
        print_note("Nothing is lost, and order held.")
        if not keep:
            shutil.rmtree(folder)
        return 0
    print_note(outcome.story)
    print_note(
        f"FAILED with seed {outcome.plan.seed}; histories, logs and the brokers' data are kept in {folder}."
    )
    return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m tests.chaos", description="A mesh under fire, and what became of each request."
    )
    parser.add_argument("--seed", type=int, required=True, metavar="N", help="of the faults and the handlers")
    parser.add_argument(
        "--seconds", type=_seconds, default=600.0, metavar="S", help="of load and faults (default 600)"
    )
    parser.add_argument(
        "--requests",
        type=_count,
        metavar="R",
        help=f"at least, in this time (default {_REQUESTS_PER_SECOND} a second)",
    )
    parser.add_argument("--services", type=_count, default=3, metavar="N", help="instances (default 3)")
    parser.add_argument("--callers", type=_count, default=2, metavar="N", help="processes (default 2)")
    parser.add_argument(
        "--folder",
        type=Path,
        metavar="PATH",
        help="write there, and keep it; by default only a failed run's is",
    )
    parser.add_argument(
        "-o", "--output", choices=("table", "json"), default="table", help="for people, or for programs"
    )
    return parser


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 20 <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"give seconds from 20 to 86400, not {text!r}")
    return seconds


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"give a whole number above 0, not {text!r}")
    return int(text)


if __name__ == "__main__":
    sys.exit(main())
