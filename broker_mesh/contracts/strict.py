"""Checks plain values against a schema before they are written: nothing unknown, missing or of another type.

On the way of a message: `codec.py` calls this for values by name, which no model has checked, and to find the
field at fault when fastavro refuses a value. fastavro itself takes True for 1, "1.5" for 1.5 and 2**40 for an int.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from typing import Any
from uuid import UUID

from broker_mesh.contracts.canonical import branch_name
from broker_mesh.contracts.errors import joined, shown
from broker_mesh.contracts.logical import decimal_problem
from broker_mesh.errors import SchemaError

Prepare = Callable[[Any], Any]

_INT = range(-(2**31), 2**31)
_LONG = range(-(2**63), 2**63)
_LARGEST_FLOAT = 3.4028234663852886e38


class Misfit(Exception):
    """A value does not fit; becomes a SchemaError once the way to it is known.

    Args:
        problem: what is wrong, to follow the field's name: "expected string, got 7".
    """

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.path: list[str | int] = []  # from the value at fault outwards

    def at(self, step: str | int) -> Misfit:
        """Note one step of the way to the value."""
        self.path.append(step)
        return self

    def as_error(self, subject: str) -> SchemaError:
        """Give the error for users."""
        place = joined(self.path[::-1])
        where = f"field {place!r}" if place else "the value"
        return SchemaError(f"{subject}: {where}: {self.problem}", details={"field": place})


def compile_prepare(form: Any) -> Prepare:
    """Give the function that checks a value and gives it in the form that fastavro writes fastest.

    Args:
        form: a schema as `AvroSchema.fastavro_form` has it.

    The function raises Misfit for what does not fit.
    """
    return _Compiler(form.get("__named_schemas", {}) if isinstance(form, dict) else {}).of(form)


class _Compiler:
    def __init__(self, named: Mapping[str, Any]) -> None:
        self._named = named
        self._made: dict[str, Prepare] = {}

    def of(self, node: Any) -> Prepare:
        if isinstance(node, list):
            return self._union(node)
        if isinstance(node, str):
            if node in self._named:
                return self._named_type(node)
            return _PRIMITIVES[node]
        kind = node["type"]
        if kind in ("record", "error"):
            return self._record(node)
        if kind == "array":
            return _array(self.of(node["items"]))
        if kind == "map":
            return _map(self.of(node["values"]))
        if kind == "enum":
            return _enum(frozenset(node["symbols"]))
        logical = _LOGICAL.get(f"{kind}-{node.get('logicalType')}")
        if logical is not None:
            return logical(node)
        return _fixed(node["size"]) if kind == "fixed" else self.of(kind)

    def _named_type(self, name: str) -> Prepare:
        # Looked up when called: a recursive type refers to itself before it is compiled.
        return lambda value: (self._made.get(name) or self.of(self._named[name]))(value)

    def _record(self, node: Mapping[str, Any]) -> Prepare:
        fields = [
            (field["name"], self.of(field["type"]), field.get("default", _MISSING))
            for field in node["fields"]
        ]
        known = frozenset(name for name, _, _ in fields)

        def prepare(value: Any) -> Any:
            # The check against the abstract class costs more than all else here.
            if type(value) is not dict and not isinstance(value, Mapping):
                raise Misfit(f"expected the fields {_listed(known)}, got {shown(value)}")
            result = {}
            for name, prepare_field, default in fields:
                part = value.get(name, _MISSING)
                if part is _MISSING:
                    if default is _MISSING:
                        raise Misfit("is missing").at(name)
                    part = default
                try:
                    result[name] = prepare_field(part)
                except Misfit as misfit:
                    raise misfit.at(name)  # noqa: B904 - the same exception, on its way out
            if len(value) > len(fields) or not value.keys() <= known:
                unknown = next(name for name in value if name not in known)
                near = difflib.get_close_matches(str(unknown), known, n=1)
                hint = f", did you mean {near[0]!r}?" if near else f": the fields are {_listed(known)}"
                raise Misfit(f"is not in the schema{hint}").at(str(unknown)[:60])
            return result

        self._made[node["name"]] = prepare
        return prepare

    def _union(self, branches: Sequence[Any]) -> Prepare:
        names = [branch_name(branch, None) for branch in branches]
        prepares = [self.of(branch) for branch in branches]
        others = [i for i, name in enumerate(names) if name != "null"]
        nullable = len(others) < len(names)
        expected = " or ".join(name.rpartition(".")[2] for name in names)

        if len(others) == 1:
            name, only = names[others[0]], prepares[others[0]]
            # fastavro finds the branch of a scalar faster than it takes our word for it; for others it would
            # check the whole value first.
            tagged = name not in _PRIMITIVES

            def prepare_optional(value: Any) -> Any:
                if value is None and nullable:
                    return None
                prepared = only(value)
                return (name, prepared) if tagged else prepared

            return prepare_optional

        def prepare(value: Any) -> Any:
            if value is None and nullable:
                return None
            deepest: Misfit | None = None
            for i in others:
                try:
                    return names[i], prepares[i](value)
                except Misfit as misfit:
                    if deepest is None or len(misfit.path) > len(deepest.path):
                        deepest = misfit
            if deepest is not None and deepest.path:
                raise deepest
            raise Misfit(f"expected {expected}, got {shown(value)}")

        return prepare


_MISSING: Any = object()


def _listed(names: frozenset[str]) -> str:
    return ", ".join(sorted(names)) if len(names) <= 8 else f"{', '.join(sorted(names)[:8])}, …"


def _typed(expected: str, fits: Callable[[Any], bool]) -> Prepare:
    def prepare(value: Any) -> Any:
        if fits(value):
            return value
        raise Misfit(f"expected {expected}, got {shown(value)}")

    return prepare


def _integer(name: str, bounds: range) -> Prepare:
    def prepare(value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            if value in bounds:
                return value
            raise Misfit(f"{shown(value)} is out of the range of {name}, {bounds.start} to {bounds.stop - 1}")
        raise Misfit(f"expected {name}, got {shown(value)}")

    return prepare


def _number(name: str, largest: float) -> Prepare:
    def prepare(value: Any) -> Any:
        if isinstance(value, (float, int)) and not isinstance(value, bool):
            try:
                number = float(value)
            except OverflowError:
                number = math.nan
            if -largest <= number <= largest or (isinstance(value, float) and not math.isfinite(value)):
                return number
            raise Misfit(f"{shown(value)} is out of the range of {name}")
        raise Misfit(f"expected {name}, got {shown(value)}")

    return prepare


def _prepare_bytes(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value)
    raise Misfit(f"expected bytes, got {shown(value)}")


def _fixed(size: int) -> Prepare:
    return _typed(f"{size} bytes", lambda value: isinstance(value, bytes) and len(value) == size)


def _enum(symbols: frozenset[str]) -> Prepare:
    return _typed(f"one of {_listed(symbols)}", lambda value: isinstance(value, str) and value in symbols)


def _array(prepare_item: Prepare) -> Prepare:
    def prepare(value: Any) -> Any:
        if not isinstance(value, (list, tuple)):
            raise Misfit(f"expected array, got {shown(value)}")
        result = []
        for index, item in enumerate(value):
            try:
                result.append(prepare_item(item))
            except Misfit as misfit:
                raise misfit.at(index)  # noqa: B904 - the same exception, on its way out
        return result

    return prepare


def _map(prepare_value: Prepare) -> Prepare:
    def prepare(value: Any) -> Any:
        if not isinstance(value, Mapping):
            raise Misfit(f"expected map, got {shown(value)}")
        result = {}
        for key, item in value.items():
            if not isinstance(key, str):
                raise Misfit(f"expected a map with strings as keys, got the key {shown(key)}")
            try:
                result[key] = prepare_value(item)
            except Misfit as misfit:
                raise misfit.at(key[:60])  # noqa: B904 - the same exception, on its way out
        return result

    return prepare


def _decimal(node: Mapping[str, Any]) -> Prepare:
    def prepare(value: Any) -> Any:
        if isinstance(value, int) and not isinstance(value, bool):
            value = Decimal(value)
        if not isinstance(value, Decimal):
            raise Misfit(f"expected decimal, got {shown(value)}")
        problem = decimal_problem(value, node)
        if problem:
            raise Misfit(f"expected {problem}, got {shown(value)}")
        return value

    return prepare


def _simple(expected: str, fits: Callable[[Any], bool]) -> Callable[[Any], Prepare]:
    prepare = _typed(expected, fits)
    return lambda _: prepare


_PRIMITIVES: dict[str, Prepare] = {
    "null": _typed("null", lambda value: value is None),
    "boolean": _typed("boolean", lambda value: isinstance(value, bool)),
    "int": _integer("int", _INT),
    "long": _integer("long", _LONG),
    "float": _number("float", _LARGEST_FLOAT),
    "double": _number("double", math.inf),
    "bytes": _prepare_bytes,
    "string": _typed("string", lambda value: isinstance(value, str)),
}

# A datetime without a zone would be written as of this machine's zone, a time with one would lose it.
_aware = _simple(
    "a datetime with time zone", lambda value: isinstance(value, datetime) and bool(value.tzinfo)
)
_naive = _simple(
    "a datetime without time zone", lambda value: isinstance(value, datetime) and not value.tzinfo
)
_time = _simple("a time without time zone", lambda value: isinstance(value, time) and not value.tzinfo)
_uuid = _simple("UUID", lambda value: isinstance(value, UUID))

_LOGICAL: dict[str, Callable[[Any], Prepare]] = {
    "bytes-broker-mesh-decimal": _decimal,
    "fixed-broker-mesh-decimal": _decimal,
    "string-uuid": _uuid,
    "fixed-uuid": _uuid,
    "int-date": _simple("date", lambda value: isinstance(value, date) and not isinstance(value, datetime)),
    "int-time-millis": _time,
    "long-time-micros": _time,
    "long-timestamp-millis": _aware,
    "long-timestamp-micros": _aware,
    "long-local-timestamp-millis": _naive,
    "long-local-timestamp-micros": _naive,
}
