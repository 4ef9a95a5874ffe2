"""Conditions on decoded values."""

from __future__ import annotations

from typing import Any

import pytest

from broker_mesh.errors import InvalidArgument
from broker_mesh.expression import Expression

FLIGHT = {"carrier": "UA", "seats": 178, "stops": [], "delay": 0, "route": {"from": "EWR"}}


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("carrier == 'UA'", True),
        ("carrier == 'DL'", False),
        ("seats > `100` && route.from == 'EWR'", True),
        ("starts_with(carrier, 'U')", True),
        ("seats", True),
        ("delay", True),  # 0 is a value that is there
        ("missing", False),
        ("stops", False),
        ("missing.deeper == `1`", False),
        ("length(missing) > `1`", False),  # no type error ends a search
        ("carrier == `null`", False),
        ("stops[::0]", False),  # jmespath lets Python's own error through
    ],
)
def test_what_holds(text: str, holds: bool) -> None:
    assert Expression(text).holds(FLIGHT) is holds


@pytest.mark.parametrize("value", [None, "text", 3, [1]])
def test_a_value_of_any_form(value: Any) -> None:
    assert Expression("carrier").holds(value) is False


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "it is empty"),
        ("seats >", "it ends too early"),
        ("seats > 100", "unexpected 100 at column 9; write a number as `100`, between backticks"),
        ("carrier = 'UA'", "column 9"),
        ("lenght(carrier)", "there is no function 'lenght': did you mean 'length'?"),
        ("a[?b].{x: nope(y)}", "there is no function 'nope'"),
        ("!" * 5000 + "seats", "is nested too deeply"),
    ],
)
def test_what_is_no_expression_is_said_in_one_sentence(text: str, said: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        Expression(text)
    assert said in caught.value.message
    assert "\n" not in caught.value.message
