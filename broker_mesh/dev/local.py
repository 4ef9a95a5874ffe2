"""What `mesh dev` does: one Kafka at a time in the user's state directory, whichever terminal asks.

Layout of that directory: `brokers-1/`, `brokers-3/` (data that is kept), `ephemeral-1/`, `ephemeral-3/` (data that
`down` deletes), `current` (a link to the one that was started as last) and `lock` (one command at a time).
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Literal

from broker_mesh.dev.cluster import EmbeddedKafka, Stopped
from broker_mesh.dev.failures import os_errors_explained
from broker_mesh.dev.lock import file_lock
from broker_mesh.dev.paths import KAFKA_VERSION
from broker_mesh.dev.progress import Progress, Step, silent
from broker_mesh.dev.state import CURRENT, ClusterState, load
from broker_mesh.errors import FailedPrecondition

Condition = Literal["running", "degraded", "stopped", "crashed"]


@dataclass(frozen=True, slots=True)
class BrokerStatus:
    """One broker: its number, its port on 127.0.0.1, its process (None when it was stopped), and how it is."""

    id: int
    port: int
    pid: int | None
    state: Literal["running", "stopped", "crashed"]


@dataclass(frozen=True, slots=True)
class Status:
    """How the Kafka of `mesh dev` is.

    Args:
        state: `degraded` when some but not all of its brokers run; `crashed` when none does and nobody stopped it.
        bootstrap_servers: what clients connect to; None when it was never started.
        version: Kafka's version.
        ephemeral: whether its data is deleted when it stops.
        brokers: each broker.
        directory: where its data and logs are; None when it was never started.
        data_bytes: the disk space that its data takes.
        uptime_seconds: since the last start; None when nothing runs.
    """

    state: Condition
    bootstrap_servers: str | None
    version: str
    ephemeral: bool
    brokers: tuple[BrokerStatus, ...]
    directory: str | None
    data_bytes: int
    uptime_seconds: float | None


def up(
    home: Path, brokers: int | None = None, ephemeral: bool = False, progress: Progress = silent
) -> tuple[Status, bool]:
    """Start Kafka, or what is missing of it, and return once a record is accepted.

    Args:
        home: the directory of `mesh dev`.
        brokers: 1 or 3; None for what runs, else what was there before, else 1.
        ephemeral: delete the data when it stops.
        progress: told what is being done.

    Returns:
        How it is now, and whether this call started anything.

    Raises:
        FailedPrecondition: a Kafka of another kind runs already.
        MeshError: it could not be started; why, in one sentence.
    """
    with _alone(home, progress):
        directory = _choose(home, brokers, ephemeral)
        kafka = EmbeddedKafka(directory, _size(directory), _is_ephemeral(directory))
        complete = len(kafka.state.running) == _size(directory)
        for left_behind in home.glob("ephemeral-*"):  # by a crash; nobody wants it any more
            if left_behind != directory:
                shutil.rmtree(left_behind)
        _point(home, directory)  # before the start: when it fails, `mesh dev logs` shows why
        kafka.start(progress)
    return status(home), not complete


def down(home: Path, delete_data: bool = False, progress: Progress = silent) -> Stopped:
    """Stop Kafka; fine when none runs.

    Args:
        home: the directory of `mesh dev`.
        delete_data: delete all data that `mesh dev` keeps, also that of the other number of brokers.
        progress: told what is being done.

    Returns:
        Which brokers stopped, and how.

    Raises:
        MeshError: files could not be written or deleted.
    """
    with _alone(home, progress):
        stopped = Stopped((), ())
        for directory in _directories(home):
            state = load(directory)
            if state is None:
                if _is_ephemeral(directory):  # of an `up` that was interrupted; nobody wants it any more
                    shutil.rmtree(directory)
                continue
            if state.running:
                progress(Step("Stopping Kafka"))
            done = EmbeddedKafka(directory, _size(directory), _is_ephemeral(directory)).stop()
            stopped = Stopped(stopped.cleanly + done.cleanly, stopped.killed + done.killed)
        if delete_data:
            for directory in _directories(home):
                shutil.rmtree(directory)
        if not (home / CURRENT).exists():
            (home / CURRENT).unlink(missing_ok=True)
    return stopped


def status(home: Path) -> Status:
    """How the Kafka of `mesh dev` is; changes nothing and waits for nobody.

    Args:
        home: the directory of `mesh dev`.
    """
    directory = _current(home)
    state = load(directory)
    if state is None:
        return Status("stopped", None, KAFKA_VERSION, False, (), None, 0, None)
    brokers = tuple(
        BrokerStatus(
            broker.id,
            broker.port,
            broker.pid,
            "running" if broker.running else "stopped" if broker.pid is None else "crashed",
        )
        for broker in state.brokers
    )
    condition = _condition(brokers)
    return Status(
        state=condition,
        bootstrap_servers=state.bootstrap_servers,
        version=KAFKA_VERSION,
        ephemeral=state.ephemeral,
        brokers=brokers,
        directory=str(directory),
        data_bytes=_size_on_disk(directory),
        uptime_seconds=time.time() - state.started_at if condition in ("running", "degraded") else None,
    )


def log_files(home: Path) -> dict[int, Path]:
    """The log file of each broker of the Kafka that was started as last, by the broker's number."""
    directory = _current(home)
    state = load(directory)
    brokers = () if state is None else state.brokers
    return {broker.id: directory / f"broker-{broker.id}" / "broker.log" for broker in brokers}


def _condition(brokers: tuple[BrokerStatus, ...]) -> Condition:
    states = {broker.state for broker in brokers}
    if states == {"running"}:
        return "running"
    if "running" in states:
        return "degraded"
    return "crashed" if "crashed" in states else "stopped"


@contextmanager
def _alone(home: Path, progress: Progress) -> Iterator[None]:
    waiting = partial(progress, Step("Waiting for another `mesh dev` command"))
    with os_errors_explained(f"use {home}"), file_lock(home / "lock", waiting):
        yield


def _choose(home: Path, brokers: int | None, ephemeral: bool) -> Path:
    """The directory of the Kafka that is meant: what runs comes before what was there, and that before a new one."""
    for directory in _directories(home):
        state = load(directory)
        if state is not None and state.running:
            _require_kind(state, brokers, ephemeral)
            return directory
    current = _current(home)
    state = load(current)
    if state is not None and _fits(state, brokers, ephemeral):
        return current
    if brokers is None:
        brokers = 1 if state is None or ephemeral else len(state.brokers)
    return home / f"{'ephemeral' if ephemeral else 'brokers'}-{brokers}"


def _fits(state: ClusterState, brokers: int | None, ephemeral: bool) -> bool:
    return brokers in (None, len(state.brokers)) and (state.ephemeral or not ephemeral)


def _require_kind(state: ClusterState, brokers: int | None, ephemeral: bool) -> None:
    if _fits(state, brokers, ephemeral):
        return
    kept = "ephemeral data" if state.ephemeral else "data that is kept"
    raise FailedPrecondition(
        f"A Kafka with {len(state.brokers)} broker(s) and {kept} runs already at {state.bootstrap_servers}: "
        "stop it first with `mesh dev down`, or leave out --brokers and --ephemeral to use it."
    )


def _directories(home: Path) -> list[Path]:
    return sorted([*home.glob("brokers-[13]"), *home.glob("ephemeral-[13]")])


def _size(directory: Path) -> int:
    return int(directory.name.rpartition("-")[2])


def _is_ephemeral(directory: Path) -> bool:
    return directory.name.startswith("ephemeral-")


def _current(home: Path) -> Path:
    """The directory that the link points to, whether it is there or not."""
    try:
        return home / (home / CURRENT).readlink().name
    except OSError:
        return home / CURRENT


def _point(home: Path, directory: Path) -> None:
    """Let the link `current` point to a directory, in one step."""
    fresh = home / f"{CURRENT}.{os.getpid()}"
    fresh.symlink_to(directory.name)
    fresh.replace(home / CURRENT)


def _size_on_disk(directory: Path) -> int:
    """Bytes that the brokers' data takes; index files are sparse, so blocks count, not lengths."""
    total = 0
    for folder, _, names in os.walk(directory):
        for name in names:
            try:
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512
            except FileNotFoundError:  # Kafka deletes old segments as it goes
                continue
    return total
