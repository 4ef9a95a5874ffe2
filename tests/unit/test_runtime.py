"""Telemetry of a connected mesh ends with it, however that goes."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator

import pytest

from broker_mesh.errors import SettingsError
from broker_mesh.runtime import Runtime
from broker_mesh.settings import Settings
from broker_mesh.telemetry.metrics import Metrics

SETTINGS = Settings(bootstrap_servers="127.0.0.1:1")


@pytest.fixture(autouse=True)
def threads() -> Iterator[None]:
    """Tests leave no thread of telemetry behind."""
    before = set(threading.enumerate())
    yield
    left = [thread for thread in threading.enumerate() if thread not in before and _tells(thread)]
    for thread in left:
        thread.join(5)
    assert [thread.name for thread in left if thread.is_alive()] == []


def _tells(thread: threading.Thread) -> bool:
    return "mesh" in thread.name or "Otel" in thread.name


@pytest.mark.parametrize("failure", [asyncio.CancelledError, ZeroDivisionError])
async def test_metrics_are_pushed_no_longer_when_a_mesh_could_not_be_closed_in_order(
    failure: type[BaseException], capfd: pytest.CaptureFixture[str]
) -> None:
    runtime = Runtime("fleet", "v1", SETTINGS, Metrics("fleet"))
    runtime._observe({"OTEL_METRICS_EXPORTER": "console"})

    async def fail() -> None:
        raise failure

    runtime.exit.push_async_callback(fail)
    runtime.metrics.consumed("fleet.v1.find", 3)
    with pytest.raises(failure):
        await runtime.close()
    assert "messaging.client.consumed.messages" in capfd.readouterr().err  # the last export


async def test_what_has_begun_ends_where_another_variable_is_wrong() -> None:
    environ = {"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "prometeus"}
    with pytest.raises(SettingsError, match="OTEL_METRICS_EXPORTER"):
        await Runtime.open("fleet", "v1", SETTINGS, environ, Metrics("fleet"))
