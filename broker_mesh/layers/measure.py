"""Measuring: how long each send and each attempt took, and what became of it, told to who counts and who logs.

On the way of a message: right inside the trace in both directions, so that what is measured covers every check, its
refusal and the settlement, and so that log lines carry the span. It decides nothing and changes nothing, and what fails
in those who are told (a log filter is the program's own code) is logged and costs no message.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import NamedTuple, ParamSpec, Protocol, TypeAlias

from broker_mesh.errors import MeshError
from broker_mesh.layer import Layer, Step
from broker_mesh.message import Message, Receipt
from broker_mesh.outcome import Outcome

logger = logging.getLogger(__name__)

P = ParamSpec("P")

Clock: TypeAlias = Callable[[], int]
"""Gives epoch ms: what other machines wrote is compared with it."""

Timer: TypeAlias = Callable[[], float]
"""Gives seconds that only grow: durations are taken with it."""


class Attempt(NamedTuple):
    """One attempt at one message, when it is over.

    Args:
        message: as it was taken.
        outcome: what became of it; durable already, where it is more than another attempt.
        began_at: epoch ms.
        seconds: how long it took.
    """

    message: Message
    outcome: Outcome
    began_at: int
    seconds: float


class AttemptBegun(Protocol):
    """Told of each attempt before anything else is done: the message, and the time (epoch ms)."""

    def __call__(self, message: Message, at: int, /) -> None: ...  # noqa: D102 - the class says it


class Sent(Protocol):
    """Told of each send: the message, why it failed or None, and how long it took (seconds)."""

    def __call__(self, message: Message, error: BaseException | None, seconds: float, /) -> None: ...  # noqa: D102


def inbound(
    begun: AttemptBegun, ended: Sequence[Callable[[Attempt], None]], *, clock: Clock, timer: Timer
) -> Layer[Outcome]:
    """Make the inbound layer.

    Args:
        begun: told of each attempt when it begins.
        ended: told of each attempt that has an outcome. One whose partition was lost, or that was stopped, has none:
            the message comes again elsewhere.
        clock: gives epoch ms.
        timer: gives seconds.
    """

    def around(rest: Step[Outcome]) -> Step[Outcome]:
        async def step(message: Message) -> Outcome:
            began_at, started = clock(), timer()
            _tell(begun, message, began_at)
            outcome = await rest(message)
            attempt = Attempt(message, outcome, began_at, timer() - started)
            for tell in ended:
                _tell(tell, attempt)
            return outcome

        return step

    return Layer("measure", around)


def outbound(sent: Sent, *, timer: Timer) -> Layer[Receipt]:
    """Make the outbound layer.

    Args:
        sent: told of each send that Kafka has acknowledged, or that failed or was given up.
        timer: gives seconds.
    """

    def around(rest: Step[Receipt]) -> Step[Receipt]:
        async def step(message: Message) -> Receipt:
            started = timer()
            try:
                receipt = await rest(message)
            except BaseException as error:
                _tell(sent, message, error, timer() - started)
                raise
            _tell(sent, message, None, timer() - started)
            return receipt

        return step

    return Layer("measure", around)


def _tell(listener: Callable[P, None], *facts: P.args, **named: P.kwargs) -> None:
    try:
        listener(*facts, **named)
    except Exception:
        # By now the message may be settled: raised on, this would stop its service, which would meet it again.
        logger.exception("measuring or logging a message failed; the message itself is not affected")


def error_name(error: BaseException) -> str:
    """Name an error by its status, or by its type where it is none of the mesh's."""
    return error.status.name if isinstance(error, MeshError) else type(error).__qualname__
