"""Health over HTTP, and the supervisor's summary of its workers."""

from __future__ import annotations

import asyncio
import json
import socket
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest

from broker_mesh.cli.answering import Address, answering
from broker_mesh.dev.ports import pick
from broker_mesh.errors import SettingsError
from broker_mesh.health import Answer, Health, StatusServer, health_routes


class Service:
    def __init__(self) -> None:
        self.now = Health(live=True, ready=True, facts={"service": "fleet"})

    def look(self) -> Health:
        return self.now


@pytest.fixture
def service() -> Service:
    return Service()


def serve(service: Service, host: str, port: int) -> StatusServer:
    return StatusServer("health checks", "health", host, port, health_routes(service.look))


@pytest.fixture
def url(service: Service) -> Iterator[str]:
    server = serve(service, "127.0.0.1", 0)
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
    assert get(f"{url}/") == (404, {"error": "there is only /livez, /readyz"})


def test_a_path_is_answered_by_what_the_client_accepts() -> None:
    routes = {"/metrics": lambda accept: Answer(200, "application/json", json.dumps(accept).encode())}
    server = StatusServer("metrics", "metrics", "127.0.0.1", 0, routes)
    try:
        request = urllib.request.Request(f"{server.url}/metrics", headers={"Accept": "text/plain"})
        with urllib.request.urlopen(request, timeout=10) as answer:
            assert json.loads(answer.read()) == "text/plain"
    finally:
        server.close()


def test_a_client_that_says_nothing_keeps_nobody_waiting(url: str) -> None:
    port = int(url.rpartition(":")[2])
    with socket.create_connection(("127.0.0.1", port), timeout=10):
        assert get(f"{url}/livez")[0] == 200


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(SettingsError, match="--health-port"):
        serve(Service(), "127.0.0.1", taken.getsockname()[1])


async def test_one_server_answers_both_where_both_are_asked_for_at_one_address() -> None:
    (port,) = pick(1)
    here = Address("127.0.0.1", port)
    async with answering(here, here, Service().look, list) as urls:
        assert urls.health == urls.metrics == f"http://127.0.0.1:{port}"
        assert (await asyncio.to_thread(get, f"{urls.health}/livez"))[0] == 200
        assert "process_start_time_seconds" in await asyncio.to_thread(read, f"{urls.metrics}/metrics")


async def test_two_servers_answer_at_two_addresses_and_one_that_is_taken_names_its_options() -> None:
    anywhere = Address("127.0.0.1", 0)
    async with answering(anywhere, anywhere, Service().look, list) as urls:
        assert urls.health is not None
        assert urls.metrics is not None
        assert urls.health != urls.metrics
        assert (await asyncio.to_thread(get, f"{urls.health}/metrics"))[0] == 404
        assert (await asyncio.to_thread(get, f"{urls.metrics}/livez"))[0] == 404
        taken = Address("127.0.0.1", int(urls.health.rpartition(":")[2]))
        with pytest.raises(
            SettingsError, match=r"metrics can't be answered.*--metrics-host or --metrics-port"
        ):
            async with answering(None, taken, Service().look, list):
                pass


def read(url: str) -> str:
    with urllib.request.urlopen(url, timeout=10) as answer:
        text: str = answer.read().decode()
        return text


def test_a_host_that_is_none_names_both_options(service: Service) -> None:
    with pytest.raises(SettingsError, match="another --health-host or --health-port"):
        serve(service, "no such host", 0)
