"""The wrapped consumers of this process by their groups: a producer's transaction commits offsets for them.

On the way of a message: at its end, where an aiokafka producer is given a group's offsets and nothing but its name.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any, Protocol


class Member(Protocol):
    """A consumer that may answer for some of the offsets."""

    def covered(self, offsets: Mapping[Any, Any]) -> Mapping[Any, Any]:
        """Give what may be committed for offsets that the program wants to commit in a transaction."""
        ...


_members: weakref.WeakKeyDictionary[Any, str] = weakref.WeakKeyDictionary()


def join(member: Member, group_id: str) -> None:
    """Note a consumer that has started."""
    _members[member] = group_id


def leave(member: Member) -> None:
    """Forget a consumer that has stopped."""
    _members.pop(member, None)


def covered(offsets: Mapping[Any, Any], group_id: str) -> Mapping[Any, Any]:
    """Give what may be committed for a group: each of its consumers here answers for its own partitions.

    Raises:
        FailedPrecondition: the program holds a message below an offset.
    """
    for member in [each for each, group in _members.items() if group == group_id]:
        offsets = member.covered(offsets)
    return offsets
