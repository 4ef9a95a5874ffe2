"""Checkpoints: offsets rise between two commits, and what comes again comes once, later."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker_mesh_adapters.checkpoints import Checkpoint

Message = tuple[tuple[str, int], int]

places = st.tuples(st.tuples(st.just("orders"), st.integers(0, 1)), st.integers(0, 5))


def checkpoint(gone: frozenset[Message] = frozenset()) -> Checkpoint[Message]:
    return Checkpoint(lambda message: message, lambda message: message not in gone)


@given(st.lists(st.one_of(places, st.none())))
def test_offsets_rise_within_a_checkpoint_and_nothing_is_lost(steps: list[Message | None]) -> None:
    point = checkpoint()
    given_out: list[Message] = []
    within: list[Message] = []

    def give(message: Message) -> None:
        given_out.append(message)
        assert all(other[1] < message[1] for other in within if other[0] == message[0])
        within.append(message)

    def give_due() -> None:
        while (due := point.due()) is not None:
            give(due)

    for message in steps:
        if message is None:
            point.begin()
            within.clear()
            give_due()
        elif point.take(message):
            give(message)
    while point.kept:
        point.begin()
        within.clear()
        give_due()

    assert sorted(given_out) == sorted(message for message in steps if message is not None)


def test_a_message_that_comes_again_waits_for_the_next_checkpoint() -> None:
    point = checkpoint()
    place = ("orders", 0)
    assert point.take((place, 7))
    assert not point.take((place, 7))
    assert point.take((("orders", 1), 3))
    assert point.due() is None

    point.begin()
    assert point.due() == (place, 7)
    assert point.take((place, 8))


def test_what_has_gone_to_another_member_is_dropped() -> None:
    again = (("orders", 0), 7)
    point = checkpoint(gone=frozenset({again}))
    point.take(again)
    point.take(again)
    point.begin()

    assert point.due() is None
    assert point.kept == []


def test_a_partition_that_is_sought_begins_anew_and_keeps_what_was_not_read_from_it() -> None:
    place, other = ("orders", 0), ("orders", 1)
    point = checkpoint(gone=frozenset({(place, 5)}))  # it is read again, unlike the one that waits elsewhere
    for message in ((place, 7), (place, 5), (place, 4), (other, 7), (other, 5)):
        point.take(message)
    point.rewind(place)

    assert point.kept == [(place, 4), (other, 5)]
    assert point.take((place, 5))
