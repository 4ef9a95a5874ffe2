"""What a layer is, and how a list of layers becomes one function.

On the way of a message: `outbound.py` and `inbound.py` each hold one list of layers in message order; the
first of the list sees the message first, and its result last.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Generic, NamedTuple, TypeAlias, TypeVar

from broker_mesh.message import Message

R = TypeVar("R")

Step: TypeAlias = Callable[[Message], Awaitable[R]]
"""The rest of the way: takes a message, gives the result (an Outcome inbound, a Receipt outbound)."""


class Layer(NamedTuple, Generic[R]):
    """One policy around the rest of the way.

    Args:
        name: what the test of the order and the docs call it.
        around: makes, from the rest of the way, the way with this policy in front.
    """

    name: str
    around: Callable[[Step[R]], Step[R]]


def check(name: str, decide: Callable[[Message], Message]) -> Layer[R]:
    """Make a layer of a pure decision: it returns the message, perhaps refined, or raises a `MeshError`."""

    def around(rest: Step[R]) -> Step[R]:
        async def step(message: Message) -> R:
            return await rest(decide(message))

        return step

    return Layer(name, around)


def stack(layers: Sequence[Layer[R]], innermost: Step[R]) -> Step[R]:
    """Join layers, given in message order, and what stands at their end into one step."""
    step = innermost
    for layer in reversed(layers):
        step = layer.around(step)
    return step
