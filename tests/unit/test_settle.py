"""Settlement told what it really did: an answer that can't be delivered makes a dead letter of its message."""

from __future__ import annotations

from typing import Any, cast

import pytest

from broker_mesh.errors import (
    FailedPrecondition,
    InvalidArgument,
    MeshError,
    MessageTooLarge,
    NotFound,
    PermissionDenied,
)
from broker_mesh.headers import Envelope, ReplyTo
from broker_mesh.kafka.producer import Producer
from broker_mesh.message import Message, Receipt, Record, now_ms
from broker_mesh.outcome import DeadLetter, Done, Drop, Outcome, Parked, RetryLater
from broker_mesh.settle import Settler
from broker_mesh.status import StatusCode

FIND = "fleet.v1.find-aircraft"
REPLIES = ReplyTo("dispatch.replies", 0)
ANSWER = NotFound("no such aircraft")
DENIED = PermissionDenied("no rule lets dispatch in")
BUG = FailedPrecondition("for good")


class Kafka:
    """Takes dead letters, and answers as far as it is told to."""

    def __init__(self, refusal: MeshError | None) -> None:
        self.refusal = refusal
        self.fatal: MeshError | None = None
        self.answers: list[Message] = []
        self.dead_letters: list[StatusCode] = []

    async def send(self, topic: str, **_: Any) -> Receipt:
        return Receipt(topic, 0, 7)

    async def send_reply(self, answer: Message) -> Receipt:
        if self.refusal is not None and (answer.value is not None or not _is_size(self.refusal)):
            raise self.refusal
        self.answers.append(answer)
        return Receipt(answer.topic, 0, 3)

    def settler(self, producer: object = None, **more: Any) -> Settler:
        return Settler(
            "fleet",
            self.send_reply,
            cast(Producer, producer or self),
            dead_topic_of=lambda message: f"{message.operation}.dead",
            retry_topic_of=lambda message: f"{message.operation}.retry",
            is_current=lambda _: True,
            dead_lettered=lambda _, error: self.dead_letters.append(error.status),
            **more,
        )


def _is_size(error: MeshError) -> bool:
    return isinstance(error, MessageTooLarge)


def request(reply_to: ReplyTo | None = REPLIES) -> Message:
    record = Record(FIND, 0, 5, 1000, None, b"request", [])
    return Message(FIND, FIND, Envelope(id="1", source="dispatch", reply_to=reply_to), record=record)


@pytest.mark.parametrize("outcome", [Done(b"reply"), Done(error=ANSWER), Drop(DENIED), DeadLetter(BUG)])
@pytest.mark.parametrize("reply_to", [REPLIES, None], ids=["request", "one-way"])
async def test_what_could_be_carried_out_is_what_became_of_the_message(
    outcome: Outcome, reply_to: ReplyTo | None
) -> None:
    kafka = Kafka(None)
    assert await kafka.settler().carry_out(request(reply_to), outcome) is outcome
    assert len(kafka.answers) == (reply_to is not None)
    assert len(kafka.dead_letters) == isinstance(outcome, DeadLetter)


@pytest.mark.parametrize(
    "refusal", [NotFound("no such topic"), InvalidArgument("no such partition"), PermissionDenied("no ACL")]
)
@pytest.mark.parametrize(
    ("outcome", "said"),
    [
        (Done(b"reply"), "the work was done, but its reply can't be delivered to dispatch.replies/0: no"),
        (Done(error=ANSWER), "its answer (NOT_FOUND: no such aircraft) can't be delivered to dispatch"),
        (Drop(DENIED), "its answer (PERMISSION_DENIED: no rule lets dispatch in) can't be delivered"),
    ],
    ids=["reply", "answer", "denied"],
)
async def test_a_message_whose_answer_can_not_be_delivered_is_a_dead_letter(
    refusal: MeshError, outcome: Outcome, said: str
) -> None:
    kafka = Kafka(refusal)
    became = await kafka.settler().carry_out(request(), outcome)
    assert isinstance(became, DeadLetter)
    assert became.error.status is StatusCode.FAILED_PRECONDITION
    assert became.error.message.startswith(said)
    assert kafka.dead_letters == [StatusCode.FAILED_PRECONDITION]


async def test_a_message_whose_reply_is_too_large_is_a_dead_letter_and_answered_so() -> None:
    kafka = Kafka(MessageTooLarge("2 MB"))
    became = await kafka.settler().carry_out(request(), Done(b"reply"))
    assert isinstance(became, DeadLetter)
    assert isinstance(became.error, MessageTooLarge)
    assert [answer.envelope.status for answer in kafka.answers] == [StatusCode.RESOURCE_EXHAUSTED]


async def test_a_dead_letter_whose_answer_can_not_be_delivered_is_kept_once() -> None:
    kafka = Kafka(NotFound("no such topic"))
    outcome = DeadLetter(BUG)
    assert await kafka.settler().carry_out(request(), outcome) is outcome
    assert kafka.dead_letters == [BUG.status]


class Refusing:
    """A retry topic that takes nothing."""

    def __init__(self, refusal: MeshError) -> None:
        self.refusal = refusal
        self.fatal = None
        self.partitions: list[int] = []

    async def send(self, _: str, *, partition: int, **__: object) -> Receipt:
        self.partitions.append(partition)
        raise self.refusal


@pytest.mark.parametrize("refusal", [NotFound("no such partition"), MessageTooLarge("2 MB")])
async def test_what_has_an_order_waits_in_its_place_where_it_can_not_be_parked(refusal: MeshError) -> None:
    producer = Refusing(refusal)
    settler = Kafka(None).settler(producer=producer, keeps_order=lambda _: True)
    outcome = RetryLater(now_ms() + 10_000, BUG, parked=True)
    assert await settler.carry_out(request(), outcome) == outcome._replace(parked=False)
    again = await settler.carry_out(request(), Parked())
    assert isinstance(again, RetryLater)
    assert (again.counts, again.parked) == (False, False)
    assert producer.partitions == [0, 0], "by its key it would stand in another partition, and have no order"
