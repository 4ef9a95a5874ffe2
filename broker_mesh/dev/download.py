"""Brings the jars from a Maven repository: with jgo, which needs only Python, or else with `mvn`.

`mvn` knows what jgo does not: the mirrors, proxies and credentials of the user's own Maven settings.
"""

from __future__ import annotations

import errno
import logging
import shutil
import subprocess
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit
from xml.sax.saxutils import escape

from broker_mesh.dev.jars import Jar
from broker_mesh.errors import FailedPrecondition, MeshError, Unavailable

EXTRA = 'pip install "broker-mesh[dev-kafka]"'

_PARALLEL = 6
_HTTP_TIMEOUT_SECONDS = 30
_MVN_TIMEOUT_SECONDS = 600

logger = logging.getLogger(__name__)


def fetch(
    jars: Sequence[Jar], directory: Path, arrived: Callable[[int], None], repository: str | None = None
) -> None:
    """Bring jars into a directory, each under its name.

    Args:
        jars: what to bring.
        directory: where to; must exist.
        arrived: called with the number of jars that are there.
        repository: the URL of a Maven repository to use instead of Maven Central; then `mvn`, which has its own
            settings, is not tried.

    Raises:
        Unavailable: the repository can't be reached.
        FailedPrecondition: jgo is not installed.
        OSError: the disk is full or the directory can't be written.
    """
    try:
        _with_jgo(jars, directory, arrived, repository)
    except Unavailable as error:
        mvn = shutil.which("mvn")
        if mvn is None or repository is not None:
            raise
        logger.debug("trying mvn: %s", error)
        try:
            _with_mvn(mvn, jars, directory)
        except MeshError as second:
            raise error from second  # jgo's reason is about the network, mvn's would be pages of Java
        arrived(len(jars))


def _with_jgo(
    jars: Sequence[Jar], directory: Path, arrived: Callable[[int], None], repository: str | None
) -> None:
    try:
        import jgo
        from jgo.maven import MavenContext
    except ImportError as error:
        raise FailedPrecondition(
            f"Kafka's jars can't be downloaded, since the Python package jgo is not installed: run {EXTRA}"
        ) from error
    import requests

    url = repository or jgo.MAVEN_CENTRAL_URL
    context = MavenContext(
        repo_cache=directory / ".repository", remote_repos={"central": url}, timeout=_HTTP_TIMEOUT_SECONDS
    )

    def bring(jar: Jar) -> None:
        group, artifact, version = jar.coordinate
        path = context.project(group, artifact).at_version(version).artifact().resolve()
        path.replace(directory / jar.name)

    pool = ThreadPoolExecutor(_PARALLEL)
    try:
        for count, _ in enumerate(pool.map(bring, jars), start=1):
            arrived(count)
    except (requests.RequestException, RuntimeError) as error:  # RuntimeError: jgo's word for "not there"
        if _disk_full(error):
            raise OSError(errno.ENOSPC, "No space left on device") from error
        raise Unavailable(_why(url, error)) from error
    finally:
        pool.shutdown(cancel_futures=True)
    shutil.rmtree(directory / ".repository")


def _disk_full(error: BaseException) -> bool:
    """Whether a full disk is what really stands behind an error."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno == errno.ENOSPC:
            return True
        cause = cause.__cause__ or cause.__context__
    return False


def _why(url: str, error: Exception) -> str:
    import requests

    host = urlsplit(url).netloc or url
    if isinstance(error, requests.exceptions.SSLError):
        reason = "its certificate is not trusted; if a proxy inspects traffic, set REQUESTS_CA_BUNDLE"
    elif isinstance(error, requests.exceptions.ProxyError):
        reason = "the proxy refused; check HTTPS_PROXY"
    elif isinstance(error, requests.Timeout):
        reason = f"no answer within {_HTTP_TIMEOUT_SECONDS} s; check the network"
    elif isinstance(error, requests.RequestException):
        reason = "no connection; check the network, HTTPS_PROXY or MESH_MAVEN_URL"
    else:
        reason = f"{error}; check MESH_MAVEN_URL"
    return f"Kafka's jars could not be downloaded from {host}: {reason}, and run the command again."


def _with_mvn(mvn: str, jars: Sequence[Jar], directory: Path) -> None:
    """Let Maven copy the pinned jars and nothing that they depend on, since all of that is pinned as well."""
    pom = directory / "pom.xml"
    pom.write_text(_pom(jars))
    goal = "org.apache.maven.plugins:maven-dependency-plugin:3.6.1:copy-dependencies"
    command = [mvn, "-q", "-B", "-f", str(pom), goal, f"-DoutputDirectory={directory}"]
    try:
        subprocess.run(command, check=True, capture_output=True, timeout=_MVN_TIMEOUT_SECONDS)  # noqa: S603  found by which
    except (OSError, subprocess.SubprocessError) as error:
        raise Unavailable(f"Kafka's jars could not be downloaded with {mvn}: {error}.") from error
    pom.unlink()


def _pom(jars: Sequence[Jar]) -> str:
    dependencies = "".join(
        "<dependency>"
        f"<groupId>{escape(group)}</groupId><artifactId>{escape(artifact)}</artifactId>"
        f"<version>{escape(version)}</version>"
        "<exclusions><exclusion><groupId>*</groupId><artifactId>*</artifactId></exclusion></exclusions>"
        "</dependency>"
        for group, artifact, version in (jar.coordinate for jar in jars)
    )
    return (
        '<project xmlns="http://maven.apache.org/POM/4.0.0"><modelVersion>4.0.0</modelVersion>'
        "<groupId>local</groupId><artifactId>kafka</artifactId><version>1</version><packaging>pom</packaging>"
        f"<dependencies>{dependencies}</dependencies></project>\n"
    )
