"""Kafka's jars: pinned by SHA-256, downloaded once per user, and checked before every start.

The pins (`jars.sha256`) name each jar by its path in a Maven repository, dependencies included, so that nothing
is resolved on the user's machine: what runs is exactly what was tested.
"""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import resources
from pathlib import Path, PurePosixPath

from broker_mesh.dev.paths import KAFKA_VERSION
from broker_mesh.dev.progress import Progress, Step
from broker_mesh.errors import DataLoss


@dataclass(frozen=True, slots=True)
class Jar:
    """One pinned jar.

    Args:
        path: its path in a Maven repository: group/artifact/version/artifact-version.jar.
        sha256: the hash of its content, in hex.
    """

    path: PurePosixPath
    sha256: str

    @property
    def name(self) -> str:
        """Its file name, unique among the pinned jars."""
        return self.path.name

    @property
    def coordinate(self) -> tuple[str, str, str]:
        """Group, artifact and version, as Maven calls them."""
        *group, artifact, version, _ = self.path.parts
        return ".".join(group), artifact, version

    def matches(self, file: Path) -> bool:
        """Whether a file is this jar; False when there is no such file."""
        try:
            with file.open("rb") as content:
                return hashlib.file_digest(content, "sha256").hexdigest() == self.sha256
        except FileNotFoundError:
            return False


Download = Callable[[Sequence[Jar], Path, Callable[[int], None]], None]
"""Brings jars into a directory, each under its name, and tells how many are there: `download.fetch`."""


def pinned() -> list[Jar]:
    """All jars of a broker, in the order of the class path."""
    text = resources.files("broker_mesh.dev").joinpath("jars.sha256").read_text()
    lines = (line.split(maxsplit=1) for line in text.splitlines() if line)
    return [Jar(PurePosixPath(path), sha256) for sha256, path in lines]


def installed(directory: Path) -> bool:
    """Whether every pinned jar is in a directory, unharmed. Some 50 ms: hashing runs beside the interpreter lock."""
    with ThreadPoolExecutor(2) as pool:
        return all(pool.map(lambda jar: jar.matches(directory / jar.name), pinned()))


def install(directory: Path, download: Download, progress: Progress) -> None:
    """Download every jar and check it; the directory appears only once all of them are right.

    Args:
        directory: where the jars are to be; what is there is replaced.
        download: brings jars into a directory.
        progress: told how far it is.

    Raises:
        DataLoss: a jar is not the pinned one.
        Unavailable: the download did not work.
        OSError: the disk is full or the directory can't be written.
    """
    jars = pinned()
    text = f"Downloading Kafka {KAFKA_VERSION}"
    progress(Step(text, 0, len(jars)))
    directory.parent.mkdir(parents=True, exist_ok=True)
    # Beside the final place: a rename within one file system is one step, whatever happens meanwhile.
    with tempfile.TemporaryDirectory(prefix=".download-", dir=directory.parent) as temporary:
        fresh = Path(temporary) / "jars"
        fresh.mkdir()
        download(jars, fresh, lambda done: progress(Step(text, done, len(jars))))
        for jar in jars:
            _require(jar, fresh / jar.name)
        if directory.exists():
            shutil.move(directory, Path(temporary) / "replaced")
        fresh.rename(directory)


def _require(jar: Jar, file: Path) -> None:
    if not jar.matches(file):
        raise DataLoss(
            f"The downloaded {jar.name} is not the one this version was built for (its SHA-256 is wrong), so it was "
            "thrown away: try again, and check the proxy or mirror it came through if it happens again."
        )
