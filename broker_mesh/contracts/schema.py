"""One Avro schema: its text, and its parsed forms for those who need them.

On the way of a message: `codec.py` writes and reads by it. A registry may hold thousands, of which a process uses
ten: everything but the text is made when it is first asked for, and kept.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from functools import cached_property
from typing import Any

import fastavro

from broker_mesh.contracts import logical
from broker_mesh.contracts.canonical import Resolve, canonical, dumps
from broker_mesh.errors import SchemaError


class AvroSchema:
    """An Avro schema. Two are equal when their canonical texts are.

    Args:
        text: the schema as JSON; nothing is checked before it is needed (`parse` checks at once).
        where: what to call it in errors: a file, a subject, an id.
    """

    def __init__(self, text: str, where: str = "schema") -> None:
        self.text = text
        self.where = where

    @classmethod
    def parse(cls, text: str, where: str = "schema") -> AvroSchema:
        """Make a schema from JSON text and check it with both Avro libraries.

        Raises:
            SchemaError: not JSON, or not Avro; the sentence names the place.
        """
        return cls.of(loads(text, where), where)

    @classmethod
    def of(cls, definition: Any, where: str = "schema", resolve: Resolve | None = None) -> AvroSchema:
        """Make a schema from JSON values and check it with both Avro libraries.

        Args:
            definition: the schema as JSON values.
            where: what to call it in errors.
            resolve: gives the definitions of named types that stand elsewhere.

        Raises:
            SchemaError: not Avro; the sentence names the place.
        """
        schema = cls(dumps(canonical(definition, where, resolve)), where)
        # Readers in other languages are as strict as the stricter of the two.
        _ = schema.fastavro_form
        _ = schema.avro_form
        return schema

    @cached_property
    def definition(self) -> Any:
        """The canonical form as JSON values; not to be changed."""
        return canonical(loads(self.text, self.where), self.where)

    @cached_property
    def canonical(self) -> str:
        """The canonical form as text: what is registered, and what equality means."""
        return dumps(self.definition)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 of the canonical text, in hexadecimal."""
        return hashlib.sha256(self.canonical.encode()).hexdigest()

    @cached_property
    def fastavro_form(self) -> Any:
        """The schema as fastavro wants it, with the mesh's own logical types in place (see `logical.py`)."""
        try:
            # Checked as it stands first: the substitutes below are unknown to fastavro's checks.
            fastavro.parse_schema(self.definition)
            return logical.with_python_defaults(fastavro.parse_schema(logical.substituted(self.definition)))
        except (fastavro.schema.SchemaParseException, ValueError, TypeError, KeyError) as error:
            raise SchemaError(f"{self.where}: not a valid Avro schema: {error}") from error

    @cached_property
    def avro_form(self) -> Any:
        """The schema as the avro package wants it, for `compatibility.py`."""
        import avro.errors
        import avro.schema

        try:
            with warnings.catch_warnings():
                # It warns of each logical type it does not know; such types are to be ignored (Avro 1.12).
                warnings.simplefilter("ignore")
                return avro.schema.parse(self.canonical)
        except (avro.errors.AvroException, ValueError, TypeError, KeyError) as error:
            raise SchemaError(f"{self.where}: not a valid Avro schema: {error}") from error

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AvroSchema) and self.canonical == other.canonical

    def __hash__(self) -> int:
        return hash(self.canonical)

    def __repr__(self) -> str:
        return f"AvroSchema({self.where!r})"


def loads(text: str, where: str) -> Any:
    """Read JSON text.

    Raises:
        SchemaError: not JSON; the sentence names line and column.
    """
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise SchemaError(
            f"{where}: line {error.lineno}, column {error.colno}: not valid JSON: {error.msg}"
        ) from error
    except RecursionError as error:
        raise SchemaError(f"{where}: not usable: the JSON is nested too deep") from error
