"""The measure layers: told of everything, changing nothing."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from broker_mesh.errors import NotFound
from broker_mesh.headers import Envelope
from broker_mesh.layer import stack
from broker_mesh.layers import measure
from broker_mesh.layers.measure import Attempt
from broker_mesh.message import Message, Receipt
from broker_mesh.outcome import Done, Outcome

MESSAGE = Message("fleet.v1.find-aircraft", "fleet.v1.find-aircraft", Envelope(id="1", source="dispatch"))
RECEIPT = Receipt("fleet.v1.find-aircraft", 0, 7)


class Recorder:
    def __init__(self) -> None:
        self.told: list[Any] = []

    def begun(self, message: Message, at: int) -> None:
        self.told.append(("begun", message, at))

    def ended(self, attempt: Attempt) -> None:
        self.told.append(attempt)

    def sent(self, message: Message, error: BaseException | None, seconds: float) -> None:
        self.told.append((message, error, seconds))


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


def ticking() -> Iterator[float]:
    now = 10.0
    while True:
        yield now
        now += 0.25


async def test_an_attempt_is_told_when_it_begins_and_when_it_has_an_outcome(recorder: Recorder) -> None:
    timer = ticking()
    layer = measure.inbound(recorder.begun, [recorder.ended], clock=lambda: 1000, timer=lambda: next(timer))

    async def handle(message: Message) -> Outcome:
        assert recorder.told == [("begun", MESSAGE, 1000)]
        return Done(b"reply")

    assert await stack([layer], handle)(MESSAGE) == Done(b"reply")
    assert recorder.told[1:] == [Attempt(MESSAGE, Done(b"reply"), 1000, 0.25)]


async def test_what_fails_in_measuring_costs_no_message(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    async def handle(_: Message) -> Outcome:
        return Done(b"reply")

    async def send(_: Message) -> Receipt:
        return RECEIPT

    async def refuse(_: Message) -> Receipt:
        raise NotFound("no such operation")

    layer = measure.inbound(broken, [broken, recorder.ended], clock=lambda: 1000, timer=lambda: 0.0)
    assert await stack([layer], handle)(MESSAGE) == Done(b"reply")
    assert [attempt.outcome for attempt in recorder.told] == [Done(b"reply")]  # the next is told all the same
    sending = measure.outbound(broken, timer=lambda: 0.0)
    assert await stack([sending], send)(MESSAGE) == RECEIPT
    with pytest.raises(NotFound):
        await stack([sending], refuse)(MESSAGE)
    assert caplog.text.count("the message itself is not affected") == 4


async def test_an_attempt_that_was_lost_has_no_end(recorder: Recorder) -> None:
    layer = measure.inbound(recorder.begun, [recorder.ended], clock=lambda: 1000, timer=lambda: 0.0)

    async def lost(_: Message) -> Outcome:
        raise ConnectionError

    with pytest.raises(ConnectionError):
        await stack([layer], lost)(MESSAGE)
    assert recorder.told == [("begun", MESSAGE, 1000)]


async def test_a_send_is_told_with_its_time(recorder: Recorder) -> None:
    timer = ticking()

    async def send(_: Message) -> Receipt:
        return RECEIPT

    assert await stack([measure.outbound(recorder.sent, timer=lambda: next(timer))], send)(MESSAGE) == RECEIPT
    assert recorder.told == [(MESSAGE, None, 0.25)]


async def test_a_refused_send_is_told_with_its_error_and_raised(recorder: Recorder) -> None:
    timer, refusal = ticking(), NotFound("no such operation")

    async def refuse(_: Message) -> Receipt:
        raise refusal

    with pytest.raises(NotFound):
        await stack([measure.outbound(recorder.sent, timer=lambda: next(timer))], refuse)(MESSAGE)
    assert recorder.told == [(MESSAGE, refusal, 0.25)]
    assert measure.error_name(refusal) == "NOT_FOUND"
    assert measure.error_name(KeyError()) == "KeyError"
