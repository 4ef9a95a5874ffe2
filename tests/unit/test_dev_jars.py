"""The jars: pinned, checked, and never half there."""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Callable, Sequence
from pathlib import Path, PurePosixPath

import pytest

from broker_mesh.dev import jars
from broker_mesh.dev.jars import Jar
from broker_mesh.dev.progress import Step, silent
from broker_mesh.errors import DataLoss

CONTENT = {"a": b"the first jar", "b": b"the second jar"}


def pin(name: str, content: bytes) -> Jar:
    return Jar(PurePosixPath(f"org/example/{name}/1.0/{name}-1.0.jar"), hashlib.sha256(content).hexdigest())


@pytest.fixture(autouse=True)
def two_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jars, "pinned", lambda: [pin(name, content) for name, content in CONTENT.items()])


def write(content: dict[str, bytes]) -> jars.Download:
    def download(wanted: Sequence[Jar], directory: Path, arrived: Callable[[int], None]) -> None:
        for count, jar in enumerate(wanted, start=1):
            (directory / jar.name).write_bytes(content[jar.name[0]])
            arrived(count)

    return download


def test_the_pins_are_kafka_with_all_it_needs() -> None:
    text = (Path(jars.__file__).parent / "jars.sha256").read_text()
    found = [Jar(PurePosixPath(line.split()[1]), line.split()[0]) for line in text.splitlines()]
    assert len({jar.name for jar in found}) == len(found) == 46
    assert all(len(jar.sha256) == 64 for jar in found)
    assert ("org.apache.kafka", "kafka_2.13", "4.3.1") in [jar.coordinate for jar in found]
    for jar in found:
        _, artifact, version = jar.coordinate
        assert jar.name == f"{artifact}-{version}.jar"


def test_installs_what_is_right_and_tells_how_far_it_is(tmp_path: Path) -> None:
    steps: list[Step] = []
    jars.install(tmp_path / "jars", write(CONTENT), steps.append)
    assert jars.installed(tmp_path / "jars")
    assert [(step.done, step.total) for step in steps] == [(0, 2), (1, 2), (2, 2)]
    assert [file.name for file in tmp_path.iterdir()] == ["jars"]


def test_a_wrong_checksum_leaves_nothing_and_says_which_jar(tmp_path: Path) -> None:
    with pytest.raises(DataLoss, match=r"b-1\.0\.jar .* SHA-256 is wrong"):
        jars.install(tmp_path / "jars", write({**CONTENT, "b": b"something else"}), silent)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    def download(wanted: Sequence[Jar], directory: Path, arrived: Callable[[int], None]) -> None:
        (directory / wanted[0].name).write_bytes(b"the")
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.raises(OSError, match="No space"):
        jars.install(tmp_path / "jars", download, silent)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("harm", ["changed", "missing"])
def test_harm_in_the_cache_is_noticed_and_healed(tmp_path: Path, harm: str) -> None:
    directory = tmp_path / "jars"
    jars.install(directory, write(CONTENT), silent)
    if harm == "changed":
        (directory / "a-1.0.jar").write_bytes(b"the first j@r")
    else:
        (directory / "a-1.0.jar").unlink()
    assert not jars.installed(directory)
    jars.install(directory, write(CONTENT), silent)
    assert jars.installed(directory)
    assert [file.name for file in tmp_path.iterdir()] == ["jars"]
