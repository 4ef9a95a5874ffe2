"""What a scrape gets, read back by the parsers of prometheus-client, which follow Prometheus' own."""

from __future__ import annotations

import json

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from broker_mesh.errors import NotFound
from broker_mesh.headers import Envelope
from broker_mesh.layers.measure import Attempt
from broker_mesh.message import Message, Record
from broker_mesh.outcome import Done
from broker_mesh.telemetry import instruments, transport
from broker_mesh.telemetry.metrics import Backlog, Metrics, PartitionState
from broker_mesh.telemetry.prometheus import Exposition, MeshCollector, Source, metric_name

FIND = "fleet.v1.find-aircraft"
OPENMETRICS = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"


@pytest.fixture
def metrics() -> Metrics:
    metrics = Metrics("fleet")
    for number in range(3):
        message = Message(
            FIND, FIND, Envelope(id="1", source="dispatch"), record=Record(FIND, 0, number, 0, None, b"", [])
        )
        metrics.begun(message, 1500)
        outcome = Done(error=NotFound("none")) if number else Done(b"reply")
        metrics.attempted(Attempt(message, outcome, 1500, 0.02))
    metrics.observe([Backlog(FIND, 0, 5, 2, None, PartitionState.RUNNING)])
    return metrics


def scrape(accept: str, *sources: Source) -> tuple[str, dict[str, Metric]]:
    content_type, body = Exposition(lambda: sources).answer(accept)
    parse = parse_openmetrics if content_type.startswith("application/openmetrics-text") else parse_text
    return content_type, {family.name: family for family in parse(body.decode())}


def values(family: Metric) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {(each.name, tuple(sorted(each.labels.items()))): each.value for each in family.samples}


@pytest.mark.parametrize(
    ("accept", "expected"),
    [("", "text/plain; version=0.0.4"), (OPENMETRICS, "application/openmetrics-text; version=1.0.0")],
    ids=["text", "openmetrics"],
)
def test_a_scrape(metrics: Metrics, accept: str, expected: str) -> None:
    content_type, families = scrape(accept, Source({}, metrics.collect()))
    assert content_type.startswith(expected)
    assert "process_start_time_seconds" in families
    assert "python_info" in families
    outcomes = families["mesh_outcomes"]
    assert (outcomes.type, outcomes.documentation) == ("counter", instruments.OUTCOMES.help)
    labels = (("operation", FIND), ("outcome", "done"))
    assert values(outcomes) == {
        ("mesh_outcomes_total", (*labels, ("status", "NOT_FOUND"))): 2,
        ("mesh_outcomes_total", (*labels, ("status", "OK"))): 1,
    }
    queue = families["mesh_queue_duration_seconds"]
    assert queue.type == "histogram"
    told = values(queue)
    of = ("operation", FIND)
    assert told["mesh_queue_duration_seconds_count", (of,)] == 3
    assert told["mesh_queue_duration_seconds_sum", (of,)] == 4.5
    assert told["mesh_queue_duration_seconds_bucket", (("le", "1.0"), of)] == 0
    assert told["mesh_queue_duration_seconds_bucket", (("le", "2.5"), of)] == 3
    assert told["mesh_queue_duration_seconds_bucket", (("le", "+Inf"), of)] == 3
    assert values(families["mesh_consumer_lag"]) == {
        ("mesh_consumer_lag", (("partition", "0"), ("topic", FIND))): 5
    }
    assert families["mesh_consumer_lag"].type == "gauge"


def test_several_workers_are_told_apart_and_one_without_figures_is_left_out(metrics: Metrics) -> None:
    sources = [Source({"worker": str(number)}, metrics.collect()) for number in (1, 2)]
    _, families = scrape("", *sources, Source({"worker": "3"}, []))
    of = (("caller", "dispatch"), ("operation", FIND), ("side", "callee"))
    assert values(families["mesh_requests"]) == {
        ("mesh_requests_total", (*of, ("worker", "1"))): 3,
        ("mesh_requests_total", (*of, ("worker", "2"))): 3,
    }


def test_figures_survive_the_way_from_a_worker(metrics: Metrics) -> None:
    collected = metrics.collect()
    assert transport.load(json.loads(json.dumps(transport.dump(collected)))) == collected


def test_a_program_s_own_registry_takes_them_too(metrics: Metrics) -> None:
    registry = CollectorRegistry()
    registry.register(MeshCollector(metrics))
    (outcomes,) = (
        family for family in parse_text(generate_latest(registry).decode()) if family.name == "mesh_outcomes"
    )
    assert sum(sample.value for sample in outcomes.samples) == 3


def test_names_follow_prometheus() -> None:
    assert metric_name(instruments.PROCESSING) == "messaging_process_duration_seconds"
    for instrument in instruments.ALL:
        assert metric_name(instrument).replace("_", "").isalpha()
