"""What the figures were measured on: they mean nothing without it."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version

import confluent_kafka
from pydantic import BaseModel

from broker_mesh.dev.paths import KAFKA_VERSION

_DISTRIBUTIONS = ("broker-mesh", "confluent-kafka", "fastavro", "pydantic")


class Machine(BaseModel):
    """The facts of one run.

    Args:
        cores: that this process may use.
        system: operating system and architecture.
        python: its version.
        versions: of what is measured, by name.
        load_average: processes that wanted a core in the last minute, before the run; other work than the
            benchmark's own makes its figures worse.
    """

    cores: int
    system: str
    python: str
    versions: dict[str, str]
    load_average: float


def machine() -> Machine:
    """Look at the machine as it is now."""
    return Machine(
        cores=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        system=f"{platform.system()} {platform.machine()}",
        python=platform.python_version(),
        versions={
            **{name: version(name) for name in _DISTRIBUTIONS},
            "librdkafka": confluent_kafka.libversion()[0],
            "Kafka": KAFKA_VERSION,
        },
        load_average=round(os.getloadavg()[0], 2),
    )
