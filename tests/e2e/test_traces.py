"""One trace over caller, callee, a nested call and a subscriber: real processes, OTLP to a collector stub."""

from __future__ import annotations

import asyncio
import json

import pytest

from broker_mesh.dev.cluster import EmbeddedKafka
from tests.support.fleet import FindAircraft, make_mesh
from tests.support.otlp import CollectedSpan, CollectorStub, assert_connected
from tests.support.processes import Processes, wait_for_line
from tests.support.relay import LOOK_UP

PATIENCE = 60.0


async def test_a_trace_is_continuous_over_services_calls_and_events(
    kafka: EmbeddedKafka, processes: Processes, monkeypatch: pytest.MonkeyPatch
) -> None:
    servers = kafka.bootstrap_servers
    with CollectorStub() as collector:
        otlp = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        effects = processes.log_of(99)
        fleet = processes.start("tests.support.fleet", servers, str(effects), **otlp)
        relay = processes.start("tests.support.relay", "relay", servers, **otlp)
        watcher = processes.start("tests.support.relay", "watcher", servers, **otlp)
        for process in (fleet, relay, watcher):
            await asyncio.to_thread(wait_for_line, process, "ready")
        for name, value in otlp.items():
            monkeypatch.setenv(
                name, value
            )  # the SDK reads its finer settings from the process's own environment
        mesh = make_mesh("dispatch", servers, environ=otlp)
        async with mesh as dispatch:
            reply = await dispatch.request(LOOK_UP, FindAircraft(tailnum="N14228"), timeout=PATIENCE)
            assert reply.tailnum == "N14228"
        await asyncio.to_thread(wait_for_line, watcher, "found N14228")
        spans = await asyncio.to_thread(collector.wait_for, _is_complete, PATIENCE)
    assert_connected(spans)
    assert len({span.trace_id for span in spans}) == 1
    tree = {span.span_id: span for span in spans}
    parents = {(span.service, span.name): _parent(tree, span) for span in spans}
    assert parents == {
        ("dispatch", "send relay.v1.look-up"): None,
        ("relay", "process relay.v1.look-up"): ("dispatch", "send relay.v1.look-up"),
        ("relay", "send fleet.v1.find-aircraft"): ("relay", "process relay.v1.look-up"),
        ("fleet", "process fleet.v1.find-aircraft"): ("relay", "send fleet.v1.find-aircraft"),
        ("fleet", "send relay.replies"): ("fleet", "process fleet.v1.find-aircraft"),
        ("relay", "send relay.v1.events.found"): ("relay", "process relay.v1.look-up"),
        ("watcher", "process relay.v1.events.found"): ("relay", "send relay.v1.events.found"),
        ("relay", "send dispatch.replies"): ("relay", "process relay.v1.look-up"),
    }
    handled = next(span for span in spans if span.name == "process fleet.v1.find-aircraft")
    assert handled.attributes["messaging.system"] == "kafka"
    assert handled.attributes["messaging.destination.name"] == "fleet.v1.find-aircraft"
    assert handled.attributes["messaging.consumer.group.name"] == "fleet"
    assert handled.attributes["mesh.outcome"] == "done"
    # The same ids stand in the logs of the handler.
    lines = [json.loads(line) for line in processes.log_of(1).read_text().splitlines()]
    asking = next(line for line in lines if line["message"] == "asking fleet")
    assert asking["trace_id"] == handled.trace_id
    assert asking["operation"] == LOOK_UP.name


def _is_complete(spans: list[CollectedSpan]) -> bool:
    return len(spans) >= 8


def _parent(tree: dict[str, CollectedSpan], span: CollectedSpan) -> tuple[str, str] | None:
    parent = tree.get(span.parent_span_id or "")
    return None if parent is None else (parent.service, parent.name)
