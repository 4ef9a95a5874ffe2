"""The window of records in flight, against handlers that are simulated: it fits them, and never starves them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker_mesh.kafka.window import HANDLERS_EACH, SHRINKING_SECONDS, TARGET_SECONDS, Window

LOOK_SECONDS = 0.2

concurrencies = st.integers(1, 200)
largest_limits = st.integers(1, 5000)
looks = st.lists(
    st.tuples(st.floats(0.01, 5.0), st.integers(-500, 20_000), st.booleans(), st.booleans()), max_size=60
)


def bounds(concurrency: int, max_in_flight: int) -> tuple[int, int]:
    return min(HANDLERS_EACH * concurrency, max_in_flight), max_in_flight


@given(concurrencies, largest_limits, looks)
def test_it_stays_within_its_bounds_and_shrinks_slowly_and_only_while_it_keeps_records_from_busy_handlers(
    concurrency: int, max_in_flight: int, taken: list[tuple[float, int, bool, bool]]
) -> None:
    smallest, largest = bounds(concurrency, max_in_flight)
    window = Window(concurrency, max_in_flight)
    now, finished, before = 0.0, 0, window.limit
    for passed, more, kept_out, idle in taken:
        now += passed
        finished += more  # negative where more waits for its time than was finished
        limit = window.look(now, finished, kept_out=kept_out, idle=idle)
        assert limit == window.limit
        assert smallest <= limit <= largest
        if limit < before:
            assert kept_out
            assert not idle
            assert before - limit <= before * min(1.0, passed / SHRINKING_SECONDS) + 1
        before = limit


@given(concurrencies, largest_limits)
def test_while_handlers_have_nothing_to_do_it_reaches_its_largest_size_within_a_dozen_looks(
    concurrency: int, max_in_flight: int
) -> None:
    window = Window(concurrency, max_in_flight)
    for number in range(13):  # 2 to the 12th is above 5,000 / 2
        window.look(number * LOOK_SECONDS, 0, kept_out=True, idle=True)
    assert window.limit == max_in_flight


@given(concurrencies, largest_limits, st.integers(0, 20_000))
def test_what_was_finished_within_the_last_second_is_what_it_holds_at_once(
    concurrency: int, max_in_flight: int, rate: int
) -> None:
    smallest, largest = bounds(concurrency, max_in_flight)
    window = Window(concurrency, max_in_flight)
    window.look(0.0, 0, kept_out=True, idle=False)
    assert window.look(TARGET_SECONDS, rate, kept_out=True, idle=False) == min(max(rate, smallest), largest)


@given(concurrencies, largest_limits, st.floats(0.001, 5.0))
def test_handlers_that_always_have_records_are_never_short_of_them_and_the_window_comes_to_fit(
    concurrency: int, max_in_flight: int, seconds_each: float
) -> None:
    """A backlog without end, and as many handlers as may run, each of which takes so long."""
    smallest, largest = bounds(concurrency, max_in_flight)
    window = Window(concurrency, max_in_flight)
    finished = 0.0
    for number in range(400):  # 80 seconds
        running = min(concurrency, window.limit)
        # Those that are kept waiting for a fetch would be missing here: the window always holds all that can run.
        assert running == min(concurrency, max_in_flight)
        finished += running * LOOK_SECONDS / seconds_each
        window.look(number * LOOK_SECONDS, int(finished), kept_out=True, idle=False)
    needed = min(max(concurrency / seconds_each * TARGET_SECONDS, smallest), largest)
    assert needed - 2 <= window.limit <= needed * 1.05 + 2


@given(concurrencies, st.integers(1, 4999))
def test_handlers_that_end_together_are_not_taken_for_fast_ones(concurrency: int, before: int) -> None:
    window = Window(concurrency, 5000)
    window.look(0.0, before, kept_out=True, idle=False)
    window.look(LOOK_SECONDS, before + concurrency, kept_out=True, idle=False)
    assert window.limit == bounds(concurrency, 5000)[0]


@given(concurrencies, st.floats(0.0, 3600.0), st.floats(1.0, 600.0))
def test_a_pause_shrinks_nothing_and_its_length_is_not_taken_for_speed(
    concurrency: int, began: float, paused: float
) -> None:
    window = Window(concurrency, 5000)
    window.look(began, 0, kept_out=False, idle=True)
    window.look(began + 1.0, 3000, kept_out=True, idle=False)
    limit = window.limit
    assert limit == 3000
    assert window.look(began + 1.0 + paused, 3100, kept_out=False, idle=True) == limit
    # The event loop was held up: as many as were finished in all that time are not finished in a second.
    window.look(began + 1.0 + 2 * paused, 3100 + int(3000 * paused), kept_out=True, idle=False)
    assert window.limit <= limit + 1
