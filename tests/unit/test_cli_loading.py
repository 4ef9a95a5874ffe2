"""`mesh run package.module:name`: every way in which the name may be wrong gets its own sentence."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from broker_mesh.cli.loading import load_mesh
from broker_mesh.errors import InvalidArgument, MeshError, NotFound, SettingsError


@pytest.fixture(autouse=True)
def _fresh_imports() -> Iterator[None]:
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        del sys.modules[name]


def write(directory: Path, name: str, text: str) -> None:
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def sentence(directory: Path, target: str, kind: type[MeshError]) -> str:
    with pytest.raises(kind) as caught:
        load_mesh(target, directory)
    assert "\n" not in caught.value.message
    return caught.value.message


def test_a_mesh_in_a_package_of_the_working_directory(tmp_path: Path) -> None:
    write(tmp_path, "depot/fleet_one.py", "from broker_mesh import Mesh\nfleet = Mesh('fleet')\n")
    assert load_mesh("depot.fleet_one:fleet", tmp_path).service == "fleet"


@pytest.mark.parametrize(
    "target", ["fleet", "fleet:", ":fleet", "a/b.py:fleet", "a.py:fleet", "a-b:c", "a:b.c"]
)
def test_a_target_that_is_none(target: str, tmp_path: Path) -> None:
    assert "write package.module:name" in sentence(tmp_path, target, InvalidArgument)


def test_no_such_module(tmp_path: Path) -> None:
    write(tmp_path, "fleet_two.py", "")
    assert "did you mean 'fleet_two'?" in sentence(tmp_path, "fleet_tow:fleet", NotFound)
    assert "there is no module 'depot_x'" in sentence(tmp_path, "depot_x.fleet:fleet", NotFound)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("\nimport json\njson.loads('{')\n", "JSONDecodeError: Expecting property name"),
        (
            "\n\nimport a_module_that_is_missing\n",
            "ModuleNotFoundError: No module named 'a_module_that_is_missing'",
        ),
        ("\n\ndef f(:\n", "SyntaxError: invalid syntax"),
        ("\n\nraise SystemExit('enough')\n", "SystemExit: enough"),
        ("\nfrom broker_mesh import Mesh\nMesh('Not a name')\n", "SettingsError: service name 'Not a name'"),
    ],
)
def test_a_module_that_raises_when_imported(text: str, said: str, tmp_path: Path) -> None:
    write(tmp_path, "broken_module.py", text)
    message = sentence(tmp_path, "broken_module:fleet", SettingsError)
    assert said in message
    assert message.endswith("broken_module.py, line 3)")


def test_no_such_name(tmp_path: Path) -> None:
    write(tmp_path, "fleet_three.py", "from broker_mesh import Mesh\nfleet = Mesh('fleet')\nseats = 3\n")
    assert "did you mean 'fleet'?" in sentence(tmp_path, "fleet_three:flet", NotFound)
    assert "there is fleet" in sentence(tmp_path, "fleet_three:zzz", NotFound)
    assert "is a int, not a Mesh (there is fleet)" in sentence(tmp_path, "fleet_three:seats", SettingsError)


def test_a_module_without_a_mesh(tmp_path: Path) -> None:
    write(tmp_path, "fleet_four.py", "seats = 3\n")
    assert "it has no Mesh at all" in sentence(tmp_path, "fleet_four:seats", SettingsError)
