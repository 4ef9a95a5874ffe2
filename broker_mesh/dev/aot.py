"""The class cache: a broker that starts from it is ready in half the time.

It is made once, from a short training run of a real broker right after the download (JEP 514: the JVM writes it at
a clean stop). It belongs to one Java runtime and these jars. Nothing depends on it: without it, starts are slower.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import replace
from pathlib import Path

from broker_mesh.dev import ports
from broker_mesh.dev.broker import Broker
from broker_mesh.dev.java import Runtime
from broker_mesh.dev.progress import Progress, Step
from broker_mesh.dev.state import BrokerState
from broker_mesh.dev.watchdog import Watchdog
from broker_mesh.errors import MeshError, Unavailable
from broker_mesh.kafka.probe import wait_until_usable

_START_SECONDS = 60
_WRITE_SECONDS = 120
_TRY_AGAIN_SECONDS = 24 * 3600
_CLUSTER_ID = "TrainingRunOfTheMeshAA"


def class_cache(directory: Path, runtime: Runtime, progress: Progress) -> Path | None:
    """The class cache, made when it is missing; None when it can't be made here.

    Args:
        directory: where it is kept.
        runtime: what it is made for.
        progress: told when it has to be made.
    """
    cache = directory / f"kafka-{_stamp(runtime.java)}.aot"
    failed = cache.with_suffix(".failed")
    if cache.exists():
        return cache
    if failed.exists() and time.time() - failed.stat().st_mtime < _TRY_AGAIN_SECONDS:
        return None  # it was said then; not a quarter of a minute again at every start
    progress(Step("Preparing fast starts (once)"))
    try:
        with tempfile.TemporaryDirectory(prefix=".training-", dir=directory) as temporary:
            recorded = Path(temporary) / cache.name
            _train(Path(temporary), replace(runtime, record_to=recorded))
            recorded.rename(cache)
    except (MeshError, OSError) as error:
        reason = error.message if isinstance(error, MeshError) else str(error)
        text = f"Starts will take a little longer: the class cache could not be made ({reason})"
        progress(Step(text, notice=True))
        failed.write_text(f"{reason}\n")
        return None
    return cache


def _stamp(java: Path) -> str:
    """A text that differs for every Java runtime; the JVM checks the rest itself."""
    release = java.parent.parent / "release"
    facts = (release if release.exists() else java).stat()
    return f"{facts.st_size:x}-{facts.st_mtime_ns:x}"


def _train(directory: Path, runtime: Runtime) -> None:
    """Start a broker, use it, and let it write what it loaded."""
    port, controller_port = ports.pick(2)
    broker = Broker(directory / "broker", BrokerState(1, port, controller_port))
    watchdog = Watchdog()
    try:
        with broker.claimed() as lock:
            broker.prepare(replace(runtime, record_to=None), _CLUSTER_ID, [broker.state])
            broker.start(runtime, watchdog, lock)
        wait_until_usable(
            f"127.0.0.1:{port}",
            cluster_id=_CLUSTER_ID,
            brokers=1,
            timeout=_START_SECONDS,
            check=broker.require_running,
        )
        broker.terminate()
        if not broker.wait_gone(_WRITE_SECONDS):
            raise Unavailable(f"writing it took longer than {_WRITE_SECONDS} s")
    finally:
        broker.kill()
        watchdog.close()
    assert runtime.record_to is not None
    if not runtime.record_to.exists() or os.path.getsize(runtime.record_to) == 0:
        raise Unavailable("the Java runtime wrote none")
