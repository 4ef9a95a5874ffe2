"""Who is measured: the mesh in several settings, raw Kafka, and the peers as far as this machine has them."""

from __future__ import annotations

import shutil
import sys
from importlib.util import find_spec
from typing import NamedTuple

from benchmarks.scene import Scene
from benchmarks.spring import VERSION, BuildFailed, built

_SAMPLED_NORMALLY = 0.01


class Contender(NamedTuple):
    """A contender that can be started.

    Args:
        name: as it is printed.
        command: how its processes are started; role and scene follow.
        sampled: the share of traces that it records and exports; None exports nothing.
    """

    name: str
    command: tuple[str, ...]
    sampled: float | None = None

    def within(self, scene: Scene, collector: str) -> Scene:
        """Give the scene as this contender sees it; two settings of one program don't share their topics."""
        if self.sampled is None:
            return scene
        name = f"{scene.name}-{self.sampled * 100:g}"
        return scene.model_copy(update={"name": name, "sampled": self.sampled, "collector": collector})


class Absent(NamedTuple):
    """A contender that this machine has not; `why` ends the sentence "not present: …"."""

    name: str
    why: str


def _python(module: str, *more: str) -> tuple[str, ...]:
    return sys.executable, "-m", f"benchmarks.contenders.{module}", *more


RAW = Contender("raw", _python("raw"))
MESH = Contender("mesh", _python("mesh"), _SAMPLED_NORMALLY)
MESH_TRACED = Contender("mesh, 100 % traced", _python("mesh"), 1.0)
PLAIN = Contender("plain", _python("plain_client"))
WRAPPED = Contender("wrapped", _python("wrapped_client"), _SAMPLED_NORMALLY)
MESH_SILENT = Contender("mesh, no exporter", _python("mesh"))

FASTSTREAM = ("FastStream confluent", "FastStream aiokafka")
GRPC = "grpc.aio"
SPRING = f"Spring Kafka {VERSION}"


def peers() -> list[Contender | Absent]:
    """Give the peers of request and reply; looks for what they need, and builds what must be built. It blocks."""
    found: list[Contender | Absent] = []
    for name, needed in zip(FASTSTREAM, ("confluent_kafka", "aiokafka"), strict=True):
        missing = next((each for each in ("faststream", needed) if find_spec(each) is None), None)
        backend = name.split()[-1]
        found.append(
            Absent(name, f"{missing} is not installed")
            if missing
            else Contender(name, _python("faststream_rpc", backend))
        )
    found.append(
        Contender(GRPC, _python("grpc_aio")) if find_spec("grpc") else Absent(GRPC, "grpcio is not installed")
    )
    found.append(_spring())
    return found


def _spring() -> Contender | Absent:
    missing = [tool for tool in ("java", "javac", "mvn") if shutil.which(tool) is None]
    if missing:
        return Absent(SPRING, f"no {' and no '.join(missing)} here")
    try:
        return Contender(SPRING, built())
    except BuildFailed as error:
        return Absent(SPRING, str(error))
