"""Health over HTTP, and the supervisor's summary of its workers."""

from __future__ import annotations

import asyncio
import http.client
import json
import logging
import socket
import struct
import threading
import time
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


def test_a_client_that_goes_before_its_answer_is_no_news(
    capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    gone = threading.Event()

    def slow(_: str) -> Answer:
        gone.wait(10)
        return Answer(200, "text/plain", b"x" * 10_000_000)

    caplog.set_level(logging.DEBUG, "broker_mesh.health")
    server = StatusServer("metrics", "metrics", "127.0.0.1", 0, {"/metrics": slow})
    try:
        with socket.create_connection(("127.0.0.1", int(server.url.rpartition(":")[2]))) as client:
            client.sendall(b"GET /metrics HTTP/1.1\r\n\r\n")
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))  # a reset at once
        gone.set()
        give_up_at = time.monotonic() + 10
        while not caplog.records and time.monotonic() < give_up_at:
            time.sleep(0.01)
    finally:
        server.close()
    assert [(record.levelname, record.exc_info) for record in caplog.records] == [("DEBUG", None)]
    assert capfd.readouterr().err == ""


def test_a_question_that_can_not_be_answered_is_logged_and_those_after_it_are_answered(
    service: Service, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    def broken(_: str) -> Answer:
        raise ZeroDivisionError

    server = StatusServer(
        "metrics", "metrics", "127.0.0.1", 0, {"/metrics": broken, **health_routes(service.look)}
    )
    try:
        with pytest.raises(http.client.RemoteDisconnected):
            urllib.request.urlopen(f"{server.url}/metrics", timeout=10)
        assert get(f"{server.url}/livez")[0] == 200
    finally:
        server.close()
    assert "ZeroDivisionError" in caplog.text
    assert capfd.readouterr().err == ""


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
