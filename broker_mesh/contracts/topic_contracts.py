"""What each topic carries: its kind, its owner, how its values are written and how strictly they are checked.

On the way of a message: asked for every record by the validate layers of wrapped clients, whose topics may be the
mesh's own, adopted ones, or ones that nobody has said anything about. Answers come from memory; `ready` fills it.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from broker_mesh import naming
from broker_mesh.adoption import Adoption, EncodingName, Validation
from broker_mesh.contracts.catalog import key_field_of
from broker_mesh.contracts.store import RegisteredSchema, SchemaStore
from broker_mesh.contracts.values import AnyBytes, AvroValues, JsonValues, Values
from broker_mesh.errors import FailedPrecondition, MeshError, SchemaError, Unavailable

__all__ = ["Kind", "TopicContract", "TopicContracts", "Validation"]

Kind: TypeAlias = Literal["operation", "event", "plain"]

_FRESH_SECONDS = 30.0


class TopicContract(NamedTuple):
    """What one topic carries, at one moment.

    Args:
        topic: its name.
        kind: an operation's requests, events, or plain: nobody has said.
        owner: the service it belongs to; None where nobody has said.
        validation: what becomes of values that don't fit.
        encoding: how values are written.
        key: the field whose value is a record's key; None where there is none.
        values: writes and reads the values.
    """

    topic: str
    kind: Kind
    owner: str | None
    validation: Validation
    encoding: EncodingName
    key: str | None
    values: Values

    def encode(self, value: Any) -> bytes:
        """Write a value: a model or a dict, as Avro in the wire format or as JSON text.

        Raises:
            SchemaError: it does not fit the topic's schema, or there is none to write it by.
        """
        return self.values.encode(value)

    def decode(self, data: bytes | None) -> Any:
        """Read a value.

        Args:
            data: the whole value of a record; None for a tombstone, which only the mesh's own topics refuse.

        Raises:
            SchemaError: it does not fit the topic's schema.
        """
        if data is None:
            if self.is_of_the_mesh:
                raise SchemaError(f"the value is null: {self.topic} takes an Avro record")
            return None
        return self.values.decode(data)

    @property
    def is_of_the_mesh(self) -> bool:
        """Whether the topic is an operation or event of the mesh, rather than one that was there before."""
        return naming.is_target(self.topic)


class _Known(NamedTuple):
    """A contract with what it was made of, so that it is made anew only where that has changed."""

    adoption: Adoption | None
    registered: RegisteredSchema | None
    contract: TopicContract

    @property
    def is_plain(self) -> bool:
        """Whether nobody has said anything about the topic but what is registered."""
        return self.contract.kind == "plain"


class TopicContracts:
    """The contracts of all topics that a process touches.

    Args:
        registry: the schema registry.
        read_registry: reads it to its end, on the mesh's loop.
        not_found: makes the error for an operation or event that does not exist, with the nearest name that does.
        adoptions: gives what is said of adopted topics now, by topic: a mapping that is replaced, never changed.
        clock: gives seconds.
    """

    def __init__(
        self,
        registry: SchemaStore,
        read_registry: Callable[[], Awaitable[None]],
        not_found: Callable[[str], Awaitable[MeshError]],
        adoptions: Callable[[], Mapping[str, Adoption]],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._read_registry = read_registry
        self._not_found = not_found
        self._adoptions = adoptions
        self._clock = clock
        self._fresh: dict[str, tuple[Adoption | None, float]] = {}
        self._known: dict[str, _Known] = {}

    async def ready(self, topic: str) -> None:
        """Make a topic known: read the registry, and see that it has what the topic can't do without.

        Raises:
            NotFound: the name is an operation's or event's and nothing is registered under it.
            FailedPrecondition: validation is to be enforced, and there is no schema to enforce.
            Unavailable: the registry can't be read, and the topic has not been known before.
        """
        adoption = self._adoptions().get(topic)
        try:
            await self._read_registry()
        except Unavailable:
            if topic not in self._fresh:
                raise  # else what was known last is still good
        registered = self._registry.latest(self._subject(topic, adoption))
        if registered is None and naming.is_target(topic):
            raise await self._not_found(topic)
        if registered is None and adoption is not None and adoption.mode is Validation.ENFORCE:
            raise FailedPrecondition(
                f"topic {topic!r}: validation is to be enforced, and nothing is registered under the subject "
                f"{adoption.subject_of(topic)!r}: register its schema, or set validation to 'audit'"
            )
        self._fresh[topic] = adoption, self._clock() + _FRESH_SECONDS
        self.of(topic)

    def is_known(self, topic: str) -> bool:
        """Tell whether a topic is ready: for 30 s, or until something else is said of it; from any thread."""
        adoption, until = self._fresh.get(topic, (None, 0.0))
        return self._clock() < until and adoption is self._adoptions().get(topic)

    def of(self, topic: str) -> TopicContract:
        """Give a topic's contract as it is now, from memory and from any thread.

        Raises:
            SchemaError: what is registered can't be read as a schema.
        """
        adoption = self._adoptions().get(topic)
        registered = self._registry.latest(self._subject(topic, adoption))
        known = self._known.get(topic)
        if registered is None and known is not None and known.adoption is adoption and not known.is_plain:
            # Its subject was deleted while we run: what has been enforced goes on to be, rather than all be refused.
            return known.contract
        if known is None or known.registered is not registered or known.adoption is not adoption:
            known = _Known(adoption, registered, self._made(topic, adoption, registered))
            self._known[topic] = known
        return known.contract

    @staticmethod
    def _subject(topic: str, adoption: Adoption | None) -> str:
        return naming.value_subject(topic) if adoption is None else adoption.subject_of(topic)

    def _made(
        self, topic: str, adoption: Adoption | None, registered: RegisteredSchema | None
    ) -> TopicContract:
        key = None if registered is None else key_field_of(registered.schema)
        if naming.is_target(topic):
            kind: Kind = "event" if naming.is_event(topic) else "operation"
            own = self._avro(topic, naming.value_subject(topic), registered)
            return TopicContract(topic, kind, naming.owner(topic), Validation.ENFORCE, "avro", key, own)
        if adoption is None:
            if registered is None:
                return TopicContract(topic, "plain", None, Validation.OFF, "avro", None, AnyBytes(topic))
            avro = self._avro(topic, registered.subject, registered)
            return TopicContract(topic, "plain", None, Validation.AUDIT, "avro", key, avro)
        values: Values
        if adoption.encoding == "json":
            values = JsonValues(topic, adoption.subject_of(topic), registered)
        else:
            values = self._avro(topic, adoption.subject_of(topic), registered)
        return TopicContract(
            topic, adoption.kind, adoption.owner, adoption.mode, adoption.encoding, key, values
        )

    def _avro(self, topic: str, subject: str, registered: RegisteredSchema | None) -> AvroValues:
        return AvroValues(topic, subject, registered, self._registry)
