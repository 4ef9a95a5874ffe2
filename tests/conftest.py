"""Fixtures shared by all tests: a real Kafka, started once per session and ended with it.

Where tests are spread over workers, each of them has its own session and its own Kafka.
"""

from __future__ import annotations

import signal
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from broker_mesh.dev.cluster import EmbeddedKafka
from tests.support.dead_letters import DeadLetters
from tests.support.processes import Processes

# What starts us in the background may have us ignore SIGINT; processes inherit that, and no test of Ctrl-C could work.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Hypothesis fails an example that takes 0.2 s: beside other workers, that says nothing of what is tested.
settings.register_profile("busy", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("busy")


@pytest.fixture(scope="session")
def kafka(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedKafka]:
    """A single-node Kafka, empty at first; where it can't be started, tests that need it fail."""
    directory = tmp_path_factory.mktemp("kafka")
    with EmbeddedKafka(directory, ephemeral=True, attached=True) as running:
        yield running


@pytest.fixture
def dead_letters(kafka: EmbeddedKafka) -> DeadLetters:
    """Reads the dead letters of the session's Kafka."""
    return DeadLetters(kafka.bootstrap_servers)


@pytest.fixture
def processes(tmp_path: Path) -> Iterator[Processes]:
    """Starts processes, and ends those that still run when the test does."""
    started = Processes(tmp_path)
    yield started
    started.stop()


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable() -> Generator[None, Any, Any]:
    """Have a worker's report be text that can be sent: some tests log, on purpose, what can't be encoded."""
    return _sendable((yield))


def _sendable(value: Any) -> Any:
    match value:
        case str():
            return value.encode(errors="backslashreplace").decode()
        case dict():
            return {key: _sendable(each) for key, each in value.items()}
        case list() | tuple():
            return type(value)(_sendable(each) for each in value)
        case _:
            return value
