"""Suspicion: what is told from how a partition's owners ended, over any number of them."""

from __future__ import annotations

from broker_mesh.progress import Alone, Attempts, Progress
from broker_mesh.suspicion import Suspicion, attempts_found

NOW = 1_700_000_000_000


def test_an_orderly_end_arouses_none() -> None:
    suspicion = Suspicion(Progress(running=False), window=10)
    assert (suspicion.deaths, suspicion.singly) == (0, False)


def test_one_unclean_end_is_counted_and_changes_nothing() -> None:
    suspicion = Suspicion(Progress(running=True), window=10)
    assert (suspicion.deaths, suspicion.singly) == (1, False)


def test_progress_clears_it() -> None:
    suspicion = Suspicion(Progress(running=True), window=10)
    suspicion.settled(moved=False)
    assert suspicion.deaths == 1
    suspicion.settled(moved=True)
    assert suspicion.deaths == 0


def test_two_unclean_ends_at_one_position_make_records_run_singly_until_all_suspects_are_settled() -> None:
    suspicion = Suspicion(Progress(deaths=1, running=True), window=3)
    for _ in range(2):
        assert suspicion.singly
        suspicion.settled(moved=True)
        assert suspicion.deaths == 2, "the next owner has to go on singly: the guilty one may come yet"
    assert suspicion.left == 1
    suspicion.acknowledged(1)
    suspicion.settled(moved=True)
    assert (suspicion.deaths, suspicion.left) == (0, 0)
    assert suspicion.singly, "Kafka still says that an end without a name is nobody's doing"
    suspicion.acknowledged(0)
    assert not suspicion.singly


def test_an_orderly_end_in_between_does_not_acquit() -> None:
    assert Suspicion(Progress(deaths=2, running=False), window=3).singly


def test_the_next_owner_goes_on_with_as_many_as_were_left() -> None:
    """Each beginning anew, partitions that change hands every few seconds never come to the end of it."""
    suspicion = Suspicion(Progress(deaths=2, singly=2), window=100)
    assert (suspicion.deaths, suspicion.left) == (2, 2)
    suspicion.settled(moved=False)
    suspicion.settled(moved=False)
    assert (suspicion.deaths, suspicion.left) == (0, 0), "also where the position waits for a later attempt"


def test_an_end_is_a_partition_s_doing_only_if_one_of_its_records_was_named() -> None:
    innocent = Suspicion(Progress(deaths=2, singly=7, running=True), window=100)
    assert (innocent.deaths, innocent.left) == (2, 7)
    named = Suspicion(Progress(deaths=2, singly=7, running=True, alone=Alone(7, 1)), window=100)
    assert (named.deaths, named.left) == (3, 7)


def test_of_a_service_with_fewer_handlers_no_more_run_singly_than_run_at_once() -> None:
    assert Suspicion(Progress(deaths=2, singly=100), window=3).left == 3


def test_the_first_end_of_what_ran_alone_is_noted_and_uses_up_no_attempt() -> None:
    found = Progress(attempts={9: Attempts(1, 5)}, deaths=2, running=True, alone=Alone(7, 3))
    assert attempts_found(found, NOW) == {7: Attempts(2, None, died=1), 9: Attempts(1, 5)}
    found = Progress(attempts={7: Attempts(2, 5)}, deaths=2, running=True, alone=Alone(7, 3))
    assert attempts_found(found, NOW) == {7: Attempts(2, 5, died=1)}


def test_the_second_end_uses_up_both_attempts_and_each_later_one_its_own() -> None:
    found = Progress(attempts={7: Attempts(0, died=1)}, deaths=3, running=True, alone=Alone(7, 1))
    assert attempts_found(found, NOW) == {7: Attempts(2, NOW, died=2)}
    found = Progress(attempts={7: Attempts(2, 5, died=2)}, deaths=4, running=True, alone=Alone(7, 3))
    assert attempts_found(found, NOW) == {7: Attempts(3, 5, died=3)}


def test_what_ran_alone_at_an_orderly_end_is_not_blamed() -> None:
    assert attempts_found(Progress(running=False, alone=Alone(7, 3)), NOW) == {}
