"""A minute under fire, as part of every run of the tests; `make chaos` takes ten."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.support.processes import REPOSITORY

pytestmark = [pytest.mark.alone, pytest.mark.timeout(600)]

SEED = 7
REQUESTS = 2_500
_GONE_SECONDS = 20.0


def chaos(folder: Path, *arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.chaos", "--folder", str(folder), "-o", "json", *arguments],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def processes_over(folder: Path) -> list[list[str]]:
    """The command lines of the brokers, services and callers that were started over a folder."""
    found = psutil.process_iter(["cmdline"])
    return [
        each.info["cmdline"]
        for each in found
        if any(str(folder) in word for word in each.info["cmdline"] or ())
    ]


def test_a_minute_under_fire_loses_nothing_and_keeps_the_order(tmp_path: Path) -> None:
    folder = tmp_path / "chaos"
    run = chaos(folder, "--seed", str(SEED), "--seconds", "60", "--requests", str(REQUESTS))
    printed, said = run.communicate()
    assert run.returncode == 0, said
    told = json.loads(printed)
    assert told["passed"]
    assert told["requests"] >= REQUESTS
    assert set(told["faults_by_kind"]) >= {
        "kill a broker",
        "kill a service",
        "kill a caller",
        "stop a service past its session",
        "cut a broker's connections",
    }
    assert told["lost"] == told["order_violations"] == told["duplicates_unexplained"] == 0
    assert processes_over(folder) == []


@pytest.mark.long
def test_a_run_that_is_killed_leaves_no_process(tmp_path: Path) -> None:
    folder = tmp_path / "chaos"
    run = chaos(folder, "--seed", "1", "--seconds", "20", "--requests", "100")
    assert run.stderr is not None
    while "faults in" not in (line := run.stderr.readline()):
        assert line, f"the run ended before it had begun: {run.wait()}"
    assert len(processes_over(folder)) >= 3 + 3 + 2
    run.send_signal(signal.SIGKILL)
    run.communicate()
    until = time.monotonic() + _GONE_SECONDS
    while left := processes_over(folder):
        assert time.monotonic() < until, left
        time.sleep(0.1)
