"""Processes of brokers: found by identity, stopped by identity, and ended with their starter when that is wanted."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_mesh.dev import processes
from broker_mesh.dev.lock import claim, file_lock
from broker_mesh.dev.watchdog import Watchdog

SLEEP = [shutil.which("sleep") or "/bin/sleep", "60"]


@pytest.fixture
def sleeper(tmp_path: Path) -> Iterator[int]:
    pid = processes.spawn(SLEEP, os.environ, tmp_path / "log")
    identity = processes.identity(pid)
    assert identity is not None
    yield pid
    processes.send(pid, identity, signal.SIGKILL)
    processes.wait_gone(pid, identity, 5)


def test_a_process_has_a_session_of_its_own(sleeper: int) -> None:
    assert os.getsid(sleeper) == sleeper != os.getsid(0)


def test_output_is_appended_to_the_log(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("earlier\n")
    pid = processes.spawn(
        [sys.executable, "-c", "import sys; print('out'); sys.exit('err')"], os.environ, log
    )
    os.waitpid(pid, 0)
    assert sorted(log.read_text().split()) == ["earlier", "err", "out"]


def test_a_program_that_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        processes.spawn([str(tmp_path / "java")], os.environ, tmp_path / "log")


def test_a_signal_reaches_only_the_very_process(sleeper: int) -> None:
    identity = processes.identity(sleeper)
    assert identity is not None
    processes.send(sleeper, "another process with that id", signal.SIGKILL)
    assert not processes.wait_gone(sleeper, identity, 0)
    processes.send(sleeper, identity, signal.SIGTERM)
    assert processes.wait_gone(sleeper, identity, 5)
    assert processes.identity(sleeper) is None


@pytest.mark.skipif(sys.platform != "linux", reason="a thread ends by Linux' own means")
def test_a_process_runs_until_its_last_thread_has_ended(tmp_path: Path) -> None:
    program = """
import ctypes, threading, time
threading.Thread(target=time.sleep, args=(60,)).start()
ctypes.CDLL(None).pthread_exit(None)
"""
    pid = processes.spawn([sys.executable, "-c", program], os.environ, tmp_path / "log")
    identity = processes.identity(pid)
    assert identity is not None
    try:
        while Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            time.sleep(0.01)
        assert processes.identity(pid) == identity
    finally:
        os.kill(pid, signal.SIGKILL)
    assert processes.wait_gone(pid, identity, 5)


def test_the_watchdog_kills_what_is_not_released(sleeper: int, tmp_path: Path) -> None:
    released = processes.spawn(SLEEP, os.environ, tmp_path / "log")
    identities = {pid: processes.identity(pid) or "" for pid in (sleeper, released)}
    watchdog = Watchdog()
    watchdog.watch(sleeper)
    watchdog.watch(released)
    watchdog.release(released)
    watchdog.close()
    assert processes.wait_gone(sleeper, identities[sleeper], 5)
    assert not processes.wait_gone(released, identities[released], 0)
    processes.send(released, identities[released], signal.SIGKILL)
    processes.wait_gone(released, identities[released], 5)


def test_the_watchdog_outlives_a_starter_that_is_killed(tmp_path: Path) -> None:
    program = f"""
import os, pathlib, sys
from broker_mesh.dev import processes
from broker_mesh.dev.watchdog import Watchdog
pid = processes.spawn({SLEEP!r}, os.environ, pathlib.Path({str(tmp_path / "log")!r}))
watchdog = Watchdog()
watchdog.watch(pid)
print(pid, processes.identity(pid), flush=True)
sys.stdin.read()
"""
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as starter:
        assert starter.stdout is not None
        pid, identity = starter.stdout.readline().split()
        assert processes.is_running(int(pid), identity)
        starter.kill()
    assert processes.wait_gone(int(pid), identity, 10)


def test_a_lock_makes_the_second_wait(tmp_path: Path) -> None:
    order: list[str] = []
    waits = threading.Event()

    def second() -> None:
        with file_lock(tmp_path / "lock", waits.set):
            order.append("second")

    thread = threading.Thread(target=second)
    with file_lock(tmp_path / "lock", lambda: pytest.fail("nobody else holds it")):
        thread.start()
        assert waits.wait(10)
        order.append("first")
    thread.join()
    assert order == ["first", "second"]


def test_a_claim_is_held_as_long_as_the_process_that_inherited_it(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    with claim(path) as lock:
        pid = processes.spawn(SLEEP, os.environ, tmp_path / "log", lock)
    identity = processes.identity(pid)
    assert identity is not None
    try:
        with pytest.raises(BlockingIOError), claim(path):
            pytest.fail("the process does not hold it")
    finally:
        processes.send(pid, identity, signal.SIGKILL)
    assert processes.wait_gone(pid, identity, 5)
    with claim(path):
        pass
