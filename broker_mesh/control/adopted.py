"""Whether each adopted topic is there and has what its values are checked by, for `mesh check`.

On the way of a message: beside it. Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from broker_mesh.adoption import Adoption, Validation
from broker_mesh.control.checks import Finding, Level

_SECTION = "topics"


class AdoptedFacts(NamedTuple):
    """An adopted topic, as Kafka and the registry have it.

    Args:
        topic: its name.
        adoption: what is said of it.
        exists: whether Kafka has it.
        problem: why its values can't be checked; None where they can.
        file: its schema's file.
        drafted: whether that file is there.
    """

    topic: str
    adoption: Adoption
    exists: bool
    problem: str | None
    file: str
    drafted: bool


def check_adopted(topics: Iterable[AdoptedFacts]) -> list[Finding]:
    """Judge adopted topics; of those that are as they should be, nothing is said here."""
    findings = []
    for facts in topics:
        if not facts.exists:
            findings.append(
                Finding(
                    _SECTION,
                    Level.WARNING,
                    f"{facts.topic}: it is adopted, and there is no such topic",
                    "correct the name where it is adopted, or make the topic",
                )
            )
            continue
        if facts.problem is None or facts.adoption.mode is Validation.OFF:
            continue
        enforced = facts.adoption.mode is Validation.ENFORCE
        consequence = "no program can start to use it" if enforced else "none of its values can fit"
        findings.append(
            Finding(
                _SECTION,
                Level.PROBLEM if enforced else Level.WARNING,
                f"{facts.topic}: validation is {facts.adoption.validation}, and {facts.problem}: {consequence}",
                how_to_have_a_schema(facts.topic, facts.file, drafted=facts.drafted),
            )
        )
    return findings


def missing_schema(subject: str, *, is_foreign: bool) -> str:
    """Tell why a subject's schema can't be had.

    Args:
        subject: which.
        is_foreign: whether something is registered under it all the same.
    """
    if is_foreign:
        return (
            f"what is registered under the subject {subject!r} is not Avro without references, which alone the mesh "
            "checks values by"
        )
    return f"nothing is registered under the subject {subject!r}"


def how_to_have_a_schema(topic: str, file: str, *, drafted: bool) -> str:
    """Tell how an adopted topic comes to a schema.

    Args:
        topic: its name.
        file: its schema's file.
        drafted: whether that file is there.
    """
    if drafted:
        return f"review {file}, and register it with 'mesh schemas register'"
    return (
        f"'mesh adopt {topic}' drafts a schema of JSON: put it, or another, into {file}, and register it with "
        "'mesh schemas register'; or set validation to 'off'"
    )
