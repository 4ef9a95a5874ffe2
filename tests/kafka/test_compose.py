"""The Kafka of docker-compose.yml against a real one of the same version: its image takes any variable, silently."""

from __future__ import annotations

import re
from typing import Any

import yaml
from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.dev.paths import KAFKA_VERSION
from tests.support.documents import ROOT


def test_every_variable_is_a_property_of_that_version(kafka: EmbeddedKafka) -> None:
    service: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["kafka"]
    assert service["image"] == f"apache/kafka:{KAFKA_VERSION}"
    client = AdminClient({"bootstrap.servers": kafka.bootstrap_servers})
    resource = ConfigResource(ResourceType.BROKER, "1")
    known = client.describe_configs([resource])[resource].result(30)
    # As the image maps them: KAFKA_LOG_DIRS is log.dirs.
    given = {
        re.sub("_", ".", variable.removeprefix("KAFKA_").lower())
        for variable in service["environment"]
        if variable.startswith("KAFKA_")
    }
    assert given
    assert given <= set(known)
