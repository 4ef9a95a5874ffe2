"""Resources in files: what is read, and how each mistake is named with its place."""

from __future__ import annotations

import io
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from broker_mesh.control.files import read_files, read_folder, read_text
from broker_mesh.control.resources import Access, MeshDefaults, access_rules, plain
from broker_mesh.errors import InvalidArgument, NotFound
from broker_mesh.layers.authorize import Action, Rule

GOOD = """\
# who may ask the fleet
kind: Access
name: only-dispatch
spec:
  to: fleet
  operations: [v1.find-aircraft, "v1.events.*"]
  from: [dispatch, "b*"]
  action: allow
---
kind: Mesh
name: default
spec:
  access:
    default: deny
"""


def refused(text: str) -> str:
    with pytest.raises(InvalidArgument) as caught:
        read_text(text, "access.yaml")
    return caught.value.message


def test_resources_are_read_from_documents_of_yaml() -> None:
    found = read_text(GOOD, "x")
    assert list(found) == ["Access/only-dispatch", "Mesh/default"]
    assert access_rules(found.values()) == [
        Rule(
            "only-dispatch",
            "fleet",
            ("v1.find-aircraft", "v1.events.*"),
            ("dispatch", "b*"),
            Action.ALLOW,
        )
    ]
    defaults = found["Mesh/default"]
    assert isinstance(defaults, MeshDefaults)
    assert defaults.spec.access.default == "deny"


def test_json_is_yaml_too_and_a_resource_is_written_as_it_is_read() -> None:
    rule = read_text(GOOD, "x")["Access/only-dispatch"]
    assert isinstance(rule, Access)
    assert plain(rule)["spec"]["from"] == ["dispatch", "b*"]
    assert read_text(json.dumps(plain(rule)), "x") == {"Access/only-dispatch": rule}


def test_documents_that_say_nothing_are_left_out() -> None:
    assert list(read_text(f"---\n---\n# nothing\n---\n{GOOD}", "x")) == [
        "Access/only-dispatch",
        "Mesh/default",
    ]
    assert read_text("", "x") == {}


@pytest.mark.parametrize(
    ("change", "to", "sentence"),
    [
        (
            "  from:",
            "  form:",
            "access.yaml:7 (document 1): Access 'only-dispatch': unknown field 'form' in spec: did you mean 'from'?",
        ),
        ("  to: fleet\n", "", "access.yaml:4 (document 1): Access 'only-dispatch': spec.to is missing"),
        (
            "spec:\n  access",
            "sepc:\n  access",
            "access.yaml:12 (document 2): Mesh 'default': unknown field 'sepc': did you mean 'spec'?",
        ),
        (
            "action: allow",
            "action: alow",
            "access.yaml:8 (document 1): Access 'only-dispatch': spec.action is 'alow': write allow, deny or audit; "
            "did you mean 'allow'?",
        ),
        (
            "kind: Access",
            "kind: Acess",
            "access.yaml:2 (document 1): kind 'Acess' is unknown (there are Access, Mesh, Topic): "
            "did you mean 'Access'?",
        ),
        ("kind: Access\n", "", "access.yaml:2 (document 1): kind is missing"),
        (
            "default: deny",
            "default: no",
            "access.yaml:14 (document 2): Mesh 'default': spec.access.default is False",
        ),
        ("name: default", "name: defaults", "Mesh 'defaults': name is 'defaults': write default"),
        (
            "name: only-dispatch",
            "name: Only Dispatch",
            "'Only Dispatch' is no name: write up to 100 lower-case",
        ),
        ("name: only-dispatch", "name: 7", "Access 7: name is 7: write text, in quotes where YAML reads it"),
        (
            '[dispatch, "b*"]',
            "[dispatch, no]",
            "access.yaml:7 (document 1): Access 'only-dispatch': spec.from.1 is False: write text, in quotes where",
        ),
        (
            '[dispatch, "b*"]',
            "[]",
            "spec.from is empty: a rule without from matches nothing; name one, or '*'",
        ),
        ('[dispatch, "b*"]', "dispatch", "spec.from is 'dispatch': write a list, as in [\"*\"]"),
        ('[dispatch, "b*"]', "[Dispatch]", "spec.from.0: service name 'Dispatch' is not valid"),
        ('[dispatch, "b*"]', '["B*"]', "spec.from.0: 'B*' matches no service"),
        ('[dispatch, "b*"]', "[events]", "spec.from.0: service name 'events' is reserved"),
        (
            "v1.find-aircraft",
            "find-aircraft",
            "spec.operations.0: 'find-aircraft' matches no operation: write what",
        ),
        ("v1.find-aircraft", "fleet.v1.x", "spec.operations.0: 'fleet.v1.x' matches no operation"),
        ("v1.find-aircraft", "v1.find-aircraft.retry", "'v1.find-aircraft.retry' matches no operation"),
        ("to: fleet", "to: [fleet]", "spec.to is ['fleet']: write text"),
        (
            "  access:\n    default: deny",
            "  access: deny",
            "spec.access is 'deny': write a mapping with default",
        ),
        (
            "name: default",
            "name: default\nname: default",
            "access.yaml:12: no valid YAML: 'name' is given twice",
        ),
        ("  to: fleet", "  to: [fleet", "access.yaml:6: no valid YAML: "),
        ("  to: fleet", "\t to: fleet", "access.yaml:5: no valid YAML: found character '\\t'"),
        (
            "to: fleet",
            "to: 2013-99-99",
            "access.yaml: no valid YAML: month must be in 1..12; put the text in quotes",
        ),
        ("to: fleet", "to: !!python/object:os.system x", "no valid YAML: could not determine a constructor"),
        ("to: fleet", "to: \x00", "access.yaml: no valid YAML: unacceptable character"),
        ("name: default", "name: default\n? [a]\n: 1", "no valid YAML: found unhashable key"),
    ],
)
def test_a_mistake_is_named_with_its_place(change: str, to: str, sentence: str) -> None:
    assert GOOD.count(change) == 1
    assert sentence in refused(GOOD.replace(change, to))


def test_an_operation_that_repeats_its_service_is_told_so() -> None:
    text = GOOD.replace("to: fleet", "to: vehicles").replace("v1.find-aircraft", '"vehicles.v1.*"')
    assert "operation 'vehicles.v1.*' repeats the service: write 'v1.*'" in refused(text)


@pytest.mark.parametrize("text", ["just words", "[1, 2]", "7"])
def test_what_is_no_mapping_is_no_resource(text: str) -> None:
    assert "is no resource: write kind, name and spec" in refused(text)


def test_what_is_nested_too_deep_is_refused() -> None:
    assert refused("[" * 5000) == "access.yaml: no resources: the YAML is nested too deep"


def test_a_single_document_has_no_number() -> None:
    assert refused("kind: Access\nname: a\nspec: 1").startswith("access.yaml:3: Access 'a': spec is 1")


def rule(name: str, action: str, callers: str = "[dispatch]") -> str:
    return f"kind: Access\nname: {name}\nspec: {{to: fleet, operations: ['*'], from: {callers}, action: {action}}}\n"


def test_two_rules_of_one_name_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text(rule("twice", "allow"))
    (tmp_path / "b.yml").write_text(f"# other\n{rule('twice', 'deny')}")
    with pytest.raises(InvalidArgument) as caught:
        read_folder(tmp_path)
    assert caught.value.message == (
        f"{tmp_path}/b.yml:2: Access 'twice' stands at {tmp_path}/a.yaml:1 already: "
        "keep one of them, or give them different names"
    )


def test_two_rules_that_contradict_each_other_are_refused() -> None:
    text = f"{rule('open', 'allow', '[a, b]')}---\n{rule('closed', 'deny', '[b, a]')}"
    assert refused(text) == (
        "access rules 'open' (allow) and 'closed' (deny) contradict each other: both are for * of fleet from a, b; "
        "keep one of them"
    )


def test_a_folder_gives_its_yaml_files_and_none_gives_nothing(tmp_path: Path) -> None:
    assert read_folder(tmp_path / "none") == {}
    (tmp_path / "a.yaml").write_text(rule("a", "allow"))
    (tmp_path / "notes.md").write_text("no: [yaml")
    (tmp_path / "sub").mkdir()
    assert list(read_folder(tmp_path)) == ["Access/a"]


def test_files_are_read_by_name_and_standard_input_as_a_dash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "rules.txt"
    file.write_bytes(b"\xef\xbb\xbf" + rule("a", "allow").encode())
    monkeypatch.setattr("sys.stdin", SimpleNamespace(buffer=io.BytesIO(rule("b", "audit").encode())))
    assert list(read_files([file, Path("-")])) == ["Access/a", "Access/b"]
    with pytest.raises(NotFound, match="there is no file or folder 'nowhere'"):
        read_files([Path("nowhere")])


def test_a_file_that_is_no_text_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "rules.yaml"
    file.write_bytes(b"kind: \xff")
    with pytest.raises(InvalidArgument, match=r"rules\.yaml: byte 6 is not UTF-8"):
        read_files([file])
