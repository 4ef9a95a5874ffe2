"""The properties of a node: what differs from node to node, and what data safety rests on."""

from __future__ import annotations

from pathlib import Path

from broker_mesh.dev.properties import render
from broker_mesh.dev.state import BrokerState

NODES = [BrokerState(number, 21_000 + number, 22_000 + number) for number in (1, 2, 3)]


def parse(text: str) -> dict[str, str]:
    lines = [line for line in text.splitlines() if line and not line.startswith("#")]
    settings = dict(line.split("=", 1) for line in lines)
    assert len(settings) == len(lines), "a key is set twice"
    return settings


def test_a_single_node() -> None:
    settings = parse(render(NODES[0], NODES[:1], Path("/data")))
    assert settings["node.id"] == "1"
    assert settings["listeners"] == "PLAINTEXT://127.0.0.1:21001,CONTROLLER://127.0.0.1:22001"
    assert settings["advertised.listeners"] == "PLAINTEXT://127.0.0.1:21001"
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:22001"
    assert settings["log.dirs"] == "/data"
    assert {settings[key] for key in settings if key.endswith("replication.factor")} == {"1"}
    assert settings["min.insync.replicas"] == settings["transaction.state.log.min.isr"] == "1"


def test_three_nodes_keep_three_copies_of_which_two_must_be_in_sync() -> None:
    settings = parse(render(NODES[1], NODES, Path("/data")))
    assert settings["node.id"] == "2"
    assert settings["controller.quorum.voters"] == "1@127.0.0.1:22001,2@127.0.0.1:22002,3@127.0.0.1:22003"
    assert len([key for key in settings if key.endswith("replication.factor")]) == 4
    assert {settings[key] for key in settings if key.endswith("replication.factor")} == {"3"}
    assert settings["min.insync.replicas"] == settings["transaction.state.log.min.isr"] == "2"
    assert settings["share.coordinator.state.topic.min.isr"] == "2"


def test_only_the_loopback_is_listened_on() -> None:
    for name, value in parse(render(NODES[0], NODES, Path("/data"))).items():
        if name.endswith("listeners"):
            assert all(address.split("://")[1].startswith("127.0.0.1:") for address in value.split(","))


def test_nothing_appears_or_is_lost_by_itself() -> None:
    settings = parse(render(NODES[0], NODES, Path("/data")))
    assert settings["auto.create.topics.enable"] == "false"
    assert settings["unclean.leader.election.enable"] == "false"


def test_more_properties_come_to_these_or_take_their_place() -> None:
    more = {"num.io.threads": 3, "listeners": "OTHER://127.0.0.1:1", "unheard.of": "yes"}
    plain = parse(render(NODES[0], NODES, Path("/data")))
    settings = parse(render(NODES[0], NODES, Path("/data"), more))
    assert settings == {**plain, **{key: str(value) for key, value in more.items()}}


def test_a_backslash_in_a_path_survives_java() -> None:
    assert parse(render(NODES[0], NODES, Path("/a\\b")))["log.dirs"] == "/a\\\\b"
