"""One broker: its directory, its properties and its process."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from signal import SIGKILL, SIGTERM, Signals

from broker_mesh.dev import processes
from broker_mesh.dev.failures import data_in_use, explain, read_since
from broker_mesh.dev.java import Runtime, no_runtime
from broker_mesh.dev.lock import claim
from broker_mesh.dev.properties import MoreProperties, no_more, render
from broker_mesh.dev.state import BrokerState
from broker_mesh.dev.watchdog import Watchdog
from broker_mesh.errors import FailedPrecondition, Unavailable

_FORMAT_TIMEOUT_SECONDS = 60
_KILL_TIMEOUT_SECONDS = 10
_LOG_LIMIT_BYTES = 8 * 1024 * 1024


class Broker:
    """A broker's files in a directory of its own, and the process that runs over them.

    Args:
        directory: its directory: `server.properties`, `broker.log`, `data/`, `lock`; made when missing.
        state: its ports, and its process when it is to be taken over.
        more: asked at each start for properties that come to its own, or take their place.
    """

    def __init__(self, directory: Path, state: BrokerState, more: MoreProperties = no_more) -> None:
        self.directory = directory
        self.state = state
        self._more = more
        self.log = directory / "broker.log"
        self._properties = directory / "server.properties"
        self._data = directory / "data"
        self._log_offset = 0

    @contextmanager
    def claimed(self) -> Iterator[int]:
        """Take the lock on its directory for the block, in which its files are prepared and its process is started.

        Kafka's own lock on the data comes so late that for a while a second broker looks as if it had started.

        Yields:
            The descriptor that holds the lock, for the process that is to keep it.

        Raises:
            FailedPrecondition: another broker runs over this directory, or is being started there.
            OSError: the directory can't be written.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        with ExitStack() as held:
            try:
                lock = held.enter_context(claim(self.directory / "lock"))
            except BlockingIOError as error:
                raise data_in_use(f"Broker {self.state.id}", self.directory) from error
            yield lock

    def prepare(self, runtime: Runtime, cluster_id: str, nodes: Sequence[BrokerState]) -> None:
        """Write its properties, and format its data directory when it is new; its directory is claimed.

        Args:
            runtime: what to format with.
            cluster_id: the id of the cluster, for a new data directory.
            nodes: all nodes of the cluster.

        Raises:
            MeshError: it could not be formatted, in one sentence.
            OSError: the directory can't be written.
        """
        self._properties.write_text(render(self.state, nodes, self._data, self._more(self.state)))
        if (self._data / "meta.properties").exists():
            return
        # Always by Kafka's own tool: a hand-written meta.properties boots, but without groups and transactions.
        arguments = ("format", "--cluster-id", cluster_id, "--config", str(self._properties))
        command = runtime.command("kafka.tools.StorageTool", *arguments)
        try:
            done = subprocess.run(  # noqa: S603  our own command
                command,
                env=runtime.environ(),
                capture_output=True,
                text=True,
                errors="replace",
                timeout=_FORMAT_TIMEOUT_SECONDS,
            )
        except subprocess.TimeoutExpired as error:
            raise Unavailable(
                f"Formatting {self._data} took longer than {_FORMAT_TIMEOUT_SECONDS} s: the machine is too busy."
            ) from error
        except OSError as error:
            raise FailedPrecondition(no_runtime()) from error
        if done.returncode != 0:
            output = done.stdout + done.stderr
            with self.log.open("a") as log:
                log.write(output)
            raise explain(f"The data directory of broker {self.state.id}", output, self.log)

    def start(self, runtime: Runtime, watchdog: Watchdog, lock: int) -> None:
        """Start its process, which runs on in the background; it is not usable yet.

        Args:
            runtime: what to run it with.
            watchdog: kills it if this process ends before it is released.
            lock: what `claimed` gave; the process holds it as long as it lives.

        Raises:
            FailedPrecondition: Java can't be run on this platform.
        """
        self.wait_gone(0)  # a process that crashed is reaped before its place is taken
        if self.log.exists() and self.log.stat().st_size > _LOG_LIMIT_BYTES:
            self.log.replace(self.log.with_suffix(".log.1"))
        self._log_offset = self.log.stat().st_size if self.log.exists() else 0
        command = runtime.command("kafka.Kafka", str(self._properties))
        crash_report = f"-XX:ErrorFile={self.directory / 'java-crash-%p.log'}"
        try:
            pid = processes.spawn([command[0], crash_report, *command[1:]], runtime.environ(), self.log, lock)
        except OSError as error:
            raise FailedPrecondition(no_runtime()) from error
        watchdog.watch(pid)
        self.state = replace(self.state, pid=pid, identity=processes.identity(pid))

    def cluster_id(self) -> str | None:
        """The id of the cluster that its data belongs to; None before it was formatted."""
        try:
            text = (self._data / "meta.properties").read_text()
        except FileNotFoundError:
            return None
        lines = (line.partition("=") for line in text.splitlines())
        return next((value.strip() for key, _, value in lines if key == "cluster.id"), None)

    def require_running(self) -> None:
        """Check that the process lives.

        Raises:
            MeshError: it does not; why, from its log, in one sentence.
        """
        if not self.state.running:
            raise explain(f"Broker {self.state.id}", read_since(self.log, self._log_offset), self.log)

    def terminate(self) -> None:
        """Ask the process to stop cleanly; does not wait."""
        self._send(SIGTERM)

    def wait_gone(self, timeout: float) -> bool:
        """Wait at most `timeout` seconds until the process has ended; whether it has."""
        if self.state.pid is None or self.state.identity is None:
            return True
        return processes.wait_gone(self.state.pid, self.state.identity, timeout)

    def kill(self) -> None:
        """End the process at once (SIGKILL), and wait until it is gone."""
        self._send(SIGKILL)
        self.wait_gone(_KILL_TIMEOUT_SECONDS)

    def forget_process(self) -> None:
        """Say that the process was stopped on purpose, not lost."""
        self.state = replace(self.state, pid=None, identity=None)

    def _send(self, number: Signals) -> None:
        if self.state.pid is not None and self.state.identity is not None:
            processes.send(self.state.pid, self.state.identity, number)
