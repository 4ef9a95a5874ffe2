"""Which brokers there are, as a broker tells that may have come back just now."""

from __future__ import annotations

import pytest
from confluent_kafka.admin import ClusterMetadata

from broker_mesh.errors import Unavailable
from broker_mesh.kafka.admin import known_brokers


def test_a_broker_that_knows_of_none_is_to_be_asked_again() -> None:
    metadata = ClusterMetadata()
    metadata.brokers = {}
    with pytest.raises(Unavailable, match="try again"):
        known_brokers(metadata)
