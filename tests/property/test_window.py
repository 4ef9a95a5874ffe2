"""The window of what came already, against a naive model: it forgets by time and by number, oldest first."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from broker_mesh.layers.dedupe import Window

AGE = 20

steps = st.lists(
    st.tuples(st.sampled_from(["add", "get"]), st.sampled_from("abcdefgh"), st.integers(0, 8)), max_size=80
)


@given(steps, st.integers(1, 6))
def test_it_remembers_the_newest_for_its_time_and_never_more_than_its_size(
    taken: list[tuple[str, str, int]], size: int
) -> None:
    window: Window[str, int] = Window(AGE, size)
    model: list[tuple[str, int, int]] = []  # key, time, value; oldest first
    now = 0
    for number, (step, key, passed) in enumerate(taken):
        now += passed
        model = [entry for entry in model if entry[1] + AGE > now]
        if step == "add":
            model = [entry for entry in model if entry[0] != key]
            model.append((key, now, number))
            assert window.add(key, now, number) == (len(model) > size)
            model = model[-size:]
        else:
            assert window.get(key, now) == next((value for name, _, value in model if name == key), None)
        assert len(model) <= len(window) <= size


@given(st.lists(st.integers(0, 1000), min_size=1, max_size=50), st.integers(1, 60))
def test_times_out_of_order_keep_nothing_beyond_its_age_or_size(times: list[int], size: int) -> None:
    window: Window[int, int] = Window(AGE, size)
    for number, at in enumerate(times):
        window.add(number, at, number)
        assert len(window) <= size
        assert window.get(number, at) == number
        assert window.get(number, at + AGE) is None
