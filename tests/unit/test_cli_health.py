"""Health over HTTP, and the supervisor's summary of its workers."""

from __future__ import annotations

import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from broker_mesh.errors import SettingsError
from broker_mesh.health import Health, HealthServer


class Service:
    def __init__(self) -> None:
        self.now = Health(live=True, ready=True, facts={"service": "fleet"})

    def look(self) -> Health:
        return self.now


@pytest.fixture
def service() -> Service:
    return Service()


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    server = HealthServer("127.0.0.1", 0, service.look)
    yield server.url
    server.close()


def get(url: str, method: str = "GET") -> tuple[int, Any]:
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method=method), timeout=10) as answer:
            body = answer.read()
            return answer.status, json.loads(body) if body else None
    except urllib.error.HTTPError as error:
        with error:
            body = error.read()
            return error.code, json.loads(body) if body else None


@pytest.mark.parametrize(
    ("live", "ready", "livez", "readyz"),
    [(True, True, 200, 200), (True, False, 200, 503), (False, True, 503, 503), (False, False, 503, 503)],
)
def test_what_is_answered(
    live: bool, ready: bool, livez: int, readyz: int, service: Service, url: str
) -> None:
    service.now = Health(live, ready, {"service": "fleet", "in_flight": 3})
    expected = {"live": live, "ready": ready, "service": "fleet", "in_flight": 3}
    assert get(f"{url}/livez") == (livez, expected)
    assert get(f"{url}/readyz?verbose") == (readyz, expected)
    assert get(f"{url}/readyz", "HEAD") == (readyz, None)


def test_other_paths(url: str) -> None:
    assert get(f"{url}/")[0] == 404


def test_a_client_that_says_nothing_keeps_nobody_waiting(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        assert get(f"{url}/livez")[0] == 200


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SettingsError, match="--health-port"):
        HealthServer("127.0.0.1", taken.getsockname()[1], Service().look)


def test_a_host_that_is_none_names_both_options(service: Service) -> None:
    with pytest.raises(SettingsError, match="another --health-host or --health-port"):
        HealthServer("no such host", 0, service.look)
