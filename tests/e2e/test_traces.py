"""One trace over caller, callee, a nested call, a subscriber, retries and a replay: OTLP to a collector stub."""

from __future__ import annotations

import asyncio
import json

import pytest

from broker_mesh import Context, Operation, Retry
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import MeshError, Unavailable
from broker_mesh.mesh import Ordering
from tests.support.commands import Commands
from tests.support.fleet import Aircraft, FindAircraft, make_mesh
from tests.support.names import fresh
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


@pytest.mark.parametrize("ordering", ["key", "none"])
async def test_retries_a_dead_letter_and_a_replay_are_one_trace(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch, ordering: Ordering
) -> None:
    servers, name = kafka.bootstrap_servers, fresh("radar")
    operation = Operation(f"{name}.v1.find-aircraft", request=FindAircraft, reply=Aircraft, key="tailnum")
    works = False
    with CollectorStub() as collector:
        otlp = {"OTEL_EXPORTER_OTLP_ENDPOINT": collector.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "100"}
        for variable, value in otlp.items():
            monkeypatch.setenv(variable, value)
        service = make_mesh(name, servers, environ=otlp)

        @service.operation(operation, ordering=ordering, retry=Retry(attempts=3, backoff=0.01))
        async def find_aircraft(request: FindAircraft, context: Context) -> Aircraft:
            if not works:
                raise Unavailable("the radar is down")
            return Aircraft(tailnum=request.tailnum, seats=178)

        mesh = Commands(servers, **otlp)
        async with service.serving(), make_mesh("dispatch", servers, environ=otlp) as dispatch:
            handle = await dispatch.call(operation, FindAircraft(tailnum="N1"))
            with pytest.raises(MeshError, match="the radar is down"):
                await handle.reply(PATIENCE)
            works = True
            await mesh("dead-letters", "replay", "--id", handle.id)
            await handle.reply(PATIENCE, wait_for_replay=True)
        spans = await asyncio.to_thread(collector.wait_for, _is_complete, PATIENCE)
        story = await mesh.json("trace", str(handle))
    assert_connected(spans)
    assert {span.trace_id for span in spans} == set(story["trace_ids"])
    tree = {span.span_id: span for span in spans}
    told = [
        (
            span.name,
            _parent(tree, span),
            span.attributes.get("mesh.attempt"),
            span.attributes.get("mesh.outcome"),
        )
        for span in sorted(spans, key=lambda span: span.start)
    ]
    topic, replies = operation.name, "send dispatch.replies"
    sent, handled = ("dispatch", f"send {topic}"), (name, f"process {topic}")
    replayed = ("mesh-replay", f"replay {topic}")
    assert told == [
        (f"send {topic}", None, None, None),
        (f"process {topic}", sent, 1, "retry-later"),
        (f"process {topic}", sent, 2, "retry-later"),
        (f"process {topic}", sent, 3, "dead-letter"),
        (replies, handled, None, None),
        (f"replay {topic}", sent, None, None),
        (f"process {topic}", replayed, 1, "done"),
        (replies, handled, None, None),
    ]


def _is_complete(spans: list[CollectedSpan]) -> bool:
    return len(spans) >= 8


def _parent(tree: dict[str, CollectedSpan], span: CollectedSpan) -> tuple[str, str] | None:
    parent = tree.get(span.parent_span_id or "")
    return None if parent is None else (parent.service, parent.name)
