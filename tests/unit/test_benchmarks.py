"""The pure parts of the benchmark: what is counted, the statistics, what is printed; no figure of a machine."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from benchmarks.__main__ import main
from benchmarks.contracts import ASSIGN_GATE, RAW_VALUE, key_of, reply_to, request_of
from benchmarks.figures import percentile, ratio, summed_up
from benchmarks.load import Load, Measurement, Window
from benchmarks.machine import Machine
from benchmarks.measuring import Plan, in_turn
from benchmarks.report import document, notes, rounded, table
from broker_mesh.contracts.codec import Codec
from broker_mesh.contracts.models import schema_of_model
from broker_mesh.contracts.schema import AvroSchema

PLAN = Plan(rounds=3, seconds=1.5)
MACHINE = Machine(
    cores=2, system="Linux x86_64", python="3.11.7", versions={"Kafka": "4.3.1"}, load_average=0.25
)


class NoSchemas:
    def by_id(self, _schema_id: int) -> AvroSchema | None:
        return None


def seen(requests_per_second: float, p50_ms: float, **cpu_us: float) -> Measurement:
    return Measurement(
        requests=1,
        requests_per_second=requests_per_second,
        p50_ms=p50_ms,
        p99_ms=p50_ms * 2,
        cpu_us=cpu_us or {"caller": 10, "callee": 20, "broker": 30},
    )


def three_rounds() -> dict[tuple[str, int], list[Measurement]]:
    return {
        ("raw", 1): [seen(1000, 1.0), seen(500, 2.0), seen(2000, 0.5)],
        ("mesh", 1): [seen(500, 2.0), seen(300, 3.0), seen(800, 1.5)],
        ("raw", 64): [seen(4000, 10)] * 3,
        ("mesh", 64): [seen(1000, 1250)] * 3,
    }


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
    raw, mesh, *_ = rows = summed_up(three_rounds())
    assert [(row.contender, row.in_flight) for row in rows] == list(three_rounds())
    assert (raw.requests_per_second, raw.p50_ms, raw.p99_ms, raw.rounds) == (1000, 1.0, 2.0, 3)
    assert raw.to_baseline == {}
    assert (mesh.requests_per_second, mesh.p50_ms) == (500, 2.0)
    assert mesh.to_baseline["requests_per_second"].median == 0.5
    assert mesh.to_baseline["p50_ms"].median == 2.0
    assert mesh.cpu_us == {"caller": 10, "callee": 20, "broker": 30}


def test_every_other_round_goes_the_other_way_round() -> None:
    assert [in_turn(["raw", "mesh"], number) for number in range(3)] == [
        ["raw", "mesh"],
        ["mesh", "raw"],
        ["raw", "mesh"],
    ]


# ── the window ────────────────────────────────────────────────────────────────────────────────────────────


def make_window(cpu_seconds: Callable[[int], float]) -> Window:
    load = Load(in_flight=1, warm_up_seconds=1.0, seconds=2.0, processes={"caller": 7})
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


# ── what is sent ──────────────────────────────────────────────────────────────────────────────────────────


def test_all_contenders_send_as_many_bytes() -> None:
    assert ASSIGN_GATE.reply is not None
    for model, value in [
        (ASSIGN_GATE.request, request_of(1)),
        (ASSIGN_GATE.reply, reply_to(request_of(1))),
    ]:
        written = Codec("any", schema_of_model(model, "gates.v1"), 1, model, NoSchemas()).encode(value)
        assert 150 <= len(written) <= 200
        assert abs(len(written) - len(RAW_VALUE)) <= 5


def test_no_two_requests_in_flight_have_the_same_key() -> None:
    assert len({key_of(number) for number in range(1000)}) == 1000
    assert {len(key_of(number)) for number in (0, 99_999, 100_000)} == {6}


# ── what is printed ───────────────────────────────────────────────────────────────────────────────────────


def printed() -> str:
    out = io.StringIO()
    console = Console(file=out, width=120)
    console.print(table(summed_up(three_rounds())))
    return out.getvalue()


def test_the_table_has_a_line_for_each_contender_and_load() -> None:
    lines = [
        re.split(r"\s{2,}", line.strip()) for line in printed().splitlines() if line.strip()[:1].isdigit()
    ]
    assert lines == [
        ["1", "raw", "1,000", "–", "1.00", "–", "2.00", "10", "20", "30"],
        ["1", "mesh", "500", "0.50 (0.40–0.60)", "2.00", "2.00", "4.00", "10", "20", "30"],
        ["64", "raw", "4,000", "–", "10.00", "–", "20.00", "10", "20", "30"],
        ["64", "mesh", "1,000", "0.25 (0.25–0.25)", "1,250.00", "125", "2,500.00", "10", "20", "30"],
    ]


def test_the_notes_name_the_machine() -> None:
    text = "\n".join(notes(PLAN, MACHINE))
    for fact in ("3 interleaved rounds", "1.5 s", "2 cores", "Linux x86_64", "3.11.7", "0.25", "Kafka 4.3.1"):
        assert fact in text


def test_json_has_the_machine_the_plan_and_every_row() -> None:
    found = json.loads(json.dumps(document(summed_up(three_rounds()), PLAN, MACHINE)))
    assert found["machine"]["load_average"] == 0.25
    assert (found["plan"]["rounds"], found["plan"]["seconds"], found["baseline"]) == (3, 1.5, "raw")
    assert [(row["contender"], row["in_flight"]) for row in found["results"]] == list(three_rounds())
    assert found["results"][1]["to_baseline"]["p50_ms"] == {"median": 2.0, "lowest": 1.5, "highest": 3.0}


def test_floats_are_rounded_however_deep_they_are() -> None:
    assert rounded({"a": 1.23456, "b": {"c": 2.0004}, "d": "x", "e": 3}) == {
        "a": 1.235,
        "b": {"c": 2.0},
        "d": "x",
        "e": 3,
    }


@pytest.mark.parametrize(
    "wrong", [["--rounds", "0"], ["--rounds", "x"], ["--seconds", "nan"], ["--seconds", "0"], ["-o", "xml"]]
)
def test_wrong_usage_ends_before_anything_is_started(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err
