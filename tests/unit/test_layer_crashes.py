"""The layer for records that end their process."""

from __future__ import annotations

import pytest

from broker_mesh.errors import InternalError
from broker_mesh.headers import Envelope
from broker_mesh.layers.crashes import layer, refuse_deadly
from broker_mesh.message import Message


def message(attempt: int, *, died: int) -> Message:
    envelope = Envelope(id="1", source="dispatch", type="fleet.v1.retire")._replace(attempt=attempt)
    return Message(topic="fleet.v1.retire", operation="fleet.v1.retire", envelope=envelope, died=died)


def test_what_has_attempts_left_is_handled_once_more() -> None:
    last = message(3, died=2)
    assert refuse_deadly(last, attempts=3) is last


def test_what_has_none_left_and_ended_its_process_is_kept() -> None:
    with pytest.raises(InternalError, match="the process of the service ended while it handled") as refused:
        refuse_deadly(message(4, died=2), attempts=3)
    assert not refused.value.retriable, "it would wait, and run again"
    assert refused.value.details == {"attempts": 3, "ended_process": True}


def test_one_end_alone_may_be_anybodys() -> None:
    """A SIGKILL from outside, while an innocent record happened to run."""
    for attempts in (1, 3):
        blamed = message(attempts + 1, died=1)
        assert refuse_deadly(blamed, attempts) is blamed


def test_what_never_ended_its_process_is_not_its_business() -> None:
    """A policy may have been made shorter since: the attempt that is due is made."""
    late = message(9, died=0)
    assert refuse_deadly(late, attempts=3) is late


async def test_the_layer_asks_for_the_policy_of_the_operation() -> None:
    async def rest(_: Message) -> str:
        return "handled"

    made = layer(lambda asked: {"fleet.v1.retire": 1}[asked.operation])
    assert await made.around(rest)(message(1, died=2)) == "handled"
    with pytest.raises(InternalError):
        await made.around(rest)(message(2, died=2))
