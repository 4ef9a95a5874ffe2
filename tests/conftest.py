"""Fixtures shared by all tests: a real Kafka, started once per session and ended with it."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_mesh.dev.cluster import EmbeddedKafka
from tests.support.dead_letters import DeadLetters
from tests.support.processes import Processes

# What starts us in the background may have us ignore SIGINT; processes inherit that, and no test of Ctrl-C could work.
signal.signal(signal.SIGINT, signal.default_int_handler)


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
