"""Brings everything a broker runs on onto the machine, once per user: jars, Java runtime, class cache."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import replace
from functools import partial

from broker_mesh.dev import aot, jars
from broker_mesh.dev.download import fetch
from broker_mesh.dev.failures import os_errors_explained
from broker_mesh.dev.java import Runtime, find_java
from broker_mesh.dev.lock import file_lock
from broker_mesh.dev.paths import KAFKA_VERSION, cache_directory
from broker_mesh.dev.progress import Progress, Step


def prepare(progress: Progress, environ: Mapping[str, str] = os.environ) -> Runtime:
    """Make sure that a broker can run, downloading what is missing; two processes at once take turns.

    Args:
        progress: told what is being done, when there is anything to do.
        environ: `MESH_CACHE_DIR` and `MESH_MAVEN_URL` (a repository to use instead of Maven Central).

    Raises:
        MeshError: it can't run here; why, in one sentence.
    """
    java = find_java()
    cache = cache_directory(environ) / f"kafka-{KAFKA_VERSION}"
    directory = cache / "jars"
    download = partial(fetch, repository=environ.get("MESH_MAVEN_URL"))
    waiting = partial(progress, Step("Waiting for another command that prepares Kafka"))
    with os_errors_explained("prepare Kafka"), file_lock(cache / "lock", waiting):
        if not jars.installed(directory):
            jars.install(directory, download, progress)
        runtime = Runtime(java, directory)
        return replace(runtime, class_cache=aot.class_cache(cache, runtime, progress))
