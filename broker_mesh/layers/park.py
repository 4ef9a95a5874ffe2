"""Standing in line: a record whose key is parked goes behind it, unhandled, and comes back in its turn.

On the way of a message: inbound, behind the checks that need no order among records, before its first attempt.
`parking.py` knows which keys are parked.
"""

from __future__ import annotations

from collections.abc import Callable

from broker_mesh.layer import Layer, Step
from broker_mesh.message import Message
from broker_mesh.outcome import Outcome, Parked


def layer(is_parked: Callable[[Message], bool]) -> Layer[Outcome]:
    """Make the inbound layer.

    Args:
        is_parked: tells whether earlier records of a message's key wait in the retry topic, and it is none of them.
    """

    def around(rest: Step[Outcome]) -> Step[Outcome]:
        async def step(message: Message) -> Outcome:
            return Parked() if is_parked(message) else await rest(message)

        return step

    return Layer("park", around)
