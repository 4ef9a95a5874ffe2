"""Metrics and access log of real services: the figures equal the facts."""

from __future__ import annotations

import asyncio
import logging
from collections import Counter
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from pydantic import BaseModel

from broker_mesh import Context, Event, Mesh, MeshError, Operation, Retry
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import DeadlineExceeded, InternalError, NotFound, Unavailable
from broker_mesh.telemetry import backlog, instruments
from broker_mesh.telemetry.aggregation import Distribution, Instrument, Labels
from broker_mesh.telemetry.metrics import Metrics
from tests.support.dead_letters import DeadLetters
from tests.support.fleet import make_mesh
from tests.support.names import fresh
from tests.support.otlp import CollectorStub, Histogram
from tests.support.topics import delete_records

PATIENCE = timedelta(seconds=40).total_seconds()


class Ask(BaseModel):
    key: str
    number: int = 0


class Answer(BaseModel):
    text: str


def figures(metrics: Metrics, instrument: Instrument) -> dict[Labels, Any]:
    """An instrument's samples; of a histogram, how often something was recorded."""
    samples = next(family.samples for family in metrics.collect() if family.instrument == instrument)
    return {
        labels: value.count if isinstance(value, Distribution) else value for labels, value in samples.items()
    }


async def until(holds: Callable[[], bool], told: Callable[[], object]) -> None:
    try:
        async with asyncio.timeout(PATIENCE):
            while not holds():
                await asyncio.sleep(0.05)
    except TimeoutError:
        pytest.fail(f"it stays at {told()}")


async def test_figures_and_access_log_equal_the_facts(
    kafka: EmbeddedKafka, dead_letters: DeadLetters, caplog: pytest.LogCaptureFixture
) -> None:
    name, caller = fresh("svc"), fresh("dispatch")
    ask = Operation(f"{name}.v1.ask", request=Ask, reply=Answer, key="key")
    mesh = make_mesh(name, kafka.bootstrap_servers)

    @mesh.operation(ask, retry=Retry(attempts=3, backoff=0.01))
    async def handle(request: Ask, context: Context) -> Answer:
        match request.key:
            case "missing":
                raise NotFound("no such thing")
            case "flaky" if context.attempt < 3:
                raise Unavailable("away for a moment")
            case "bug":
                raise InternalError("a bug")
            case "hopeless":
                raise Unavailable("away for good")
        return Answer(text=request.key)

    caplog.set_level(logging.INFO, "broker_mesh.access")
    asked = ["fine"] * 5 + ["missing"] * 3 + ["flaky"] * 2 + ["bug", "hopeless"]
    handles = []
    async with mesh.serving(), make_mesh(caller, kafka.bootstrap_servers) as dispatch:
        for number, key in enumerate(asked):
            handles.append(await dispatch.call(ask, Ask(key=key, number=number)))
        ended = Counter([await _status(handle) for handle in handles])
        assert ended == {"OK": 7, "NOT_FOUND": 3, "INTERNAL": 1, "UNAVAILABLE": 1}
        with pytest.raises(MeshError):
            await dispatch.request(f"{name}.v1.ask", {"no": "such field"}, timeout=PATIENCE)
        metrics, theirs = mesh.metrics, dispatch.metrics
        await (
            until(  # replies arrive before their settlement is confirmed, and lag is looked at once a second
                lambda: (
                    sum(figures(metrics, instruments.OUTCOMES).values()) == len(asked)
                    and list(figures(metrics, instruments.LAG).values())
                    == [0] * 12  # retries have partitions too
                    and sum(figures(metrics, instruments.CONSUMED).values()) == len(asked)
                    and figures(metrics, instruments.PARTITIONS)[ask.name, "running"]
                    == 6  # looked at once a second
                ),
                lambda: (figures(metrics, instruments.OUTCOMES), figures(metrics, instruments.LAG)),
            )
        )
        states = figures(metrics, instruments.PARTITIONS)
    of = ask.name
    assert figures(metrics, instruments.REQUESTS) == {("callee", of, caller): len(asked)}
    assert figures(metrics, instruments.OUTCOMES) == {
        (of, "done", "OK"): 7,
        (of, "done", "NOT_FOUND"): 3,
        (of, "dead-letter", "INTERNAL"): 1,
        (of, "dead-letter", "UNAVAILABLE"): 1,
    }
    assert figures(metrics, instruments.RETRIES) == {(of, "UNAVAILABLE"): 2 * 2 + 2}
    assert figures(metrics, instruments.DEAD_LETTERS) == {(of, "INTERNAL"): 1, (of, "UNAVAILABLE"): 1}
    assert len(await asyncio.to_thread(dead_letters.all, of)) == 2
    assert figures(metrics, instruments.ATTEMPTS_NEEDED) == {(of, "done"): 10, (of, "dead-letter"): 2}
    assert figures(metrics, instruments.PROCESSING) == {
        (of, "done", ""): 10,
        (of, "retry-later", "UNAVAILABLE"): 6,
        (of, "dead-letter", "INTERNAL"): 1,
        (of, "dead-letter", "UNAVAILABLE"): 1,
    }
    assert figures(metrics, instruments.QUEUE_SECONDS) == {(of,): len(asked)}
    assert figures(metrics, instruments.SENT) == {(f"{caller}.replies", ""): len(asked)}
    assert states[of, "running"] == 6
    assert figures(metrics, instruments.LAG) == {}  # a service that has stopped has nothing waiting
    assert figures(theirs, instruments.REQUESTS) == {("caller", of, caller): len(asked)}
    assert figures(theirs, instruments.SENT) == {(of, ""): len(asked), (of, "INVALID_ARGUMENT"): 1}
    assert figures(theirs, instruments.REQUEST_SECONDS) == {(of, status): n for status, n in ended.items()}
    lines = [record for record in caplog.records if record.name == "broker_mesh.access"]
    assert Counter(vars(line)["message_id"] for line in lines) == Counter(handle.id for handle in handles)
    told = Counter((vars(line)["key"], vars(line)["outcome"], vars(line)["attempt"]) for line in lines)
    assert told == {
        ("fine", "done", 1): 5,
        ("missing", "done", 1): 3,
        ("flaky", "done", 3): 2,
        ("bug", "dead-letter", 1): 1,
        ("hopeless", "dead-letter", 3): 1,
    }
    assert {vars(line)["caller"] for line in lines} == {caller}


async def _status(handle: Any) -> str:
    try:
        await handle.reply(PATIENCE)
    except MeshError as error:
        return error.status.name
    return "OK"


async def test_what_waits_behind_a_handler_that_hangs_is_seen_though_its_partition_rests(
    kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(backlog, "_LOOK_SECONDS", 0.05)
    monkeypatch.setattr(backlog, "_ASK_SECONDS", 0.2)
    name = fresh("svc")
    ask = Operation(f"{name}.v1.ask", request=Ask, reply=Answer, key="key")
    mesh = make_mesh(name, kafka.bootstrap_servers, max_in_flight=2, access_log=False)
    released = asyncio.Event()

    @mesh.operation(ask)
    async def handle(request: Ask, context: Context) -> Answer:
        await released.wait()
        return Answer(text=request.key)

    def lag() -> float:
        return sum(figures(mesh.metrics, instruments.LAG).values())

    def paused() -> float:
        return figures(mesh.metrics, instruments.PARTITIONS).get((ask.name, "paused"), 0)

    async def timed_out(dispatch: Mesh) -> None:
        handle = await dispatch.call(ask, Ask(key="same"))  # however long Kafka takes for that
        with pytest.raises(DeadlineExceeded):
            await handle.reply(0.5)

    caplog.set_level(logging.INFO, "broker_mesh.access")
    async with mesh.serving(), make_mesh("dispatch", kafka.bootstrap_servers) as dispatch:
        before = dispatch.metrics
        await asyncio.gather(*(timed_out(dispatch) for _ in range(4)))
        await until(lambda: paused() == 6 and lag() == 4, lambda: (paused(), lag()))
        for _ in range(3):
            await dispatch.call(ask, Ask(key="same"))
        await until(lambda: lag() == 7, lag)
        assert figures(mesh.metrics, instruments.OLDEST_AGE)[ask.name,] > 0
        assert figures(mesh.metrics, instruments.IN_FLIGHT)[ask.name,] >= 2
        released.set()
        await until(lambda: lag() == 0, lag)
        assert figures(mesh.metrics, instruments.OLDEST_AGE)[ask.name,] == 0
        assert figures(before, instruments.TIMEOUTS) == {(ask.name,): 4}
    assert not [record for record in caplog.records if record.name == "broker_mesh.access"]  # it is off


async def test_what_retention_has_dropped_before_a_first_start_does_not_wait(kafka: EmbeddedKafka) -> None:
    publisher, name = fresh("pub"), fresh("svc")
    noted = Event(f"{publisher}.v1.events.noted", Ask, key="key")
    heard: list[int] = []
    async with make_mesh(publisher, kafka.bootstrap_servers) as publishing:
        places = [await publishing.publish(noted, Ask(key="a", number=number)) for number in range(5)]
        topic, partition, end = places[0].topic, places[0].partition, places[-1].offset + 1
        await asyncio.to_thread(delete_records, kafka.bootstrap_servers, topic, partition, end)
        mesh = make_mesh(name, kafka.bootstrap_servers)

        @mesh.subscribe(noted)
        async def hear(event: Ask, context: Context) -> None:
            heard.append(event.number)

        def lag() -> Any:
            return figures(mesh.metrics, instruments.LAG).get((topic, str(partition)))

        async with mesh.serving() as service:
            await service.joined()
            await until(lambda: lag() == 0, lag)
            assert heard == []
            await publishing.publish(noted, Ask(key="a", number=6))
            await until(lambda: heard == [6] and lag() == 0, lag)


async def test_metrics_arrive_at_a_collector(kafka: EmbeddedKafka, monkeypatch: pytest.MonkeyPatch) -> None:
    name = fresh("svc")
    ask = Operation(f"{name}.v1.ask", request=Ask, reply=Answer, key="key")
    with CollectorStub() as collector:
        otlp = {"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{collector.endpoint}/v1/metrics"}
        for variable, value in otlp.items():
            monkeypatch.setenv(variable, value)  # the SDK reads its finer settings from there
        mesh = make_mesh(name, kafka.bootstrap_servers, environ=otlp)

        @mesh.operation(ask)
        async def handle(request: Ask, context: Context) -> Answer:
            return Answer(text=request.key)

        async with mesh.serving(), make_mesh("dispatch", kafka.bootstrap_servers) as dispatch:
            for number in range(3):
                await dispatch.request(ask, Ask(key="a", number=number), timeout=PATIENCE)
        points = collector.wait_for_metrics(lambda points: bool(points))  # the last export, at the end
    told = {point.name: point for point in points}
    assert {point.resource["service.name"] for point in points} == {name}
    assert told["mesh.requests"].value == 3
    assert told["mesh.requests"].attributes == {
        "mesh.side": "callee",
        "mesh.operation": ask.name,
        "mesh.caller": "dispatch",
    }
    processed = told["messaging.process.duration"]
    assert processed.kind == "histogram"
    assert isinstance(processed.value, Histogram)
    assert processed.value.count == 3
    assert processed.attributes["messaging.destination.name"] == ask.name
