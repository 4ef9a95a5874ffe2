"""What requests have their handlers do: part of the request, so that every process knows it, and a seed gives it again.

A plan is a text: "ok", "throw 2", "later 1", "poison", "hang 1.5", "segfault 1", "abort 1", "exit 1", or "deadly".
"throw" fails so many times and is tried again soon, "later" after long enough for a record to be parked; "poison" fails
always and becomes a dead letter; the next three crash the interpreter so many times, and "deadly" always. Tries count
over all processes.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

CRASHES = ("segfault", "abort", "exit")


@dataclass(frozen=True)
class Mix:
    """How often which plan comes, as a share of all requests; the rest is quick and plain.

    Args:
        throw, later, poison, hang, crash, deadly: shares, 0 to 1.
        hang_seconds: how long a handler hangs at most.
    """

    throw: float = 0.03
    later: float = 0.003
    poison: float = 0.003
    hang: float = 0.01
    crash: float = 0.0
    deadly: float = 0.0
    hang_seconds: float = 2.0


def draw(mix: Mix, seed: int, key: str, number: int) -> str:
    """Give the plan of a request."""
    chance = random.Random(f"{seed} {key} {number}")
    at = chance.random()
    for share, plan in (
        (mix.throw, f"throw {chance.randint(1, 3)}"),
        (mix.later, "later 1"),
        (mix.poison, "poison"),
        (mix.hang, f"hang {chance.uniform(0.2, mix.hang_seconds):.2f}"),
        (mix.crash, f"{chance.choice(CRASHES)} {chance.randint(1, 2)}"),
        (mix.deadly, "deadly"),
    ):
        if at < share:
            return plan
        at -= share
    return "ok"
