"""What `mesh adopt` writes: never over anything, and into a mesh.toml whose text stays as it is."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from broker_mesh.adoption import Adoption
from broker_mesh.cli.adopting import (
    append_section,
    files_for,
    refuse_what_is_there,
    section_text,
    write_schema,
)
from broker_mesh.cli.survey import Proposal, Survey
from broker_mesh.contracts.drafting import Drafted
from broker_mesh.contracts.schema import AvroSchema
from broker_mesh.errors import AlreadyExists, FailedPrecondition
from broker_mesh.message import Record
from broker_mesh.settings import Settings, load

AS_JSON = Adoption(owner="shop", encoding="json")
SCHEMA = AvroSchema.of({"type": "record", "name": "Order", "fields": []}, "order")
SECTION = '[topics."old"]\nowner = "shop"\nkind = "event"\nvalidation = "audit"\nencoding = "json"\n'


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def settings_of(directory: Path) -> Settings:
    return load({}, environ={}, directory=directory)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, SECTION),
        ("", SECTION),
        ("# mine\npartitions = 3  # few\n", f"# mine\npartitions = 3  # few\n\n{SECTION}"),
        ("partitions = 3", f"partitions = 3\n\n{SECTION}"),
        ("partitions = 3\r\n", "partitions = 3\r\n\r\n" + SECTION.replace("\n", "\r\n")),
        ("[topics.new]\n", f"[topics.new]\n\n{SECTION}"),
    ],
)
def test_a_section_is_appended_and_nothing_else_is_touched(
    here: Path, before: str | None, after: str
) -> None:
    file = here / "mesh.toml"
    if before is not None:
        file.write_bytes(before.encode())
    append_section(Path("mesh.toml"), "old", AS_JSON)
    assert file.read_bytes() == after.encode()
    assert settings_of(here).topics["old"] == AS_JSON


@pytest.mark.parametrize("text", ["topics = {}\n", "topics = 5\n", "partitions = \n", "[topics]\nold = {}\n"])
def test_a_file_that_can_take_no_section_stays_as_it_is(here: Path, text: str) -> None:
    (here / "mesh.toml").write_text(text)
    with pytest.raises(FailedPrecondition, match=r"mesh.toml can't take a section at its end"):
        append_section(Path("mesh.toml"), "old", AS_JSON)
    assert (here / "mesh.toml").read_text() == text


def test_any_subject_can_stand_in_a_section() -> None:
    odd = Adoption(subject='a "quoted" \\ path/é')
    assert tomllib.loads(section_text("old", odd))["topics"]["old"]["subject"] == odd.subject
    assert '# owner = "…"' in section_text("old", odd)


def test_nothing_is_written_over(here: Path) -> None:
    proposal = Proposal(AS_JSON, Drafted(SCHEMA, []), "")
    files = files_for(settings_of(here), "old", {})
    assert files == (Path("mesh.toml"), Path("schemas/_topics/old.avsc"))
    refuse_what_is_there(files, "old", proposal, settings_of(here))
    write_schema(files.schema, SCHEMA)
    assert AvroSchema.parse(files.schema.read_text()) == SCHEMA
    with pytest.raises(AlreadyExists, match=r"schemas/_topics/old.avsc exists already"):
        write_schema(files.schema, SCHEMA)
    with pytest.raises(AlreadyExists, match=r"schemas/_topics/old.avsc exists already"):
        refuse_what_is_there(files, "old", proposal, settings_of(here))
    append_section(files.toml, "old", AS_JSON)
    with pytest.raises(AlreadyExists, match=r'mesh.toml has a section \[topics."old"\] already'):
        refuse_what_is_there(files, "old", Proposal(AS_JSON, None, ""), settings_of(here))


# ── what is proposed ──────────────────────────────────────────────────────────────────────────────────────


class Registered:
    """Schema id 7 is that of `shop.Order`, and nothing else is registered."""

    def by_id(self, schema_id: int) -> AvroSchema | None:
        return SCHEMA if schema_id == 7 else None

    def subjects(self) -> list[str]:
        return ["shop.Order"]

    def versions(self, subject: str) -> list[object]:
        return [type("Version", (), {"id": 7})] if subject == "shop.Order" else []


def proposed(*values: bytes | None, key: bytes | None = None, sender: bytes | None = None) -> Proposal:
    survey = Survey("old", Registered())  # type: ignore[arg-type]
    headers = [] if sender is None else [("ce_source", sender)]
    for offset, value in enumerate(values):
        survey.take(Record("old", 0, offset, 0, key, value, headers))
    return survey.proposal(None, "event", rare=0.01)


def test_the_proposed_owner_is_who_sends_and_not_whose_event_was_passed_on() -> None:
    survey = Survey("old", Registered())  # type: ignore[arg-type]
    survey.take(
        Record("old", 0, 0, 0, None, b'{"id": 1}', [("mesh-source", b"shop"), ("ce_source", b"till")])
    )
    assert survey.proposal(None, "event", rare=0.01).adoption.owner == "shop"


def test_most_values_decide_what_is_proposed_and_tombstones_do_not_count() -> None:
    json = proposed(None, None, None, b'{"id": "a"}', b'{"id": "a"}', b"text", key=b"a", sender=b"shop")
    assert json.adoption == AS_JSON
    assert json.drafted is not None
    assert json.drafted.schema.definition["mesh-key"] == "id"
    assert json.drafted.schema.definition["namespace"] == "shop"
    avro = proposed(b"\x00\x00\x00\x00\x07", b"\x00\x00\x00\x00\x07", b"{}", sender=b"No Service")
    assert avro == Proposal(
        Adoption(subject="shop.Order"),
        None,
        "most values are Avro, by schemas that are registered under 'shop.Order'",
    )
    for values in ((b"text", b"more"), (None,), (b"\x00\x00\x00\x00\x08\xff",)):
        assert proposed(*values).adoption == Adoption(validation="off")


def test_json_that_no_schema_describes_is_not_checked() -> None:
    made = proposed(*(b'{"k%d": 1}' % number for number in range(300)))
    assert made.adoption == Adoption(validation="off", encoding="json")
    assert "more than 200 different fields" in made.reason


def test_a_field_is_the_key_only_where_it_nearly_always_is() -> None:
    made = proposed(b'{"id": "a"}', b'{"id": "b"}', key=b"a")
    assert made.drafted is not None
    assert "mesh-key" not in made.drafted.schema.definition
