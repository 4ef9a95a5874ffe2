"""Writes what `mesh adopt` proposes: a section at the end of mesh.toml, the text of which stays, and a schema file."""

from __future__ import annotations

import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from broker_mesh.adoption import Adoption
from broker_mesh.contracts.files import file_of_topic
from broker_mesh.errors import AlreadyExists, FailedPrecondition
from broker_mesh.settings import FILE_NAME, Settings

if TYPE_CHECKING:
    from broker_mesh.cli.survey import Proposal
    from broker_mesh.contracts.schema import AvroSchema


class Files(NamedTuple):
    """Where the section and the schema go."""

    toml: Path
    schema: Path


def files_for(settings: Settings, topic: str, environ: Mapping[str, str] = os.environ) -> Files:
    """Tell where a topic's section and schema go, as seen from the working directory."""
    return Files(
        Path(environ.get("MESH_CONFIG") or FILE_NAME), from_here(file_of_topic(settings.schemas, topic))
    )


def from_here(path: Path) -> Path:
    """Give a path as seen from the working directory, where it leads there."""
    here = Path.cwd()
    return path.relative_to(here) if path.is_relative_to(here) else path


def refuse_what_is_there(files: Files, topic: str, proposal: Proposal, settings: Settings) -> None:
    """Return where nothing would be overwritten, and mesh.toml can take a section.

    Raises:
        AlreadyExists: the topic has a section or a schema file.
        FailedPrecondition: mesh.toml can't take a section at its end.
    """
    if topic in settings.topics:
        raise AlreadyExists(
            f'{files.toml} has a section [topics."{topic}"] already: change it there; nothing was written'
        )
    if proposal.drafted is not None and files.schema.exists():
        raise AlreadyExists(
            f"{files.schema} exists already: move it away to have another drafted; nothing was written"
        )
    _with_section(files.toml, topic, proposal.adoption)


def section_text(topic: str, adoption: Adoption) -> str:
    """Write a topic's section as it stands in mesh.toml."""
    lines = [f'[topics."{topic}"]']
    if adoption.owner is None:
        lines.append('# owner = "…"  # the service that it belongs to; without one, access is only audited')
    told = adoption.model_dump(mode="json", exclude_none=True)
    # JSON's strings are TOML's basic strings.
    lines += [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in told.items()]
    return "\n".join(lines) + "\n"


def append_section(file: Path, topic: str, adoption: Adoption) -> None:
    """Append a topic's section to mesh.toml, making the file where there is none.

    Raises:
        FailedPrecondition: the file can't take it, or can't be written.
    """
    addition = _with_section(file, topic, adoption)
    try:
        with file.open("a", encoding="utf-8", newline="") as stream:
            stream.write(addition)
    except OSError as error:
        raise FailedPrecondition(f"{file} can't be written: {error.strerror or error}") from error


def write_schema(file: Path, schema: AvroSchema) -> None:
    """Write a schema into a file that is not there yet.

    Raises:
        AlreadyExists: it is there.
        FailedPrecondition: it can't be written.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="utf-8") as stream:
            stream.write(definition_text(schema) + "\n")
    except FileExistsError as error:
        raise AlreadyExists(f"{file} exists already: nothing was written") from error
    except OSError as error:
        raise FailedPrecondition(f"{file} can't be written: {error.strerror or error}") from error


def definition_text(schema: AvroSchema) -> str:
    """Write a schema for people to read."""
    return json.dumps(schema.definition, indent=2, ensure_ascii=False)


def _with_section(file: Path, topic: str, adoption: Adoption) -> str:
    """Give the text that has to be appended, in the file's own kind of lines.

    Raises:
        FailedPrecondition: the file would not say what it says now and the section.
    """
    try:
        text = file.read_bytes().decode("utf-8") if file.exists() else ""
    except (OSError, UnicodeDecodeError) as error:
        raise FailedPrecondition(f"{file} can't be read: {error}") from error
    section = section_text(topic, adoption)
    addition = section if not text else ("\n" if text.endswith("\n") else "\n\n") + section
    if "\r\n" in text:
        addition = addition.replace("\n", "\r\n")
    told = adoption.model_dump(mode="json", exclude_none=True)
    try:
        before, after = tomllib.loads(text), tomllib.loads(text + addition)
    except tomllib.TOMLDecodeError as error:
        raise FailedPrecondition(
            f"{file} can't take a section at its end ({error}): write topics as sections there, or put this one in by "
            "hand; nothing was written"
        ) from error
    if after != {**before, "topics": {**before.get("topics", {}), topic: told}}:
        raise FailedPrecondition(f"{file} can't take a section at its end: put it in by hand")
    return addition
