"""A draft schema from samples of JSON, for somebody to review.

On the way of a message: long before it, when `mesh adopt` looks at a topic. Every sample fits the draft but for what is
rare enough to look like a mistake, which is left out and told, with the record where it was first seen. Of a field that
few have, nobody can tell whether it is one: it is in the draft, and told.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, NamedTuple

from broker_mesh.contracts.catalog import KEY_ATTRIBUTE
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.errors import SchemaError

# An object with more different keys than this is a map, whatever else it looks like.
_MOST_FIELDS = 200
# So is one of at least so many keys of which each object has less than this share.
_VARYING_FIELDS = 20
_VARYING_SHARE = 0.3
_DEEPEST = 20
# Among fewer samples nothing is rare.
_FEWEST_FOR_RARE = 100

_LONG: Final = range(-(2**63), 2**63)
_LARGEST_DOUBLE: Final = 1.7976931348623157e308
_FIELD_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")

_AVRO_OF = {"boolean": "boolean", "integer": "long", "number": "double", "string": "string"}
_SCALARS = ("boolean", "integer", "number", "string")


class Rare(NamedTuple):
    """Something that few samples have, and that may be a mistake.

    Args:
        field: where, as in `legs[].origin`.
        what: "string", "null", "missing"; or "there", which alone is in the draft: such a field is optional.
        seen: how often.
        of: among how many.
        place: the first, as topic/partition/offset.
    """

    field: str
    what: str
    seen: int
    of: int
    place: str


class Drafted(NamedTuple):
    """A draft, and what is to be looked at in its review."""

    schema: AvroSchema
    rare: list[Rare]


class Drafting:
    """Takes samples and drafts the schema that they fit.

    Memory is that of the different fields seen, not of the samples.
    """

    def __init__(self) -> None:
        self._root = _Seen()
        self.samples = 0

    def add(self, value: Mapping[str, Any], place: str) -> bool:
        """Take a sample; tells whether a schema can describe it: not where it is nested too deep, or too wide, say.

        Args:
            value: a JSON object.
            place: where it stands, as topic/partition/offset.
        """
        if len(value) > _MOST_FIELDS or not _is_describable(value, 0):
            return False
        if not all(map(_FIELD_NAME.fullmatch, value)):
            return False
        self._root.add(value, place)
        self.samples += 1
        return True

    def draft(self, name: str, namespace: str | None, *, rare: float, key: str | None = None) -> Drafted:
        """Draft the schema.

        Args:
            name: of the topic; the record's name is made of it.
            namespace: of the record; None for none.
            rare: what less than this share of the samples have is left out: another type, null, or a missing field.
                Fields themselves never are. 0 leaves nothing out.
            key: the field that names the key; None for none.

        Raises:
            SchemaError: no schema describes a sample, or the samples have no fields in common.
        """
        if not self.samples:
            raise SchemaError(
                f"each of the samples is nested too deep, has more than {_MOST_FIELDS} fields, or names that no field "
                "can have"
            )
        if self._root.is_map:
            raise SchemaError(
                f"the samples have more than {_MOST_FIELDS} different fields: their keys are data, and a schema needs "
                "fields"
            )
        writing = _Writing(rare)
        definition = writing.record(self._root, _camel(name), "")
        head = {"namespace": namespace} if namespace else {}
        tail = {} if key is None else {KEY_ATTRIBUTE: key}
        schema = AvroSchema.of({**head, **definition, **tail}, f"the draft for {name}")
        return Drafted(schema, writing.rare)


class _Seen:
    """What was seen in one place: how often each kind of value, and what is inside of arrays and objects."""

    def __init__(self) -> None:
        self.kinds: dict[str, int] = {}
        self.first: dict[str, str] = {}  # where each kind was first seen, "missing" among them
        self.item: _Seen | None = None
        self.fields: dict[str, _Seen] = {}
        self.is_map = False
        self.beyond_long = False

    @property
    def total(self) -> int:
        return sum(self.kinds.values())

    def add(self, value: Any, place: str) -> None:
        kind = _kind_of(value)
        if kind == "integer" and value not in _LONG:
            self.beyond_long = True
        if kind == "object":
            self._add_object(value, place)
        elif kind == "array":
            self.item = self.item or _Seen()
            for item in value:
                self.item.add(item, place)
        self._count(kind, place)

    def merge(self, other: _Seen) -> None:
        """Take in what was seen elsewhere: the values of all keys of a map are one."""
        only_there, only_here = (
            other.fields.keys() - self.fields.keys(),
            self.fields.keys() - other.fields.keys(),
        )
        if other.item is not None:
            self.item = self.item or _Seen()
            self.item.merge(other.item)
        self.is_map |= other.is_map
        self.beyond_long |= other.beyond_long
        for name, seen in other.fields.items():
            self._field(name).merge(seen)
        if "object" in self.first and "object" in other.first:
            self._note_missing(only_there, self.first["object"])
            self._note_missing(only_here, other.first["object"])
        for kind, count in other.kinds.items():
            self._count(kind, other.first[kind], count)
        if "missing" in other.first:
            self.first.setdefault("missing", other.first["missing"])
        self._turn_into_map_where_it_is_one()

    def value(self) -> _Seen:
        """Give what the values of a map are."""
        merged = _Seen()
        for seen in self.fields.values():
            merged.merge(seen)
        return merged

    def varies(self) -> bool:
        """Tell whether the keys of the objects are data rather than names of fields."""
        if self.is_map or not self.fields:
            return True
        if not all(map(_FIELD_NAME.fullmatch, self.fields)):
            return True
        seen = sum(field.total for field in self.fields.values())
        share = seen / (len(self.fields) * self.kinds["object"])
        return len(self.fields) >= _VARYING_FIELDS and share < _VARYING_SHARE

    def _add_object(self, value: Mapping[str, Any], place: str) -> None:
        new = value.keys() - self.fields.keys()
        for name, part in value.items():
            self._field(name).add(part, place)
        if "object" in self.first:
            self._note_missing(new, self.first["object"])
        self._note_missing(self.fields.keys() - value.keys(), place)
        self._turn_into_map_where_it_is_one()

    def _note_missing(self, names: Iterable[str], place: str) -> None:
        """Note the first place where fields are missing."""
        for name in names:
            if name in self.fields:
                self.fields[name].first.setdefault("missing", place)

    def _field(self, name: str) -> _Seen:
        return self.fields.setdefault("*" if self.is_map else name, _Seen())

    def _turn_into_map_where_it_is_one(self) -> None:
        if not self.is_map and len(self.fields) > _MOST_FIELDS:
            self.is_map = True
        if self.is_map and self.fields.keys() - {"*"}:
            self.fields = {"*": self.value()}

    def _count(self, kind: str, place: str, count: int = 1) -> None:
        self.kinds[kind] = self.kinds.get(kind, 0) + count
        self.first.setdefault(kind, place)


class _Writing:
    """Writes down what was seen as a schema."""

    def __init__(self, rare: float) -> None:
        self._rare = rare
        self._names: set[str] = set()
        self.rare: list[Rare] = []

    def record(self, seen: _Seen, name: str, path: str) -> dict[str, Any]:
        objects = seen.kinds.get("object", 0)
        fields = [
            self._field(field, part, f"{name}{_camel(field)}", f"{path}.{field}".lstrip("."), objects)
            for field, part in seen.fields.items()
        ]
        return {"type": "record", "name": self._unique(name), "fields": fields}

    def _field(self, field: str, seen: _Seen, name: str, path: str, objects: int) -> dict[str, Any]:
        if objects >= _FEWEST_FOR_RARE and seen.total < self._rare * objects:
            self.rare.append(Rare(path, "there", seen.total, objects, next(iter(seen.first.values()))))
        missing = objects - seen.total
        may_miss = missing > 0 and not self._leaves_out("missing", missing, objects, seen, path)
        branches = self._branches(seen, name, path)
        only_null = branches == ["null"]
        if only_null:
            branches.append("string")  # nothing is known of what else there may be
        if may_miss and "null" not in branches:
            branches.insert(0, "null")
        described: dict[str, Any] = {
            "name": field,
            "type": branches if len(branches) > 1 else branches[0],
        }
        return {**described, "default": None} if may_miss else described

    def _branches(self, seen: _Seen, name: str, path: str) -> list[Any]:
        """Give the types of what was seen in one place, null first, as Avro wants it where it is the default."""
        total = seen.total
        kinds = [
            kind
            for kind, count in seen.kinds.items()
            if len(seen.kinds) == 1 or not self._leaves_out(kind, count, total, seen, path)
        ]
        branches: list[Any] = ["null"] if "null" in kinds else []
        if "number" in kinds or ("integer" in kinds and seen.beyond_long):
            kinds = [kind for kind in kinds if kind != "integer"] + ["number"]
        branches += [_AVRO_OF[kind] for kind in _SCALARS if kind in kinds]
        if "array" in kinds:
            branches.append({"type": "array", "items": self._items(seen.item, f"{name}Item", f"{path}[]")})
        if "object" in kinds:
            branches.append(self._object(seen, name, path))
        return branches

    def _object(self, seen: _Seen, name: str, path: str) -> dict[str, Any]:
        if not seen.varies():
            return self.record(seen, name, path)
        return {"type": "map", "values": self._items(seen.value(), f"{name}Value", f"{path}.*")}

    def _items(self, seen: _Seen | None, name: str, path: str) -> Any:
        branches = [] if seen is None else self._branches(seen, name, path)
        if not branches:
            return "string"  # always empty: nothing is known
        return branches if len(branches) > 1 else branches[0]

    def _leaves_out(self, what: str, count: int, of: int, seen: _Seen, path: str) -> bool:
        if of < _FEWEST_FOR_RARE or count >= self._rare * of:
            return False
        if what in ("integer", "number") and {"integer", "number"} <= seen.kinds.keys():
            return False  # a whole number among fractions is no mistake
        self.rare.append(Rare(path, what, count, of, seen.first[what]))
        return True

    def _unique(self, name: str) -> str:
        found = name
        number = 2
        while found in self._names:
            found = f"{name}{number}"
            number += 1
        self._names.add(found)
        return found


def _kind_of(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "boolean"
        case int():
            return "integer"
        case float():
            return "number"
        case str():
            return "string"
        case list():
            return "array"
    return "object"


def _is_describable(value: Any, depth: int) -> bool:
    if depth > _DEEPEST:
        return False
    if isinstance(value, int) and not -_LARGEST_DOUBLE <= value <= _LARGEST_DOUBLE:
        return False
    return all(_is_describable(part, depth + 1) for part in _parts(value))


def _parts(value: Any) -> Iterator[Any]:
    if isinstance(value, list):
        yield from value
    elif isinstance(value, Mapping):
        yield from value.values()


def _camel(name: str) -> str:
    words = [word for word in re.split(r"[^A-Za-z0-9]+", name) if word]
    camel = "".join(word[0].upper() + word[1:] for word in words)
    return camel if camel[:1].isalpha() else f"Value{camel}"
