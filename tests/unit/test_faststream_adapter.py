"""FastStream's middleware: what becomes of a message by how its processing ends. Its messages are stubs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import confluent_kafka
import pytest
from faststream import AckPolicy
from faststream.confluent import KafkaBroker, KafkaMessage, TestKafkaBroker
from faststream.exceptions import AckMessage, NackMessage, RejectMessage, StopApplication

from broker_mesh import Mesh
from broker_mesh.adapter import State
from broker_mesh.errors import Aborted
from broker_mesh_adapters.confluent_kafka import Message
from broker_mesh_adapters.faststream import MeshMiddleware

MESH = Mesh("pricing", bootstrap_servers="localhost:9")


class NotedMessage(Message):
    """Notes what is said of it."""

    def __init__(self, value: bytes = b"{}") -> None:
        confluent_kafka.Message.__init__(self, topic="orders", partition=0, offset=5, value=value)
        self.delivery: Any = self
        self.state = State.HANDED
        self.said: list[str] = []

    def hold(self) -> None:
        if self.state is State.GONE:
            raise Aborted("it comes again")
        self.state = State.HELD

    def _settled(self, said: str) -> None:
        if self.state is State.GONE:
            raise Aborted("it comes again")
        assert self.state is State.HELD
        self.state = State.SETTLED
        self.said.append(said)

    def done(self) -> None:
        self._settled("done")

    def fail(self, error: BaseException) -> None:
        self._settled(f"failed: {error}")

    def retry(self, after: float | None = None) -> None:
        self._settled("retry")

    def dead_letter(self, reason: str) -> None:
        self._settled("dead letter")

    @contextmanager
    def settling(self) -> Iterator[None]:
        self.hold()
        try:
            yield
        except Exception as error:  # noqa: BLE001 - as `Delivery.settling`
            self.fail(error)
        else:
            if self.state is State.HELD:
                self.done()


@pytest.fixture
def middleware() -> Iterator[MeshMiddleware]:
    made = MeshMiddleware(MESH)
    yield made
    made.instrumentation.undo()


async def said_of(
    messages: NotedMessage | tuple[NotedMessage, ...],
    middleware: MeshMiddleware,
    raised: BaseException | None = None,
    **options: Any,
) -> None:
    """Have FastStream process a message, or a batch, by a handler that raises this."""
    broker = KafkaBroker(middlewares=[middleware])

    @broker.subscriber("orders", group_id="pricing", **options)
    async def handle(message: KafkaMessage) -> None:
        assert all(
            each.state is State.HELD or options.get("ack_policy") is AckPolicy.MANUAL for each in given
        )
        if raised is not None:
            raise raised

    given = messages if isinstance(messages, tuple) else (messages,)
    async with TestKafkaBroker(broker):
        await broker.subscribers[0].consume(messages)


@pytest.mark.parametrize("policy", [AckPolicy.ACK_FIRST, AckPolicy.ACK, AckPolicy.NACK_ON_ERROR])
@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (None, "done"),
        (KeyError("plum"), "failed: 'plum'"),
        (NackMessage(), "retry"),
        (RejectMessage(), "dead letter"),
        (AckMessage(), "done"),
        (StopApplication(), "done"),
    ],
    ids=["returns", "raises", "nack", "reject", "ack", "stop"],
)
async def test_the_end_of_processing_settles(
    raised: Exception | None, expected: str, policy: AckPolicy, middleware: MeshMiddleware
) -> None:
    message = NotedMessage()
    await said_of(message, middleware, raised, ack_policy=policy)
    assert message.said == [expected]


async def test_what_cannot_be_parsed_has_failed(middleware: MeshMiddleware) -> None:
    broker = KafkaBroker(middlewares=[middleware])

    @broker.subscriber("orders")
    async def handle(order: dict[str, int]) -> None:
        raise AssertionError("not called")

    message = NotedMessage(b"[1, 2]")
    async with TestKafkaBroker(broker):
        await broker.subscribers[0].consume(message)
    (said,) = message.said
    assert said.startswith("failed: ")


@pytest.mark.parametrize(
    ("raised", "expected"),
    [
        (None, "done"),
        (KeyError("plum"), "failed: 'plum'"),
        (NackMessage(), "retry"),
        (RejectMessage(), "dead letter"),
    ],
    ids=["returns", "raises", "nack", "reject"],
)
async def test_a_batch_is_settled_as_a_whole(
    raised: Exception | None, expected: str, middleware: MeshMiddleware
) -> None:
    batch = NotedMessage(), NotedMessage(), NotedMessage()
    await said_of(batch, middleware, raised, batch=True)
    assert [message.said for message in batch] == [[expected]] * 3


@pytest.mark.parametrize("gone", [0, 1, 2])
async def test_what_has_gone_before_its_batch_is_processed_holds_up_nothing(
    gone: int, middleware: MeshMiddleware
) -> None:
    batch = NotedMessage(), NotedMessage(), NotedMessage()
    for each in batch:
        each.hold()
    batch[gone].state = State.GONE
    broker = KafkaBroker(middlewares=[middleware])

    @broker.subscriber("orders", group_id="pricing", batch=True)
    async def handle(message: KafkaMessage) -> None: ...

    async with TestKafkaBroker(broker):
        await broker.subscribers[0].consume(batch)
    assert batch[gone].said == []
    assert State.HELD not in {each.state for each in batch}


@pytest.mark.parametrize("raised", [NackMessage(), RejectMessage()], ids=["nack", "reject"])
async def test_what_goes_while_its_batch_is_processed_holds_up_nothing(
    raised: Exception, middleware: MeshMiddleware
) -> None:
    batch = NotedMessage(), NotedMessage(), NotedMessage()
    broker = KafkaBroker(middlewares=[middleware])

    @broker.subscriber("orders", group_id="pricing", batch=True)
    async def handle(message: KafkaMessage) -> None:
        batch[0].state = State.GONE
        raise raised

    async with TestKafkaBroker(broker):
        await broker.subscribers[0].consume(batch)
    assert [len(each.said) for each in batch] == [0, 1, 1]


async def test_a_handler_that_acknowledges_by_itself_is_left_alone(middleware: MeshMiddleware) -> None:
    message = NotedMessage()
    await said_of(message, middleware, ack_policy=AckPolicy.MANUAL)
    assert message.said == []


async def test_an_application_with_the_middleware_runs_on_faststreams_test_broker(
    middleware: MeshMiddleware,
) -> None:
    broker = KafkaBroker(middlewares=[middleware])
    seen: list[dict[str, int]] = []

    @broker.subscriber("orders")
    async def handle(order: dict[str, int]) -> None:
        seen.append(order)

    async with TestKafkaBroker(broker):
        await broker.publish({"id": 1}, "orders")
    assert seen == [{"id": 1}]
