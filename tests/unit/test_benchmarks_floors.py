"""The limits of `make bench-check`: how each is worked out, and that one that fails is named."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from benchmarks.__main__ import judged
from benchmarks.figures import Figures, Seen
from benchmarks.floors import CHECKED, LIMITS, Amount, Growth, Limit, Share, Verdict, verdicts
from benchmarks.sections import SECTIONS

RATES = Share("s", "64", "rate", "mesh", ("one", "other"))


def seen(**rounds: list[float]) -> Seen:
    return {("64", name): [{"rate": each} for each in figures] for name, figures in rounds.items()}


def test_a_share_is_the_median_of_the_rounds_ratios() -> None:
    assert RATES.value(seen(mesh=[2, 6, 5], one=[4, 4, 5])) == 1.0


def test_a_share_is_taken_in_the_best_of_several() -> None:
    assert RATES.value(seen(mesh=[4, 4, 4], one=[1, 9, 1], other=[2, 2, 2])) == 2.0


@pytest.mark.parametrize("missing", [seen(one=[1]), seen(mesh=[1])])
def test_a_share_of_what_was_not_measured_is_none(missing: Seen) -> None:
    assert RATES.value(missing) is None


def grown(raw: tuple[float, float], mesh: tuple[float, float]) -> Seen:
    found: dict[tuple[str, str], list[Figures]] = {}
    for name, (first, last) in {"raw": raw, "mesh": mesh}.items():
        found["few", name], found["many", name] = [{"cost": first}], [{"cost": last}]
    return found


def test_growth_is_that_beyond_raws_own() -> None:
    growth = Growth("s", "cost", "few", "many")
    assert growth.value(grown(raw=(10, 20), mesh=(50, 150))) == 1.5
    assert growth.value({("few", "mesh"): [{"cost": 1}]}) is None


def test_an_amount_is_the_median_of_its_rounds() -> None:
    amount = Amount("s", "64", "rate", "mesh")
    assert amount.value(seen(mesh=[1, 5, 2])) == 2
    assert amount.value({}) is None


@pytest.mark.parametrize(
    ("limit", "value", "holds"),
    [
        (Limit(RATES, least=0.4), 0.4, True),
        (Limit(RATES, least=0.4), 0.399, False),
        (Limit(RATES, most=1.15), 1.15, True),
        (Limit(RATES, most=1.15), 1.16, False),
    ],
)
def test_limits_are_inclusive(limit: Limit, value: float, holds: bool) -> None:
    assert limit.holds(value) is holds


def test_what_was_not_measured_fails_unless_its_contender_may_be_absent() -> None:
    assert Verdict(Limit(RATES, least=1), None).failed
    assert not Verdict(Limit(RATES, least=1, optional=True), None).failed


def test_only_limits_of_measured_sections_are_decided() -> None:
    others: Mapping[str, Seen] = {"s": seen(mesh=[1], one=[2])}
    decided = verdicts(others, [Limit(RATES, least=0.4), Limit(Amount("t", "64", "rate", "mesh"), most=1)])
    assert [(each.value, each.failed) for each in decided] == [(0.5, False)]


def test_each_limit_that_fails_is_named_and_the_check_fails(capsys: pytest.CaptureFixture[str]) -> None:
    low, reached = Verdict(Limit(RATES, least=0.4), 0.39), Verdict(Limit(RATES, most=2), 0.39)
    assert judged([low, reached]) == 1
    told = capsys.readouterr().err
    assert (
        "FAILED: s, 64: rate of mesh in that of the better of one and other must be at least 0.4: 0.39"
        in told
    )
    assert "1 of 2 limits are not reached" in told
    assert judged([reached]) == 0


def test_every_limit_is_of_a_section_and_has_one_bound() -> None:
    assert set(CHECKED) <= {section.name for section in SECTIONS}
    assert all((limit.least is None) != (limit.most is None) for limit in LIMITS)
