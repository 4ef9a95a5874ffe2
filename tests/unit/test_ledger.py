"""The ledger's decision: when a partition without an offset is new to its group, and when the group has lost it."""

from __future__ import annotations

import pytest

from broker_mesh.errors import DataLoss
from broker_mesh.kafka.ledger import Held, Partition, refuse_lost_offsets

TOPIC = "fleet.v1.find-aircraft"
FIRST, SECOND = (TOPIC, 0), (TOPIC, 1)
FULL = Held("id-1", first=3, end=9)


@pytest.mark.parametrize(
    ("entries", "committed", "held"),
    [
        pytest.param({}, [], {FIRST: FULL}, id="a new group on an old topic"),
        pytest.param({FIRST: "id-1"}, [FIRST], {FIRST: FULL, SECOND: FULL}, id="a partition that was added"),
        pytest.param({FIRST: "id-0"}, [], {FIRST: FULL}, id="a topic that was deleted and made anew"),
        pytest.param(
            {FIRST: "id-1"}, [], {FIRST: Held("id-1", 9, 9)}, id="a partition that holds nothing any more"
        ),
        pytest.param({FIRST: "id-1"}, [], {}, id="a topic that is gone"),
        pytest.param(
            {FIRST: "id-1", SECOND: "id-1"}, [FIRST, SECOND], {FIRST: FULL, SECOND: FULL}, id="all is there"
        ),
    ],
)
def test_a_group_that_has_lost_nothing_starts(
    entries: dict[Partition, str], committed: list[Partition], held: dict[Partition, Held]
) -> None:
    refuse_lost_offsets("fleet", entries, committed, held)


def test_a_group_that_has_lost_one_partition_s_offset_is_told_how_to_choose() -> None:
    entries = {FIRST: "id-1", SECOND: "id-1"}
    command = f"partition 1.*mesh topics reset-offsets {TOPIC} --group fleet --to earliest"
    with pytest.raises(DataLoss, match=command):
        refuse_lost_offsets("fleet", entries, [FIRST], {FIRST: FULL, SECOND: FULL})
