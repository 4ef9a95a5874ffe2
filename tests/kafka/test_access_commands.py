"""`mesh apply`, `diff`, `get`, `delete` and `access` on a real Kafka, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from broker_mesh.cli import execute
from broker_mesh.control import apply
from broker_mesh.dev.cluster import EmbeddedKafka
from broker_mesh.errors import InvalidArgument
from broker_mesh.kafka.fenced import FencedWriter, NewRecord
from tests.support.access import Rules, applying_rules
from tests.support.names import fresh


@pytest.fixture
def rules(kafka: EmbeddedKafka) -> Iterator[Rules]:
    with applying_rules(kafka.bootstrap_servers) as made:
        yield made


class Shell:
    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self._capsys = capsys

    def run(self, *arguments: str, code: int = 0) -> Any:
        """Run `mesh … -o json`; gives what it prints."""
        assert execute([*arguments, "-o", "json"]) == code
        return json.loads(self._capsys.readouterr().out)

    def fails(self, *arguments: str, code: int) -> str:
        assert execute(list(arguments)) == code
        return self._capsys.readouterr().err

    def prints(self, *arguments: str, code: int = 0) -> str:
        assert execute(list(arguments)) == code
        printed = self._capsys.readouterr()
        return printed.out + printed.err


@pytest.fixture
def shell(
    kafka: EmbeddedKafka,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> Shell:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MESH_BOOTSTRAP_SERVERS", kafka.bootstrap_servers)
    return Shell(capsys)


def test_rules_are_applied_compared_shown_asked_and_deleted(
    shell: Shell, rules: Rules, tmp_path: Path
) -> None:
    one, two = fresh("one"), fresh("two")
    rules.applied |= {one, two}
    fleet = fresh("fleet")
    file = tmp_path / "rules.yaml"

    def document(name: str, action: str, callers: str) -> str:
        spec = f"{{to: {fleet}, operations: [v1.*], from: {callers}, action: {action}}}"
        return f"kind: Access\nname: {name}\nspec: {spec}\n"

    file.write_text(f"{document(one, 'deny', '[guest]')}---\n{document(two, 'allow', '[dispatch]')}")
    both = {f"Access/{one}", f"Access/{two}"}

    tried = shell.run("apply", "-f", str(file), "--dry-run")
    assert not tried["done"]
    assert [row for row in shell.run("get") if row["name"] in (one, two)] == []
    assert {row["resource"] for row in shell.run("diff", "-f", str(file), code=1)["changes"]} == both
    done = shell.run("apply", "-f", str(file))
    assert done["done"]
    assert {row["resource"]: row["change"] for row in done["changes"]} == dict.fromkeys(both, "created")
    assert {row["change"] for row in shell.run("apply", "-f", str(file))["changes"]} == {"unchanged"}
    assert shell.run("diff", "-f", str(file))["changes"] == []

    (shown,) = shell.run("get", "Access", one)
    assert shown["spec"] == {"to": fleet, "operations": ["v1.*"], "from": ["guest"], "action": "deny"}
    assert "@" in shown["applied_by"]
    assert shown["applied_at"].endswith("Z")
    assert shell.run("access", "can", "guest", f"{fleet}.v1.ask", code=1) == {
        "allowed": False,
        "action": "deny",
        "rule": one,
    }
    assert shell.run("access", "can", "dispatch", f"{fleet}.v1.ask")["rule"] == two
    assert shell.run("access", "can", "", f"{fleet}.v1.events.gone")["rule"] is None
    listed = {row["name"]: row for row in shell.run("access", "list")["rules"]}
    assert listed[one]["source"] == "mesh apply"

    file.write_text(f"{document(one, 'audit', '[guest]')}")
    assert "  - action: deny\n  + action: audit\n" in shell.prints("diff", "-f", str(file), code=1)
    assert shell.prints("apply", "-f", str(file)).split()[-2:] == [f"Access/{one}", "changed"]
    pruned = shell.run("diff", "-f", str(file), "--prune", code=1)["changes"]
    assert {"resource": f"Access/{two}", "change": "deleted"}.items() <= pruned[-1].items()
    assert shell.prints("delete", "Access", two) == f"Access/{two} is deleted\n"
    assert "yes: audit, by the default" in shell.prints("access", "can", "dispatch", f"{fleet}.v1.ask")
    assert f"there is no Access '{two}'" in shell.fails("delete", "Access", two, code=3)


def test_of_rules_that_are_wrong_none_is_applied(shell: Shell, rules: Rules, tmp_path: Path) -> None:
    fleet, name = fresh("fleet"), fresh("rule")
    rule = "kind: Access\nname: {}\nspec: {{to: {}, operations: ['*'], from: [a], {}: {}}}\n"
    file = tmp_path / "rules.yaml"
    good = rule.format(name, fleet, "action", "deny")
    for bad, sentence in (
        (
            rule.format("x", fleet, "acton", "deny"),
            "rules.yaml:7 (document 2): Access 'x': unknown field 'acton' in",
        ),
        (
            rule.format("x", fleet, "action", "allow"),
            f"access rules '{name}' (deny) and 'x' (allow) contradict",
        ),
        ("kind: [", "rules.yaml:5: no valid YAML"),
    ):
        file.write_text(f"{good}---\n{bad}")
        assert sentence in shell.fails("apply", "-f", str(file), code=2)
    assert [row for row in shell.run("get") if row["name"] in (name, "x")] == []
    file.write_text("# nothing\n")
    assert "there is no resource in rules.yaml" in shell.fails("apply", "-f", "rules.yaml", code=2)
    assert "there is no file or folder 'nowhere'" in shell.fails("apply", "-f", "nowhere", code=3)
    assert "kind 'Acces' is unknown" in shell.fails("get", "Acces", code=2)


def test_the_rules_of_this_folder_s_files_count_and_shadowed_ones_are_pointed_out(
    shell: Shell, rules: Rules, tmp_path: Path
) -> None:
    fleet, wide = fresh("fleet"), fresh("wide")
    (tmp_path / "policy").mkdir()
    (tmp_path / "policy" / "mine.yml").write_text(
        f"kind: Access\nname: mine\nspec: {{to: {fleet}, operations: [v1.ask], from: [a], action: allow}}\n"
    )
    assert shell.run("access", "can", "a", f"{fleet}.v1.ask")["rule"] == "mine"
    rules.apply(wide, "deny", to=fleet, callers=["*"])
    assert shell.run("access", "can", "a", f"{fleet}.v1.ask", code=1)["rule"] == wide
    warning = f"access rule 'mine' (allow) can never take effect: '{wide}' (deny) covers all that it matches"
    assert warning in shell.run("access", "list")["warnings"]
    assert f"warning: {warning}" in shell.prints("access", "list")
    assert "where no rule matches: audit" in shell.prints("access", "list")


def test_a_record_that_nobody_understands_is_shown_and_can_be_removed(shell: Shell, rules: Rules) -> None:
    name = fresh("limit")
    rules.write(f"Limit/{name}", b"\xff")
    try:
        (shown,) = [row for row in shell.run("get") if row["name"] == name]
        assert "the value is no JSON" in shown["unreadable"]
        assert "remove the record with 'mesh delete'" in shell.fails("access", "list", code=1)
    finally:
        shell.prints("delete", "Limit", name)
    assert [row for row in shell.run("get") if row["name"] == name] == []


def test_what_was_checked_still_holds_when_it_is_written(
    rules: Rules, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two rules that contradict each other, one is applied after the other was checked and before it is written."""
    fleet, slow, fast = fresh("fleet"), fresh("slow"), fresh("fast")

    class Overtaken(FencedWriter):
        def commit(self, records: Iterable[NewRecord]) -> None:
            monkeypatch.setattr(apply, "FencedWriter", FencedWriter)
            rules.apply(fast, "deny", to=fleet, callers=["guest"])
            super().commit(records)

    monkeypatch.setattr(apply, "FencedWriter", Overtaken)
    with pytest.raises(InvalidArgument, match=rf"'{slow}' \(allow\).* contradict each other"):
        rules.apply(slow, "allow", to=fleet, callers=["guest"])
    held = rules.store.read().applied
    assert f"Access/{fast}" in held
    assert f"Access/{slow}" not in held
