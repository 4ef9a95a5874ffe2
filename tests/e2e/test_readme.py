"""The quick start, typed as the README says, into two terminals; and the code that README and guides show.

`make venv`, its first line, is left out: the environment that runs the tests is what it makes.
"""

from __future__ import annotations

import ast
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from tests.support.documents import ROOT, blocks
from tests.support.terminal import CTRL_C, Terminal

PATIENCE = 120.0
SERVES = "fleet v1 serves fleet.v1.find-aircraft"
PROMPT = "\n$ "

README = ROOT / "README.md"
GUIDES = [
    ROOT / "docs" / "guide" / f"{name}.md"
    for name in ("services", "calling", "idempotency", "schemas", "errors-and-retries")
]


class QuickStart:
    """The README's quick start: its blocks, and two terminals to paste them into.

    Args:
        home: where its `mesh dev` keeps everything.
    """

    def __init__(self, home: Path) -> None:
        text = README.read_text()
        quick_start = range(
            *(text[: text.index(title)].count("\n") for title in ("## Quick start", "## A service"))
        )
        shell = [block.text for block in blocks(README, "sh") if block.line in quick_start]
        self.start, self.first_call, self.call, self.serve, self.attach, self.stop = shell
        (self.reply,) = (block.text for block in blocks(README, "json"))
        self.home = home
        # What a developer has set is not for this test, except for where downloads are cached.
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("MESH_", "OTEL_"))}
        cache = {name: os.environ[name] for name in ("MESH_CACHE_DIR",) if name in os.environ}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        self.environ = {**kept, **cache, "PATH": path, "MESH_DEV_DIR": str(home)}
        self.first = Terminal(ROOT, self.environ)
        self.second = Terminal(ROOT, self.environ)

    def stop_the_service(self) -> None:
        self.first.paste(CTRL_C)
        self.first.read_until(PROMPT, PATIENCE)

    def start_the_service(self) -> None:
        self.first.paste(self.serve)
        self.first.read_until(SERVES, PATIENCE)

    def read_reply(self) -> object:
        """Read the JSON object that the second terminal prints next, and the prompt after it."""
        printed = self.second.read_until("\n}\n", PATIENCE)
        self.second.read_until("$ ", PATIENCE)
        return json.loads(printed[printed.index("\n{\n") :])

    def processes(self) -> list[psutil.Process]:
        """Find every process that stems from this, the two shells included."""
        return [found for found in psutil.process_iter() if self._is_ours(found)]

    def close(self) -> None:
        self.first.close()
        self.second.close()

    def _is_ours(self, process: psutil.Process) -> bool:
        try:
            return process.environ().get("MESH_DEV_DIR") == str(self.home)
        except psutil.Error:  # gone meanwhile, or not ours to look at
            return False


@pytest.fixture(scope="module")
def quick_start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[QuickStart]:
    """The first block pasted into the first terminal, until the service serves; stopped as the README says."""
    started = QuickStart(tmp_path_factory.mktemp("readme") / "dev")
    try:
        make_venv, commands = started.start.split("\n", 1)
        assert make_venv == "make venv"
        started.first.paste(commands)
        started.first.read_until(SERVES, PATIENCE)
        yield started
        started.stop_the_service()
        started.second.paste(started.stop)
        started.second.read_until("Stopped 1 broker.", PATIENCE)
        started.second.read_until(PROMPT, PATIENCE)
        left = {process.pid for process in started.processes()} - {started.first.pid, started.second.pid}
        assert left == set()
    finally:
        started.close()
        for process in started.processes():
            process.kill()


def test_the_call_prints_the_aircraft(quick_start: QuickStart) -> None:
    quick_start.second.paste(quick_start.first_call)
    assert quick_start.read_reply() == json.loads(quick_start.reply)


def test_a_call_to_a_stopped_service_waits_and_is_answered_when_it_starts(quick_start: QuickStart) -> None:
    quick_start.stop_the_service()
    quick_start.second.paste(quick_start.call)
    quick_start.second.read_until("The request is kept.", PATIENCE)
    quick_start.start_the_service()
    assert quick_start.read_reply() == json.loads(quick_start.reply)


def test_a_call_that_was_killed_is_answered_to_who_attaches(quick_start: QuickStart) -> None:
    quick_start.stop_the_service()
    quick_start.second.paste(quick_start.call)
    printed = quick_start.second.read_until("The request is kept.", PATIENCE)
    handles = re.findall(r"^handle: (\S+)$", printed, flags=re.M)
    (call,) = psutil.Process(quick_start.second.pid).children()
    call.kill()
    quick_start.second.read_until("Killed", PATIENCE)
    quick_start.start_the_service()
    quick_start.second.paste(quick_start.attach.replace("HANDLE", handles[-1]))
    assert quick_start.read_reply() == json.loads(quick_start.reply)


def test_the_readme_s_caller_runs(quick_start: QuickStart) -> None:
    (caller,) = (block for block in blocks(README, "python") if "asyncio.run(" in block.text)
    assert "BOEING 737-824" in run(caller.text, quick_start)


@pytest.mark.parametrize("page", GUIDES, ids=lambda page: page.stem)
def test_the_code_of_the_guides_runs(page: Path, quick_start: QuickStart) -> None:
    """All blocks of a page, one after the other, as the body of one program."""
    program = "\n".join(block.text for block in blocks(page, "python"))
    assert program
    printed = run(program, quick_start)
    if page.stem == "calling":
        assert "no aircraft has the tail number 'N0'" in printed


def test_the_tests_of_the_guide_pass(tmp_path: Path) -> None:
    (module,) = blocks(ROOT / "docs" / "guide" / "testing.md", "python")
    (tmp_path / "test_fleet.py").write_text(module.text)
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "asyncio_mode=auto",
        str(tmp_path),
    ]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=PATIENCE)
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


def run(program: str, quick_start: QuickStart) -> str:
    """Run a program whose top level may await, in the README's folder and on its Kafka; gives what it prints."""
    done = subprocess.run(
        [sys.executable, "-c", _RUN, program],
        cwd=ROOT,
        env=quick_start.environ,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


_RUN = f"""
import asyncio, sys
names = {{"__name__": "__main__"}}
code = compile(sys.argv[1], "page", "exec", flags={ast.PyCF_ALLOW_TOP_LEVEL_AWAIT})
body = eval(code, names)
if asyncio.iscoroutine(body):
    asyncio.run(body)
"""
