"""The arrays beneath the metrics: what is recorded is what is counted."""

from __future__ import annotations

import itertools
import math

from hypothesis import given
from hypothesis import strategies as st

from broker_mesh.telemetry.aggregation import (
    OTHER,
    Counter,
    Distribution,
    Family,
    Histogram,
    Names,
    counts,
    merged,
    since,
)
from broker_mesh.telemetry.instruments import ALL, LAG, OUTCOMES, QUEUE_SECONDS

BOUNDS = st.lists(st.floats(0.001, 1e6, allow_nan=False), min_size=1, max_size=8, unique=True).map(sorted)
VALUES = st.lists(st.floats(0, 2e6, allow_nan=False), max_size=50)
LABELS = st.tuples(st.sampled_from("ab"), st.sampled_from("xy"))


@given(BOUNDS, VALUES, st.data())
def test_each_bucket_counts_what_is_at_most_its_bound_and_above_the_one_before(
    bounds: list[float], values: list[float], data: st.DataObject
) -> None:
    values = values + data.draw(
        st.lists(st.sampled_from(bounds), max_size=5)
    )  # a bound belongs to its own bucket
    histogram = Histogram(bounds)
    for value in values:
        histogram.record(("fleet",), value)
    distribution = histogram.samples().get(("fleet",), Distribution((0,) * (len(bounds) + 1), 0.0))
    edges = [-math.inf, *bounds, math.inf]
    expected = tuple(sum(low < value <= high for value in values) for low, high in itertools.pairwise(edges))
    assert distribution.counts == expected
    assert distribution.count == len(values)
    assert math.isclose(distribution.total, sum(values), rel_tol=1e-9)


@given(st.lists(st.tuples(LABELS, st.integers(1, 5))))
def test_a_counter_counts_by_label_set(added: list[tuple[tuple[str, str], int]]) -> None:
    counter = Counter()
    for labels, number in added:
        counter.add(labels, number)
    samples = counter.samples()
    for labels in {labels for labels, _ in added}:
        assert samples[labels] == sum(number for other, number in added if other == labels)
    assert sum(samples.values()) == sum(number for _, number in added)


@given(st.lists(st.tuples(LABELS, st.floats(0, 10))))
def test_a_histogram_s_counter_and_its_sums_over_a_label_lose_nothing(
    recorded: list[tuple[tuple[str, str], float]],
) -> None:
    histogram = Histogram([1.0, 5.0])
    for labels, value in recorded:
        histogram.record(labels, value)
    samples = histogram.samples()
    assert sum(counts(samples).values()) == len(recorded)
    by_first = merged(samples, keep=1)
    assert set(by_first) == {labels[:1] for labels, _ in recorded}
    assert sum(distribution.count for distribution in by_first.values()) == len(recorded)


@given(st.lists(st.floats(0, 10)), st.lists(st.floats(0, 10)))
def test_what_came_since_and_what_was_before_make_all(before: list[float], after: list[float]) -> None:
    histogram, counter = Histogram(QUEUE_SECONDS.bounds), Counter()

    def take(values: list[float]) -> list[Family]:
        for value in values:
            histogram.record(("fleet",), value)
            counter.add(("fleet", "done", "OK"))
        gauge = Family(LAG, {("fleet", "0"): len(values)})
        return [Family(QUEUE_SECONDS, histogram.samples()), Family(OUTCOMES, counter.samples()), gauge]

    then = {family.instrument.name: family.samples for family in take(before)}
    told = {family.instrument.name: family.samples for family in since(take(after), then)}
    if before or after:
        assert told[QUEUE_SECONDS.name][("fleet",)].count == len(after)
        assert told[OUTCOMES.name]["fleet", "done", "OK"] == len(after)
    assert told[LAG.name] == {("fleet", "0"): len(after)}  # a gauge has no before


def test_names_from_the_wire_are_bounded() -> None:
    names = Names(2, str.islower)
    assert [names[name] for name in ("b", "BAD", "a", "c", "a")] == ["b", OTHER, "a", OTHER, "a"]
    assert len(names) == 2


def test_no_two_instruments_have_one_name_and_all_bounds_ascend() -> None:
    assert len({instrument.name for instrument in ALL}) == len(ALL)
    for instrument in ALL:
        assert list(instrument.bounds) == sorted(set(instrument.bounds))
        assert instrument.help.endswith(".")
