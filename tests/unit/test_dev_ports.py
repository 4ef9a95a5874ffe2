"""Ports: different, free, and never one that somebody listens on."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from broker_mesh.dev import ports
from broker_mesh.errors import ResourceExhausted


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def test_a_port_somebody_listens_on_is_not_free(taken: int) -> None:
    assert not ports.is_free(taken)


def test_a_port_with_closed_connections_is_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        client = socket.create_connection(("127.0.0.1", port))
        server, _ = listener.accept()
        server.close()  # the side that closes first keeps the port in TIME_WAIT, as a stopped broker does
        client.close()
    assert ports.is_free(port)


def test_picks_different_ports_that_can_be_listened_on() -> None:
    picked = ports.pick(6)
    assert len(set(picked)) == 6
    for port in picked:
        socket.create_server(("127.0.0.1", port)).close()


def test_avoids_what_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "_RANGE", range(23_000, 23_010))
    monkeypatch.setattr(ports, "_TRIES", 10)
    monkeypatch.setattr(ports, "is_free", lambda port: True)
    assert set(ports.pick(3, avoid=range(23_000, 23_007))) == {23_007, 23_008, 23_009}


def test_says_so_when_no_port_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ports, "is_free", lambda port: False)
    with pytest.raises(ResourceExhausted, match="No free ports"):
        ports.pick(1)
