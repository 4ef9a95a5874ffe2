"""The processes under test: started, killed, stopped and started again by name, and none left behind.

What dies unasked is started again, later each time while it keeps dying; that a process ended, and how much memory each
holds, goes into the history. Each runs in a session of its own, so that Ctrl-C reaches the run alone, and the watchdog
kills them should the run itself be killed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import psutil

from broker_mesh.dev.watchdog import Watchdog
from tests.chaos.history import Exited, Journal, Memory, now
from tests.chaos.proxy import Peers
from tests.support.processes import REPOSITORY

_LOOK_SECONDS = 0.1
_SAMPLE_SECONDS = 1.0
_FIRST_PAUSE_SECONDS = 0.2
_LONGEST_PAUSE_SECONDS = 5.0
_LIVED_SECONDS = 10.0  # who lived so long has not died of its start
_KILL_SECONDS = 10.0


def last_line(pid: int) -> str:
    """Give the line that stands below all that an incarnation has printed."""
    return f"── process {pid} has ended ──"


class Member:
    """One process by name, through all its incarnations.

    Args:
        name: "service-1", "caller-2".
        command: starts it.
        log: what it prints goes there, all incarnations in one file.
    """

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.command = list(command)
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None
        self.wanted = True  # started again when it ends
        self.finished = False  # ended by itself, its work done
        self.pause = _FIRST_PAUSE_SECONDS
        self.start_at = 0.0
        self.started_at = 0.0
        self.log_offset = 0

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def start(self, environ: dict[str, str], watchdog: Watchdog) -> None:
        """Start it."""
        self.log_offset = self.log.stat().st_size if self.log.exists() else 0
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                self.command,
                cwd=REPOSITORY,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        watchdog.watch(self.process.pid)
        self.started_at = time.monotonic()

    def said(self) -> str:
        """What its present incarnation has printed."""
        if not self.log.exists():
            return ""
        with self.log.open("rb") as log:
            log.seek(self.log_offset)
            return log.read().decode(errors="replace")


class Crew:
    """All processes of a run.

    Args:
        folder: for their logs.
        journal: told of ends and of memory.
        environ: the environment of each.
    """

    def __init__(self, folder: Path, journal: Journal, environ: dict[str, str]) -> None:
        self._folder = folder
        self._journal = journal
        self._environ = environ
        self._members: dict[str, Member] = {}
        self._lock = threading.RLock()
        self._watchdog = Watchdog()
        self._over = threading.Event()
        self._watcher = threading.Thread(target=self._watch, name="chaos-crew", daemon=True)
        self._sampled_at = 0.0
        folder.mkdir(parents=True, exist_ok=True)

    def open(self) -> None:
        """Begin to look after them."""
        self._watcher.start()

    def close(self) -> None:
        """Kill all that still run."""
        self._over.set()
        if self._watcher.is_alive():
            self._watcher.join()
        with self._lock:
            for member in self._members.values():
                member.wanted = False
                self._look_after(member)  # what has just ended by itself
                if member.process is not None:
                    member.process.kill()  # a stopped process dies of it too
            for member in self._members.values():
                if member.process is not None:
                    member.process.wait(_KILL_SECONDS)
        self._watchdog.close()

    def add(self, name: str, command: Sequence[str]) -> None:
        """Start a process under a name; one that had it before and has left comes back."""
        with self._lock:
            member = self._members.setdefault(name, Member(name, command, self._folder / f"{name}.log"))
            member.wanted, member.finished, member.pause = True, False, _FIRST_PAUSE_SECONDS
            if not member.running:
                self._start(member)

    def wait_ready(self, names: Sequence[str], timeout: float) -> None:
        """Wait until processes have printed "ready".

        Raises:
            TimeoutError: not in time; what the first of them printed comes along.
        """
        until = time.monotonic() + timeout
        for name in names:
            member = self._members[name]
            while "ready" not in member.said().split():
                if time.monotonic() >= until:
                    raise TimeoutError(f"{name} was not ready within {timeout:g} s:\n{member.said()[-4000:]}")
                time.sleep(_LOOK_SECONDS)

    def kill(self, name: str, *, keep_down: bool = False) -> None:
        """End a process as a crash would; it is started again, unless it is kept down until `add`."""
        with self._lock:
            self._members[name].wanted = not keep_down
            self._signal(name, signal.SIGKILL)

    def leave(self, name: str) -> None:
        """Have a process end orderly (SIGTERM), and not come back until `add`."""
        with self._lock:
            self._members[name].wanted = False
            self._signal(name, signal.SIGTERM)

    def stop(self, name: str) -> None:
        """Stop a process where it stands (SIGSTOP)."""
        self._signal(name, signal.SIGSTOP)

    def go_on(self, name: str) -> None:
        """Let a stopped process go on, as if no time had passed for it (SIGCONT)."""
        self._signal(name, signal.SIGCONT)

    def come_back(self, name: str) -> None:
        """Start a process again that was kept down or has left."""
        self.add(name, self._members[name].command)

    def running(self, role: str, *, settled: bool = False) -> list[str]:
        """The names of the processes that run now and begin so; only those that are to go on, where asked for."""
        with self._lock:
            return [
                name
                for name, member in self._members.items()
                if name.startswith(role) and member.running and (member.wanted or not settled)
            ]

    def finished(self, role: str) -> bool:
        """Whether all whose names begin so have ended by themselves, their work done."""
        with self._lock:
            return all(member.finished for name, member in self._members.items() if name.startswith(role))

    def peers(self, name: str) -> Peers:
        """Give what tells the local ports of a process's connections, also after it was started again."""

        def ports() -> set[int]:
            process = self._members[name].process
            try:
                found = psutil.Process(-1 if process is None else process.pid).net_connections("tcp")
            except (psutil.Error, ValueError):  # it has just died
                return set()
            return {connection.laddr.port for connection in found if connection.laddr}

        return ports

    def wait_gone(self, names: Sequence[str], timeout: float) -> list[str]:
        """Wait until processes have ended; gives those that have not."""
        until = time.monotonic() + timeout
        while left := [name for name in names if self._members[name].running]:
            if time.monotonic() >= until:
                return left
            time.sleep(_LOOK_SECONDS)
        return []

    def _signal(self, name: str, number: signal.Signals) -> None:
        with self._lock:
            process = self._members[name].process
            if process is not None and process.poll() is None:
                os.kill(process.pid, number)

    def _watch(self) -> None:
        while not self._over.wait(_LOOK_SECONDS):
            with self._lock:
                for member in self._members.values():
                    self._look_after(member)
            if time.monotonic() - self._sampled_at >= _SAMPLE_SECONDS:
                self._sampled_at = time.monotonic()
                self._sample()

    def _look_after(self, member: Member) -> None:
        if member.running:
            if time.monotonic() - member.started_at > _LIVED_SECONDS:
                member.pause = _FIRST_PAUSE_SECONDS
            return
        if member.process is not None:
            self._journal.write(Exited(now(), member.name, member.process.pid, member.process.returncode))
            with member.log.open("a") as log:
                log.write(f"{last_line(member.process.pid)}\n")
            self._watchdog.release(member.process.pid)
            member.finished = member.process.returncode == 0 and member.wanted
            member.process = None
            member.start_at = time.monotonic() + member.pause
            member.pause = min(member.pause * 2, _LONGEST_PAUSE_SECONDS)
        if member.wanted and not member.finished and time.monotonic() >= member.start_at:
            self._start(member)

    def _start(self, member: Member) -> None:
        member.start(self._environ, self._watchdog)

    def _sample(self) -> None:
        for name in self.running(""):
            process = self._members[name].process
            try:
                rss = psutil.Process(-1 if process is None else process.pid).memory_info().rss
            except (psutil.Error, ValueError):
                continue
            self._journal.write(Memory(now(), name, rss))
