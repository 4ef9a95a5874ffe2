"""Suspicion: which record ends its process, told from how a partition's owners ended.

On the way of a message: between the progress that is found when a partition is taken over and the lanes. A handler that
takes the interpreter down with it (a segfault, the kernel's answer to memory that is gone) raises nothing: all that is
left is the last commit, which says that the owner was at work. Pure; carried out by `entry.py`.

::

    calm ── the owner before had records in work ──▶ deaths + 1 ── the position moves ──▶ calm
                                                          │
                          two of them at one position     ▼
    calm ◀── as many records settled as handlers ──── singly: one record at a time, each only after a commit says which
             run at once, by whatever owners            │
                                                        └── the owner ends: that record is noted, twice is guilty

How many are left to run so goes from owner to owner: where partitions change hands every few seconds each of them would
begin anew, and none come to the end. An end while none of its records was named was not this partition's doing; that
holds since records run unnamed only once Kafka has a commit which says that none are left.
"""

from __future__ import annotations

from typing import Final

from broker_mesh.progress import MOST_DEATHS, Attempts, Progress

ENDS_BEFORE_SINGLY: Final = 2
"""So many unclean ends at one position: one alone is a deployment, or a machine that went away."""


class Suspicion:
    """What one partition's owner makes of how those before it ended.

    Args:
        found: what was found beside the committed offset.
        window: how many records may have been with their handlers when an owner ended.

    Attributes:
        deaths: how many owners in a row have ended uncleanly at this position, or while its records ran singly.
        left: how many more records are to run singly.
    """

    def __init__(self, found: Progress, window: int) -> None:
        if found.singly:
            self.deaths = found.deaths + (found.running and found.alone is not None)
            self.left = min(found.singly, window)
        else:
            self.deaths = found.deaths + found.running
            self.left = window if self.deaths >= ENDS_BEFORE_SINGLY else 0
        self._is_over = not self.left

    @property
    def singly(self) -> bool:
        """Whether records run one at a time: also where none are left, until Kafka knows that."""
        return not self._is_over

    def acknowledged(self, left: int) -> None:
        """Note that Kafka has a commit, the newest, which says how many are left."""
        self._is_over = self._is_over or not left

    def settled(self, *, moved: bool) -> None:
        """Note that a record is settled.

        Args:
            moved: whether the position moved with it.
        """
        if self.left:
            self.left -= 1
            # All of them have run: whoever it was has been found, or was somebody outside.
            moved = not self.left
        if moved:
            self.deaths = 0


def attempts_found(found: Progress, now: int) -> dict[int, Attempts]:
    """Give the attempts that earlier owners made: also those with which the last of them ended.

    The first such end of a record uses up no attempt: a record of another partition, or somebody outside, may have
    ended the process. The second one uses up both.

    Args:
        found: what was found beside the committed offset.
        now: epoch ms; when that attempt failed, as far as anyone knows.
    """
    attempts = dict(found.attempts)
    if found.running and found.alone is not None:
        offset, attempt = found.alone
        before = attempts.get(offset, Attempts(0))
        if before.died == 0:
            attempts[offset] = before._replace(made=max(attempt - 1, before.made), died=1)
        else:
            made = attempt + (before.died == 1)
            died = min(before.died + 1, MOST_DEATHS)
            attempts[offset] = Attempts(max(made, before.made), before.first_failure or now, died)
    return attempts
