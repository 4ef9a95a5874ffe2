"""What the figures were measured on: they mean nothing without it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import confluent_kafka
from pydantic import BaseModel

from broker_mesh.dev.paths import KAFKA_VERSION

_DISTRIBUTIONS = (
    "broker-mesh",
    "confluent-kafka",
    "fastavro",
    "pydantic",
    "faststream",
    "aiokafka",
    "grpcio",
)


class Machine(BaseModel):
    """The facts of one run.

    Args:
        cores: that this process may use.
        processor: its model, as far as the system tells.
        system: operating system and architecture.
        python: its version.
        versions: of what is measured, by name; what is not installed is left out.
        load_average: processes that wanted a core in the last minute, before the run; other work than the
            benchmark's own makes its figures worse.
    """

    cores: int
    processor: str
    system: str
    python: str
    versions: dict[str, str]
    load_average: float


def machine() -> Machine:
    """Look at the machine as it is now."""
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        processor=_processor(),
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={**_installed(), "librdkafka": confluent_kafka.libversion()[0], "Kafka": KAFKA_VERSION},
        load_average=round(os.getloadavg()[0], 2),
    )


def _installed() -> dict[str, str]:
    found = {}
    for name in _DISTRIBUTIONS:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # a peer that is not measured
            continue
    return found


def _processor() -> str:
    try:
        told = Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        told = ""
    names = [line.partition(":")[2].strip() for line in told.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown"
