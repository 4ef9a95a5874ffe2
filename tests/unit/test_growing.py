"""What `mesh topics grow` decides to do, and how a group passes a barrier."""

from __future__ import annotations

from collections.abc import Collection
from typing import cast

import pytest

from broker_mesh.barrier import Growth, Partition
from broker_mesh.control.growing import Plan, followers, plan, related, settling_seconds
from broker_mesh.errors import FailedPrecondition, InvalidArgument
from broker_mesh.kafka.admin import TopicInfo
from broker_mesh.kafka.crossing import Crossing, Ways
from broker_mesh.kafka.growth import is_rival
from broker_mesh.settings import Settings

OPERATION = "fleet.v1.find-aircraft"
EVENT = "fleet.v1.events.aircraft-retired"


def planned(topic: str, partitions: int, *growths: Growth, adopted: str = "", **found: int) -> Plan:
    """A plan where there are these topics, by what follows the topic's name in theirs, with so many partitions."""
    names = {topic + suffix.removeprefix("own").replace("_", "."): count for suffix, count in found.items()}
    infos = {name: TopicInfo(name, count, 1, "id") for name, count in names.items()}
    return plan(topic, partitions, found=infos, growths=growths, adopted=[adopted])


def test_an_operation_grows_with_what_stands_beside_it() -> None:
    made = planned(OPERATION, 6, own=2, _retry=2, _dead=2, _idempotency=2)
    assert made.growth == Growth(OPERATION, "id", 2, 6)
    assert made.adds == {OPERATION + suffix: 6 for suffix in ("", ".retry", ".dead", ".idempotency")}
    assert made.followers == {"fleet": f"{OPERATION}.retry"}


def test_an_event_grows_with_what_its_subscribers_keep_of_it() -> None:
    names = [
        EVENT,
        f"weather.v1.from.{EVENT}.retry",
        f"weather.v1.from.{EVENT}.dead",
        f"board.v2.from.{EVENT}.retry",
    ]
    others = [OPERATION, f"{OPERATION}.retry", f"weather.v1.from.{EVENT}-again.retry", "fleet.replies"]
    assert related(EVENT, names + others) == names
    assert followers(names) == {
        "weather": f"weather.v1.from.{EVENT}.retry",
        "board": f"board.v2.from.{EVENT}.retry",
    }


def test_a_growth_that_was_broken_off_goes_on() -> None:
    begun = Growth(OPERATION, "id", 2, 6)
    assert planned(OPERATION, 6, begun, own=2, _retry=2).growth == begun
    added = planned(OPERATION, 6, begun, own=6, _retry=6)
    assert (added.growth, added.adds) == (begun, {})
    # Others have added more meanwhile: what is held must be let go all the same.
    assert planned(OPERATION, 6, begun, own=12, _retry=6).adds == {f"{OPERATION}.retry": 12}


def test_what_has_grown_needs_nothing_more() -> None:
    made = planned(OPERATION, 6, Growth(OPERATION, "id", 2, 6, {0: 1, 1: 1}), own=6, _retry=6)
    assert (made.growth, made.adds) == (None, {})


def test_what_others_have_grown_gets_what_stands_beside_it() -> None:
    made = planned(OPERATION, 6, own=6, _retry=2)
    assert (made.growth, made.adds) == (None, {f"{OPERATION}.retry": 6})


def test_nonsense_is_refused_in_one_sentence() -> None:
    with pytest.raises(InvalidArgument, match="has 6 partitions: Kafka adds partitions, and takes none away"):
        planned(OPERATION, 4, own=6)
    with pytest.raises(InvalidArgument, match=r"can't grow from 6 to 8 .* take a multiple of 6, as 12"):
        planned(OPERATION, 8, own=6)
    with pytest.raises(
        FailedPrecondition, match=r"is being grown to 6 .*'mesh topics grow .* --partitions 6' finish"
    ):
        planned(OPERATION, 12, Growth(OPERATION, "id", 2, 6), own=6)
    with pytest.raises(FailedPrecondition, match="no operation or event of the mesh"):
        planned("legacy_orders", 12, own=6)
    with pytest.raises(FailedPrecondition, match="no operation or event of the mesh"):
        planned(OPERATION, 12, adopted=OPERATION, own=6)
    found = {name: TopicInfo(name, 6, 1, "id") for name in (OPERATION, f"{OPERATION}.retry")}
    with pytest.raises(FailedPrecondition, match=f"grow '{OPERATION}', it grows with it"):
        plan(f"{OPERATION}.retry", 12, found=found, growths=[], adopted=[])


def test_two_growths_at_once_are_rivals_unless_they_are_the_same() -> None:
    growth = Growth(OPERATION, "id", 2, 6)
    assert not is_rival(growth, growth)
    assert not is_rival(growth, growth._replace(ends={0: 1, 1: 1}))
    assert is_rival(Growth(OPERATION, "id", 2, 4), growth)
    assert not is_rival(Growth(OPERATION, "id", 1, 2, {0: 1}), growth), "an earlier one that is finished"
    assert is_rival(Growth(OPERATION, "id", 1, 2), growth), "an earlier one that is not"
    assert not is_rival(Growth(OPERATION, "other id", 2, 4), growth), "the topic was deleted and made anew"


def test_producers_have_twice_as_long_as_they_take_to_look() -> None:
    assert settling_seconds(Settings()) == 10
    assert settling_seconds(Settings(kafka={"topic.metadata.refresh.interval.ms": 30_000})) == 60


# ── passing a barrier ─────────────────────────────────────────────────────────────────────────────────────


class FakeWays:
    """Kafka as a crossing sees it."""

    def __init__(self) -> None:
        self.positions: dict[Partition, int] = {}
        self.retries: dict[Partition, int] | None = None

    async def reached(self, group: str, partitions: Collection[Partition]) -> dict[Partition, int]:
        assert group == "fleet"
        return {key: self.positions.get(key, 0) for key in partitions}

    async def ends(self, topic: str, below: int) -> dict[Partition, int] | None:
        assert (topic, below) == (f"{OPERATION}.retry", 2)
        return None if self.retries is None else dict(self.retries)


async def test_retries_count_as_they_are_once_the_old_partitions_are_handled() -> None:
    ways, retry = FakeWays(), (f"{OPERATION}.retry", 0)
    growth = Growth(OPERATION, "id", 2, 6, {0: 5, 1: 5})
    crossing = Crossing(growth, "fleet", retry[0], cast(Ways, ways))
    ways.retries = {retry: 0}
    assert await crossing.left() == 10
    ways.positions = {(OPERATION, 0): 5, (OPERATION, 1): 4}
    ways.retries = None
    assert await crossing.left() == 1
    ways.positions[OPERATION, 1] = 7
    assert await crossing.left() is None, "a transaction is open on the retries"
    ways.retries = {retry: 3}  # parked while the old partitions were handled
    assert await crossing.left() == 3
    ways.retries = {retry: 9}  # of keys that came later
    ways.positions[retry] = 2
    assert await crossing.left() == 1
    ways.positions[retry] = 3
    assert await crossing.left() == 0


async def test_a_growth_that_is_not_finished_is_passed_by_nobody() -> None:
    crossing = Crossing(Growth(OPERATION, "id", 2, 6), "fleet", f"{OPERATION}.retry", cast(Ways, FakeWays()))
    assert await crossing.left() is None
