"""One message in a program's hands: what each word settles, and what comes of a second one."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from broker_mesh.delivery import Delivery, State
from broker_mesh.errors import FailedPrecondition, InvalidArgument, NotFound
from broker_mesh.layers.retry import Retry
from broker_mesh.telemetry.logs import LogContext
from tests.support.polling import REQUEST, TOPIC, Polling


def given(value: bytes = b"v", *, retry: Retry = Retry(attempts=1)) -> tuple[Polling, Delivery]:  # noqa: B008
    world = Polling(retry=retry)
    world.assigned((TOPIC, 0))
    world.take(b"k", value)
    delivery = world.intake.next()
    assert delivery is not None
    return world, delivery


@pytest.mark.parametrize(
    ("settle", "kinds"),
    [
        (Delivery.done, []),
        (lambda delivery: delivery.fail(ValueError("no")), ["DeadLetter"]),
        (lambda delivery: delivery.fail(NotFound("nobody hears it")), ["DeadLetter"]),
        (lambda delivery: delivery.retry(), ["DeadLetter"]),  # no attempt is left
        (lambda delivery: delivery.dead_letter("bad"), ["DeadLetter"]),
        (lambda delivery: delivery.dead_letter(NotFound("gone")), ["DeadLetter"]),
        (Delivery.conclude, []),
    ],
)
def test_each_word_settles_once(settle: Callable[[Delivery], None], kinds: list[str]) -> None:
    world, delivery = given()
    assert not delivery.settled.done()
    settle(delivery)
    world.loop.finish()
    assert world.kinds == kinds
    assert delivery.state is State.SETTLED
    assert delivery.settled.done()
    for again in (delivery.done, delivery.hold, delivery.retry, lambda: delivery.dead_letter("again")):
        with pytest.raises(
            FailedPrecondition, match="is settled already: by an earlier call, or by polling on"
        ):
            again()
    delivery.conclude()
    assert world.intake.committable() == {(TOPIC, 0): 1}


def test_what_is_being_made_durable_is_not_settled_yet() -> None:
    world, delivery = given()
    delivery.dead_letter("bad")
    assert delivery.state is State.SETTLING
    assert not delivery.settled.done()
    world.loop.finish()
    assert delivery.settled.done()


def test_a_reply_goes_to_who_waits_and_to_nobody_else() -> None:
    world, request = given(REQUEST)
    request.reply(b"answer")
    world.loop.finish()
    assert world.kinds == ["Done"]
    _, plain = given()
    with pytest.raises(FailedPrecondition, match="asks for no reply: nobody waits for one"):
        plain.reply(b"answer")
    assert plain.state is State.HANDED


@pytest.mark.parametrize("after", [-1, "soon", float("nan"), float("inf"), 1e9])
def test_a_retry_after_nonsense_settles_nothing(after: float) -> None:
    _, delivery = given()
    with pytest.raises(InvalidArgument, match="give seconds, from 0 to"):
        delivery.retry(after=after)
    assert delivery.state is State.HANDED


# ── settling() ────────────────────────────────────────────────────────────────────────────────────────────


def test_a_block_that_ends_well_settles_and_one_that_raises_fails() -> None:
    world, well = given()
    with well.settling():
        assert well.state is State.HELD
    assert well.state is State.SETTLED
    assert world.kinds == []
    world, bad = given()
    with bad.settling():
        raise ValueError("no")
    world.loop.finish()
    assert world.kinds == ["DeadLetter"]


def test_what_is_settled_within_a_block_stays_settled_so(caplog: pytest.LogCaptureFixture) -> None:
    world, delivery = given()
    with delivery.settling():
        delivery.done()
        raise ValueError("afterwards")
    assert world.kinds == []
    assert "its work raised after it was settled" in caplog.text


def test_a_request_whose_block_gives_no_reply_is_a_failure() -> None:
    world, request = given(REQUEST)
    with request.settling():
        pass
    world.loop.finish()
    assert request.state is State.SETTLED
    assert world.kinds == ["Done"], "it is answered: FAILED_PRECONDITION is an answer"


@pytest.mark.parametrize("interrupt", [KeyboardInterrupt, SystemExit, GeneratorExit])
def test_an_interrupted_block_counts_for_nothing_and_the_message_comes_again(
    interrupt: type[BaseException],
) -> None:
    world, delivery = given()
    with pytest.raises(interrupt), delivery.settling():
        raise interrupt
    assert world.intake.committable() == {}
    world.intake.conclude()
    again = world.intake.next()
    assert again is not None
    assert (again.record.offset, again.attempt) == (0, 1)


def test_log_lines_of_a_block_name_the_message(caplog: pytest.LogCaptureFixture) -> None:
    _, delivery = given()
    caplog.handler.addFilter(LogContext())
    try:
        with delivery.settling():
            logging.getLogger("program").warning("inside")
        logging.getLogger("program").warning("outside")
    finally:
        caplog.handler.filters.clear()
    inside, outside = (record for record in caplog.records if record.name == "program")
    assert vars(inside)["message_id"] == delivery.message.envelope.id
    assert vars(outside)["message_id"] == ""
