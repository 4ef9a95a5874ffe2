"""May a schema follow the ones before it? The avro package decides; the reasons here are for people.

On the way of a message: before it, when a schema is registered or checked. BACKWARD, the default, lets new readers
read what is still on the topic; the modes are Confluent's
(https://docs.confluent.io/platform/current/schema-registry/fundamentals/schema-evolution.html).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from enum import StrEnum
from typing import Any

from broker_mesh.contracts.canonical import PRIMITIVES, branch_name
from broker_mesh.contracts.errors import joined
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.errors import SchemaError


class Compatibility(StrEnum):
    """Which readers must understand which writers."""

    NONE = "NONE"
    BACKWARD = "BACKWARD"
    BACKWARD_TRANSITIVE = "BACKWARD_TRANSITIVE"
    FORWARD = "FORWARD"
    FORWARD_TRANSITIVE = "FORWARD_TRANSITIVE"
    FULL = "FULL"
    FULL_TRANSITIVE = "FULL_TRANSITIVE"

    @classmethod
    def of(cls, name: str) -> Compatibility:
        """Give a mode by its name.

        Raises:
            SchemaError: there is no such mode; offers the nearest.
        """
        try:
            return cls(name.upper())
        except ValueError as error:
            near = difflib.get_close_matches(name.upper(), [*cls.__members__], n=1)
            hint = f"did you mean {near[0]}?" if near else f"choose from {', '.join(cls.__members__)}"
            raise SchemaError(f"{name!r} is no compatibility mode: {hint}") from error


def check(mode: str, new: AvroSchema, existing: Sequence[AvroSchema]) -> list[str]:
    """List why a schema may not follow others.

    Args:
        mode: a mode of `Compatibility`.
        new: the schema to be registered.
        existing: those registered for its subject, oldest first.

    Returns:
        One sentence per reason; empty when the schema is compatible.

    Raises:
        SchemaError: no such mode, or one of the schemas is no Avro.
    """
    rule = Compatibility.of(mode)
    if rule is Compatibility.NONE or not existing:
        return []
    direction = rule.value.removesuffix("_TRANSITIVE")
    reasons: list[str] = []
    for old in existing if rule.value.endswith("_TRANSITIVE") else existing[-1:]:
        if direction in ("BACKWARD", "FULL"):
            reasons += unreadable(reader=new, writer=old, new_is="reader")
        if direction in ("FORWARD", "FULL"):
            reasons += unreadable(reader=old, writer=new, new_is="writer")
    return list(dict.fromkeys(reasons))


def unreadable(reader: AvroSchema, writer: AvroSchema, new_is: str) -> list[str]:
    """List why values written by one schema can't be read by another; empty when they can.

    Args:
        reader: the schema of those who read.
        writer: the schema of those who wrote.
        new_is: which of the two is the new one, "reader" or "writer", to say so in the reasons.
    """
    import avro.compatibility as avro_compatibility

    checker: Any = avro_compatibility.ReaderWriterCompatibilityChecker
    result = checker().get_compatibility(reader.avro_form, writer.avro_form)
    if result.compatibility is avro_compatibility.SchemaCompatibilityType.compatible:
        return []
    # The package says what kind of thing is wrong, hardly where. Its verdict stands even where we find no words.
    return explain(reader, writer, new_is) or [
        f"the schemas do not match: {', '.join(sorted(result.messages))}"
    ]


def explain(reader: AvroSchema, writer: AvroSchema, new_is: str) -> list[str]:
    """List in words what `unreadable` decides; see there."""
    forms = reader.fastavro_form, writer.fastavro_form
    types = [form.get("__named_schemas", {}) if isinstance(form, dict) else {} for form in forms]
    return list(_Explanation(types[0], types[1], new_is).compare(*forms, ()))


class _Explanation:
    """Walks over two schemas side by side, by the rules of Avro 1.12, "Schema Resolution"."""

    def __init__(
        self,
        reader_types: Mapping[str, Any],
        writer_types: Mapping[str, Any],
        new_is: str,
        seen: Iterable[tuple[str, str]] = (),
    ) -> None:
        self._types_of = (reader_types, writer_types)
        self._new_is = new_is
        self._reader_is, self._writer_is = ("new", "old") if new_is == "reader" else ("old", "new")
        self._seen = set(seen)

    def compare(self, reader: Any, writer: Any, path: tuple[str, ...]) -> Iterator[str]:
        reader, writer = self._resolved(reader, 0), self._resolved(writer, 1)
        if isinstance(writer, list):
            for branch in writer:
                yield from self.compare(reader, branch, path)
            return
        if isinstance(reader, list):
            if not any(self._readable(branch, writer) for branch in reader):
                yield self._said(
                    path,
                    f"may be {_name(writer)} in the {self._writer_is} schema, "
                    f"which the {self._reader_is} one has not in its union",
                )
            return
        kinds = (_kind(reader), _kind(writer))
        match kinds:
            case ("record", "record") | ("enum", "enum") | ("fixed", "fixed"):
                yield from self._named_types(reader, writer, path)
            case "array", "array":
                yield from self.compare(reader["items"], writer["items"], (*path, "[]"))
            case "map", "map":
                yield from self.compare(reader["values"], writer["values"], (*path, "*"))
            case _ if kinds[0] != kinds[1] and kinds[1] not in _PROMOTED_FROM.get(kinds[0], ()):
                yield self._said(
                    path,
                    f"is {_name(reader)} in the {self._reader_is} schema and {_name(writer)} in the "
                    f"{self._writer_is} one",
                )

    def _named_types(
        self, reader: Mapping[str, Any], writer: Mapping[str, Any], path: tuple[str, ...]
    ) -> Iterator[str]:
        pair = (reader["name"], writer["name"])
        if pair in self._seen:
            return
        self._seen.add(pair)
        short = [name.rpartition(".")[2] for name in pair]
        if short[0] != short[1] and pair[1] not in reader.get("aliases", ()):
            yield self._said(
                path,
                f"is called {short[0]} in the {self._reader_is} schema and {short[1]} in the {self._writer_is} one: "
                "keep the name, or give the old one as an alias",
            )
        if "symbols" in reader:
            gone = [symbol for symbol in writer["symbols"] if symbol not in reader["symbols"]]
            if gone and "default" not in reader:
                yield self._said(
                    path,
                    f"may be {', '.join(gone)} in the {self._writer_is} schema, which the enum of the "
                    f"{self._reader_is} one does not have: keep the symbols, or give the enum a default",
                )
        elif "size" in reader and reader["size"] != writer["size"]:
            yield self._said(path, f"is fixed of {reader['size']} and of {writer['size']} bytes")
        elif "fields" in reader:
            yield from self._fields(reader, writer, path)

    def _fields(
        self, reader: Mapping[str, Any], writer: Mapping[str, Any], path: tuple[str, ...]
    ) -> Iterator[str]:
        written = {field["name"]: field for field in writer["fields"]}
        for field in reader["fields"]:
            match = next(
                (written[name] for name in (field["name"], *field.get("aliases", ())) if name in written),
                None,
            )
            if match is not None:
                yield from self.compare(field["type"], match["type"], (*path, field["name"]))
            elif "default" not in field:
                yield self._said((*path, field["name"]), self._missing())

    def _missing(self) -> str:
        if self._reader_is == "new":
            return "is new and has no default, so older messages can't be read: give it a default"
        return "was removed and had no default, so older readers fail: keep it"

    def _readable(self, reader: Any, writer: Any) -> bool:
        # Looked into on the side: what a branch lacks is no news while another branch may fit.
        aside = _Explanation(*self._types_of, self._new_is, self._seen)
        return not any(aside.compare(reader, writer, ()))

    def _resolved(self, node: Any, side: int) -> Any:
        return self._types_of[side].get(node, node) if isinstance(node, str) else node

    @staticmethod
    def _said(path: tuple[str, ...], problem: str) -> str:
        return f"field {joined(path).replace('.[]', '[]')!r} {problem}" if path else f"the value {problem}"


# Avro 1.12, "Schema Resolution": what a reader's type takes besides its own.
_PROMOTED_FROM: dict[str, tuple[str, ...]] = {
    "long": ("int",),
    "float": ("int", "long"),
    "double": ("int", "long", "float"),
    "string": ("bytes",),
    "bytes": ("string",),
}


def _kind(node: Any) -> str:
    kind = node if isinstance(node, str) else node["type"]
    return "record" if kind == "error" else str(kind)


def _name(node: Any) -> str:
    name = branch_name(node, None)
    return name if name in PRIMITIVES else name.rpartition(".")[2]
