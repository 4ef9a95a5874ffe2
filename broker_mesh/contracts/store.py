"""What a schema registry is to the mesh, wherever it keeps its schemas.

On the way of a message: before it, and when a message comes with an id not seen before. `registry.py` keeps schemas
on the topic `_schemas`; a registry behind a URL can be put in its place.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, Protocol

from broker_mesh.contracts.schema import AvroSchema


class RegisteredSchema(NamedTuple):
    """A schema as it is registered.

    Args:
        subject: for instance ``fleet.v1.find-aircraft-value``.
        version: from 1 on within the subject.
        id: what messages carry; the same schema has the same id under every subject.
        schema: the schema.
    """

    subject: str
    version: int
    id: int
    schema: AvroSchema


class SchemaStore(Protocol):
    """A schema registry. All methods but `by_id` may block; all may be called from any thread."""

    def refresh(self) -> None:
        """Learn what others have registered up to now."""

    def register_all(self, schemas: Mapping[str, AvroSchema]) -> dict[str, RegisteredSchema]:
        """Register schemas by subject; those that are registered stay as they are."""

    def find(self, subject: str, schema: AvroSchema) -> RegisteredSchema | None:
        """Give the version of a subject that has this schema."""

    def latest(self, subject: str) -> RegisteredSchema | None:
        """Give the newest version of a subject."""

    def versions(self, subject: str) -> list[RegisteredSchema]:
        """Give all versions of a subject that are not deleted, oldest first."""

    def by_id(self, schema_id: int) -> AvroSchema | None:
        """Give a schema by its id, from memory."""

    def subjects(self) -> list[str]:
        """Give all subjects that have a version, sorted."""

    def check(self, subject: str, schema: AvroSchema) -> list[str]:
        """List why a schema may not be the subject's next version."""

    def compatibility(self, subject: str | None = None) -> str:
        """Give the compatibility mode of a subject, or the one that applies where a subject has none."""

    def set_compatibility(self, subject: str | None, mode: str) -> None:
        """Set the compatibility mode of a subject, or the one that applies where a subject has none."""
