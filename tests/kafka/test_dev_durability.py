"""SIGKILL of one of three brokers loses no record that was acknowledged, and stops nobody."""

from __future__ import annotations

from pathlib import Path

from broker_mesh.dev.cluster import EmbeddedKafka
from tests.support.durable_records import create_topic, leader, produce_and_kill, stored


def test_one_of_three_brokers_is_killed(tmp_path: Path) -> None:
    with EmbeddedKafka(tmp_path / "kafka", brokers=3, ephemeral=True, attached=True) as kafka:
        servers = kafka.bootstrap_servers
        create_topic(servers, copies=3)
        victim = leader(servers)
        acknowledged = produce_and_kill(servers, lambda: kafka.kill(victim), goes_on=True)
        assert leader(servers) != victim
        assert acknowledged - stored(servers) == set()
        kafka.restart_broker(victim)
        assert len(kafka.state.running) == 3
        assert kafka.bootstrap_servers == servers
    assert not kafka.directory.exists()
