"""Deadlines: how one is decided, and that expired work is refused."""

from __future__ import annotations

import math

import pytest

from broker_mesh.errors import DeadlineExceeded, InvalidArgument
from broker_mesh.headers import Envelope
from broker_mesh.layer import stack
from broker_mesh.layers import deadline
from broker_mesh.message import Message

NOW = 1_000_000


def message(at: int | None) -> Message:
    return Message("t", "t", Envelope(deadline=at))


@pytest.mark.parametrize(
    ("expires_in", "inherited", "expected"),
    [
        (None, None, None),
        (None, NOW + 5, NOW + 5),
        (1.5, None, NOW + 1500),
        (1.5, NOW + 1000, NOW + 1000),
        (0.5, NOW + 1000, NOW + 500),
        (10, NOW - 1, NOW - 1),
    ],
)
def test_the_earlier_of_the_own_and_the_inherited_deadline_holds(
    expires_in: float | None, inherited: int | None, expected: int | None
) -> None:
    assert deadline.earliest(NOW, expires_in, inherited) == expected


@pytest.mark.parametrize("expires_in", [0, -1, math.nan, math.inf, 1e300])
def test_only_a_span_of_time_that_a_header_can_hold_is_taken(expires_in: float) -> None:
    with pytest.raises(InvalidArgument, match="expires_in"):
        deadline.earliest(NOW, expires_in, None)


@pytest.mark.parametrize("at", [None, NOW + 1])
def test_work_that_is_not_expired_passes_unchanged(at: int | None) -> None:
    assert deadline.refuse_expired(message(at), NOW) == message(at)


@pytest.mark.parametrize(("at", "ago"), [(NOW, "0.0 s ago"), (NOW - 2500, "2.5 s ago")])
def test_expired_work_is_refused_with_how_long_ago(at: int, ago: str) -> None:
    with pytest.raises(DeadlineExceeded, match=ago) as caught:
        deadline.refuse_expired(message(at), NOW)
    assert caught.value.details == {"deadline": at}


async def test_the_layer_asks_the_clock_for_each_message() -> None:
    now = [NOW]

    async def end(_: Message) -> str:
        return "handled"

    way = stack([deadline.layer(lambda: now[0])], end)
    assert await way(message(NOW + 1)) == "handled"
    now[0] += 1
    with pytest.raises(DeadlineExceeded):
        await way(message(NOW + 1))
