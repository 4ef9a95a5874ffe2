"""When which fault strikes: from a seed alone, so that a failed run's faults come again at the same moments.

Pure. What a fault does to whom is `nemesis.py`; a victim is chosen there among who lives, by the number drawn here.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum


class Kind(StrEnum):
    """What can go wrong; the name is what reports say."""

    KILL_BROKER = "kill a broker"
    PAUSE_BROKER = "pause a broker"
    KILL_SERVICE = "kill a service"
    STOP_SERVICE = "stop a service past its session"
    KILL_CALLER = "kill a caller"
    STOP_CALLER = "stop a caller"
    JOIN = "a service joins, then leaves"
    LEAVE = "a service leaves, then comes back"
    CUT_BROKER = "cut a broker's connections"
    CUT_PROCESS = "cut a process's connections"
    REFUSE_BROKER = "refuse a broker's connections"
    DELAY_BROKER = "delay a broker"
    DELAY_PROCESS = "delay a process"
    HIDE_BROKER = "black-hole a broker"
    HIDE_PROCESS = "black-hole a process"
    GROW = "grow a topic"
    ADD_PARTITIONS = "add partitions behind the mesh's back"


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault.

    Args:
        at: seconds from the start of the load.
        kind: what happens.
        seconds: how long it lasts: until the victim goes on, is started again, or the weather is fair again.
        draw: from 0 to 1: which of the possible victims.
        force: from 0 to 1: how hard, where a kind has degrees.
    """

    at: float
    kind: Kind
    seconds: float
    draw: float
    force: float

    @property
    def until(self) -> float:
        """When it ends, in seconds from the start of the load."""
        return self.at + self.seconds


# How long each lasts, from and to, in seconds.
_LENGTHS: dict[Kind, tuple[float, float]] = {
    Kind.KILL_BROKER: (0.5, 6.0),
    Kind.PAUSE_BROKER: (4.0, 8.0),
    Kind.KILL_SERVICE: (0.2, 3.0),
    Kind.STOP_SERVICE: (9.5, 13.0),
    Kind.KILL_CALLER: (0.2, 2.0),
    Kind.STOP_CALLER: (2.0, 6.0),
    Kind.JOIN: (4.0, 12.0),
    Kind.LEAVE: (1.0, 6.0),
    Kind.CUT_BROKER: (0.0, 0.0),
    Kind.CUT_PROCESS: (0.0, 0.0),
    Kind.REFUSE_BROKER: (2.0, 6.0),
    Kind.DELAY_BROKER: (3.0, 8.0),
    Kind.DELAY_PROCESS: (3.0, 8.0),
    Kind.HIDE_BROKER: (3.0, 8.0),
    Kind.HIDE_PROCESS: (3.0, 9.0),
    Kind.GROW: (0.0, 0.0),
    Kind.ADD_PARTITIONS: (0.0, 0.0),
}
# What a deck holds: drawn without putting back, so that each kind comes in turn however short the run.
_DECK = (
    Kind.KILL_BROKER,
    Kind.KILL_SERVICE,
    Kind.STOP_SERVICE,
    Kind.CUT_BROKER,
    Kind.KILL_CALLER,
    Kind.HIDE_BROKER,
    Kind.KILL_BROKER,
    Kind.JOIN,
    Kind.KILL_SERVICE,
    Kind.HIDE_PROCESS,
    Kind.DELAY_BROKER,
    Kind.STOP_SERVICE,
    Kind.CUT_PROCESS,
    Kind.LEAVE,
    Kind.PAUSE_BROKER,
    Kind.KILL_CALLER,
    Kind.DELAY_PROCESS,
    Kind.REFUSE_BROKER,
    Kind.STOP_CALLER,
)
# A short run has each important kind once.
_SHORT_DECK = (Kind.KILL_SERVICE, Kind.KILL_BROKER, Kind.STOP_SERVICE, Kind.CUT_BROKER, Kind.KILL_CALLER)
SHORT_SECONDS = 90.0
_CALM_SECONDS = 4.0  # before the first fault and after the last
_MEAN_GAP_SECONDS = 12.0
_GROW_AT = 0.6
_ADD_PARTITIONS_AT = 0.9


def schedule(seed: int, seconds: float) -> tuple[Fault, ...]:
    """Draw the faults of a run, in the order of their times.

    Args:
        seed: the same gives the same faults.
        seconds: how long the load lasts. Up to `SHORT_SECONDS`, each important kind comes once; above, all kinds
            come in turn, one every twelve seconds, and late in the run topics grow.
    """
    dice = random.Random(f"faults of {seed}")
    if seconds <= SHORT_SECONDS:
        kinds = list(_SHORT_DECK)
        dice.shuffle(kinds)
    else:
        count = max(1, round((seconds - 2 * _CALM_SECONDS) / _MEAN_GAP_SECONDS))
        kinds = []
        while len(kinds) < count:
            deck = list(_DECK)
            dice.shuffle(deck)
            kinds += deck
        kinds = kinds[:count]
    gap = (seconds - 2 * _CALM_SECONDS) / len(kinds)
    faults = [
        _fault(dice, kind, _CALM_SECONDS + gap * (place + dice.random() * 0.8))
        for place, kind in enumerate(kinds)
    ]
    if seconds > SHORT_SECONDS:
        faults.append(_fault(dice, Kind.GROW, _GROW_AT * seconds))
        faults.append(_fault(dice, Kind.ADD_PARTITIONS, _ADD_PARTITIONS_AT * seconds))
    return tuple(sorted(faults, key=lambda fault: fault.at))


def _fault(dice: random.Random, kind: Kind, at: float) -> Fault:
    return Fault(round(at, 2), kind, round(dice.uniform(*_LENGTHS[kind]), 2), dice.random(), dice.random())
