"""The ledger's decision: when a group without offsets is new, and when it has lost them."""

from __future__ import annotations

import pytest

from broker_mesh.errors import DataLoss
from broker_mesh.kafka.ledger import refuse_lost_offsets

TOPIC = "fleet.v1.find-aircraft"


@pytest.mark.parametrize(
    ("known", "committed", "ends"),
    [
        ([], [], {(TOPIC, 0): 9}),  # a new group on an old topic
        (
            [TOPIC],
            [(TOPIC, 1)],
            {(TOPIC, 0): 9, (TOPIC, 1): 9},
        ),  # a partition that has had no record settled yet
        ([TOPIC], [], {(TOPIC, 0): 0}),  # a topic that was made anew
        ([TOPIC], [], {}),
    ],
)
def test_a_group_that_has_lost_nothing_starts(
    known: list[str], committed: list[tuple[str, int]], ends: dict[tuple[str, int], int]
) -> None:
    refuse_lost_offsets("fleet.v1", known, committed, ends)


def test_a_group_that_has_lost_its_offsets_is_told_how_to_choose() -> None:
    with pytest.raises(DataLoss, match=f"mesh topics reset-offsets {TOPIC} --group fleet.v1 --to earliest"):
        refuse_lost_offsets("fleet.v1", [TOPIC], [("other.v1.x", 0)], {(TOPIC, 0): 9})
