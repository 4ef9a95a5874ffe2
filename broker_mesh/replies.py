"""Replies: where a caller's answers arrive, and how each finds the call that waits for it.

On the way of a message: its last station. A process reads one partition of its service's reply topic, from an
offset captured before the first request is sent; it is not a group's member, since a rebalance would move
replies away from their caller. A reply that nobody waits for any more stays in the topic and can be attached to.
"""

from __future__ import annotations

import asyncio
import base64
import json
import logging
import random
import threading
import time
import weakref
from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

from broker_mesh import naming
from broker_mesh.errors import FailedPrecondition, InvalidArgument, MeshError, NotFound, PermissionDenied
from broker_mesh.headers import ReplyTo
from broker_mesh.kafka.reader import TailReader, scan
from broker_mesh.layers.identity import is_from
from broker_mesh.message import Message, Record, id_time, now_ms, received
from broker_mesh.settings import Settings
from broker_mesh.status import StatusCode

logger = logging.getLogger(__name__)

# A callee's clock may be behind the caller's: the search for a reply begins this much before the request.
_CLOCK_SLACK_MS = 60_000
_HANDLE_PREFIX = "mesh1."


class HandleToken(NamedTuple):
    """What a handle's opaque text holds: enough to find the reply from any later process.

    Args:
        id: of the request.
        operation: that was called.
        reply_to: where its reply arrives.
    """

    id: str
    operation: str
    reply_to: ReplyTo

    def encode(self) -> str:
        """Give the opaque text."""
        content = json.dumps([self.id, self.operation, self.reply_to.topic, self.reply_to.partition])
        return _HANDLE_PREFIX + base64.urlsafe_b64encode(content.encode()).decode().rstrip("=")

    @staticmethod
    def decode(text: str) -> HandleToken:
        """Read the opaque text.

        Raises:
            InvalidArgument: it is not a handle.
        """
        try:
            if not text.startswith(_HANDLE_PREFIX):
                raise ValueError(text)
            content = text.removeprefix(_HANDLE_PREFIX)
            message_id, operation, topic, partition = json.loads(
                base64.urlsafe_b64decode(content + "=" * (-len(content) % 4))
            )
            token = HandleToken(str(message_id), str(operation), ReplyTo(str(topic), int(partition)))
            id_time(token.id)
            naming.parse_operation(token.operation)
        except (ValueError, TypeError, OverflowError, RecursionError, MeshError) as error:
            raise InvalidArgument(f"{text[:60]!r} is not a handle: pass it as it was printed") from error
        return token


class PendingReply:
    """A reply that is waited for. It lives as long as somebody holds it.

    Args:
        token: of the request.
        asked_at: when the request was made, by `time.perf_counter`; None where that was elsewhere.

    Attributes:
        arrived: the newest answer.
        final: the first answer that no replay can replace.
    """

    def __init__(self, token: HandleToken, asked_at: float | None = None) -> None:
        self.token = token
        self.asked_at = asked_at
        self.arrived = _future()
        self.final = _future()

    def take(self, answer: Message) -> bool:
        """Take an answer, unless the one that is here counts more.

        A final answer is the first of its kind. An error whose request is kept for replay is replaced by whatever
        comes after it.

        Returns:
            Whether it was taken.
        """
        if self.final.done() or (self.arrived.done() and not self._is_newer(answer)):
            return False
        if self.arrived.done():
            self.arrived = _future()
        self.arrived.set_result(answer)
        if not awaits_replay(answer):
            self.final.set_result(answer)
        return True

    def reject(self, error: MeshError) -> None:
        """End all waits that are not over with an error."""
        for waited in (self.arrived, self.final):
            if not waited.done():
                waited.set_exception(error)

    def _is_newer(self, answer: Message) -> bool:
        """Tell whether an answer replaces one that awaits its replay; searched and followed ones come in any order."""
        if self.arrived.exception() is not None:
            return False
        earlier = self.arrived.result().record
        assert earlier is not None  # answers are read from Kafka
        assert answer.record is not None
        return not awaits_replay(answer) or answer.record.offset > earlier.offset


class Replies:
    """The replies of one service, in one process.

    Args:
        settings: with `bootstrap_servers` set.
        service: whose replies.
        client_id: how brokers name this client.
        ensure_topic: makes the reply topic where it is missing; gives its partition count.
        retention_of: tells how long a topic keeps records, ms; None for ever.
        replied: told of each reply to a request of this process: its operation, the reply's status, and how long after
            the request it came, seconds.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        service: str,
        client_id: str,
        ensure_topic: Callable[[], Awaitable[int]],
        retention_of: Callable[[str], Awaitable[int | None]],
        replied: Callable[[str, StatusCode, float], None],
    ) -> None:
        self._settings = settings
        self._topic = naming.reply_topic(service)
        self._service = service
        self._client_id = client_id
        self._ensure_topic = ensure_topic
        self._retention_of = retention_of
        self._replied = replied
        self._pending: weakref.WeakValueDictionary[str, PendingReply] = weakref.WeakValueDictionary()
        self._reader: TailReader | None = None
        self._address: asyncio.Task[ReplyTo] | None = None
        self._closed = threading.Event()

    async def address(self) -> ReplyTo:
        """Give this process's reply address; the first call makes it, and returns when nothing can be missed.

        Raises:
            MeshError: the reply topic can't be made or read.
        """
        if self._closed.is_set():
            raise FailedPrecondition("the mesh is stopped")
        if self._address is None or (
            self._address.done() and (self._address.cancelled() or self._address.exception() is not None)
        ):
            self._address = asyncio.create_task(self._open())
        try:
            return await asyncio.shield(self._address)
        except asyncio.CancelledError:
            if self._address.cancelled():  # by `close`: nobody has cancelled the caller
                raise FailedPrecondition("the mesh was stopped before the request was sent") from None
            raise

    def expect(self, token: HandleToken) -> PendingReply:
        """Wait for a reply from now on; to be called before the request is sent."""
        return self._wait_for(token, time.perf_counter())

    async def attach(self, token: HandleToken) -> PendingReply:
        """Find the reply to an earlier request: in the log, or when it comes.

        Raises:
            PermissionDenied: the handle is another service's.
            NotFound: there is no reply, and the request is older than what is kept.
            MeshError: the reply topic can't be read.
        """
        if token.reply_to.topic != self._topic:
            owner = naming.owner(token.reply_to.topic)
            raise PermissionDenied(
                f"the handle is of service {owner!r}; attach to it as that service, not as {self._service!r}"
            )
        pending = self._wait_for(token, None)
        # Followed first, searched second: a reply is either before the captured end, or comes after it.
        end = await self._tail().follow(*token.reply_to)
        found = await asyncio.to_thread(self._search, token, end)
        if found is not None:
            self._received([found])
        elif not pending.arrived.done():
            kept = await self._retention_of(self._topic)
            age = now_ms() - id_time(token.id)
            if kept is not None and age > kept and not pending.arrived.done():
                raise NotFound(
                    f"the reply is gone: the request is {age // 86_400_000} days old, older than what is kept"
                )
        return pending

    async def close(self) -> None:
        """Stop reading; what is pending can be attached to later."""
        self._closed.set()
        if self._address is not None:
            self._address.cancel()
        self._reject_pending(
            lambda token: FailedPrecondition(
                f"the mesh is stopped before the reply of {token.operation} came; attach to it later",
                handle=token.encode(),
            )
        )
        if self._reader is not None:
            await self._reader.close()

    async def _open(self) -> ReplyTo:
        partitions = await self._ensure_topic()
        # At random, so that the instances of a service spread over the partitions without knowing each other.
        address = ReplyTo(self._topic, random.randrange(partitions))  # noqa: S311 - spreads load, hides nothing
        await self._tail().follow(*address)
        return address

    def _wait_for(self, token: HandleToken, asked_at: float | None) -> PendingReply:
        pending = self._pending.get(token.id)
        if pending is None:
            pending = PendingReply(token, asked_at)
            self._pending[token.id] = pending
        return pending

    def _tail(self) -> TailReader:
        if self._reader is None:
            self._reader = TailReader(
                self._settings, client_id=self._client_id, received=self._received, failed=self._failed
            )
        return self._reader

    def _received(self, batch: Sequence[Record]) -> None:
        for record in batch:
            reply = received(record, self._topic)
            pending = self._pending.get(reply.envelope.correlation_id or "")
            if pending is None or pending.final.done():
                continue  # another instance's, or nobody waits any more
            if not is_from(reply, naming.owner(pending.token.operation)):
                logger.warning(
                    "a reply to %s from %r is ignored: that service was not asked",
                    pending.token.operation,
                    reply.envelope.source,
                )
                continue
            taken = pending.take(reply._replace(operation=pending.token.operation))
            if taken and pending.asked_at is not None:
                self._replied(
                    pending.token.operation,
                    reply.envelope.status or StatusCode.OK,
                    time.perf_counter() - pending.asked_at,
                )

    def _failed(self, error: MeshError) -> None:
        self._reader, self._address = None, None  # the next call, or the next attach, starts anew
        self._reject_pending(
            lambda token: MeshError.of(
                error.status, f"{error.message}; attach to the request again", handle=token.encode()
            )
        )

    def _reject_pending(self, error_for: Callable[[HandleToken], MeshError]) -> None:
        for pending in list(self._pending.values()):
            if not pending.final.done():
                pending.reject(error_for(pending.token))
        self._pending.clear()

    def _search(self, token: HandleToken, end: int) -> Record | None:
        records = scan(
            self._settings,
            client_id=self._client_id,
            partitions={(token.reply_to.topic, token.reply_to.partition): end},
            since=id_time(token.id) - _CLOCK_SLACK_MS,
            stop=self._closed,
        )
        newest = None
        for record in records:
            reply = received(record, self._topic)
            if reply.envelope.correlation_id == token.id and is_from(reply, naming.owner(token.operation)):
                newest = record
                if not awaits_replay(reply):
                    break  # a replay's answer can only stand behind one that awaits it
        return newest


def awaits_replay(answer: Message) -> bool:
    """Tell whether an answer is an error whose request is kept as a dead letter: a replay may bring another answer."""
    return answer.envelope.dead_letter is not None


def _future() -> asyncio.Future[Message]:
    future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
    # Nobody may ever await it: an error set on it is not worth a warning of asyncio then.
    future.add_done_callback(lambda done: done.cancelled() or done.exception())
    return future
