"""Identity: nobody is answered for another."""

from __future__ import annotations

import pytest

from broker_mesh.errors import InvalidArgument, PermissionDenied
from broker_mesh.headers import Envelope, ReplyTo
from broker_mesh.layer import stack
from broker_mesh.layers import identity
from broker_mesh.message import Message


def message(source: str, reply_topic: str | None) -> Message:
    reply_to = None if reply_topic is None else ReplyTo(reply_topic, 0)
    return Message("t", "t", Envelope(source=source, reply_to=reply_to))


@pytest.mark.parametrize(
    ("source", "reply_topic"), [("dispatch", "dispatch.replies"), ("dispatch", None), ("", None)]
)
def test_a_message_that_asks_for_no_reply_or_one_to_its_sender_passes(
    source: str, reply_topic: str | None
) -> None:
    asked = message(source, reply_topic)
    assert identity.refuse_foreign_reply_address(asked) is asked


@pytest.mark.parametrize(
    "reply_topic",
    ["fleet.replies", "dispatch2.replies", "dispatch.replies.x", "dispatch", "dispatch.v1.retire"],
)
def test_a_reply_is_never_sent_to_a_topic_of_another_service(reply_topic: str) -> None:
    with pytest.raises(PermissionDenied, match="not its own reply topic"):
        identity.refuse_foreign_reply_address(message("dispatch", reply_topic))


async def test_a_request_that_does_not_name_its_sender_is_refused() -> None:
    async def end(_: Message) -> None:
        pytest.fail("the message went on")

    with pytest.raises(InvalidArgument, match="ce_source is missing"):
        await stack([identity.layer()], end)(message("", ".replies"))


@pytest.mark.parametrize(("source", "expected"), [("fleet", True), ("weather", False), ("", False)])
def test_a_reply_counts_only_from_the_service_that_was_asked(source: str, expected: bool) -> None:
    assert identity.is_from(message(source, None), "fleet") is expected
