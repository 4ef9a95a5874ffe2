"""The catalog: which schema each operation and event of this process is written and read by.

On the way of a message: asked by the validate layers for a codec, by the route layer for the key field. The
owner of an operation registers its schemas; everybody else uses what is registered.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import Any, NamedTuple, TypeAlias

from pydantic import BaseModel

from broker_mesh import naming
from broker_mesh.contracts.codec import Codec
from broker_mesh.contracts.errors import NoSchema, UnknownSchemaId
from broker_mesh.contracts.models import check_binding, schema_of_model
from broker_mesh.contracts.registry import Registry
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.errors import FailedPrecondition, MeshError, SchemaError, SettingsError, Unavailable
from broker_mesh.operation import Event, Operation

Target: TypeAlias = Operation[Any, Any] | Event[Any] | str

KEY_ATTRIBUTE = "mesh-key"
"""The attribute of a request's or event's schema that names its key field, for callers by name."""

_LATEST_SECONDS = 30.0


class Bound(NamedTuple):
    """A target with its codecs.

    Args:
        value: for the request or event.
        reply: for the reply; None for one-way operations and events.
        key: the key field, if there is one.
        stale_at: monotonic seconds when the registry is to be asked again; infinity for declared targets.
    """

    value: Codec
    reply: Codec | None
    key: str | None
    stale_at: float


class Catalog:
    """The schemas of one process.

    Args:
        registry: the schema registry.
        files: schemas of the `schemas/` folder, by subject.
        not_found: makes the error for a name that is not known, with the nearest right one.
    """

    def __init__(
        self,
        registry: Registry,
        files: Mapping[str, AvroSchema],
        not_found: Callable[[str], Awaitable[MeshError]],
    ) -> None:
        self._registry = registry
        self._files = files
        self._not_found = not_found
        self._bound: dict[Hashable, Bound] = {}
        self._reading: asyncio.Task[None] | None = None

    async def own(self, targets: Iterable[Operation[Any, Any] | Event[Any]]) -> None:
        """Register the schemas of what this service owns; nothing is written when all are registered.

        Raises:
            SchemaError: a model and its schema file differ, or a schema breaks compatibility.
            MeshError: the registry can't be read or written.
        """
        wanted: dict[str, AvroSchema] = {}
        owned = list(targets)
        for target in owned:
            for subject, model, key in _subjects(target):
                wanted[subject] = self._own_schema(subject, model, key, target.name)
        registered = await asyncio.to_thread(self._registry.register_all, wanted)
        for target in owned:
            codecs = [
                Codec(subject, wanted[subject], registered[subject].id, model, self._registry)
                for subject, model, _ in _subjects(target)
            ]
            self._bound[target] = Bound(
                codecs[0], codecs[1] if len(codecs) > 1 else None, target.key, float("inf")
            )

    async def own_file(self, event: str) -> bool:
        """Register the schema that the folder has of an event of this service, which is published by its name alone.

        Returns:
            Whether the folder has one.

        Raises:
            SchemaError: the schema breaks compatibility.
            MeshError: the registry can't be read or written.
        """
        subject = naming.value_subject(event)
        schema = self._files.get(subject)
        if schema is None:
            return False
        await self.read_registry()
        latest = self._registry.latest(subject)
        if latest is None or _without_key(latest.schema) != _without_key(schema):
            await asyncio.to_thread(self._registry.register_all, {subject: schema})
        return True

    async def ready(self, target: Target) -> None:
        """Make a target's schemas known, to call it or to subscribe to it.

        Raises:
            NotFound: nothing of that name is registered.
            SchemaError: the declared model does not fit what is registered.
            MeshError: the registry can't be read.
        """
        bound = self._bound.get(target)
        if bound is not None and time.monotonic() < bound.stale_at:
            return
        try:
            await self.read_registry()
        except Unavailable:
            if bound is None:
                raise
            return  # what was the latest is still good to write by
        self._bound[target] = await self._bind(target)

    def subscribe(self, event: Event[Any]) -> Codec:
        """Give what reads an event, which its publisher may not have registered yet."""
        subject = naming.value_subject(event.name)
        schema = self._reading_schema(subject, event.model, event.name)
        return Codec(subject, schema, None, event.model, self._registry)

    async def read_registry(self) -> None:
        """Read the registry to its end.

        Raises:
            Unavailable: it can't be read now.
        """
        earlier = self._reading
        if earlier is not None and not earlier.done():
            # It began before we asked, and may have missed what we look for: the next one is for all who wait now.
            await asyncio.wait([earlier])
        if self._reading is earlier:
            self._reading = asyncio.create_task(asyncio.to_thread(self._registry.refresh))
            # All who wait may have given up by the time it fails.
            self._reading.add_done_callback(lambda task: task.cancelled() or task.exception())
        assert self._reading is not None
        await asyncio.shield(self._reading)

    def codec(self, target: Hashable) -> Codec:
        """Give what writes and reads a target that is ready."""
        return self._bound[target].value

    def key_field(self, target: Hashable) -> str | None:
        """Tell the key field of a target that is ready."""
        return self._bound[target].key

    def reply_decoder(self, target: Target) -> Codec | None:
        """Give what reads the replies of a target that is ready; None where there are none."""
        return self._bound[target].reply

    def reply_encoder(self, target: Operation[Any, Any]) -> Codec:
        """Give what writes the replies of an operation of this service."""
        reply = self._bound[target].reply
        assert reply is not None  # asked only of operations that reply
        return reply

    async def decode_reply(self, decoder: Any, data: bytes) -> Any:
        """Decode a reply; a schema that is not known yet is looked up in the registry once.

        Raises:
            SchemaError: the bytes don't fit.
            Unavailable: the registry can't be read now.
        """
        try:
            return decoder.decode(data)
        except UnknownSchemaId:
            await self.read_registry()
            return decoder.decode(data)

    async def _bind(self, target: Target) -> Bound:
        if isinstance(target, str):
            return await self._bind_name(target)
        codecs = []
        for subject, model, _ in _subjects(target):
            schema_id, schema = await self._calling_schema(subject, model, target.name)
            codecs.append(Codec(subject, schema, schema_id, model, self._registry))
        registered_key = key_field_of(codecs[0].schema)
        if target.key is not None and registered_key is not None and target.key != registered_key:
            raise FailedPrecondition(
                f"{target.name} is declared with key {target.key!r} here and {registered_key!r} by its owner: "
                "use the owner's, or records of one key lose their order"
            )
        return Bound(
            codecs[0], codecs[1] if len(codecs) > 1 else None, target.key or registered_key, float("inf")
        )

    async def _bind_name(self, name: str) -> Bound:
        value = self._registry.latest(naming.value_subject(name))
        if value is None:
            raise await self._not_found(name)
        reply = self._registry.latest(naming.reply_subject(name))
        return Bound(
            Codec(value.subject, value.schema, value.id, None, self._registry),
            None if reply is None else Codec(reply.subject, reply.schema, reply.id, None, self._registry),
            key_field_of(value.schema),
            time.monotonic() + _LATEST_SECONDS,
        )

    async def _calling_schema(
        self, subject: str, model: type[BaseModel], name: str
    ) -> tuple[int, AvroSchema]:
        """Choose what a caller writes by: its own schema where that is registered, else the latest, if it fits."""
        versions = self._registry.versions(subject)
        if not versions:
            raise await self._not_found(name)
        file = self._files.get(subject)
        if file is not None:
            check_binding(model, file)
        for own in [file] if file is not None else [schema_of_model(model, _namespace(name))]:
            for version in versions:
                if _without_key(version.schema) == _without_key(own):
                    return version.id, version.schema
        latest = versions[-1]
        check_binding(model, latest.schema)
        return latest.id, latest.schema

    def _reading_schema(self, subject: str, model: type[BaseModel], name: str) -> AvroSchema:
        file = self._files.get(subject)
        if file is not None:
            check_binding(model, file)
            return file
        latest = self._registry.latest(subject)
        if latest is not None:
            schema: AvroSchema = latest.schema
            check_binding(model, schema)
            return schema
        return schema_of_model(model, _namespace(name))

    def _own_schema(self, subject: str, model: type[BaseModel], key: str | None, name: str) -> AvroSchema:
        schema = self._files.get(subject)
        if schema is None:
            schema = schema_of_model(model, _namespace(name))
        else:
            check_binding(model, schema)
        written = key_field_of(schema)
        if key is None or written == key:
            return schema
        if written is not None:
            raise SettingsError(
                f"{name} is declared with key {key!r}, and its schema file says {KEY_ATTRIBUTE} {written!r}: "
                "make them one"
            )
        return AvroSchema.of({**schema.definition, KEY_ATTRIBUTE: key}, subject)


def is_unknown_schema(error: SchemaError) -> bool:
    """Tell the decoding errors that reading the registry may cure: what they lack may have been registered since."""
    return isinstance(error, (UnknownSchemaId, NoSchema))


def _subjects(target: Operation[Any, Any] | Event[Any]) -> list[tuple[str, type[BaseModel], str | None]]:
    """List a target's subjects with their models: the value first, then the reply."""
    if isinstance(target, Event):
        return [(naming.value_subject(target.name), target.model, target.key)]
    subjects = [(naming.value_subject(target.name), target.request, target.key)]
    if target.reply is not None:
        subjects.append((naming.reply_subject(target.name), target.reply, None))
    return subjects


def _namespace(name: str) -> str:
    return ".".join(name.split(".")[:2])


def key_field_of(schema: AvroSchema) -> str | None:
    """Tell the key field that a registered schema names; None where it names none."""
    definition = schema.definition
    key = definition.get(KEY_ATTRIBUTE) if isinstance(definition, dict) else None
    return key if isinstance(key, str) else None


def _without_key(schema: AvroSchema) -> Any:
    definition = schema.definition
    if isinstance(definition, dict):
        return {name: value for name, value in definition.items() if name != KEY_ATTRIBUTE}
    return definition
