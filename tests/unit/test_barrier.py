"""The barrier of a growth: which partitions wait for which, and how far a group has to be."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker_mesh.barrier import Growth, growth_of, keeps_order, remaining

TOPIC = "fleet.v1.find-aircraft"
FIRST = Growth(TOPIC, "id", 2, 4, {0: 10, 1: 0})
SECOND = Growth(TOPIC, "id", 4, 8)


def test_a_partition_waits_for_the_growth_that_added_it() -> None:
    found = [growth_of((TOPIC, number), [SECOND, FIRST]) for number in range(10)]
    assert found == [None, None, FIRST, FIRST, *[SECOND] * 4, None, None]
    assert growth_of(("fleet.v1.retire", 2), [FIRST]) is None


def test_a_group_is_past_the_barrier_once_it_has_nothing_left_before_it() -> None:
    barrier = FIRST.barrier()
    assert barrier == {(TOPIC, 0): 10, (TOPIC, 1): 0}
    assert remaining(barrier, {}) == 10
    assert remaining(barrier, {(TOPIC, 0): 9, (TOPIC, 1): 100}) == 1, (
        "what one has too much makes up for no other"
    )
    assert remaining(barrier, {(TOPIC, 0): 10}) == 0
    assert SECOND.barrier() == {}


@given(
    before=st.integers(1, 50),
    times=st.integers(1, 20),
    hashes=st.lists(st.integers(0, 2**31 - 1), min_size=1),
)
def test_times_as_many_partitions_move_keys_to_new_ones_alone(
    before: int, times: int, hashes: list[int]
) -> None:
    after = before * times
    assert keeps_order(before, after)
    assert all(value % after >= before or value % after == value % before for value in hashes)


@given(before=st.integers(2, 50), more=st.integers(1, 200))
def test_any_other_number_moves_some_key_to_another_old_partition(before: int, more: int) -> None:
    after = before + more
    moves = any(value % after < before and value % after != value % before for value in range(before * after))
    assert moves is not keeps_order(before, after)
