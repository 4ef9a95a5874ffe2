"""Agreement: that this instance and its group have the same idea of what is assigned to it.

Beside the way of a message. A KIP-848 coordinator tells a member once what it is to have or to give up, and again only
where the member says that it has not heard. librdkafka (2.16) gives a heartbeat up that is not answered within the
heartbeat interval, and then repeats it without saying so: where that very answer came late, the member never hears of
it. A partition that it was to give up keeps the whole rebalance waiting, one that it was to get is handled by
nobody. So each instance asks Kafka now and then, and where the two disagree for long, it joins the group anew.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Collection

from broker_mesh.errors import MeshError
from broker_mesh.kafka.groups import Member
from broker_mesh.kafka.positions import Partition, names

logger = logging.getLogger(__name__)

LOOK_SECONDS = 10.0
# Far above what a drain takes at a rebalance: an instance that is just slow is left alone.
_LOOKS = 3
# What joining anew does not mend is no answer that came late: each time costs the whole group a rebalance.
_MOST_LOOKS = 360


def disputed(own: Collection[Partition], member: Member) -> frozenset[Partition]:
    """Give the partitions of which an instance has not heard what the group has decided.

    What another member has still to give up is not in dispute: the group has not assigned it to this one yet.

    Args:
        own: what the instance has.
        member: the instance as the group describes it; by the classic protocol there is nothing to dispute.
    """
    if member.target is None:
        return frozenset()
    return frozenset(own).difference(member.target) | frozenset(member.partitions).difference(own)


async def watch(
    own: Callable[[], Collection[Partition]],
    ask: Callable[[], Awaitable[Member | None]],
    join_anew: Callable[[Collection[Partition]], None],
) -> None:
    """Look now and then, and have the instance join anew where it stays out of step; until it is cancelled.

    Where that has not helped twice it is done again after twice as long each time, up to an hour.

    Args:
        own: gives what the instance has.
        ask: gives the instance as the group describes it; None where it is no member.
        join_anew: has it leave and join, if it still has what it is told.
    """
    try:
        await _look_regularly(own, ask, join_anew)
    except Exception:
        logger.exception("whether the group agrees can't be watched any more; messages are not affected")


async def _look_regularly(
    own: Callable[[], Collection[Partition]],
    ask: Callable[[], Awaitable[Member | None]],
    join_anew: Callable[[Collection[Partition]], None],
) -> None:
    before: tuple[frozenset[Partition], frozenset[Partition]] | None = None
    looks = joins = 0
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        has = frozenset(own())
        try:
            member = await ask()
        except MeshError as error:
            logger.debug("the group can't be asked now: %s", error)
            continue
        dispute = frozenset[Partition]() if member is None else disputed(has, member)
        now = (has, dispute)
        looks = looks + 1 if dispute and now == before else int(bool(dispute))
        before = now
        if looks >= min(_LOOKS << max(0, joins - 1), _MOST_LOOKS):
            logger.warning("the group and this instance disagree about %s", names(dispute))
            join_anew(has)
            looks, joins = 0, min(joins + 1, _MOST_LOOKS)
        elif has and member is not None and not dispute:  # else it is joining
            joins = 0
