"""An intake without Kafka: its pipeline settles as the real one does, and what waits for Kafka waits for the test."""

from __future__ import annotations

import asyncio
import contextvars
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Hashable
from typing import Any, cast

from broker_mesh.delivery import Tools
from broker_mesh.errors import InvalidArgument, MeshError, Unavailable
from broker_mesh.headers import Envelope, RawHeaders, ReplyTo, write
from broker_mesh.intake import Intake
from broker_mesh.layer import Step, stack
from broker_mesh.layers import settle
from broker_mesh.layers.retry import Retry
from broker_mesh.message import Message, Record, is_for, now_ms
from broker_mesh.outcome import Done, Drop, Outcome, RetryLater
from broker_mesh.settle import FencedError
from broker_mesh.stepping import Background, elsewhere, hand_over

TOPIC = "orders"
RETRY_TOPIC = "shop.v1.from.orders.retry"
GROUP = "billing"

AWAY = b"away"  # a value whose check needs the mesh's loop
REFUSED = b"refused"  # one that a check refuses
OUTAGE = b"outage"  # one whose check fails with an outage, the first time
REQUEST = b"request"  # one whose caller waits for a reply


class ByHand:
    """Stands for the mesh's loop: what begins there goes on when the test says so."""

    def __init__(self) -> None:
        self.begun: deque[tuple[Callable[[], Awaitable[Any]], contextvars.Context, Callable[[Any], None]]] = (
            deque()
        )
        self.closed: str | None = None

    def begin(
        self,
        work: Callable[[], Awaitable[Any]],
        context: contextvars.Context,
        done: Callable[[asyncio.Task[Any]], None],
    ) -> None:
        if self.closed is not None:
            raise Unavailable(self.closed)
        self.begun.append((work, context, done))

    def go_on(self, index: int = 0) -> None:
        self.begun.rotate(-index)
        work, context, done = self.begun.popleft()
        self.begun.rotate(index)
        done(cast("asyncio.Task[Any]", context.run(_Ended, work)))

    def finish(self) -> None:
        while self.begun:
            self.go_on()


class _Ended:
    """What a task has come to, of work that waits for nothing."""

    def __init__(self, work: Callable[[], Awaitable[Any]]) -> None:
        self._result: Any = None
        self._error: BaseException | None = None
        coroutine = cast("Coroutine[Any, Any, Any]", work())
        try:
            coroutine.send(None)
        except StopIteration as end:
            self._result = end.value
        except BaseException as error:  # noqa: BLE001 - as a task keeps it
            self._error = error
        else:
            raise AssertionError("the work of a test waits for something")

    def cancelled(self) -> bool:
        return False

    def exception(self) -> BaseException | None:
        return self._error

    def result(self) -> Any:
        return self._result


class Polling:
    """An intake, what it has written, and a loop that goes on by hand."""

    def __init__(
        self,
        *,
        ordering: str = "key",
        retry: Retry = Retry(attempts=3),  # noqa: B008 - it is immutable
        limit: int = 1000,
        woken: Callable[[], None] | None = None,
        draw: float = 0.0,
    ) -> None:
        self.loop = ByHand()
        self.written: list[
            tuple[str, Record]
        ] = []  # dead letters, parked retries, replies, what was put back
        self.broken: Exception | None = None  # what writing fails with
        self.ran_into_outage: set[tuple[str, int, int]] = set()
        self._ordering = ordering
        self._offsets: dict[tuple[str, int], int] = {}
        self.intake = Intake(
            self._steps(retry, draw),
            cast("Background", self.loop),
            operation_of=lambda topic: TOPIC if topic == RETRY_TOPIC else topic,
            lane_of=self._lane_of,
            is_mine=lambda message: is_for(message, GROUP),
            put_back=self._put_back,
            tools=Tools(cast("Any", None), lambda _, body: body),
            limit=limit,
            longest_kept_ms=10**9,
            woken=woken,
        )

    def _lane_of(self, operation: str, record: Record) -> Hashable:
        return (operation, record.key) if self._ordering == "key" and record.key is not None else None

    def _steps(self, retry: Retry, draw: float) -> Step[Outcome]:
        layer = settle.layer(
            lambda _: retry, self._settle, now_ms, lambda: draw, parks=lambda _, __: self._ordering == "none"
        )

        async def check_and_hand_over(message: Message) -> Outcome:
            if message.value == AWAY:
                await elsewhere(self._nothing)
            if message.value == REFUSED:
                raise InvalidArgument("it is refused")
            place = message.topic, message.partition, message.record.offset if message.record else -1
            if message.value == OUTAGE and place not in self.ran_into_outage:
                self.ran_into_outage.add(place)
                raise Unavailable("the registry is away")
            outcome: Outcome = await hand_over(message)
            return outcome

        return stack([layer], check_and_hand_over)

    async def _settle(self, message: Message, outcome: Outcome) -> Outcome:
        match outcome:
            case Done() | Drop() if not message.expects_reply:
                return outcome
            case RetryLater(parked=False):
                return outcome
        return await elsewhere(lambda: self._write(message, outcome))

    async def _write(self, message: Message, outcome: Outcome) -> Outcome:
        if not self.intake.is_current(message):
            raise FencedError
        if self.broken is not None:
            raise self.broken
        assert message.record is not None
        self.written.append((type(outcome).__name__, message.record))
        return outcome

    async def _put_back(self, message: Message) -> None:
        if not self.intake.is_current(message):
            raise FencedError
        if isinstance(self.broken, MeshError):
            raise self.broken
        assert message.record is not None
        self.written.append(("put back", message.record))

    async def _nothing(self) -> None:
        pass

    # ── what the client delivers ──────────────────────────────────────────────────────────────────────────

    def assigned(self, *partitions: tuple[str, int]) -> None:
        self.intake.assigned(partitions)

    def take(
        self,
        key: bytes | None = b"k",
        value: bytes | None = b"v",
        *,
        topic: str = TOPIC,
        partition: int = 0,
        offset: int | None = None,
        envelope: Envelope = Envelope(),  # noqa: B008 - it is immutable
    ) -> Record:
        if offset is None:
            offset = self._offsets.get((topic, partition), 0)
        self._offsets[topic, partition] = offset + 1
        headers: RawHeaders = [] if envelope == Envelope() and value != REQUEST else write(envelope)
        if value == REQUEST:
            headers = write(envelope._replace(source="dispatch", reply_to=ReplyTo("dispatch.replies", 0)))
        record = Record(topic, partition, offset, now_ms(), key, value, headers)
        self.intake.take(record, record)
        return record

    def take_early(
        self, key: bytes, due: int, *, group: str | None = GROUP, offset: int | None = None
    ) -> Record:
        """Take a record of the retry topic that is due at a time, epoch ms."""
        return self.take(
            key, topic=RETRY_TOPIC, offset=offset, envelope=Envelope(attempt=2, retry_at=due, group=group)
        )

    @property
    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.written]
