"""For users' tests: a real Kafka, as a context manager.

On the way of a message: beneath it. There is no in-memory stand-in: what a test shows on it holds in production.
As a pytest fixture::

    @pytest.fixture(scope="session")
    def kafka():
        with embedded_kafka() as running:
            yield running

    async def test_the_fleet_answers(kafka):
        fleet = Mesh("fleet", bootstrap_servers=kafka.bootstrap_servers)
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from broker_mesh.dev.cluster import EmbeddedKafka

__all__ = ["EmbeddedKafka", "embedded_kafka"]


@contextmanager
def embedded_kafka(brokers: int = 1) -> Iterator[EmbeddedKafka]:
    """Run an empty Kafka on free loopback ports while a block runs; it ends with the process at the latest.

    Args:
        brokers: 1 or 3.

    Raises:
        MeshError: it can't be started; the sentence says why.
    """
    with (
        tempfile.TemporaryDirectory(prefix="broker-mesh-") as directory,
        EmbeddedKafka(Path(directory), brokers=brokers, ephemeral=True, attached=True) as running,
    ):
        yield running
