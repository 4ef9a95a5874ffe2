"""Layers and stacks."""

from __future__ import annotations

import pytest

from broker_mesh.errors import NotFound
from broker_mesh.headers import Envelope
from broker_mesh.layer import Layer, Step, check, stack
from broker_mesh.message import Message

MESSAGE = Message("t", "t", Envelope(id="1"))


def recording(name: str, log: list[str]) -> Layer[str]:
    def around(rest: Step[str]) -> Step[str]:
        async def step(message: Message) -> str:
            log.append(f"{name} in")
            result = await rest(message)
            log.append(f"{name} out")
            return result

        return step

    return Layer(name, around)


async def test_the_first_layer_sees_the_message_first_and_its_result_last() -> None:
    log: list[str] = []

    async def end(_: Message) -> str:
        log.append("end")
        return "result"

    way = stack([recording("one", log), recording("two", log)], end)
    assert await way(MESSAGE) == "result"
    assert log == ["one in", "two in", "end", "two out", "one out"]


async def test_a_stack_of_no_layers_is_its_end() -> None:
    async def end(_: Message) -> str:
        return "result"

    assert stack([], end) is end


async def test_a_check_passes_on_the_message_that_it_refined() -> None:
    async def end(message: Message) -> str:
        return message.topic

    assert (
        await stack([check("c", lambda message: message._replace(topic="refined"))], end)(MESSAGE)
        == "refined"
    )


async def test_what_a_check_raises_stops_the_message() -> None:
    def refuse(_: Message) -> Message:
        raise NotFound("x")

    async def end(_: Message) -> str:
        pytest.fail("the message went on")

    with pytest.raises(NotFound):
        await stack([check("c", refuse)], end)(MESSAGE)
