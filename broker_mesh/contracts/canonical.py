"""One form for each Avro schema: checked, complete in itself, and the same text for the same schema.

On the way of a message: before it. Two schemas are the same when their canonical texts are. Unlike Avro's
"parsing canonical form" this one keeps defaults, docs and logical types, since readers see those too
(https://avro.apache.org/docs/1.12.0/specification/).
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from broker_mesh.contracts.errors import shown
from broker_mesh.errors import SchemaError

PRIMITIVES = frozenset({"null", "boolean", "int", "long", "float", "double", "bytes", "string"})
COMPLEX = frozenset({"record", "error", "enum", "fixed", "array", "map"})
NAMED = frozenset({"record", "error", "enum", "fixed"})

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MAX_DEPTH = 100

_TYPE_ATTRIBUTES = (
    "type", "name", "namespace", "doc", "aliases", "fields", "symbols", "size", "items", "values", "default",
    "logicalType", "precision", "scale",
)  # fmt: skip
_FIELD_ATTRIBUTES = ("name", "type", "doc", "default", "order", "aliases")

Resolve = Callable[[str], "Mapping[str, Any] | None"]


def dumps(definition: Any) -> str:
    """Write JSON as it goes on the wire: no spaces, ASCII."""
    return json.dumps(definition, separators=(",", ":"))


def full_name(name: str, namespace: str | None) -> str:
    """Give a type's name with its namespace."""
    return name if "." in name or not namespace else f"{namespace}.{name}"


def canonical(definition: Any, where: str, resolve: Resolve | None = None) -> Any:
    """Check a schema and give its canonical form.

    Args:
        definition: the schema as JSON values.
        where: what the schema is, to begin errors with: a file or a subject.
        resolve: gives the definition of a named type that stands elsewhere; it is put in at its first use.

    Raises:
        SchemaError: it is no Avro schema; the sentence names the place in it.
    """
    return _Walk(where, resolve).type(definition, None, "", 0)


class _Walk:
    """One walk over a schema, which remembers the named types it has met."""

    def __init__(self, where: str, resolve: Resolve | None) -> None:
        self._where = where
        self._resolve = resolve
        self._met: set[str] = set()

    def type(self, node: Any, namespace: str | None, place: str, depth: int) -> Any:
        if depth > _MAX_DEPTH:
            raise self._error(place, f"is nested more than {_MAX_DEPTH} levels deep")
        if isinstance(node, str):
            return self._name_of_type(node, namespace, place, depth)
        if isinstance(node, list):
            return self._union(node, namespace, place, depth)
        if not isinstance(node, dict):
            raise self._error(place, f"has {shown(node)} where a type belongs")
        if "type" not in node:
            raise self._error(place, "has no 'type'")
        kind = node["type"]
        if isinstance(kind, (list, dict)):
            if len(node) > 1:
                raise self._error(place, "has attributes beside a type that has its own: put them inside it")
            return self.type(kind, namespace, place, depth + 1)
        if not isinstance(kind, str) or kind not in COMPLEX:
            inner = self.type(kind, namespace, place, depth + 1)
            if len(node) == 1:
                return inner
            if kind not in PRIMITIVES:
                raise self._error(
                    place, f"has attributes beside {kind!r}: put them where that type is defined"
                )
            return _ordered({**node, "type": inner}, _TYPE_ATTRIBUTES)
        return self._complex(kind, node, namespace, place, depth)

    def _complex(
        self, kind: str, node: dict[str, Any], namespace: str | None, place: str, depth: int
    ) -> dict[str, Any]:
        result = dict(node)
        if kind in NAMED:
            short, own = split_name(self._define(node, namespace, place))
            result["name"] = short
            result.pop("namespace", None)
            if own != (namespace or ""):
                result["namespace"] = own
        if kind in ("record", "error"):
            result["fields"] = self._fields(node, own, place, depth)
        elif kind == "array":
            result["items"] = self._part(node, "items", namespace, place, depth)
        elif kind == "map":
            result["values"] = self._part(node, "values", namespace, place, depth)
        elif kind == "enum":
            self._check_symbols(node, place)
        elif not isinstance(node.get("size"), int) or isinstance(node["size"], bool) or node["size"] < 0:
            raise self._error(place, "is fixed without a 'size' in bytes")
        return _ordered(result, _TYPE_ATTRIBUTES)

    def _part(self, node: dict[str, Any], part: str, namespace: str | None, place: str, depth: int) -> Any:
        if part not in node:
            raise self._error(place, f"is of type {node['type']!r} without {part!r}")
        return self.type(node[part], namespace, f"{place}.{part}".lstrip("."), depth + 1)

    def _name_of_type(self, name: str, namespace: str | None, place: str, depth: int) -> Any:
        if name in PRIMITIVES:
            return name
        whole = full_name(name, namespace)
        if whole in self._met:
            short, own = split_name(whole)
            return short if own == (namespace or "") else whole
        elsewhere = self._resolve(whole) if self._resolve else None
        if elsewhere is not None:
            # Under its full name, so that the namespace around its use does not matter.
            short, own = split_name(whole)
            return self.type({**elsewhere, "name": short, "namespace": own}, namespace, place, depth + 1)
        near = difflib.get_close_matches(name, [*PRIMITIVES, *COMPLEX, *self._met], n=1)
        hint = f": did you mean {near[0]!r}?" if near else ": no such type is defined before it"
        raise self._error(place, f"has the unknown type {shown(name)}{hint}")

    def _define(self, node: dict[str, Any], namespace: str | None, place: str) -> str:
        name = node.get("name")
        own = node.get("namespace", namespace)
        if not isinstance(name, str) or not name:
            raise self._error(place, f"is a {node['type']} without a name")
        if own is not None and not isinstance(own, str):
            raise self._error(place, "has a 'namespace' that is not a string")
        whole = full_name(name, own)
        if not all(_NAME.fullmatch(part) for part in whole.split(".")):
            raise self._error(
                place,
                f"has the name {shown(whole)}: write letters, digits and underscores, with dots between",
            )
        if whole in self._met or whole in PRIMITIVES:
            raise self._error(place, f"defines the type {whole!r} a second time: refer to it by its name")
        self._met.add(whole)
        return whole

    def _fields(self, node: dict[str, Any], namespace: str, place: str, depth: int) -> list[Any]:
        fields = node.get("fields")
        if not isinstance(fields, list):
            raise self._error(place, "is a record without a list of 'fields'")
        result: list[Any] = []
        names: set[str] = set()
        for index, field in enumerate(fields):
            name = field.get("name") if isinstance(field, dict) else None
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise self._error(
                    f"{place}.fields[{index}]".lstrip("."),
                    "needs a 'name' of letters, digits and underscores",
                )
            at = f"{place}.{name}".lstrip(".")
            if name in names:
                raise self._error(at, "stands twice in its record")
            names.add(name)
            if "type" not in field:
                raise self._error(at, "has no 'type'")
            whole = {**field, "type": self.type(field["type"], namespace, at, depth + 1)}
            if whole.get("order") == "ascending":  # the default
                del whole["order"]
            result.append(_ordered(whole, _FIELD_ATTRIBUTES))
        return result

    def _union(self, branches: list[Any], namespace: str | None, place: str, depth: int) -> list[Any]:
        result = [self.type(branch, namespace, place, depth + 1) for branch in branches]
        kinds = [branch_name(branch, namespace) for branch in result]
        if any(isinstance(branch, list) for branch in result):
            raise self._error(place, "is a union inside a union")
        twice = {kind for kind in kinds if kinds.count(kind) > 1}
        if twice:
            raise self._error(
                place, f"is a union with {sorted(twice)[0]!r} twice: Avro could not tell them apart"
            )
        if not result:
            raise self._error(place, "is a union of nothing")
        return result

    def _check_symbols(self, node: dict[str, Any], place: str) -> None:
        symbols = node.get("symbols")
        if not isinstance(symbols, list) or not symbols:
            raise self._error(place, "is an enum without a list of 'symbols'")
        for symbol in symbols:
            if not isinstance(symbol, str) or not _NAME.fullmatch(symbol):
                raise self._error(
                    place, f"has the symbol {shown(symbol)}: write letters, digits and underscores"
                )
        if len(set(symbols)) < len(symbols):
            raise self._error(place, "has a symbol twice")

    def _error(self, place: str, problem: str) -> SchemaError:
        return SchemaError(
            f"{self._where}: field {place!r} {problem}" if place else f"{self._where}: the schema {problem}"
        )


def branch_name(branch: Any, namespace: str | None) -> str:
    """Name a branch of a union as Avro tells branches apart: the type, or a named type's full name."""
    if isinstance(branch, dict):
        if branch["type"] in NAMED:
            return full_name(branch["name"], branch.get("namespace", namespace))
        return branch_name(branch["type"], namespace)
    if isinstance(branch, str) and branch not in PRIMITIVES and branch not in COMPLEX:
        return full_name(branch, namespace)
    return str(branch)


def split_name(name: str) -> tuple[str, str]:
    """Split a full name into the short name and the namespace, which is empty for none."""
    namespace, _, short = name.rpartition(".")
    return short, namespace


def _ordered(node: dict[str, Any], first: tuple[str, ...]) -> dict[str, Any]:
    known = {name: node[name] for name in first if name in node}
    return {**known, **{name: node[name] for name in sorted(node.keys() - known.keys())}}
