"""The sending side of a wrapped client: everything that is decided about a message before the client's own produce.

On the way of a message: in place of `client.py` and `kafka/producer.py`, around a producer that is the program's. Key,
partition, partitioner, time-outs and transactions stay the program's; the mesh adds its headers, checks access and the
value, and hears from the client's delivery report what became of it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable, Mapping
from concurrent.futures import Future
from typing import Any

from pydantic import BaseModel

from broker_mesh import headers
from broker_mesh.contracts.topic_contracts import TopicContract
from broker_mesh.errors import FailedPrecondition, InternalError, MeshError
from broker_mesh.headers import Envelope, RawHeaders
from broker_mesh.layer import Step
from broker_mesh.message import Message, Receipt, new_id, now_ms
from broker_mesh.stepping import Background, Run

_CLOUD_EVENTS = "ce_"
_MESH = "mesh-"
# What a program may say about its own message; all else under the mesh's names is the mesh's to say.
_GIVEN_BY_PROGRAMS = frozenset({headers.DEADLINE, headers.IDEMPOTENCY_KEY})
_TRACE = frozenset({headers.TRACEPARENT, headers.TRACESTATE, headers.BAGGAGE})


class Outgoing:
    """A message that has passed all checks, to be produced as it stands.

    Call `acknowledged` or `failed` once, when the client's delivery report comes, or when producing it raised. One that
    is dropped instead counts as not sent.

    Attributes:
        topic: where it goes.
        key, value: bytes; None for none.
        headers: in order.
        partition: as the program gave it; -1 for its partitioner's choice.
        id: the message's id, its `ce_id`.
    """

    __slots__ = ("_run", "headers", "id", "key", "partition", "topic", "value")

    def __init__(self, message: Message, written: RawHeaders, run: Run[Receipt]) -> None:
        self.topic = message.topic
        self.key = message.key
        self.value = message.value
        self.headers = written
        self.partition = message.partition
        self.id = message.envelope.id
        self._run = run

    def acknowledged(self, partition: int, offset: int) -> None:
        """Note that Kafka has it."""
        self._run.resume(Receipt(self.topic, partition, offset))

    def failed(self, error: BaseException) -> None:
        """Note that it was not sent, and why."""
        self._run.fail(error)


class _Sending(Run[Receipt]):
    """One message's way through the outbound layers: out to the client, and on with what came of it.

    Attributes:
        result: the message as it is to be produced, or why it is not, where that was known at once.
        later: what gets the result instead, once something has to be read first.
    """

    __slots__ = ("_has_told", "_kept", "later", "result")

    def __init__(self, steps: Awaitable[Receipt], background: Background, kept: RawHeaders) -> None:
        super().__init__(steps, background)
        self._kept = kept
        self._has_told = False
        self.result: Outgoing | MeshError | None = None
        self.later: Future[Outgoing] | None = None

    def _handed(self, message: Message) -> None:
        self._tell(Outgoing(message, self._kept + _written(message.envelope, self._kept), self))

    def _left(self) -> None:
        if self.later is None:
            self.later = Future()
            self.later.set_running_or_notify_cancel()  # who gives up waiting just drops it

    def _ended(self, _: Receipt | None, error: BaseException | None) -> None:
        if error is not None and not self._has_told:  # else the client has told the program already
            self._tell(_translated(error))

    def _tell(self, result: Outgoing | MeshError) -> None:
        self._has_told = True
        if self.later is None:
            self.result = result
        elif isinstance(result, MeshError):
            self.later.set_exception(result)
        else:
            self.later.set_result(result)


class Outbound:
    """Prepares the messages of one wrapped producer.

    Args:
        service: the sending service.
        steps: the outbound pipeline for wrapped clients; it hands over what is to be produced.
        background: the mesh's event loop.
        contract_of: the contract of a topic that is ready.
        is_ready: whether a topic's contract is known.
        make_ready: makes it known, on the mesh's loop.
    """

    def __init__(
        self,
        service: str,
        steps: Step[Receipt],
        background: Background,
        *,
        contract_of: Callable[[str], TopicContract],
        is_ready: Callable[[str], bool],
        make_ready: Callable[[str], Awaitable[None]],
    ) -> None:
        self._service = service
        self._steps = steps
        self._background = background
        self._contract_of = contract_of
        self.is_ready = is_ready
        self._make_ready = make_ready

    async def ready(self, topic: str) -> None:
        """Learn a topic's contract; on the mesh's loop (`Connection.run` and `Connection.wait`).

        Raises:
            NotFound: the mesh's own name, and no such operation or event.
            PermissionDenied: an event that only its owner publishes.
            MeshError: the registry can't be read.
        """
        await self._make_ready(topic)

    def prepare(
        self,
        topic: str,
        value: BaseModel | Mapping[str, Any] | bytes | None,
        *,
        key: bytes | None = None,
        program_headers: Iterable[tuple[str, bytes | None]] = (),
        partition: int = -1,
    ) -> Outgoing | Future[Outgoing]:
        """Pass a message through the layers.

        Args:
            topic: one that is ready.
            value: a model or a mapping, which the mesh encodes; or bytes that the program has encoded; None for none.
            key: the record's key; None for none.
            program_headers: what the program sends along; headers of the mesh's own names are replaced, but
                `mesh-deadline` (epoch ms) and `mesh-idempotency-key` count, and so does `traceparent` where no span is
                current. Where the topic is not one of the mesh's own, a program's CloudEvents attributes stay.
            partition: -1 for the partitioner's choice.

        Returns:
            The message as it is to be produced; a future of it in the rare case that something has to be read first
            (the schema of bytes that the program has encoded by one that is new).

        Raises:
            FailedPrecondition: the mesh is disconnected.
            SchemaError: the value does not fit its schema.
            PermissionDenied: an access rule denies the topic to this service.
            MeshError: another layer refuses it.
        """
        if self._background.closed is not None:
            raise FailedPrecondition(f"{topic}: {self._background.closed}")
        envelope, kept = self._joined(topic, list(program_headers))
        encodes = value is not None and not isinstance(value, bytes)
        message = Message(
            topic=topic,
            operation=topic,
            envelope=envelope,
            body=value if encodes else None,
            key=key,
            value=None if encodes else value,  # type: ignore[arg-type]  # bytes or None
            partition=partition,
            target=topic,
        )
        sending = _Sending(self._steps(message), self._background, kept)
        sending.start()
        if sending.later is not None:
            return sending.later
        result, sending.result = sending.result, None
        assert result is not None  # handed over, or ended, or gone elsewhere
        if isinstance(result, MeshError):
            raise result
        return result

    def _joined(self, topic: str, given: RawHeaders) -> tuple[Envelope, RawHeaders]:
        """Make the envelope of a program's message, and tell which of the program's headers stay beside it.

        Raises:
            InvalidArgument: a header that the program may give is malformed.
        """
        if not given:
            return Envelope(id=new_id(), source=self._service, type=topic, time=now_ms()), given
        said, problem = headers.read(
            [(name, value) for name, value in given if name in _GIVEN_BY_PROGRAMS or name in _TRACE]
        )
        if problem is not None:
            raise problem
        is_cloud_event = not self._contract_of(topic).is_of_the_mesh and any(
            name == headers.CE_SPECVERSION for name, _ in given
        )
        kept = [
            (name, value)
            for name, value in given
            if name not in _TRACE
            and not name.startswith(_MESH)
            and (is_cloud_event or not name.startswith(_CLOUD_EVENTS))
        ]
        return said._replace(id=new_id(), source=self._service, type=topic, time=now_ms()), kept


def _translated(error: BaseException) -> MeshError:
    if isinstance(error, MeshError):
        return error
    internal = InternalError(f"{type(error).__name__} in a check of the mesh: {error}")
    internal.__cause__ = error
    return internal


def _written(envelope: Envelope, kept: RawHeaders) -> RawHeaders:
    if any(name == headers.CE_SPECVERSION for name, _ in kept):  # the program's CloudEvent stays as it is
        # It may have been passed on from another service's message: who sends this one stands beside it.
        return [
            (headers.SOURCE, envelope.source.encode()),
            *((name, value) for name, value in headers.write(envelope) if not name.startswith(_CLOUD_EVENTS)),
        ]
    return headers.write(envelope)
