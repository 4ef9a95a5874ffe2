"""The documentation against the code: what can be checked of it, so that it does not go stale unseen."""

from __future__ import annotations

import ast
import re
import shlex
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import annotated_types
import pytest
import typer.main

from broker_mesh import errors, headers, naming
from broker_mesh.adoption import Adoption
from broker_mesh.cli.app import app
from broker_mesh.contracts.files import subject_of
from broker_mesh.errors import MeshError
from broker_mesh.settings import RESERVED_KAFKA_PROPERTIES, Settings
from broker_mesh.status import STATUS_RULES, DeadLettered
from broker_mesh.telemetry import access_log, instruments
from broker_mesh.telemetry.aggregation import Kind
from broker_mesh.telemetry.prometheus import metric_name
from tests.support.documents import PAGES, ROOT, Block, blocks
from tests.support.fleet import CALLER_STEPS

DECISIONS = sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md"))


def page_id(page: Path) -> str:
    return str(page.relative_to(ROOT))


def table(page: Path, first_heading: str) -> dict[str, list[str]]:
    """The rows of the table whose first column has this heading, by the first cell without its backticks."""
    lines = iter(page.read_text().splitlines())
    for line in lines:
        if cells(line)[:1] == [first_heading]:
            next(lines)  # the rule below the headings
            rows = [cells(row) for row in iter(lambda: next(lines, ""), "")]
            return {row[0].strip("`"): row[1:] for row in rows}
    raise AssertionError(f"{page_id(page)} has no table that begins with {first_heading!r}")


def cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] if line.startswith("|") else []


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    titles = re.findall(r"^#+ (.*)$", text, flags=re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


# ── of every page ─────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), target
        assert linked.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors(linked), target


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_paths_that_are_named_exist(page: Path) -> None:
    for token in re.findall(r"`([\w./-]+)`", page.read_text()):
        is_module = token.endswith(".py")
        is_folder = token.endswith("/") or token.startswith(("broker_mesh/", "tests/", "demo/"))
        if (is_module or is_folder) and not token.startswith("/"):
            assert any((base / token).exists() for base in (ROOT, ROOT / "broker_mesh")), token


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_python_blocks_compile(page: Path) -> None:
    for block in blocks(page, "python"):
        compile(block.text, f"{page}:{block.line}", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_toml_blocks_are_settings(page: Path) -> None:
    for block in blocks(page, "toml"):
        settings = Settings.model_validate(tomllib.loads(block.text))
        assert not settings.kafka.keys() & RESERVED_KAFKA_PROPERTIES


def commands_of(page: Path) -> Iterator[tuple[Block, list[str]]]:
    for block in blocks(page, "sh"):
        for line in block.text.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["mesh"]:
                yield block, words[1:]


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_commands_and_their_options_exist(page: Path) -> None:
    for block, words in commands_of(page):
        command: Any = typer.main.get_command(app)
        path = []
        while (children := getattr(command, "commands", None)) is not None:
            path.append(words[len(path)])
            assert path[-1] in children, f"{page}:{block.line}: mesh {' '.join(path)}"
            command = children[path[-1]]
        known = {option for parameter in command.params for option in parameter.opts} | {"--help"}
        used = {word.partition("=")[0] for word in words[len(path) :] if word.startswith("-") and word != "-"}
        assert used <= known, f"{page}:{block.line}: mesh {' '.join(words)}"


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_the_text_speaks_of_the_project_alone(page: Path) -> None:
    text = page.read_text()
    for banned in (
        r"/work\b",
        r"\bhelpers?\b",
        r"\bagents?\b",
        r"\bsandbox\b",
        r"\bTODO\b",
        r"/home/",
        r"/tmp/",
    ):
        assert re.search(banned, text, flags=re.I) is None, banned


# ── of single pages ───────────────────────────────────────────────────────────────────────────────────────


def test_the_wire_format_has_every_header() -> None:
    listed = table(ROOT / "docs" / "wire-format.md", "header")
    constants = {
        value
        for name, value in vars(headers).items()
        if name.isupper() and isinstance(value, str) and name != "SPEC_VERSION"
    }
    assert set(listed) == constants == headers.mesh_names()


def test_the_wire_format_names_reserved_words_and_limits() -> None:
    text = (ROOT / "docs" / "wire-format.md").read_text()
    for word in naming.RESERVED_WORDS:
        assert f"`{word}`" in text
    assert f"at most {naming.MAX_NAME_LENGTH} characters" in text
    assert f"at most {headers.MAX_TEXT_BYTES:,} bytes" in text
    assert f"{headers.MAX_READ_BYTES // 1024} KiB" in text


def test_every_setting_is_described_with_its_default_and_range() -> None:
    listed = table(ROOT / "docs" / "settings.md", "mesh.toml")
    assert list(listed) == list(Settings.model_fields)
    for name, field in Settings.model_fields.items():
        variable, default, _unit, bounds, meaning = listed[name]
        written = {"kafka": "`MESH_KAFKA_…`", "topics": ""}  # a variable can't hold a table
        assert variable == written.get(name, f"`MESH_{name.upper()}`")
        assert default.strip("`") == shown_default(name)
        assert bounds == shown_range(field.metadata)
        assert meaning


def test_every_key_of_an_adopted_topic_is_described_with_its_default() -> None:
    listed = table(ROOT / "docs" / "settings.md", "key of a topic")
    assert list(listed) == list(Adoption.model_fields)
    for name, field in Adoption.model_fields.items():
        default, meaning = listed[name]
        shown = "<topic>-value" if name == "subject" else field.default or "none"
        assert default.strip("`") == shown
        assert meaning


def shown_default(name: str) -> str:
    value = getattr(Settings(), name)
    if value is None:
        return "none"
    if value == {}:
        return "empty"
    if isinstance(value, bool):
        return str(value).lower()
    return f"{value:g}" if isinstance(value, float) else str(value)


def shown_range(metadata: list[object]) -> str:
    lowest = highest = ""
    for bound in metadata:
        match bound:
            case annotated_types.Ge(ge=value):
                lowest = f"{value}"
            case annotated_types.Gt(gt=value):
                lowest = f"above {value},"
            case annotated_types.Le(le=value):
                highest = f" to {value}"
    return lowest + highest


def test_every_reserved_property_is_listed_with_its_reason() -> None:
    listed = table(ROOT / "docs" / "settings.md", "property")
    assert listed  # the properties that may be set
    text = (ROOT / "docs" / "settings.md").read_text().partition("can't be set")[2]
    for name, reason in RESERVED_KAFKA_PROPERTIES.items():
        assert f"| `{name}` | {reason} |" in text
        assert name not in listed
    assert len(re.findall(r"^\| `[a-z.]+` \|", text, flags=re.M)) == len(RESERVED_KAFKA_PROPERTIES)


def test_the_table_of_errors_is_that_of_the_code() -> None:
    listed = table(ROOT / "docs" / "guide" / "errors-and-retries.md", "status")
    assert list(listed) == [status.name for status in STATUS_RULES if status.name != "OK"]
    kept = {DeadLettered.ALWAYS: "always", DeadLettered.IF_UNANSWERED: "if nobody waits for an answer"}
    for status, rule in STATUS_RULES.items():
        if status.name == "OK":
            continue
        named, retried, dead_lettered = listed[status.name]
        assert retried == ("yes" if rule.retriable else "no")
        assert dead_lettered == kept[rule.dead_lettered]
        for name in re.findall(r"`(\w+)`", named):
            error = getattr(errors, name)
            assert issubclass(error, MeshError)
            assert error is MeshError or error.status is status


def test_the_architecture_has_every_step_at_which_processes_are_killed() -> None:
    source = ast.parse((ROOT / "tests" / "kafka" / "test_crashes.py").read_text())
    steps = next(
        ast.literal_eval(node.value)
        for node in source.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "CALLEE_STEPS"
    )
    text = (ROOT / "docs" / "architecture.md").read_text()
    for step in (*steps, *CALLER_STEPS):
        assert step in text, step


def test_the_architecture_has_the_layers_as_they_are_enforced() -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    layers = "\n".join(contracts[0]["layers"])
    assert f"```text\n{layers}\n```" in (ROOT / "docs" / "architecture.md").read_text()


def test_every_trap_has_a_test_that_exists() -> None:
    page = (ROOT / "docs" / "correctness.md").read_text()
    rules = re.split(r"^## ", page, flags=re.M)[1:]
    assert [rule.partition(".")[0] for rule in rules] == [str(number) for number in range(1, 16)]
    named: set[str] = set()
    for rule in rules:
        rows = [cells(line) for line in rule.splitlines() if line.startswith("|")][2:]
        assert rows, rule
        for trap, guard, tests in rows:
            found = re.findall(r"`(tests/[\w/]+\.py::\w+)`", tests)
            assert guard, trap
            assert found, trap
            named.update(found)
    for test in named:
        path, _, name = test.partition("::")
        assert name in definitions(ROOT / path), test
    written = {name for name in definitions(ROOT / "tests/kafka/test_traps.py") if name.startswith("test_")}
    assert {f"tests/kafka/test_traps.py::{name}" for name in written} <= named


def definitions(module: Path) -> set[str]:
    """The functions of a module, and what is assigned there, as state machines that are tests are."""
    names = set()
    for node in ast.parse(module.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(ast.unparse(target) for target in node.targets)
    return names


def test_the_readme_is_short_and_shows_the_demo_as_it_is() -> None:
    readme = ROOT / "README.md"
    assert len(readme.read_text().splitlines()) <= 230
    shown = [block.text for block in blocks(readme, "python")]
    fleet = (ROOT / "demo" / "fleet.py").read_text().partition('"""\n\n')[2]
    assert fleet in shown
    declared = (ROOT / "demo" / "contracts.py").read_text()
    assert all(part in declared for part in shown[0].strip().split("\n\n\n"))


def test_the_readme_s_settings_are_right() -> None:
    for name, (variable, default, _) in table(ROOT / "README.md", "mesh.toml").items():
        if name == "[kafka]":
            continue
        assert variable == f"`MESH_{name.upper()}`"
        assert default.strip("`") in (shown_default(name), "a running `mesh dev")


def test_the_guide_s_schema_files_hold_the_subjects_it_says() -> None:
    listed = table(ROOT / "docs" / "guide" / "schemas.md", "file")
    assert listed
    for file, (subject,) in listed.items():
        assert (ROOT / file).is_file()
        assert subject_of(ROOT / file) == subject.strip("`")


def test_the_table_of_metrics_is_that_of_the_code() -> None:
    listed = table(ROOT / "docs" / "guide" / "observing.md", "metric")
    assert set(listed) == {instrument.name for instrument in instruments.ALL}
    for instrument in instruments.ALL:
        named, labels, meaning = listed[instrument.name]
        total = "_total" if instrument.kind is Kind.COUNTER else ""
        assert named.strip("`") == metric_name(instrument) + total
        assert labels.split(", ") == [label.short for label in instrument.labels]
        assert ("a histogram" in meaning) is (instrument.kind is Kind.HISTOGRAM)


def test_the_fields_of_the_access_log_are_those_of_the_code() -> None:
    listed = table(ROOT / "docs" / "guide" / "observing.md", "field")
    fields = {name for row in listed for name in row.replace("`", "").split(", ")}
    assert fields == {"time", *access_log.FIELDS}


def test_all_decisions_are_listed_and_have_a_status() -> None:
    index = (ROOT / "docs" / "decisions" / "README.md").read_text()
    assert [int(page.name[:4]) for page in DECISIONS] == list(range(1, len(DECISIONS) + 1))
    for page in DECISIONS:
        title, status = page.read_text().splitlines()[0:3:2]
        number, _, name = title.removeprefix("# ").partition(". ")
        assert int(number) == int(page.name[:4])
        assert f"- [{page.name[:4]}]({page.name}): {name}" in index
        assert re.fullmatch(r"Status: (accepted|superseded by \d{4}) · \d{4}-\d{2}", status)
