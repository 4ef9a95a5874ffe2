"""Dedupe: what is a repeat, and what only looks like one."""

from __future__ import annotations

from typing import Any

import pytest

from broker_mesh.headers import Envelope
from broker_mesh.layer import stack
from broker_mesh.layers import dedupe
from broker_mesh.layers.dedupe import Window, identity, may_repeat
from broker_mesh.message import Message
from broker_mesh.outcome import Done, Repeated

FIRST = Envelope(id="1", source="dispatch")


def message(topic: str = "fleet.v1.find-aircraft", **changes: Any) -> Message:
    return Message(topic, "fleet.v1.find-aircraft", FIRST._replace(**changes))


@pytest.mark.parametrize("change", [{"id": "2"}, {"source": "board"}, {"replay_id": "r1"}])
def test_another_id_source_or_replay_is_another_message(change: dict[str, str]) -> None:
    assert identity(FIRST._replace(**change)) != identity(FIRST)


def test_what_else_differs_makes_no_other_message() -> None:
    assert identity(FIRST._replace(traceparent="00-1", deadline=5, time=7)) == identity(FIRST)


def test_retries_are_not_looked_at() -> None:
    assert may_repeat(message())
    assert not may_repeat(message(attempt=2))
    assert not may_repeat(message(topic="fleet.v1.find-aircraft.retry"))


@pytest.mark.parametrize(
    ("attempt", "is_repeat", "expected", "asked"),
    [(1, False, Done(b"run"), 1), (1, True, Repeated(), 1), (2, True, Done(b"run"), 0)],
)
async def test_a_repeat_goes_no_further(attempt: int, is_repeat: bool, expected: object, asked: int) -> None:
    questions = 0

    async def answer(_: Message) -> bool:
        nonlocal questions
        questions += 1
        return is_repeat

    async def end(_: Message) -> Any:
        return Done(b"run")

    assert await stack([dedupe.layer(answer)], end)(message(attempt=attempt)) == expected
    assert questions == asked


def test_many_ids_stay_within_the_size_and_the_newest_are_known() -> None:
    window: Window[str, int] = Window(60_000, 1000)
    for number in range(50_000):
        window.add(f"id-{number}", number // 10, number)
    assert len(window) == 1000
    assert window.get("id-49999", 5000) == 49_999
    assert window.get("id-48999", 5000) is None
