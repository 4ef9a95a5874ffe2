"""The network of the chaos runs: what it does to a connection, and that it loses nothing that it only holds back."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator

import pytest

from tests.chaos.proxy import FAIR, HOST, Network, Weather, bound

SECONDS = 10.0


class Echo:
    """A broker of a kind: sends back what it gets."""

    def __init__(self) -> None:
        self._listener = bound(0)
        self._listener.listen()
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        talks = []
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                break
            talks.append(threading.Thread(target=self._talk, args=(connection,), daemon=True))
            talks[-1].start()
        for talk in talks:
            talk.join()

    @staticmethod
    def _talk(connection: socket.socket) -> None:
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                return


@pytest.fixture
def echo() -> Iterator[Echo]:
    broker = Echo()
    yield broker
    broker.close()


@pytest.fixture
def network(echo: Echo) -> Iterator[Network]:
    network = Network({1: lambda: echo.port})
    network.open({1: bound(0)})
    yield network
    network.close()


def connect(network: Network) -> socket.socket:
    return socket.create_connection((HOST, network.port(1)), SECONDS)


def ask(client: socket.socket, data: bytes = b"ping") -> bytes:
    client.sendall(data)
    return receive(client, len(data))


def receive(client: socket.socket, count: int) -> bytes:
    got = b""
    while len(got) < count and (more := client.recv(count - len(got))):
        got += more
    return got


def is_cut(client: socket.socket) -> bool:
    try:
        return client.recv(1) == b""
    except ConnectionError:
        return True


def test_what_goes_in_comes_out(network: Network) -> None:
    data = bytes(range(256)) * 20_000  # more than the sockets hold: both directions must flow
    with connect(network) as client:
        sender = threading.Thread(target=client.sendall, args=(data,))
        sender.start()
        assert receive(client, len(data)) == data
        sender.join()


def test_a_delay_keeps_the_order_and_outlasts_a_change_of_the_weather(network: Network) -> None:
    with connect(network) as client:
        assert ask(client) == b"ping"
        network.set(Weather(to_broker=0.2, to_client=0.1))
        began = time.monotonic()
        client.sendall(b"one ")
        network.set(FAIR)
        client.sendall(b"two ")
        assert receive(client, 8) == b"one two "
        assert time.monotonic() - began >= 0.2


def test_a_black_hole_gives_nothing_and_loses_nothing(network: Network) -> None:
    with connect(network) as client:
        assert ask(client) == b"ping"
        network.set(Weather(black_hole=True), broker=1)
        client.sendall(b"held")
        with connect(network) as newcomer:  # nobody tells it either
            newcomer.sendall(b"held")
            for each in (client, newcomer):
                each.settimeout(0.2)
                with pytest.raises(TimeoutError):
                    each.recv(1)
                each.settimeout(SECONDS)
            network.set(FAIR)
            assert receive(client, 4) == receive(newcomer, 4) == b"held"


def test_refused_connections_are_reset_and_open_ones_go_on(network: Network) -> None:
    with connect(network) as client:
        assert ask(client) == b"ping"
        network.set(Weather(refused=True))
        with connect(network) as refused:
            assert is_cut(refused)
        assert ask(client) == b"ping"
        network.set(FAIR)
    with connect(network) as client:
        assert ask(client) == b"ping"


def test_cut_connections_are_gone_and_new_ones_work(network: Network) -> None:
    with connect(network) as client:
        assert ask(client) == b"ping"
        assert network.cut() == 1
        assert is_cut(client)
    with connect(network) as client:
        assert ask(client) == b"ping"


def test_one_process_alone_can_be_hit(network: Network) -> None:
    with connect(network) as hit, connect(network) as spared:
        assert ask(hit) == ask(spared) == b"ping"
        ports = {hit.getsockname()[1]}
        network.set(Weather(black_hole=True), peers=lambda: ports)
        assert ask(spared) == b"ping"
        hit.sendall(b"held")
        hit.settimeout(0.2)
        with pytest.raises(TimeoutError):
            hit.recv(1)
        assert network.cut(peers=lambda: ports) == 1
        assert is_cut(hit)
        assert ask(spared) == b"ping"


def test_a_broker_that_is_down_looks_down() -> None:
    broker = Network({1: free_port})
    broker.open({1: bound(0)})
    try:
        with connect(broker) as client:
            assert is_cut(client)
    finally:
        broker.close()


def free_port() -> int:
    with bound(0) as held:
        return int(held.getsockname()[1])
