"""Carries out a schedule of faults: finds a victim among who lives, hurts it, and sees that the fault ends.

Each fault runs in a thread of its own, since some last and others begin meanwhile; but one broker at a time is down or
out of sync, which is what three copies of which two must be in sync are promised to bear. Each begin and end goes into
the history.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import NamedTuple

from confluent_kafka.admin import NewPartitions

from tests.chaos.cluster import BROKERS, Cluster
from tests.chaos.crew import Crew
from tests.chaos.history import Fault, Journal, Note, now
from tests.chaos.operations import Operations
from tests.chaos.proxy import FAIR, Weather
from tests.chaos.schedule import Fault as Planned
from tests.chaos.schedule import Kind
from tests.support.processes import REPOSITORY

SERVICE, CALLER = "service", "caller"
_IN_SYNC_SECONDS = 60.0
_VICTIM_SECONDS = 20.0
_GROW_SECONDS = 120.0
_COMMAND_SECONDS = 60.0
_GROWTH = 2  # the mesh grows to a multiple of what there is
_ADMIN_SECONDS = 15.0
_MORE_PARTITIONS = 3
_THREADS = 8
_POLL_SECONDS = 0.1


class Struck(NamedTuple):
    """A fault as it came to pass.

    Args:
        number: as in the history.
        kind: what happened.
        target: to whom.
        began: CLOCK_MONOTONIC, ns.
        ended: likewise.
    """

    number: int
    kind: Kind
    target: str
    began: int
    ended: int


class Nemesis:
    """Strikes.

    Args:
        cluster: the brokers and the network.
        crew: the processes under test.
        journal: told of each fault.
        names: the operations, of whose brokers the leaders go first.
        newcomer: starts one more service instance under a name.
    """

    def __init__(
        self,
        cluster: Cluster,
        crew: Crew,
        journal: Journal,
        names: Operations,
        newcomer: Callable[[str], None],
    ) -> None:
        self._cluster = cluster
        self._crew = crew
        self._journal = journal
        self._names = names
        self._newcomer = newcomer
        self._struck: list[Struck] = []
        self._hurt: set[str] = set()
        self._lock = threading.Lock()
        self._over = threading.Event()
        self._threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="chaos-nemesis")
        self._strikes = {
            Kind.KILL_BROKER: self._kill_broker,
            Kind.PAUSE_BROKER: self._pause_broker,
            Kind.KILL_SERVICE: self._kill_process,
            Kind.STOP_SERVICE: self._stop_process,
            Kind.KILL_CALLER: self._kill_process,
            Kind.STOP_CALLER: self._stop_process,
            Kind.JOIN: self._join,
            Kind.LEAVE: self._leave,
            Kind.CUT_BROKER: self._cut_broker,
            Kind.CUT_PROCESS: self._cut_process,
            Kind.REFUSE_BROKER: self._refuse,
            Kind.DELAY_BROKER: self._weather_at_broker,
            Kind.DELAY_PROCESS: self._weather_at_process,
            Kind.HIDE_BROKER: self._weather_at_broker,
            Kind.HIDE_PROCESS: self._weather_at_process,
            Kind.GROW: self._grow,
            Kind.ADD_PARTITIONS: self._add_partitions,
        }

    @property
    def struck(self) -> list[Struck]:
        """The faults that have begun and ended, in the order of their begins."""
        return sorted(self._struck, key=lambda each: each.began)

    def run(self, schedule: Sequence[Planned], started: float) -> None:
        """Strike as planned, and return when all has ended.

        Args:
            schedule: in the order of its times.
            started: when the load began, `time.monotonic`.

        Raises:
            Exception: what a strike has failed of, after all have ended.
        """
        pending: list[Future[None]] = []
        for number, fault in enumerate(schedule, start=1):
            if self._over.wait(max(0.0, started + fault.at - time.monotonic())):
                break
            pending.append(self._threads.submit(self._strikes[fault.kind], number, fault))
            for future in pending:
                if future.done():
                    future.result()
        for future in pending:
            future.result()

    def close(self) -> None:
        """End what still lasts, and wait until it has ended; the weather is fair afterwards."""
        self._over.set()
        self._threads.shutdown()
        self._cluster.network.set(FAIR)

    # ── brokers ───────────────────────────────────────────────────────────────────────────────────────────

    def _kill_broker(self, number: int, fault: Planned) -> None:
        with self._cluster.one_down():
            broker = self._choose_broker(fault)
            with self._told(number, fault, "kill", f"broker-{broker}"):
                self._cluster.kill(broker)
                self._over.wait(fault.seconds)
                self._cluster.restart()
                self._wait_in_sync(broker)

    def _pause_broker(self, number: int, fault: Planned) -> None:
        with self._cluster.one_down():
            broker = self._choose_broker(fault)
            with self._told(number, fault, "stop", f"broker-{broker}"):
                self._cluster.pause(broker)
                try:
                    self._over.wait(fault.seconds)
                finally:
                    self._cluster.resume(broker)
                self._wait_in_sync(broker)

    def _choose_broker(self, fault: Planned) -> int:
        """Leaders first: of most requests, then of the group's offsets, else any."""
        if fault.force < 0.5:
            return self._cluster.leader({self._names.apply.name, self._names.note.name})
        if fault.force < 0.8:
            return self._cluster.coordinator()
        return BROKERS[int(fault.draw * len(BROKERS))]

    def _wait_in_sync(self, broker: int) -> None:
        until = time.monotonic() + _IN_SYNC_SECONDS
        while not (self._cluster.wait_in_sync(1.0) or self._over.is_set()):
            if time.monotonic() >= until:
                raise TimeoutError(f"broker {broker} was not back in sync after {_IN_SYNC_SECONDS:g} s")

    # ── processes ─────────────────────────────────────────────────────────────────────────────────────────

    def _kill_process(self, number: int, fault: Planned) -> None:
        with self._victim(fault) as name, self._told(number, fault, "kill", name):
            self._crew.kill(name, keep_down=True)
            self._over.wait(fault.seconds)
            self._crew.come_back(name)

    def _stop_process(self, number: int, fault: Planned) -> None:
        with self._victim(fault) as name, self._told(number, fault, "stop", name):
            self._crew.stop(name)
            self._over.wait(fault.seconds)
            self._crew.go_on(name)

    def _join(self, number: int, fault: Planned) -> None:
        name = f"{SERVICE}-new-{number}"
        with self._told(number, fault, "rebalance", name):
            self._newcomer(name)
            self._over.wait(fault.seconds)
            self._crew.leave(name)

    def _leave(self, number: int, fault: Planned) -> None:
        with self._victim(fault) as name, self._told(number, fault, "restart", name):
            self._crew.leave(name)
            self._over.wait(fault.seconds)
            self._crew.wait_gone([name], _VICTIM_SECONDS)
            self._crew.come_back(name)

    # ── the network ───────────────────────────────────────────────────────────────────────────────────────

    def _cut_broker(self, number: int, fault: Planned) -> None:
        broker = BROKERS[int(fault.draw * len(BROKERS))] if fault.force < 0.7 else None
        with self._told(number, fault, "cut", "all" if broker is None else f"broker-{broker}"):
            self._cluster.network.cut(broker=broker)

    def _cut_process(self, number: int, fault: Planned) -> None:
        with self._victim(fault) as name, self._told(number, fault, "cut", name):
            self._cluster.network.cut(peers=self._crew.peers(name))

    def _refuse(self, number: int, fault: Planned) -> None:
        broker = BROKERS[int(fault.draw * len(BROKERS))]
        with (
            self._told(number, fault, "cut", f"broker-{broker}"),
            self._weather(Weather(refused=True), broker),
        ):
            self._cluster.network.cut(broker=broker)
            self._over.wait(fault.seconds)

    def _weather_at_broker(self, number: int, fault: Planned) -> None:
        broker = BROKERS[int(fault.draw * len(BROKERS))]
        with self._told(number, fault, "delay", f"broker-{broker}"), self._weather(_weather(fault), broker):
            self._over.wait(fault.seconds)

    def _weather_at_process(self, number: int, fault: Planned) -> None:
        with self._victim(fault) as name, self._told(number, fault, "delay", name):
            peers = self._crew.peers(name)
            self._cluster.network.set(_weather(fault), peers=peers)
            try:
                self._over.wait(fault.seconds)
            finally:
                self._cluster.network.set(FAIR, peers=peers)

    @contextmanager
    def _weather(self, weather: Weather, broker: int) -> Iterator[None]:
        self._cluster.network.set(weather, broker=broker)
        try:
            yield
        finally:
            self._cluster.network.set(FAIR, broker=broker)

    # ── topics ────────────────────────────────────────────────────────────────────────────────────────────

    def _grow(self, number: int, fault: Planned) -> None:
        """Grow a topic as its owner does, by `mesh topics grow`, while all goes on; broken off, it is called again."""
        topic = self._names.apply.name
        partitions = _GROWTH * self._cluster.partitions(topic)
        words = ["topics", "grow", topic, "--partitions", str(partitions), "--yes", "--no-wait"]
        environ = {**os.environ, "MESH_BOOTSTRAP_SERVERS": self._cluster.bootstrap_servers}
        with self._told(number, fault, "rebalance", topic):
            until = time.monotonic() + _GROW_SECONDS
            while (said := self._call_mesh(words, environ)) is not None and not self._over.is_set():
                if time.monotonic() >= until:
                    raise RuntimeError(f"mesh {' '.join(words)} failed again and again: {said}")
                self._over.wait(_POLL_SECONDS)

    def _call_mesh(self, words: Sequence[str], environ: dict[str, str]) -> str | None:
        """Run a command; gives what it says where it fails, or hangs."""
        command = [sys.executable, "-m", "broker_mesh.cli", *words]
        try:
            done = subprocess.run(
                command,
                cwd=REPOSITORY,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                timeout=_COMMAND_SECONDS,
            )
            code, said = done.returncode, done.stdout
        except subprocess.TimeoutExpired as hung:
            code, said = -1, f"no end after {_COMMAND_SECONDS:g} s: {hung.output!r}"
        said = " ".join(said.split())
        self._journal.write(Note(now(), f"mesh {' '.join(words)}: {code}, {said}"))
        return said if code else None

    def _add_partitions(self, number: int, fault: Planned) -> None:
        """Add partitions as one who knows nothing of the mesh does: keys move at once."""
        topic = self._names.note.name
        partitions = self._cluster.partitions(topic) + _MORE_PARTITIONS
        with self._cluster.one_down(), self._told(number, fault, "grow", topic):
            growth = self._cluster.admin().create_partitions([NewPartitions(topic, partitions)])
            growth[topic].result(_ADMIN_SECONDS)

    # ── victims, and what is told ─────────────────────────────────────────────────────────────────────────

    @contextmanager
    def _victim(self, fault: Planned) -> Iterator[str]:
        """Choose a process that lives and suffers nothing else, and keep it for oneself inside the block."""
        if fault.kind in (Kind.KILL_CALLER, Kind.STOP_CALLER):
            role = CALLER
        elif fault.kind in (Kind.CUT_PROCESS, Kind.DELAY_PROCESS, Kind.HIDE_PROCESS):
            role = SERVICE if fault.force < 0.6 else CALLER
        else:
            role = SERVICE
        name = self._take(role, fault.draw)
        try:
            yield name
        finally:
            with self._lock:
                self._hurt.discard(name)

    def _take(self, role: str, draw: float) -> str:
        until = time.monotonic() + _VICTIM_SECONDS
        while True:
            with self._lock:
                sound = sorted(
                    name for name in self._crew.running(role, settled=True) if name not in self._hurt
                )
                if sound:
                    name = sound[int(draw * len(sound))]
                    self._hurt.add(name)
                    return name
            if time.monotonic() >= until:
                raise TimeoutError(
                    f"no {role} was sound for {_VICTIM_SECONDS:g} s, so that none could be hurt"
                )
            time.sleep(_POLL_SECONDS)

    @contextmanager
    def _told(self, number: int, fault: Planned, kind: str, target: str) -> Iterator[None]:
        began = now()
        self._journal.write(Fault(began, number, kind, target, "begin"))
        self._journal.write(Note(began, f"fault {number}: {fault.kind} ({target}), for {fault.seconds:g} s"))
        try:
            yield
        finally:
            ended = now()
            self._journal.write(Fault(ended, number, kind, target, "end"))
            with self._lock:
                self._struck.append(Struck(number, fault.kind, target, began, ended))


def _weather(fault: Planned) -> Weather:
    if fault.kind in (Kind.HIDE_BROKER, Kind.HIDE_PROCESS):
        return Weather(black_hole=True)
    slow = 0.05 + fault.force * 0.45
    return Weather(to_broker=slow * fault.draw, to_client=slow * (1 - fault.draw))
