"""A rotation: one place for which several parties wait, each served in its turn, however many of its own stand in line.

On the way of a message: `entry.py` gives the place of what runs singly by it, partition by partition. First come first
served would give nearly all turns to the partition with most records in flight: where each record is a lane of its own
(`ordering="none"`) hundreds wait at once, and a partition with five keys was seen to stand still for minutes.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Party = TypeVar("Party", bound=Hashable)


class Rotation(Generic[Party]):
    """One place, on one event loop.

    Args:
        still_needs: tells whether a party's records have to run in the place at all; asked whenever it is given back.
    """

    def __init__(self, still_needs: Callable[[Party], bool]) -> None:
        self._still_needs = still_needs
        self._taken = False
        # Whose turn is next stands first; each of its own in the order in which they came.
        self._lines: dict[Party, deque[asyncio.Future[bool]]] = {}

    def locked(self) -> bool:
        """Tell whether the place is taken."""
        return self._taken

    async def acquire(self, party: Party) -> bool:
        """Wait for a turn, and take the place.

        Returns:
            Whether the place is taken; False where the party has ceased to need it meanwhile.
        """
        if not self._still_needs(party):
            return False
        if not self._taken:
            self._taken = True
            return True
        turn: asyncio.Future[bool] = asyncio.get_running_loop().create_future()
        self._lines.setdefault(party, deque()).append(turn)
        try:
            return await turn
        except asyncio.CancelledError:
            if not turn.cancelled() and turn.result():  # it came in the same moment
                self.release()
            raise
        finally:
            self._leave(party, turn)

    def release(self) -> None:
        """Give the place to the party that has waited longest for a turn; who does not need it any more goes on now."""
        self._taken = False
        for party in [each for each in self._lines if not self._still_needs(each)]:
            for turn in self._lines.pop(party):
                _give(turn, taken=False)
        while self._lines and not self._taken:
            party = next(iter(self._lines))
            line = self._lines.pop(party)
            while line and not self._taken:
                self._taken = _give(line.popleft(), taken=True)
            if line:
                self._lines[party] = line  # behind all others

    def _leave(self, party: Party, turn: asyncio.Future[bool]) -> None:
        line = self._lines.get(party)
        if line is not None and turn in line:
            line.remove(turn)
            if not line:
                del self._lines[party]


def _give(turn: asyncio.Future[bool], *, taken: bool) -> bool:
    """Tell who waits; False where nobody does any more."""
    if turn.done():
        return False
    turn.set_result(taken)
    return True
