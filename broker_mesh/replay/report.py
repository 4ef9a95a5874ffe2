"""What came of a replay.

On the way of a message: behind its end. Pure.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from broker_mesh.headers import Place

MAX_REFUSALS = 100
"""How many refusals are kept with their sentence; the others are counted."""


class Refusal(NamedTuple):
    """A dead letter that was not put back.

    Args:
        place: where it stands; it stays open for another replay.
        reason: why, in a sentence.
    """

    place: Place
    reason: str


@dataclass(frozen=True, slots=True)
class Report:
    """What came of a replay, or of dropping.

    Args:
        replay_id: of this replay; it stands on everything that was put back, and in the claims.
        selected: how many dead letters were meant: those below together; in a dry run those that would be settled,
            and those that would be refused.
        replayed: how many were put back.
        dropped: how many were dropped for good.
        taken_by_others: how many another replay settled while this one ran.
        already_settled: how many were meant by id or place and settled before this replay began; not in `selected`.
        refused: how many could not be put back as they are.
        refusals: the first 100 of those.
    """

    replay_id: str
    selected: int = 0
    replayed: int = 0
    dropped: int = 0
    taken_by_others: int = 0
    already_settled: int = 0
    refused: int = 0
    refusals: tuple[Refusal, ...] = ()

    def with_refusal(self, refusal: Refusal) -> Report:
        """Count a refusal."""
        kept = (*self.refusals, refusal)[:MAX_REFUSALS]
        return replace(self, selected=self.selected + 1, refused=self.refused + 1, refusals=kept)

    def plus(self, other: Report) -> Report:
        """Add the counts of a part."""
        return replace(
            self,
            selected=self.selected + other.selected,
            replayed=self.replayed + other.replayed,
            dropped=self.dropped + other.dropped,
            taken_by_others=self.taken_by_others + other.taken_by_others,
            already_settled=self.already_settled + other.already_settled,
            refused=self.refused + other.refused,
            refusals=(*self.refusals, *other.refusals)[:MAX_REFUSALS],
        )
