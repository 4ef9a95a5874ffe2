"""What the benchmark prints and writes, and what it refuses before it starts anything."""

from __future__ import annotations

import io
import json
import re

import pytest
from rich.console import Console

from benchmarks.__main__ import main
from benchmarks.figures import Figures, Row
from benchmarks.floors import LIMITS, Verdict
from benchmarks.lineup import Absent
from benchmarks.machine import Machine
from benchmarks.measuring import Plan
from benchmarks.plot import grouped
from benchmarks.report import Run, document, markdown, notes, rounded, table
from benchmarks.section import Result
from benchmarks.sections import SECTIONS
from benchmarks.sections.request_reply import SECTION

PLAN = Plan(rounds=3, seconds=1.5)
MACHINE = Machine(
    cores=2,
    processor="Z80",
    system="Linux x86_64",
    python="3.11.7",
    versions={"Kafka": "4.3.1"},
    load_average=0.25,
)


def seen(rate: float, p50_ms: float, **more: float) -> Figures:
    return {
        "requests_per_second": rate,
        "p50_ms": p50_ms,
        "p99_ms": p50_ms * 2,
        "caller_us": 10,
        "callee_us": 20,
        **more,
    }


RESULT = Result(
    {
        ("1", "raw"): [
            seen(1000, 1.0, broker_us=30),
            seen(500, 2.0, broker_us=30),
            seen(2000, 0.5, broker_us=30),
        ],
        ("1", "mesh"): [
            seen(500, 2.0, broker_us=30),
            seen(300, 3.0, broker_us=30),
            seen(800, 1.5, broker_us=30),
        ],
        ("64", "raw"): [seen(4000, 10, broker_us=30)] * 3,
        ("64", "grpc.aio"): [seen(1000, 1250)] * 3,
    },
    (Absent("Spring Kafka", "no mvn here"),),
)
RUN = Run(MACHINE, PLAN, {SECTION: RESULT})


def test_the_table_has_a_line_for_each_contender_and_load() -> None:
    out = io.StringIO()
    Console(file=out, width=140).print(table(SECTION, RESULT))
    lines = [
        re.split(r"\s{2,}", line.strip())
        for line in out.getvalue().splitlines()
        if line.strip()[:1].isdigit()
    ]
    assert lines == [
        ["1", "raw", "1,000", "–", "1.00", "–", "2.00", "10", "20", "30"],
        ["1", "mesh", "500", "0.50 (0.40–0.60)", "2.00", "2.00", "4.00", "10", "20", "30"],
        ["64", "raw", "4,000", "–", "10.00", "–", "20.00", "10", "20", "30"],
        ["64", "grpc.aio", "1,000", "0.25 (0.25–0.25)", "1,250.00", "125", "2,500.00", "10", "20", "–"],
    ]


def test_the_notes_name_the_machine() -> None:
    text = "\n".join(notes(PLAN, MACHINE))
    for fact in (
        "3 interleaved rounds",
        "1.5 s",
        "2 cores",
        "Z80",
        "Linux x86_64",
        "3.11.7",
        "0.25",
        "Kafka 4.3.1",
    ):
        assert fact in text


def test_the_page_has_the_machine_every_row_and_who_is_missing() -> None:
    page = markdown(RUN)
    assert "2 cores (Z80)" in page
    assert "| 1 | mesh | 500 | 0.50 (0.40–0.60) | 2.00 | 2.00 | 4.00 | 10 | 20 | 30 |" in page.splitlines()
    assert "Spring Kafka: not present: no mvn here." in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in rows}) == 1


def test_json_has_the_machine_the_plan_every_row_and_the_limits() -> None:
    found = json.loads(json.dumps(document(RUN, [Verdict(LIMITS[0], 0.12345)])))
    assert found["machine"]["load_average"] == 0.25
    assert (found["plan"]["rounds"], found["plan"]["seconds"]) == (3, 1.5)
    (section,) = found["sections"]
    assert (section["name"], section["baseline"]) == ("request-reply", "raw")
    assert section["absent"] == {"Spring Kafka": "no mvn here"}
    assert [(row["load"], row["contender"]) for row in section["results"]] == list(RESULT.seen)
    assert section["results"][1]["to_baseline"]["p50_ms"] == {"median": 2.0, "lowest": 1.5, "highest": 3.0}
    (limit,) = found["limits"]
    assert (limit["least"], limit["value"], limit["failed"]) == (0.4, 0.123, True)


def test_floats_are_rounded_however_deep_they_are() -> None:
    assert rounded({"a": 1.23456, "b": {"c": 2.0004}, "d": "x", "e": 3}) == {
        "a": 1.235,
        "b": {"c": 2.0},
        "d": "x",
        "e": 3,
    }


def test_the_plot_has_a_place_for_each_contender_under_each_load() -> None:
    rows = [
        Row(load=load, contender=name, figures={"requests_per_second": rate}, to_baseline={}, rounds=1)
        for load, name, rate in [("1", "raw", 10.0), ("1", "mesh", 5.0), ("64", "raw", 20.0)]
    ]
    loads, contenders = grouped(rows)
    assert loads == ["1", "64"]
    assert contenders["raw"] == [10.0, 20.0]
    assert contenders["mesh"][0] == 5.0
    assert contenders["mesh"][1] != contenders["mesh"][1], "not a number: it draws nothing"


def test_sections_have_names_of_their_own_and_say_how_long_they_are() -> None:
    assert len({section.name for section in SECTIONS}) == len(SECTIONS)
    assert all(section.steps(PLAN) > 0 for section in SECTIONS)


@pytest.mark.parametrize(
    "wrong",
    [
        ["--rounds", "0"],
        ["--rounds", "x"],
        ["--seconds", "nan"],
        ["--seconds", "0"],
        ["--backlog", "-1"],
        ["-o", "xml"],
        ["--only", "idle,nothing"],
        ["--only", "idle", "--write"],
    ],
)
def test_wrong_usage_ends_before_anything_is_started(
    wrong: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(wrong)
    assert ended.value.code == 2
    assert "usage" in capsys.readouterr().err
