"""The pure parts of the benchmark: what is counted, and the statistics; no figure of a machine."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.backlogs import renamed
from benchmarks.contracts import RAW_VALUE, assign_gate, key_of, reply_to, request_of
from benchmarks.figures import Figures, growth, percentile, ratio, summed_up
from benchmarks.lineup import MESH, MESH_TRACED, RAW
from benchmarks.load import First, Hold, Load, Measurement, Window, order_of
from benchmarks.measuring import Cell, in_turn
from benchmarks.scene import Scene
from broker_mesh.contracts.codec import Codec
from broker_mesh.contracts.models import schema_of_model
from broker_mesh.contracts.schema import AvroSchema


class NoSchemas:
    def by_id(self, _schema_id: int) -> AvroSchema | None:
        return None


def seen(rate: float, p50_ms: float) -> Figures:
    return {"rate": rate, "p50_ms": p50_ms}


# ── statistics ────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(("percent", "expected"), [(1, 1), (50, 50), (50.5, 51), (99, 99), (100, 100)])
def test_a_percentile_is_the_value_of_nearest_rank(percent: float, expected: int) -> None:
    assert percentile(range(1, 101), percent) == expected


@given(
    st.lists(st.floats(allow_nan=False), min_size=1).map(sorted),
    st.floats(min_value=0, max_value=100, exclude_min=True),
)
def test_so_many_percent_do_not_exceed_the_percentile(ascending: list[float], percent: float) -> None:
    found = percentile(ascending, percent)
    assert found in ascending
    assert sum(value <= found for value in ascending) * 100 >= percent * len(ascending) * (1 - 1e-12)


@pytest.mark.parametrize(("values", "percent"), [([], 50), ([1.0], 0), ([1.0], 101)])
def test_what_has_no_percentile_is_refused(values: list[float], percent: float) -> None:
    with pytest.raises(ValueError, match="percent"):
        percentile(values, percent)


def test_a_ratio_is_taken_round_by_round() -> None:
    found = ratio([500, 300, 900], [1000, 500, 3000])
    assert (found.median, found.lowest, found.highest) == (0.5, 0.3, 0.6)


def test_rounds_that_are_not_the_same_have_no_ratio() -> None:
    with pytest.raises(ValueError, match="argument 2 is longer"):
        ratio([1.0], [1.0, 2.0])


def test_rows_are_medians_and_the_baseline_has_no_ratio_to_itself() -> None:
    raw, mesh = summed_up(
        {
            ("1", "raw"): [seen(1000, 1.0), seen(500, 2.0), seen(2000, 0.5)],
            ("1", "mesh"): [seen(500, 2.0), seen(300, 3.0), seen(800, 1.5)],
        },
        ["rate", "p50_ms"],
    )
    assert (raw.load, raw.contender, raw.rounds, raw.to_baseline) == ("1", "raw", 3, {})
    assert raw.figures == {"rate": 1000, "p50_ms": 1.0}
    assert mesh.figures == {"rate": 500, "p50_ms": 2.0}
    assert mesh.to_baseline["rate"].median == 0.5
    assert mesh.to_baseline["p50_ms"].median == 2.0


def test_without_a_baseline_there_are_no_ratios() -> None:
    measured = {("1", "raw"): [seen(1, 1)], ("1", "mesh"): [seen(2, 2)], ("2", "mesh"): [seen(3, 3)]}
    assert not any(row.to_baseline for row in summed_up(measured, ["rate"], baseline=None))
    _, _, alone = summed_up(measured, ["rate"])
    assert alone.to_baseline == {}, "the baseline was not measured with its load"


def test_growth_is_taken_round_by_round() -> None:
    measured = {("few", "mesh"): [seen(1, 0), seen(4, 0)], ("many", "mesh"): [seen(3, 0), seen(2, 0)]}
    assert growth(measured, "rate", "mesh", "few", "many") == [3.0, 0.5]


async def never() -> Figures:
    raise AssertionError("only the order is asked for")


def test_every_other_round_goes_the_other_way_round_load_by_load() -> None:
    cells = [Cell(load, name, never) for load in ("1", "64") for name in ("raw", "mesh")]
    there = [("1", "raw"), ("1", "mesh"), ("64", "raw"), ("64", "mesh")]
    back = [("1", "mesh"), ("1", "raw"), ("64", "mesh"), ("64", "raw")]
    found = [[(cell.load, cell.contender) for cell in in_turn(cells, number)] for number in range(3)]
    assert found == [there, back, there]


# ── the window ────────────────────────────────────────────────────────────────────────────────────────────


def make_window(cpu_seconds: Callable[[int], float]) -> Window:
    load = Load(in_flight=1, warm_up_seconds=1.0, seconds=2.0, processes={"caller": [7]})
    return Window(load, lambda: 100.0, cpu_seconds)


def test_answers_count_from_the_first_after_the_warm_up_to_the_first_after_the_end() -> None:
    cpu = iter([5.0, 5.5])
    window = make_window(lambda pid: next(cpu) if pid == 7 else 0.0)
    for sent_at, now in [(100.0, 100.5), (100.9, 101.0), (101.5, 102.0), (101.0, 102.5), (102.9, 103.0)]:
        assert not window.closed
        window.answered(sent_at, now)
    window.answered(0.0, 104.0)  # what is still in flight comes in, and changes nothing
    found = window.measurement()
    assert (found.requests, found.requests_per_second) == (3, 1.5)
    assert (found.p50_ms, found.p99_ms) == (500.0, 1500.0)
    assert found.cpu_us == {"caller": pytest.approx(0.5e6 / 3)}


def test_a_slow_start_does_not_shorten_the_window() -> None:
    window = make_window(lambda _: 0.0)
    window.answered(100.0, 109.0)
    window.answered(100.0, 110.9)
    assert not window.closed
    window.answered(100.0, 111.0)
    assert window.measurement().requests_per_second == 1.0


def test_a_window_sees_as_many_answers_as_are_in_flight() -> None:
    load = Load(in_flight=3, warm_up_seconds=0, seconds=1.0, processes={})
    window = Window(load, lambda: 0.0, lambda _: 0.0)
    for now in (0.0, 2.0, 3.0, 4.0):  # the first opens it, the others are answers
        window.answered(0.0, now)
        assert not window.closed
    window.answered(0.0, 5.0)
    assert window.closed
    assert window.measurement().requests_per_second == 0.8


# ── what is sent ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("extra", [0, 35, 9835])
def test_all_contenders_send_as_many_bytes(extra: int) -> None:
    operation, request = assign_gate("any"), request_of(1, extra)
    assert operation.reply is not None
    for model, value in [(operation.request, request), (operation.reply, reply_to(request))]:
        written = Codec("any", schema_of_model(model, "gates.v1"), 1, model, NoSchemas()).encode(value)
        assert abs(len(written) - len(RAW_VALUE) - extra) <= 8
    assert 150 <= len(RAW_VALUE) <= 200


def test_no_two_requests_in_flight_have_the_same_key() -> None:
    assert len({key_of(number) for number in range(1000)}) == 1000
    assert {len(key_of(number)) for number in (0, 99_999, 100_000)} == {6}


def test_settings_of_one_program_have_topics_of_their_own() -> None:
    scene = Scene(bootstrap_servers="127.0.0.1:1", name="some")
    raw, mesh, traced = (each.within(scene, "http://collector") for each in (RAW, MESH, MESH_TRACED))
    assert raw == scene
    assert (mesh.sampled, mesh.collector, traced.sampled) == (0.01, "http://collector", 1.0)
    assert len({assign_gate(each.name).name for each in (raw, mesh, traced)}) == 3


def test_copies_of_a_request_have_an_id_of_their_own() -> None:
    given = [("ce_id", b"1"), ("ce_source", b"ground")]
    (name, identity), source = renamed(given)
    assert (name, source) == ("ce_id", ("ce_source", b"ground"))
    assert identity not in (b"1", renamed(given)[0][1])


# ── what is told ──────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "order",
    [
        Load(way="message", in_flight=1, warm_up_seconds=0, seconds=1, processes={"callee": [1, 2]}),
        First(),
        Hold(calls=3),
    ],
)
def test_orders_are_read_as_they_were_written(order: Load | First | Hold) -> None:
    assert order_of(order.model_dump_json()) == order


def test_the_cost_of_a_request_is_that_of_all_processes() -> None:
    measured = Measurement(
        requests=1, requests_per_second=2, p50_ms=3, p99_ms=4, cpu_us={"caller": 5, "callee": 6}
    )
    assert measured.figures() == {
        "requests_per_second": 2,
        "p50_ms": 3,
        "p99_ms": 4,
        "caller_us": 5,
        "callee_us": 6,
        "cost_us": 11,
    }
