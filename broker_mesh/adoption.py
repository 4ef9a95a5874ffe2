"""What a mesh is told of a topic that was there before it: whose it is, what it carries, how strictly it is checked.

On the way of a message: before it. `[topics."legacy_orders"]` of mesh.toml and the resource kind `Topic` are both this;
`contracts/topic_contracts.py` makes of it what encodes and decodes the topic's values.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from broker_mesh import naming
from broker_mesh.errors import SettingsError


class Validation(StrEnum):
    """What becomes of a value that does not fit its topic's schema; each step is stricter than the one before."""

    OFF = "off"
    """It passes."""
    AUDIT = "audit"
    """It passes, and is counted and logged."""
    ENFORCE = "enforce"
    """It is refused: not sent, or dead-lettered with its original bytes."""


KindName: TypeAlias = Literal["event", "operation"]
EncodingName: TypeAlias = Literal["avro", "json"]

_TOPIC = re.compile(r"[A-Za-z0-9._-]+")
_SUBJECT_LENGTH = 255
_ENDS_OF_THE_MESH = frozenset({"retry", "dead", "idempotency", "replies"})


def check_adoptable(topic: str) -> str:
    """Return the name of a topic that can be adopted unchanged.

    Raises:
        SettingsError: it is no topic's name, or one that has a meaning in the mesh or in Kafka already.
    """
    if not _TOPIC.fullmatch(topic) or topic in (".", ".."):
        raise SettingsError(
            f"{topic[:60]!r} is no topic's name: Kafka takes letters, digits, dots, underscores and hyphens"
        )
    if len(topic) > naming.MAX_NAME_LENGTH:
        raise SettingsError(
            f"topic {topic[:40]!r}… has {len(topic)} characters: for its retries and dead letters to have a name, "
            f"at most {naming.MAX_NAME_LENGTH} fit"
        )
    if topic.startswith((naming.INTERNAL_PREFIX, "__")) or topic == "_schemas":
        raise SettingsError(f"topic {topic!r} is internal to the mesh or to Kafka: it can't be adopted")
    if naming.is_target(topic):
        what = "event" if naming.is_event(topic) else "operation"
        raise SettingsError(
            f"topic {topic!r} has the name of an {what} of the mesh, which its registered schema describes: "
            "it needs no adoption"
        )
    end = topic.rpartition(".")[2]
    if end in _ENDS_OF_THE_MESH or ".from." in topic:
        word = end if end in _ENDS_OF_THE_MESH else "from"
        raise SettingsError(
            f"topic {topic!r} has the reserved word {word!r} where the mesh has it in topics of its own: "
            "it can't be adopted"
        )
    return topic


def _checked_owner(owner: str) -> str:
    try:
        return naming.check_service(owner)
    except SettingsError as error:
        raise ValueError(error.message) from error


def _checked_subject(subject: str) -> str:
    if not subject or len(subject) > _SUBJECT_LENGTH or not subject.isprintable():
        raise ValueError(f"{subject[:60]!r} is no subject: write 1 to {_SUBJECT_LENGTH} printable characters")
    return subject


def _off_of_yaml(given: Any) -> Any:
    return "off" if given is False else given  # YAML 1.1 takes the bare word for a boolean


class Adoption(BaseModel):
    """What is said of one adopted topic; the defaults change nothing for those who use it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    owner: Annotated[str, AfterValidator(_checked_owner)] | None = Field(
        default=None, description="the service that the topic belongs to; access rules need one"
    )
    kind: KindName = Field(
        default="event",
        description="event: its owner writes, others hear; operation: others write, its owner hears",
    )
    subject: Annotated[str, AfterValidator(_checked_subject)] | None = Field(
        default=None, description="of its schema in the registry; default <topic>-value"
    )
    validation: Annotated[Literal["off", "audit", "enforce"], BeforeValidator(_off_of_yaml)] = Field(
        default="audit", description="what becomes of values that don't fit: off, audit or enforce"
    )
    encoding: EncodingName = Field(default="avro", description="how values are written: avro or json")

    @property
    def mode(self) -> Validation:
        """What becomes of values that don't fit."""
        return Validation(self.validation)

    def subject_of(self, topic: str) -> str:
        """Tell the subject of the topic's schema."""
        return self.subject or naming.value_subject(topic)


def step_problem(before: Validation, after: Validation) -> str | None:
    """Tell why validation may not go from one step to another at once; None where it may.

    Back is always open. Forward, audit comes first: it shows what enforcing would refuse while nothing is refused.
    """
    if before is Validation.OFF and after is Validation.ENFORCE:
        return (
            "validation goes from off to enforce by way of audit: apply 'validation: audit' first, and see with "
            "'mesh topics report' what enforce would refuse"
        )
    return None
