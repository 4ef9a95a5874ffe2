"""Expressions over decoded values: JMESPath (https://jmespath.org/specification.html), refused before anything is read.

On the way of a message: beside it. Whoever picks records by what they hold asks here: taps, and the tools for dead
letters. Pure.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import jmespath
from jmespath.exceptions import (
    EmptyExpressionError,
    IncompleteExpressionError,
    JMESPathError,
    LexerError,
    ParseError,
)
from jmespath.functions import Functions

from broker_mesh.errors import InvalidArgument
from broker_mesh.settings import nearest

_FUNCTIONS = frozenset(Functions.FUNCTION_TABLE)


class Expression:
    """A condition on a value.

    Args:
        text: a JMESPath expression, as in ``seats > `100` && origin == 'JFK'``.

    Raises:
        InvalidArgument: it is none.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            self._compiled = jmespath.compile(text)
            called = list(_called(self._compiled.parsed))
        except JMESPathError as error:
            raise InvalidArgument(f"{text!r} is no JMESPath expression: {_problem(error)}") from error
        except RecursionError as error:
            raise InvalidArgument(f"{text[:60]!r}… is nested too deeply for a JMESPath expression") from error
        for name in called:
            # JMESPath itself would notice only with a value that gets there.
            if name not in _FUNCTIONS:
                raise InvalidArgument(
                    f"{text!r} is no JMESPath expression: there is no function {name!r}"
                    f"{nearest(name, _FUNCTIONS)}"
                )

    def __repr__(self) -> str:
        return f"Expression({self.text!r})"

    def holds(self, value: Any) -> bool:
        """Tell whether it holds for a value; it does not where it can't be evaluated, as with a missing field.

        Args:
            value: JSON values.
        """
        try:
            found = self._compiled.search(value)
        except (JMESPathError, ValueError, OverflowError, RecursionError):
            # Beside its own, jmespath lets Python's errors through: a slice with step 0, floor() of an infinite number.
            return False
        # JMESPath's own truth ("Or Expressions"): what is empty is false, and no number is, not even 0.
        return bool(found) or (found is not False and isinstance(found, int | float))


def _problem(error: JMESPathError) -> str:
    match error:
        case EmptyExpressionError():
            return "it is empty"
        case IncompleteExpressionError():
            return "it ends too early"
        case LexerError():
            return f"{error.message} at column {error.lexer_position + 1}"
        case ParseError():
            is_number = error.token_type == "NUMBER"  # noqa: S105 - a token of the grammar
            hint = "; write a number as `100`, between backticks" if is_number else ""
            return f"unexpected {error.token_value!r} at column {error.lex_position + 1}{hint}"
        case _:
            return str(error).partition("\n")[0]


def _called(node: Any) -> Iterator[str]:
    """Give the names of the functions that are called below a node of the parsed expression."""
    if node["type"] == "function_expression":
        yield node["value"]
    for child in node["children"]:
        if isinstance(child, dict):
            yield from _called(child)
