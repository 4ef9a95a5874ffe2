"""How a model and a schema differ, field by field.

On the way of a message: before it; `models.check_binding` raises what is found here. A model may say less than its
schema where the schema has a default, and more where the model has one; where both speak, they must agree on what
is written and on what is read.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from broker_mesh.contracts.canonical import branch_name
from broker_mesh.contracts.errors import joined
from broker_mesh.contracts.logical import logical_name
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.contracts.shapes import Choice, Either, Entries, Items, Record, Scalar, Shape

# What a model's scalar may be written as: its own type, or a narrower one whose limits are checked on writing.
_ALSO_FITS = {
    "long": {"int"},
    "double": {"float"},
    "long-timestamp-micros": {"long-timestamp-millis"},
    "long-local-timestamp-micros": {"long-local-timestamp-millis"},
    "long-time-micros": {"int-time-millis"},
    "bytes": {"fixed"},
    "bytes-decimal": {"fixed-decimal"},
}

_Path = tuple[str | int, ...]


def differences(record: Record, schema: AvroSchema) -> list[str]:
    """List what keeps a model and a schema apart, each in a few words that begin with the field."""
    form = schema.fastavro_form
    named = form.get("__named_schemas", {}) if isinstance(form, dict) else {}
    return list(_Comparison(named).compare(record, form, ()))


def fits(shape: Shape | None, node: Any, named: Mapping[str, Any]) -> bool:
    """Tell whether a shape and a type of a schema agree."""
    return not any(_Comparison(named).compare(shape, node, ()))


class _Comparison:
    def __init__(self, named: Mapping[str, Any], compared: Iterable[tuple[int, str]] = ()) -> None:
        self._named = named
        self._compared = set(compared)

    def compare(self, shape: Shape | None, node: Any, path: _Path) -> Iterator[str]:
        node = self._named.get(node, node) if isinstance(node, str) else node
        if isinstance(shape, Either) or isinstance(node, list):
            yield from self._union(shape, node, path)
            return
        match shape, kind_of(node):
            case None, "null":
                return
            case Scalar(avro=avro), kind if kind == kind_of(avro) or kind in _ALSO_FITS.get(
                kind_of(avro), ()
            ):
                if kind_of(avro).endswith("decimal") and _digits(avro) != _digits(node):
                    yield _said(path, f"has {_digits(avro)} in the model, {_digits(node)} in the schema")
            case Choice(), "enum":
                yield from self._symbols(shape, node, path)
            case Items(), "array":
                yield from self.compare(shape.item, node["items"], (*path, "[]"))
            case Entries(), "map":
                yield from self.compare(shape.value, node["values"], (*path, "*"))
            case Record(), "record":
                yield from self._record(shape, node, path)
            case _:
                yield _said(path, f"is {_described(shape)} in the model, {kind_of(node)} in the schema")

    def _record(self, record: Record, node: Mapping[str, Any], path: _Path) -> Iterator[str]:
        # A model that holds itself is compared once.
        pair = (id(record), node["name"])
        if pair in self._compared:
            return
        self._compared.add(pair)
        in_schema = {field["name"]: field for field in node["fields"]}
        in_model = {field.wire: field for field in record.fields}
        forbids_more = record.model.model_config.get("extra") == "forbid"
        for wire, field in in_model.items():
            if wire in in_schema:
                yield from self.compare(field.shape, in_schema[wire]["type"], (*path, wire))
            elif field.required:
                yield _said((*path, wire), "is required by the model and not in the schema")
        for wire, entry in in_schema.items():
            if wire not in in_model and "default" not in entry:
                yield _said((*path, wire), "is in the schema without a default and not in the model")
            elif wire not in in_model and forbids_more:
                yield _said((*path, wire), "is in the schema, and the model forbids what it does not know")

    def _union(self, shape: Shape | None, node: Any, path: _Path) -> Iterator[str]:
        shapes: Sequence[Shape | None] = shape.branches if isinstance(shape, Either) else (shape,)
        nodes: list[Any] = node if isinstance(node, list) else [node]
        left = list(nodes)
        for branch in shapes:
            match = next((other for other in nodes if self._fits(branch, other)), None)
            if match is not None:
                left = [other for other in left if other is not match]
                continue
            # With one candidate its inner differences say more than "no branch fits".
            same = [other for other in nodes if _alike(branch, self._named.get(str(other), other))]
            if len(same) == 1:
                left = [other for other in left if other is not same[0]]
                yield from self.compare(branch, same[0], path)
            else:
                yield _said(path, f"may be {_described(branch)} in the model and not in the schema")
        for other in left:
            name = branch_name(other, None)
            yield _said(path, f"may be {name} in the schema and not in the model")

    def _fits(self, shape: Shape | None, node: Any) -> bool:
        # Looked into on the side: what a branch lacks is no news while another branch may fit.
        return not any(_Comparison(self._named, self._compared).compare(shape, node, ()))

    @staticmethod
    def _symbols(choice: Choice, node: Mapping[str, Any], path: _Path) -> Iterator[str]:
        ours, theirs = set(choice.names), set(node["symbols"])
        if ours - theirs:
            yield _said(path, f"has the symbols {', '.join(sorted(ours - theirs))} only in the model")
        if theirs - ours:
            yield _said(path, f"has the symbols {', '.join(sorted(theirs - ours))} only in the schema")


def kind_of(node: Any) -> str:
    """Name a type with its logical type, for instance ``long-timestamp-micros``."""
    if not isinstance(node, dict):
        return str(node)
    logical = logical_name(node)
    kind = "record" if node["type"] == "error" else node["type"]
    return f"{kind}-{logical}" if logical else kind


def _digits(node: Mapping[str, Any]) -> str:
    return f"{node['precision']} digits with {node.get('scale', 0)} decimal places"


def _alike(shape: Shape | None, node: Any) -> bool:
    match shape, kind_of(node):
        case (Record(), "record") | (Choice(), "enum") | (Items(), "array") | (Entries(), "map"):
            return True
        case Scalar(avro=avro), kind:
            return kind_of(avro).partition("-")[0] == kind.partition("-")[0]
    return False


def _described(shape: Shape | None) -> str:
    match shape:
        case None:
            return "None"
        case Scalar(python=python):
            return python.__name__
        case Choice(name=name):
            return name or "a Literal"
        case Items(python=python):
            return f"a {python.__name__}"
        case Entries():
            return "a dict"
        case Record(model=model):
            return f"model {model.__name__}"
        case Either(branches=branches):
            return " or ".join(_described(branch) for branch in branches)


def _said(path: _Path, problem: str) -> str:
    return f"{joined(path).replace('.[]', '[]')!r} {problem}" if path else problem
