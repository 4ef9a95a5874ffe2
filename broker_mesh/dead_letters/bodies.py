"""Bodies: the values of dead letters as plain JSON, by the schemas they were written by.

On the way of a message: behind its end. What can't be decoded is why many a record is here, so it is told, not raised.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from broker_mesh import naming
from broker_mesh.contracts.codec import Codec, schema_id_of, value_to_json
from broker_mesh.contracts.errors import NotAvro, UnknownSchemaId
from broker_mesh.contracts.registry import Registry
from broker_mesh.contracts.values import is_json, loads_strictly
from broker_mesh.dead_letters.letter import DeadLetter
from broker_mesh.errors import SchemaError


class Bodies:
    """Decodes dead letters. Blocking, with the first of them.

    Args:
        registry: the schemas; read to its end once. A dead letter's schema was registered before it was first sent,
            so an id that is unknown then stays so.
    """

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._has_read = False
        self._codecs: dict[int, Codec] = {}

    def decoded(self, letter: DeadLetter) -> DeadLetter:
        """Give a dead letter with its body, or with the problem why there is none.

        Raises:
            Unavailable: the registry can't be read now.
        """
        try:
            return replace(letter, body=value_to_json(self.value_of(letter)))
        except SchemaError as error:
            return replace(letter, problem=error.message)

    def value_of(self, letter: DeadLetter) -> Any:
        """Decode a dead letter by the schema it was written by, or as JSON text.

        Raises:
            SchemaError: it can't be decoded.
            Unavailable: the registry can't be read now.
        """
        value = letter.record.value
        if value is None:
            raise SchemaError("the value is null")
        try:
            schema_id = schema_id_of(value)
        except NotAvro:
            if naming.is_target(letter.operation) or not is_json(value):
                raise
            return loads_strictly(value, letter.operation)
        return self._codec(schema_id).decode(value)

    def _codec(self, schema_id: int) -> Codec:
        codec = self._codecs.get(schema_id)
        if codec is None:
            if not self._has_read:
                self._registry.refresh()
                self._has_read = True
            schema = self._registry.by_id(schema_id)
            if schema is None:
                raise UnknownSchemaId(schema_id)
            codec = Codec(schema.where, schema, schema_id, None, self._registry)
            self._codecs[schema_id] = codec
        return codec
