"""What is done seldom: once in a while for each key, for a bounded number of keys, in bounded memory."""

from __future__ import annotations

from broker_mesh.seldom import Seldom


def test_a_key_is_due_once_in_a_while() -> None:
    clock = iter((0.0, 1.0, 59.9, 60.0, 61.0, 120.0))
    seldom = Seldom(60, 10, lambda: next(clock))
    due = [seldom.is_due("a") for _ in range(6)]
    assert due == [True, False, False, True, False, True]


def test_so_many_keys_are_due_within_that_time_and_no_more_are_remembered() -> None:
    now = 0.0
    seldom = Seldom(60, 3, lambda: now)
    assert [seldom.is_due(key) for key in range(5)] == [True, True, True, False, False]
    now = 60.0
    assert [seldom.is_due(key) for key in (4, 0, 3, 1)] == [True, True, True, False]
    assert len(seldom._done) == 3
