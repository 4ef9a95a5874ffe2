"""Handlers: what a function returns, raises or leaves running becomes one result."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest
from pydantic import BaseModel

from broker_mesh.context import Context
from broker_mesh.errors import Aborted, DeadlineExceeded
from broker_mesh.handlers import Handler
from broker_mesh.headers import Envelope
from broker_mesh.message import Message, now_ms
from broker_mesh.outcome import Done, HandlerError
from broker_mesh.status import StatusCode
from broker_mesh.turn import Turn

PATIENCE = 30.0


class Body(BaseModel):
    pass


def run(function: Any, deadline: int | None = None) -> Any:
    message = Message("s.v1.x", "s.v1.x", Envelope(deadline=deadline), body=Body())
    context = Context(message, None, lambda _: None)  # type: ignore[arg-type,return-value]
    return Handler("s.v1.x", function, None).run(message, context, None)


@pytest.mark.parametrize("raised", [StopIteration("nothing left"), StopAsyncIteration(), GeneratorExit()])
async def test_a_plain_function_may_raise_what_a_future_can_not_carry(raised: BaseException) -> None:
    def handler(body: Body, context: Context) -> None:
        raise raised

    with pytest.raises((HandlerError, GeneratorExit)):
        await asyncio.wait_for(run(handler), PATIENCE)


async def test_a_plain_function_sees_the_context_variables_of_its_message() -> None:
    seen = []

    def handler(body: Body, context: Context) -> None:
        seen.append(threading.current_thread().daemon)

    assert await run(handler) == Done()
    assert seen == [True]


async def test_a_plain_function_that_outlives_its_deadline_is_left_behind_and_known() -> None:
    release = threading.Event()

    def handler(body: Body, context: Context) -> None:
        release.wait(PATIENCE)

    async with Turn(asyncio.Semaphore(1)) as turn:
        with pytest.raises(HandlerError) as caught:
            await run(handler, deadline=now_ms() + 50)
        assert isinstance(caught.value.error, DeadlineExceeded)
    (left,) = turn.left_behind
    assert not left.done()
    release.set()
    await asyncio.wait_for(left, PATIENCE)


async def test_a_handler_whose_message_has_moved_sends_nothing_more() -> None:
    async with Turn(asyncio.Semaphore(1)) as turn:
        message = Message("s.v1.x", "s.v1.x", Envelope(id="1"))
        context = Context(message, None, lambda _: None)  # type: ignore[arg-type,return-value]
        turn.fenced = True
        for attempt in (
            context.request("a.v1.b", {}),
            context.call("a.v1.b", {}),
            context.send("a.v1.b", {}),
        ):
            with pytest.raises(Aborted, match="gone to another instance"):
                await attempt
        with pytest.raises(Aborted):
            await context.publish("s.v1.events.x", {})


class Odd(BaseException):
    pass


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("x"),
        SystemExit(1),
        KeyboardInterrupt(),
        GeneratorExit(),
        StopAsyncIteration(),
        Odd("x"),
        BaseExceptionGroup("g", [SystemExit(1), ValueError("y")]),
    ],
    ids=lambda raised: type(raised).__name__,
)
async def test_whatever_a_coroutine_raises_is_its_message_s_failure(raised: BaseException) -> None:
    async def handler(body: Body, context: Context) -> None:
        raise raised

    with pytest.raises(HandlerError) as caught:
        await asyncio.wait_for(run(handler), PATIENCE)
    assert caught.value.error.status is StatusCode.UNKNOWN
    assert caught.value.error.details == {"exception": type(raised).__name__}


async def test_a_coroutine_that_is_thrown_away_is_no_failure_of_its_message() -> None:
    async def handler(body: Body, context: Context) -> None:
        await asyncio.Event().wait()

    abandoned = run(handler)
    abandoned.send(None)
    await asyncio.to_thread(abandoned.close)  # as the garbage collector would: not from its own task


async def test_a_reply_whose_serializer_raises_is_an_internal_error() -> None:
    class Unspeakable(BaseModel):
        pass

    class Encoder:
        def encode(self, value: Any) -> bytes:
            raise RecursionError("too deep")

    async def handler(body: Body, context: Context) -> Unspeakable:
        return Unspeakable()

    message = Message("s.v1.x", "s.v1.x", Envelope(), body=Body())
    context = Context(message, None, lambda _: None)  # type: ignore[arg-type,return-value]
    with pytest.raises(HandlerError) as caught:
        await Handler("s.v1.x", handler, Unspeakable).run(message, context, Encoder())
    assert caught.value.error.status is StatusCode.INTERNAL
    assert "the reply of s.v1.x can't be encoded: RecursionError: too deep" in caught.value.error.message
