"""A record whose headers are malformed is refused."""

from __future__ import annotations

import pytest

from broker_mesh.errors import InvalidArgument
from broker_mesh.headers import Envelope
from broker_mesh.layer import stack
from broker_mesh.layers import headers
from broker_mesh.message import Message


def test_a_message_without_fault_passes_unchanged() -> None:
    message = Message("t", "t", Envelope(id="1"))
    assert headers.refuse_malformed(message) is message


async def test_a_message_with_a_fault_is_refused_with_it() -> None:
    fault = InvalidArgument("header mesh-attempt is malformed: 'x'")

    async def end(_: Message) -> None:
        pytest.fail("the message went on")

    with pytest.raises(InvalidArgument) as caught:
        await stack([headers.layer()], end)(Message("t", "t", Envelope(), fault=fault))
    assert caught.value is fault
