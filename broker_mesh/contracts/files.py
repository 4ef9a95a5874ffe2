"""Schema files: `schemas/<service>/<rest of the topic>[.reply].avsc`, each the schema of one subject.

On the way of a message: before it, when a mesh starts and when `mesh schemas` and `mesh check` look at the folder.

==================================================  ==========================================
``schemas/fleet/v1.find-aircraft.avsc``              ``fleet.v1.find-aircraft-value``
``schemas/fleet/v1.find-aircraft.reply.avsc``        ``fleet.v1.find-aircraft.reply-value``
``schemas/dispatch/v1.events.flight-departed.avsc``  ``dispatch.v1.events.flight-departed-value``
``schemas/_topics/legacy_orders.avsc``               of the adopted topic ``legacy_orders``
==================================================  ==========================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from broker_mesh import naming
from broker_mesh.adoption import Adoption, check_adoptable
from broker_mesh.contracts.canonical import NAMED, full_name
from broker_mesh.contracts.schema import AvroSchema, loads
from broker_mesh.errors import SchemaError, SettingsError

SUFFIX = ".avsc"

TOPICS_FOLDER = "_topics"
"""Of adopted topics; no service can have that name."""

_REPLY = ".reply"


def load_schema_files(
    directory: Path, adopted: Mapping[str, Adoption] = MappingProxyType({})
) -> dict[str, AvroSchema]:
    """Read all schema files of a folder.

    A file may use named types that other files of its service define; what is returned is complete in itself.

    Args:
        directory: holds one folder per service; one that does not exist holds none.
        adopted: what is said of adopted topics: it may name another subject than `<topic>-value`.

    Returns:
        The schemas by subject, in the order of their file names.

    Raises:
        SchemaError: a file can't be read, is no JSON or no Avro, has a wrong name, or lies in no service's folder;
            names the file and the place in it.
    """
    if not directory.is_dir():
        return {}
    for stray in sorted(directory.glob(f"*{SUFFIX}")):
        raise SchemaError(f"{stray}: schema files belong into their service's folder: {directory}/<service>/")
    schemas: dict[str, AvroSchema] = {}
    for folder in sorted(path for path in directory.iterdir() if path.is_dir()):
        schemas |= _load_folder(folder, adopted)
    return schemas


def file_of_topic(directory: Path, topic: str) -> Path:
    """Tell the file for the schema of an adopted topic."""
    return directory / TOPICS_FOLDER / f"{topic}{SUFFIX}"


def subject_of(path: Path, adopted: Mapping[str, Adoption] = MappingProxyType({})) -> str:
    """Tell the subject whose schema a file holds.

    Raises:
        SchemaError: the file's name is none of a topic.
    """
    if path.parent.name == TOPICS_FOLDER:
        return _subject_of_adopted(path, adopted)
    topic = f"{path.parent.name}.{path.name.removesuffix(SUFFIX)}"
    operation = topic.removesuffix(_REPLY)
    is_reply = operation != topic
    try:
        if not is_reply and ".events." in topic:
            naming.parse_event(topic)
        else:
            naming.parse_operation(operation)
    except SettingsError as error:
        raise SchemaError(
            f"{path}: the file's name does not make a topic: {error.message}; "
            f"call it <version>.<operation>{SUFFIX}, <version>.<operation>{_REPLY}{SUFFIX} "
            f"or <version>.events.<event>{SUFFIX}"
        ) from error
    return naming.reply_subject(operation) if is_reply else naming.value_subject(topic)


def _subject_of_adopted(path: Path, adopted: Mapping[str, Adoption]) -> str:
    topic = path.name.removesuffix(SUFFIX)
    try:
        check_adoptable(topic)
    except SettingsError as error:
        raise SchemaError(f"{path}: the file's name is that of no adopted topic: {error.message}") from error
    adoption = adopted.get(topic)
    return naming.value_subject(topic) if adoption is None else adoption.subject_of(topic)


def _load_folder(folder: Path, adopted: Mapping[str, Adoption]) -> dict[str, AvroSchema]:
    paths = sorted(path for path in folder.iterdir() if path.name.endswith(SUFFIX))
    subjects = {path: subject_of(path, adopted) for path in paths}
    definitions = {path: loads(_text(path), str(path)) for path in paths}
    schemas = {}
    for path, subject in subjects.items():
        others = {other: definition for other, definition in definitions.items() if other != path}
        schema = AvroSchema.of(definitions[path], str(path), _resolver(path, others))
        if not (isinstance(schema.definition, dict) and schema.definition["type"] == "record"):
            raise SchemaError(f"{path}: the schema is no record: put the value into a record's field")
        schemas[subject] = schema
    return schemas


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise SchemaError(f"{path}: byte {error.start} is not UTF-8: save the file as UTF-8") from error
    except OSError as error:
        raise SchemaError(f"{path}: can't be read: {error.strerror or error}") from error


def _resolver(path: Path, others: Mapping[Path, Any]) -> Callable[[str], Mapping[str, Any] | None]:
    """Give the function that finds a named type in the other files of a service."""
    found: dict[str, tuple[Path, Mapping[str, Any]]] = {}
    twice: dict[str, Path] = {}
    for other, definition in others.items():
        for name, node in _named_types(definition, None):
            if name in found and found[name][1] != node:
                twice[name] = other
            found.setdefault(name, (other, node))

    def resolve(name: str) -> Mapping[str, Any] | None:
        if name in twice:
            raise SchemaError(
                f"{path}: uses the type {name!r}, which {found[name][0].name} and {twice[name].name} "
                "define differently: keep one of them"
            )
        return found[name][1] if name in found else None

    return resolve


def _named_types(node: Any, namespace: str | None) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Give the named types that a file defines, as far as it is well-formed; its own turn tells what is not."""
    if isinstance(node, list):
        for part in node:
            yield from _named_types(part, namespace)
    elif isinstance(node, dict):
        if isinstance(node.get("type"), (list, dict)):
            yield from _named_types(node["type"], namespace)
        if node.get("type") in [*NAMED] and isinstance(node.get("name"), str):
            own = node.get("namespace", namespace)
            name = full_name(node["name"], own if isinstance(own, str) else None)
            namespace = name.rpartition(".")[0]
            yield name, {**node, "namespace": namespace}
        for part in ("fields", "items", "values"):
            yield from _named_types(node.get(part), namespace)
