"""What the demo shows, and what its exit code says."""

from __future__ import annotations

import asyncio
import io
import time
from collections import Counter

import pytest
from rich.console import Console

from demo import stage as stage_module
from demo.__main__ import _conclude
from demo.contracts import FIND_AIRCRAFT, OBSERVE, FlightDeparted
from demo.data import read_airports, read_flights
from demo.report import OVERSEAS, expect
from demo.stage import Stage
from demo.tally import Calls, Progress
from demo.tariff import CENTS_PER_DEPARTURE, CENTS_PER_MINUTE, Bill

FLIGHTS = 20


@pytest.fixture
def stage() -> Stage:
    return Stage(expect(read_flights(FLIGHTS)), Console(file=io.StringIO(), width=160))


def shown(stage: Stage) -> str:
    assert isinstance(stage.console.file, io.StringIO)
    return stage.console.file.getvalue()


def progress(stage: Stage, *, lost: int = 0) -> str:
    missing = stage.expected.not_found
    calls = {
        name: Calls(sent=FLIGHTS, answered=FLIGHTS - missing[name])
        for name in (FIND_AIRCRAFT.name, OBSERVE.name)
    }
    for name, count in missing.items():
        calls[name].errors["NOT_FOUND"] = count
    calls[OBSERVE.name].answered -= lost
    published = len(stage.expected.departed)
    return Progress(flights=FLIGHTS, published=published, to_bill=FLIGHTS, calls=calls).model_dump_json()


def receive_departures(stage: Stage) -> None:
    for flight in read_flights(FLIGHTS):
        assert flight.departed_at is not None  # the first to be cancelled comes later in the data
        departure = FlightDeparted(
            flight=flight.id,
            tailnum=flight.tailnum,
            origin=flight.origin,
            destination=flight.destination,
            scheduled_at=flight.scheduled_at,
            departed_at=flight.departed_at,
        )
        stage.take_departure(departure.model_dump_json())


def receive_bills(stage: Stage) -> None:
    airports = read_airports()
    *at_once, replayed = sorted(read_flights(FLIGHTS), key=lambda flight: flight.destination not in airports)
    assert replayed.destination not in airports  # one that billing fails on at first
    for flight in (*at_once, replayed):
        if flight is replayed:
            stage.bills.take_dead_letters(Counter({OVERSEAS: 1}))
            stage.bills.replayed = 1
        assert flight.minutes_in_air is not None
        cents = CENTS_PER_DEPARTURE + CENTS_PER_MINUTE * flight.minutes_in_air
        stage.take_bill(Bill(flight=flight.id, destination=flight.destination, cents=cents).model_dump_json())


def test_a_run_that_adds_up_exits_with_0(stage: Stage) -> None:
    stage.take_progress(progress(stage))
    receive_departures(stage)
    receive_bills(stage)
    assert _conclude(stage) == 0
    assert (
        "Nothing is lost: all 40 requests are answered, all 20 events are received, all 20 flights"
        in shown(stage)
    )


def test_a_lost_reply_makes_the_exit_code_1(stage: Stage, capsys: pytest.CaptureFixture[str]) -> None:
    stage.take_progress(progress(stage, lost=1))
    receive_departures(stage)
    receive_bills(stage)
    assert _conclude(stage) == 1
    assert "Nothing is lost" not in shown(stage)
    assert capsys.readouterr().err.splitlines() == [
        "The sum does not add up.",
        "1 request to weather.v1.observe was lost: no answer came.",
    ]


async def test_a_condition_is_looked_at_when_something_changes(stage: Stage) -> None:
    waiting = asyncio.create_task(stage.until(lambda: stage.progress.flights > 0, stall_seconds=60))
    await asyncio.sleep(0)
    stage.take_progress(progress(stage))
    assert await waiting


async def test_a_wait_ends_when_nothing_is_counted_any_more(stage: Stage) -> None:
    stage.take_progress(progress(stage))
    assert not await stage.until(lambda: stage.progress.flights > FLIGHTS, stall_seconds=0.05)


async def test_what_dispatch_repeats_is_no_progress(stage: Stage) -> None:
    """It writes its counts all the time: the same ones again must not put off the end of a stalled run."""
    stage.take_progress(progress(stage))
    waiting = asyncio.create_task(stage.until(lambda: False, stall_seconds=0.05))
    while not waiting.done():
        stage.take_progress(progress(stage))
        await asyncio.sleep(0.01)
    assert not waiting.result()


async def test_without_a_terminal_there_are_lines(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stage_module, "_PLAIN_SECONDS", 0.01)
    with stage.shown():
        stage.take_progress(progress(stage, lost=3))
        stage.say("fleet is killed")
        until = time.monotonic() + 10
        while "waiting 3" not in shown(stage) and time.monotonic() < until:
            await asyncio.sleep(0.01)
    assert "fleet is killed" in shown(stage)
    assert "flights 20 of 20; requests sent 40" in shown(stage)
    assert "\x1b" not in shown(stage)


async def test_on_a_terminal_it_is_drawn() -> None:
    console = Console(file=io.StringIO(), width=120, force_terminal=True)
    stage = Stage(expect(read_flights(FLIGHTS)), console)
    with stage.shown():
        stage.set_service("fleet", "killed")
        stage.take_progress(progress(stage, lost=3))
    assert "killed" in shown(stage)
    assert "3 waiting" in shown(stage)
