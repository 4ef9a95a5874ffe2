"""Schedules of faults: the same for the same seed, and enough of each kind."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.chaos.schedule import SHORT_SECONDS, Kind, schedule

SEEDS = st.integers(0, 2**31)


@given(SEEDS, st.floats(20, 1200))
def test_a_seed_gives_the_same_faults_again(seed: int, seconds: float) -> None:
    assert schedule(seed, seconds) == schedule(seed, seconds)


@given(SEEDS, st.floats(20, 1200))
def test_faults_come_in_order_and_within_the_load(seed: int, seconds: float) -> None:
    times = [fault.at for fault in schedule(seed, seconds)]
    assert times == sorted(times)
    assert 0 < times[0] <= times[-1] < seconds


@given(SEEDS)
def test_ten_minutes_have_thirty_faults_of_all_kinds(seed: int) -> None:
    kinds = Counter(fault.kind for fault in schedule(seed, 600))
    assert kinds.total() >= 30
    assert set(kinds) == set(Kind)
    assert kinds[Kind.KILL_BROKER] >= 4
    assert kinds[Kind.GROW] == kinds[Kind.ADD_PARTITIONS] == 1


@given(SEEDS, st.floats(20, SHORT_SECONDS))
def test_a_short_run_has_each_important_kind_once(seed: int, seconds: float) -> None:
    important = [Kind.KILL_SERVICE, Kind.KILL_BROKER, Kind.STOP_SERVICE, Kind.CUT_BROKER, Kind.KILL_CALLER]
    assert sorted(fault.kind for fault in schedule(seed, seconds)) == sorted(important)


@given(SEEDS)
def test_topics_grow_late_and_last_without_the_mesh(seed: int) -> None:
    """Order is asserted to the end of what grew by `mesh topics grow`, and only from the growth on elsewhere."""
    faults = {fault.kind: fault.at for fault in schedule(seed, 600)}
    assert 300 < faults[Kind.GROW] < faults[Kind.ADD_PARTITIONS]
    assert faults[Kind.ADD_PARTITIONS] >= 540


def test_other_seeds_give_other_faults() -> None:
    assert len({schedule(seed, 600) for seed in range(20)}) == 20


@pytest.mark.parametrize("seconds", [60, 600])
def test_a_stopped_service_outlives_its_session(seconds: float) -> None:
    from tests.chaos.cluster import SESSION_SECONDS

    for fault in schedule(1, seconds):
        if fault.kind is Kind.STOP_SERVICE:
            assert fault.seconds > SESSION_SECONDS
