"""Pipelines that are driven by hand: where they stop, in which context they run, and how they end."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from collections.abc import Awaitable, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from broker_mesh.errors import InternalError, Unavailable
from broker_mesh.headers import Envelope
from broker_mesh.message import Message
from broker_mesh.stepping import Background, Run, elsewhere, hand_over

MESSAGE = Message("t", "t", Envelope())
PATIENCE = 30.0
current: contextvars.ContextVar[str] = contextvars.ContextVar("current", default="none")


class Noting(Run[Any]):
    """Notes its stops."""

    def __init__(self, steps: Awaitable[Any], background: Background) -> None:
        super().__init__(steps, background)
        self.stops: list[Any] = []
        self.threads: list[str] = []
        self.end: Future[Any] = Future()

    def _handed(self, message: Message) -> None:
        self.stops.append(message)
        self.threads.append(threading.current_thread().name)

    def _left(self) -> None:
        self.stops.append("left")

    def _ended(self, result: Any, error: BaseException | None) -> None:
        self.threads.append(threading.current_thread().name)
        if error is not None:
            self.end.set_exception(error)
        else:
            self.end.set_result(result)


@pytest.fixture
def background() -> Iterator[Background]:
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="loop")
    thread.start()
    background = Background(loop)
    yield background
    background.close()
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()


def test_a_pipeline_that_waits_for_nothing_runs_inline(background: Background) -> None:
    async def steps() -> str:
        return f"{await hand_over(MESSAGE)}!"

    run = Noting(steps(), background)
    run.start()
    assert run.stops == [MESSAGE]
    assert not run.end.done()
    run.resume("well")
    assert run.end.result(0) == "well!"
    assert set(run.threads) == {threading.current_thread().name}


def test_what_went_wrong_is_raised_where_the_message_was_handed_over(background: Background) -> None:
    async def steps() -> str:
        try:
            await hand_over(MESSAGE)
        except ValueError as error:
            return f"caught {error}"
        return "not reached"

    run = Noting(steps(), background)
    run.start()
    run.fail(ValueError("bad"))
    assert run.end.result(0) == "caught bad"


def test_elsewhere_goes_on_on_the_loop_in_the_pipelines_own_context(background: Background) -> None:
    seen: list[Any] = []

    async def work() -> str:
        seen.append((threading.current_thread().name, current.get()))
        return "done"

    async def steps() -> str:
        current.set("inside")
        result = await elsewhere(work)
        seen.append((threading.current_thread().name, current.get()))
        return result

    current.set("outside")
    run = Noting(steps(), background)
    run.start()
    assert run.end.result(PATIENCE) == "done"
    assert run.stops == ["left"]
    assert seen == [("loop", "inside"), ("loop", "inside")]
    assert current.get() == "outside"
    assert run.context[current] == "inside"


def test_what_fails_elsewhere_is_raised_there(background: Background) -> None:
    async def work() -> None:
        raise KeyError("no")

    run = Noting(elsewhere(work), background)
    run.start()
    with pytest.raises(KeyError):
        run.end.result(PATIENCE)


def test_what_is_cancelled_elsewhere_and_what_begins_after_the_end_is_unavailable(
    background: Background,
) -> None:
    begun = threading.Event()
    tasks: list[asyncio.Task[Any]] = []

    async def work() -> None:
        task = asyncio.current_task()
        assert task is not None
        tasks.append(task)
        begun.set()
        await asyncio.Event().wait()

    run = Noting(elsewhere(work), background)
    run.start()
    assert begun.wait(PATIENCE)
    background.close()
    late = Noting(elsewhere(work), background)
    late.start()
    for each in (late, run):
        if each is run:
            background._loop.call_soon_threadsafe(tasks[0].cancel)
        with pytest.raises(Unavailable, match="the mesh is disconnected: its wrapped clients were closed"):
            each.end.result(PATIENCE)


def test_the_loop_can_wait_for_what_has_begun_but_not_for_ever(background: Background) -> None:
    go_on = asyncio.Event()

    async def work() -> str:
        await go_on.wait()
        return "finished"

    run = Noting(elsewhere(work), background)
    run.start()
    asyncio.run_coroutine_threadsafe(background.finish(0.0), background._loop).result(PATIENCE)
    assert not run.end.done()
    finishing = asyncio.run_coroutine_threadsafe(background.finish(PATIENCE), background._loop)
    background._loop.call_soon_threadsafe(go_on.set)
    finishing.result(PATIENCE)
    assert run.end.result(0) == "finished"


def test_a_layer_that_waits_for_something_of_asyncios_says_so(background: Background) -> None:
    async def steps() -> None:
        await asyncio.sleep(0)

    run = Noting(steps(), background)
    run.start()
    with pytest.raises(InternalError, match="where there is no event loop"):
        run.end.result(0)


def test_an_interrupt_is_passed_on_to_the_program(background: Background) -> None:
    async def steps() -> None:
        raise KeyboardInterrupt

    run = Noting(steps(), background)
    with pytest.raises(KeyboardInterrupt):
        run.start()
    assert isinstance(run.end.exception(0), KeyboardInterrupt)


def test_a_run_that_is_dropped_ends_at_once_and_quietly(background: Background) -> None:
    ended: list[type[BaseException]] = []

    async def steps() -> None:
        try:
            await hand_over(MESSAGE)
        except BaseException as error:
            ended.append(type(error))
            raise

    gc.disable()  # counting references is enough
    try:
        run = Noting(steps(), background)
        run.start()
        del run
        assert ended == [GeneratorExit]
    finally:
        gc.enable()
