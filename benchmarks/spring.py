"""Builds the one contender that is no Python: `contenders/spring/`, by Maven, into `build/`."""

from __future__ import annotations

import subprocess
from pathlib import Path

VERSION = "4.1.0"
"""Of Spring Kafka; it runs on Java 17 or later."""

_SOURCES = Path(__file__).parent / "contenders" / "spring"
_BUILT = Path(__file__).parents[1] / "build" / f"benchmarks-spring-{VERSION}"
_BUILD_SECONDS = 300.0
# Like the embedded Kafka's, but with the compiler that makes long-running programs fast.
_JVM = ("-Xms256m", "-Xmx512m", "-XX:+UseSerialGC")


class BuildFailed(Exception):
    """It can't be built here; the sentence says why."""


def built() -> tuple[str, ...]:
    """Build it, unless that is done, and give the command that starts it.

    Raises:
        BuildFailed: Maven could not, as where its libraries can't be downloaded.
    """
    command = [
        *("mvn", "--quiet", "--batch-mode", "--file", str(_SOURCES / "pom.xml")),
        *(f"-Dbuilt={_BUILT}", f"-Dspring-kafka.version={VERSION}"),
        "package",
    ]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_BUILD_SECONDS
        )
    except subprocess.TimeoutExpired as error:
        raise BuildFailed(f"Maven was not done after {_BUILD_SECONDS:g} s") from error
    if done.returncode != 0:
        told = [line for line in done.stdout.splitlines() if line.startswith("[ERROR]")]
        raise BuildFailed(f"Maven failed: {told[0].removeprefix('[ERROR]').strip() if told else done.stderr}")
    return ("java", *_JVM, "-cp", f"{_BUILT / 'classes'}:{_BUILT / 'libs'}/*", "benchmarks.Contender")
