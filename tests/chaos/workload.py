"""How the processes of a run are started: one JSON argument each, which these classes read and write.

Both processes print "ready" once they are at work, end orderly on SIGTERM (exit status 0), and may be killed and
started again at any time with the same configuration: names and folder are what makes them go on.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.plans import Mix

SERVICE = "chaos"
"""The service under test, and so its consumer group; `shorten_sessions` wants it."""


@dataclass(frozen=True)
class ServiceConfig:
    """An instance of the service.

    Args:
        bootstrap_servers: Kafka's addresses, of the proxies where there are some.
        directory: of the run: histories go here, and what handlers remember of crashed requests.
        process: the instance's name, beginning with "service-".
        service: the service's name; its operations begin with it.
        settings: settings of the mesh: concurrency, max_in_flight, partitions, replication_factor, …
        kafka: librdkafka properties.
        planted: a bug of `planted.py`; empty for none.
    """

    bootstrap_servers: str
    directory: str
    process: str
    service: str = SERVICE
    settings: Mapping[str, Any] = field(default_factory=dict)
    kafka: Mapping[str, Any] = field(default_factory=dict)
    planted: str = ""

    def command(self) -> list[str]:
        """Give the command line."""
        return [sys.executable, "-m", "tests.chaos.service", json.dumps(asdict(self))]


@dataclass(frozen=True)
class CallerConfig:
    """A caller, which owns its keys.

    Args:
        bootstrap_servers: Kafka's addresses.
        directory: of the run.
        process: its name, beginning with "caller-"; its keys begin with it.
        seed: of its requests' plans.
        keys: how many, over all operations.
        rate: requests per second over all keys, at most.
        window: how many replies it waits for at once, at most.
        limit: how many requests it sends over all its incarnations before it ends; None for until SIGTERM.
        patience_seconds: how long it waits for replies at its end.
        mix: how often which plan comes.
        service: whom it asks.
        settings: settings of the mesh.
        kafka: librdkafka properties.
    """

    bootstrap_servers: str
    directory: str
    process: str
    seed: int
    keys: int = 60
    rate: float = 100.0
    window: int = 200
    limit: int | None = None
    patience_seconds: float = 60.0
    mix: Mix = field(default_factory=Mix)
    service: str = SERVICE
    settings: Mapping[str, Any] = field(default_factory=dict)
    kafka: Mapping[str, Any] = field(default_factory=dict)

    def command(self) -> list[str]:
        """Give the command line."""
        return [sys.executable, "-m", "tests.chaos.caller", json.dumps(asdict(self))]


def service_config(argument: str) -> ServiceConfig:
    """Read the argument of a service's command line."""
    return ServiceConfig(**json.loads(argument))


def caller_config(argument: str) -> CallerConfig:
    """Read the argument of a caller's command line."""
    values = json.loads(argument)
    return CallerConfig(**{**values, "mix": Mix(**values["mix"])})


def crash_folder(directory: str) -> Path:
    """Where handlers remember how often a request was tried, over all processes."""
    return Path(directory) / "tries"
