"""`EmbeddedKafka`: one broker or three, over a directory that keeps their data.

Every start goes the same way: take what is there (data, ports, living brokers), add what is missing, wait until a
record is accepted, and on any failure end the processes that this start brought.
"""

from __future__ import annotations

import base64
import secrets
import shutil
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from types import TracebackType
from typing import Self

from broker_mesh.dev import ports
from broker_mesh.dev.broker import Broker
from broker_mesh.dev.failures import JavaCrashed, PortTaken, os_errors_explained
from broker_mesh.dev.installation import prepare
from broker_mesh.dev.java import Runtime
from broker_mesh.dev.paths import KAFKA_VERSION
from broker_mesh.dev.progress import Progress, Step, silent
from broker_mesh.dev.properties import MoreProperties, no_more
from broker_mesh.dev.state import BrokerState, ClusterState, load, save
from broker_mesh.dev.watchdog import Watchdog
from broker_mesh.errors import FailedPrecondition, InvalidArgument, NotFound
from broker_mesh.kafka.probe import wait_until_usable

SIZES = (1, 3)
START_SECONDS = 90.0
STOP_SECONDS = 20.0
_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Stopped:
    """What a stop did: the numbers of the brokers that stopped cleanly, and of those that had to be killed."""

    cleanly: tuple[int, ...]
    killed: tuple[int, ...]


class EmbeddedKafka:
    """A real Kafka in a directory; as a context manager it is started and stopped around the block.

    Args:
        directory: holds everything: data, logs, state; made when missing. A later object over the same directory
            takes over the brokers that still run there.
        brokers: 1, or 3 (replication factor 3, of which 2 have to be in sync).
        ephemeral: delete the directory at `stop`.
        attached: end the brokers that this object starts when this process ends, however it ends. Otherwise
            they run on.
        properties: asked at each start of a broker for properties that come to its own, or take their place.
    """

    def __init__(
        self,
        directory: Path,
        brokers: int = 1,
        ephemeral: bool = False,
        *,
        attached: bool = False,
        properties: MoreProperties = no_more,
    ) -> None:
        if brokers not in SIZES:
            raise InvalidArgument(f"An embedded Kafka has 1 broker or 3, not {brokers}.")
        self.directory = directory.absolute()
        self.ephemeral = ephemeral
        self.attached = attached
        self._more_properties = properties
        self._watchdog: Watchdog | None = None
        self._started_at = 0.0
        state = load(self.directory)
        if state is None:
            self._brokers = [self._broker(BrokerState(number, 0, 0)) for number in range(1, brokers + 1)]
            return
        if len(state.brokers) != brokers:
            raise FailedPrecondition(
                f"The Kafka in {self.directory} has {len(state.brokers)} broker(s), not {brokers}: "
                "use that number, or another directory."
            )
        self._started_at = state.started_at
        self._brokers = [self._broker(broker) for broker in state.brokers]

    @property
    def state(self) -> ClusterState:
        """Ports and processes as this object knows them."""
        return ClusterState(tuple(each.state for each in self._brokers), self.ephemeral, self._started_at)

    @property
    def bootstrap_servers(self) -> str:
        """What clients connect to.

        Raises:
            FailedPrecondition: it was never started, so that it has no ports yet.
        """
        if self._brokers[0].state.port == 0:
            raise FailedPrecondition("The embedded Kafka has no bootstrap servers before it was started.")
        return self.state.bootstrap_servers

    def start(self, progress: Progress | None = None) -> None:
        """Start the brokers that don't run, and return once a record is accepted.

        Args:
            progress: told what is being done.

        Raises:
            MeshError: it could not be started; why, in one sentence. No process is left behind then.
        """
        tell = progress or silent
        with os_errors_explained("start Kafka"):
            if all(broker.state.running for broker in self._brokers):
                tell(Step("Checking that Kafka is usable"))
                self._wait_until_usable()
                return
            runtime = prepare(tell)
            tell(Step(f"Starting Kafka {KAFKA_VERSION}"))
            self.directory.mkdir(parents=True, exist_ok=True)
            for attempts_left in reversed(range(_ATTEMPTS)):
                try:
                    self._start(runtime, keep_ports=attempts_left == _ATTEMPTS - 1)
                except PortTaken:
                    if self.state.running or not attempts_left:  # the others know this broker by its port
                        raise
                except JavaCrashed:
                    if runtime.class_cache is None or not attempts_left:
                        raise
                    runtime.class_cache.unlink(missing_ok=True)  # it may be damaged; the next start renews it
                    runtime = replace(runtime, class_cache=None)
                else:
                    return

    def stop(self) -> Stopped:
        """Stop the brokers cleanly, or by force when they take too long; ephemeral data is deleted.

        Returns:
            What it did; nothing where nothing ran.
        """
        running = [broker for broker in self._brokers if broker.state.running]
        for broker in running:
            if self.ephemeral:  # a clean stop would spare the next start a recovery, but there is none
                broker.kill()
            else:
                broker.terminate()
        until = time.monotonic() + STOP_SECONDS
        killed = [each for each in running if not each.wait_gone(max(0, until - time.monotonic()))]
        for broker in killed:
            broker.kill()
        for broker in self._brokers:
            broker.wait_gone(0)  # reaps what crashed
            self._release(broker)
            broker.forget_process()
        self._close_watchdog()
        if self.ephemeral:
            self._delete()
        elif running or load(self.directory) is not None:
            save(self.directory, self.state)
        numbers = tuple(broker.state.id for broker in running if broker not in killed)
        return Stopped(numbers, tuple(broker.state.id for broker in killed))

    def kill(self, broker_id: int | None = None) -> None:
        """End a broker, or all of them, as a crash would (SIGKILL).

        Args:
            broker_id: its number, from 1; None for all.

        Raises:
            NotFound: there is no such broker.
        """
        for broker in self._brokers if broker_id is None else [self._find(broker_id)]:
            broker.kill()
            self._release(broker)

    def restart_broker(self, broker_id: int) -> None:
        """Stop a broker cleanly if it runs, start it again, and return once it is usable.

        Args:
            broker_id: its number, from 1.

        Raises:
            NotFound: there is no such broker.
            MeshError: it could not be started.
        """
        broker = self._find(broker_id)
        broker.terminate()
        if not broker.wait_gone(STOP_SECONDS):
            broker.kill()
        self._release(broker)
        self.start()

    def __enter__(self) -> Self:
        """Start it."""
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop it, also after a failure."""
        self.stop()

    def _start(self, runtime: Runtime, *, keep_ports: bool) -> None:
        if not self.state.running:
            self._assign_ports(keep=keep_ports)
        nodes = [broker.state for broker in self._brokers]
        missing = [broker for broker in self._brokers if not broker.state.running]
        # The brokers' processes hold the locks on; ours end last, so that nobody else starts while a failure is undone.
        with ExitStack() as claims, ExitStack() as undo:
            # All of them before anything is written: a start that is refused changes nothing.
            locks = [claims.enter_context(broker.claimed()) for broker in missing]
            undo.callback(self._undo, missing)
            cluster_id = self._cluster_id()
            with ThreadPoolExecutor(len(missing)) as pool:  # formatting takes a second each
                list(pool.map(lambda broker: broker.prepare(runtime, cluster_id, nodes), missing))
            self._started_at = time.time()
            watchdog = self._watchdog = self._watchdog or Watchdog()
            for broker, lock in zip(missing, locks, strict=True):
                broker.start(runtime, watchdog, lock)
                save(self.directory, self.state)
            self._wait_until_usable()
            undo.pop_all()
        if not self.attached:
            for broker in missing:
                self._release(broker)
            self._close_watchdog()

    def _wait_until_usable(self) -> None:
        wait_until_usable(
            self.bootstrap_servers,
            cluster_id=self._cluster_id(),
            brokers=len(self._brokers),
            timeout=START_SECONDS,
            check=self._require_running,
        )

    def _undo(self, started: list[Broker]) -> None:
        """Leave no process of a start that failed."""
        for broker in started:
            broker.kill()
            self._release(broker)
            broker.forget_process()
        if not (self.attached and self.state.running):
            self._close_watchdog()
        with suppress(OSError):  # the disk may be what failed, and a stale state names dead processes only
            save(self.directory, self.state)

    def _assign_ports(self, *, keep: bool) -> None:
        """Keep the ports of the last start where they are still free, so that clients find Kafka again."""
        taken: set[int] = set()
        for broker in self._brokers:
            both = [broker.state.port, broker.state.controller_port]
            if not keep or 0 in both or not all(ports.is_free(port) for port in both):
                both = ports.pick(2, avoid=taken)
            taken.update(both)
            broker.state = replace(broker.state, port=both[0], controller_port=both[1])

    def _cluster_id(self) -> str:
        """The id that the data has, or a new one."""
        for broker in self._brokers:
            if (found := broker.cluster_id()) is not None:
                return found
        # A UUID as Kafka writes it; never with a "-" in front, which Kafka's tool would take for an option.
        return "A" + base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")[1:]

    def _require_running(self) -> None:
        for broker in self._brokers:
            broker.require_running()

    def _find(self, broker_id: int) -> Broker:
        for broker in self._brokers:
            if broker.state.id == broker_id:
                return broker
        raise NotFound(f"There is no broker {broker_id}: they are numbered from 1 to {len(self._brokers)}.")

    def _broker(self, state: BrokerState) -> Broker:
        return Broker(self.directory / f"broker-{state.id}", state, self._more_properties)

    def _delete(self) -> None:
        with os_errors_explained("delete the data of Kafka"):
            if self.directory.exists():
                shutil.rmtree(self.directory)

    def _release(self, broker: Broker) -> None:
        if self._watchdog is not None and broker.state.pid is not None:
            self._watchdog.release(broker.state.pid)

    def _close_watchdog(self) -> None:
        if self._watchdog is not None:
            self._watchdog.close()
            self._watchdog = None
