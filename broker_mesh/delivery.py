"""One message in the hands of a program that reads Kafka through a wrapped client.

On the way of a message: in place of a handler's call. The inbound pipeline has handed it over and waits; what the
program says here (or doesn't say, and polls on) becomes its outcome, which the settle layer classifies and carries
out like any handler's.
"""

from __future__ import annotations

import enum
import logging
import threading
from collections.abc import Callable, Hashable, Iterator
from concurrent.futures import Future, InvalidStateError
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, NamedTuple

from broker_mesh.errors import Aborted, FailedPrecondition, InvalidArgument, MeshError, Unavailable
from broker_mesh.layers.retry import LONGEST_BACKOFF
from broker_mesh.layers.settle import classify_exception
from broker_mesh.layers.trace import current_as_in
from broker_mesh.message import Message, Record, now_ms
from broker_mesh.outcome import DeadLetter, Done, HandlerError, Outcome, RetryLater
from broker_mesh.telemetry.logs import message_context

if TYPE_CHECKING:
    from broker_mesh.context import Context
    from broker_mesh.stepping import Run

logger = logging.getLogger(__name__)

_making = threading.Lock()


class Tools(NamedTuple):
    """What a delivery needs of the mesh.

    Args:
        context: makes what a program knows of a message and calls others with.
        encode_reply: encodes the reply to a message, or checks bytes; raises `SchemaError` where it does not fit.
    """

    context: Callable[[Message], Context]
    encode_reply: Callable[[Message, Any], bytes | None]


class State(enum.Enum):
    """How far a delivery is settled; it moves under the intake's lock, each arrow once.

    From HANDED to HELD, from both to SETTLING, from there to SETTLED; and to GONE from everywhere but SETTLED.
    """

    HANDED = "handed"  # the program has it, and has said nothing: by polling on it says "done"
    HELD = "held"  # the program has it, and will say what came of it
    SETTLING = "settling"  # the program has said it, and the mesh makes it durable
    SETTLED = "settled"  # it is durable, or the message is held for its next attempt
    GONE = "gone"  # its partition was revoked, lost or sought anew: it comes again


class Delivery:
    """One message, handed over to the program for one attempt.

    Every method may be called from any thread. The first that settles counts, and later ones are refused.

    Attributes:
        message: with its envelope and its decoded body.
        record: as Kafka has it; of a retry the record of the retry topic.
        source: the client's own message.
        topic: the topic that the program subscribed to, also of a retry.
        lane: messages of one lane are handed over one after the other; None for none.
        state: how far it is settled.
    """

    __slots__ = (
        "_is_over",
        "_move",
        "_over",
        "_run",
        "_tools",
        "lane",
        "message",
        "record",
        "source",
        "state",
        "topic",
    )

    def __init__(
        self,
        message: Message,
        source: Any,
        run: Run[Outcome],
        lane: Hashable,
        move: Callable[[Delivery, State, bool], bool],
        tools: Tools,
    ) -> None:
        assert message.record is not None  # made of a record
        self.message = message
        self.record: Record = message.record
        self.source = source
        self.topic = message.operation
        self.lane = lane
        self.state = State.HELD if message.expects_reply else State.HANDED
        self._run = run
        self._move = move
        self._tools = tools
        self._over: Future[None] | None = None  # made when it is asked for: few ask
        self._is_over = False

    @property
    def data(self) -> Any:
        """The decoded value: a model where one is declared, else a dict; what it is where nothing decodes it."""
        return self.message.body

    @property
    def context(self) -> Context:
        """What is known of the message, and what to call others with on its behalf."""
        return self._tools.context(self.message)

    @property
    def attempt(self) -> int:
        """Which attempt this is; 1 is the first."""
        return self.message.envelope.attempt

    @property
    def settled(self) -> Future[None]:
        """Done once the outcome is durable, the message is held for its next attempt, or its partition has gone."""
        with _making:
            if self._over is None:
                self._over = Future()
        if self._is_over:
            _finish(self._over)
        return self._over

    def hold(self) -> None:
        """Keep the message from being settled by polling on; later ones of its key wait until it is settled.

        Raises:
            FailedPrecondition: it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        if self.state is not State.HELD:
            self._begin(State.HELD)

    def done(self) -> None:
        """Settle: the work is done, and nobody waits for a reply.

        Raises:
            FailedPrecondition: a caller waits for a reply, or it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        if self.message.expects_reply:
            raise FailedPrecondition(
                f"{self} is a request of {self.message.envelope.source!r}, which waits for its reply: use reply(…)"
            )
        self._settle_with(Done())

    def reply(self, body: Any) -> None:
        """Settle: the work is done, and this is the reply.

        Args:
            body: a model or a mapping, which the mesh encodes; bytes that the program has encoded.

        Raises:
            SchemaError: it does not fit the operation's reply schema; the message is not settled by that.
            FailedPrecondition: nobody waits for a reply, or it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        if not self.message.expects_reply:
            raise FailedPrecondition(f"{self} asks for no reply: nobody waits for one")
        self._settle_with(Done(self._tools.encode_reply(self.message, body)))

    def fail(self, error: BaseException) -> None:
        """Settle with what went wrong: by its status it is an answer, is tried again, or ends as a dead letter.

        Raises:
            FailedPrecondition: it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        failure = HandlerError(classify_exception(error))
        self._begin(State.SETTLING)
        self._run.fail(failure)

    def retry(
        self, after: float | None = None, reason: str = "the program asked for another attempt"
    ) -> None:
        """Settle: another attempt is due, as far as the retry policy allows one; then it is a dead letter.

        Args:
            after: how long to wait at least, seconds, a year at most; None for the policy's back-off.
            reason: kept with the message.

        Raises:
            InvalidArgument: `after` is negative, more than a year, or no number.
            FailedPrecondition: it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        if after is not None and not (isinstance(after, int | float) and 0 <= after <= LONGEST_BACKOFF):
            raise InvalidArgument(
                f"retry(after={after!r}): give seconds, from 0 to {LONGEST_BACKOFF} (a year)"
            )
        self.fail(Unavailable(reason, retry_after=after))

    def dead_letter(self, reason: str | MeshError) -> None:
        """Settle: the message is kept as a dead letter, with its original bytes and the reason.

        Raises:
            FailedPrecondition: it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        error = reason if isinstance(reason, MeshError) else FailedPrecondition(reason)
        self._settle_with(DeadLetter(error))

    @contextmanager
    def settling(self) -> Iterator[None]:
        """Settle by how a block ends: done, or what it raises is a failure of the message, and goes no further.

        The message is held meanwhile, its span is current, and log lines name it. What is settled within the block
        stays settled so. `KeyboardInterrupt`, `CancelledError` and the like are no failure and go on; the message comes
        again, from the next poll or after the next start.

        Raises:
            FailedPrecondition: it is settled already.
            Aborted: its partition has gone; it comes again.
        """
        self.hold()
        with current_as_in(self._run.context), message_context(self.message):
            try:
                yield
            except Exception as error:  # whatever the work raises is the failure of the message
                if self.state is State.HELD:
                    self._end_with(lambda failure=error: self.fail(failure))  # type: ignore[misc]
                else:
                    logger.exception("%s: its work raised after it was settled", self)
                return
            except BaseException:
                self._end_with(self._put_back)
                raise
        if self.state is State.HELD:
            self._end_with(self._done_or_unanswered)

    def _done_or_unanswered(self) -> None:
        if self.message.expects_reply:
            self.fail(FailedPrecondition(f"{self.topic} was handled and no reply was given"))
        else:
            self.done()

    def _put_back(self) -> None:
        if self.state is State.HELD:
            interrupted = Aborted("the work was interrupted")
            self._settle_with(RetryLater(now_ms(), interrupted, counts=False))

    def _end_with(self, settle: Callable[[], None]) -> None:
        try:
            settle()
        except (Aborted, FailedPrecondition) as refused:  # gone, or settled by another thread, meanwhile
            logger.info("%s", refused.message)

    def conclude(self) -> None:
        """Settle as done, unless the program holds or has settled it: it has polled on."""
        if self._move(self, State.SETTLING, True):
            self._run.resume(Done())

    def give_up(self, error: BaseException) -> None:
        """End the attempt without an outcome; its record comes again elsewhere, or from the start."""
        self._run.fail(error)

    def over(self) -> None:
        """Note that nothing more comes of this attempt: `settled` is done."""
        self._is_over = True
        if self._over is not None:
            _finish(self._over)

    def _settle_with(self, outcome: Outcome) -> None:
        self._begin(State.SETTLING)
        self._run.resume(outcome)

    def _begin(self, state: State) -> None:
        if self._move(self, state, False):
            return
        if self.state is State.GONE:
            raise Aborted(
                f"{self} has gone to another member or was sought anew: it comes again, settle it there"
            )
        raise FailedPrecondition(
            f"{self} is settled already: by an earlier call, or by polling on; hold() it first to settle it later"
        )

    def __str__(self) -> str:
        return f"{self.record.topic}/{self.record.partition}/{self.record.offset}"

    def __repr__(self) -> str:
        return f"<Delivery {self} attempt {self.attempt} {self.state.value}>"


def _finish(future: Future[None]) -> None:
    with suppress(InvalidStateError):  # asked for in one thread while it ends in another: both say so
        future.set_result(None)
