"""Settings: where each value comes from, and what stops the start-up."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from broker_mesh.errors import SettingsError
from broker_mesh.settings import RESERVED_KAFKA_PROPERTIES, Settings, load, load_with_origins, nearest


def loaded(
    directory: Path,
    file: str | None = None,
    environ: Mapping[str, str] | None = None,
    **arguments: Any,
) -> Settings:
    if file is not None:
        (directory / "mesh.toml").write_text(file, encoding="utf-8")
    return load(arguments, environ=environ or {}, directory=directory)


def refused(directory: Path, *args: Any, **kwargs: Any) -> str:
    with pytest.raises(SettingsError) as caught:
        loaded(directory, *args, **kwargs)
    return caught.value.message


def test_without_anything_the_defaults_hold(tmp_path: Path) -> None:
    assert loaded(tmp_path) == Settings(schemas=tmp_path / "schemas", policy=tmp_path / "policy")


@pytest.mark.parametrize(
    ("file", "environ", "arguments", "expected"),
    [
        ("partitions = 1", {}, {}, 1),
        ("partitions = 1", {"MESH_PARTITIONS": "2"}, {}, 2),
        ("partitions = 1", {"MESH_PARTITIONS": "2"}, {"partitions": 3}, 3),
        ("partitions = 1", {"MESH_PARTITIONS": "2"}, {"partitions": None}, 2),
        (None, {}, {"partitions": 3}, 3),
        (None, {}, {}, 6),
    ],
)
def test_arguments_win_over_variables_and_those_over_the_file(
    tmp_path: Path, file: str | None, environ: dict[str, str], arguments: dict[str, Any], expected: int
) -> None:
    assert loaded(tmp_path, file, environ, **arguments).partitions == expected


def test_kafka_properties_of_all_sources_are_joined_one_by_one(tmp_path: Path) -> None:
    settings = loaded(
        tmp_path,
        '[kafka]\n"security.protocol" = "PLAINTEXT"\n"client.rack" = "file"\n"linger.ms" = 5\n',
        {"MESH_KAFKA_SECURITY_PROTOCOL": "SSL", "MESH_KAFKA_CLIENT_RACK": "environment"},
        kafka={"client.rack": "argument"},
    )
    assert settings.kafka == {"security.protocol": "SSL", "client.rack": "argument", "linger.ms": 5}


@pytest.mark.parametrize(
    ("file", "environ", "arguments", "sentence"),
    [
        ("partitons = 1", {}, {}, "mesh.toml: unknown setting 'partitons': did you mean 'partitions'?"),
        (
            None,
            {},
            {"bootstrap_server": "x:1"},
            "Mesh(…): unknown setting 'bootstrap_server': did you mean 'boo",
        ),
        (
            None,
            {"MESH_PARTITONS": "1"},
            {},
            "unknown variable MESH_PARTITONS: did you mean 'MESH_PARTITIONS'?",
        ),
        (None, {"MESH_CONFG": "x"}, {}, "unknown variable MESH_CONFG: did you mean 'MESH_CONFIG'?"),
        ("zzz = 1", {}, {}, "unknown setting 'zzz'"),
    ],
)
def test_an_unknown_name_is_refused_with_its_place_and_the_nearest_right_one(
    tmp_path: Path, file: str | None, environ: dict[str, str], arguments: dict[str, Any], sentence: str
) -> None:
    assert sentence in refused(tmp_path, file, environ, **arguments)


@pytest.mark.parametrize(
    ("file", "environ", "arguments", "sentence"),
    [
        ('partitions = "many"', {}, {}, "mesh.toml: partitions: "),
        ("partitions = 0", {}, {}, "mesh.toml: partitions: "),
        ("request_retention_days = 4000", {}, {}, "mesh.toml: request_retention_days: "),
        ("bootstrap_servers = 9092", {}, {}, "mesh.toml: bootstrap_servers: "),
        (None, {"MESH_GRACE_SECONDS": "soon"}, {}, "the environment: grace_seconds: "),
        (None, {}, {"concurrency": -1}, "Mesh(…): concurrency: "),
        (None, {}, {"concurrency": 1.5}, "Mesh(…): concurrency: "),
        ('[kafka]\n"linger.ms" = [1]', {}, {}, "mesh.toml: kafka.linger.ms"),
        ('kafka = "linger.ms"', {}, {}, "mesh.toml: kafka must be a table"),
        (None, {}, {"kafka": ["linger.ms"]}, "Mesh(…): kafka must be a table"),
    ],
)
def test_a_value_of_the_wrong_type_or_range_is_refused_with_its_place(
    tmp_path: Path, file: str | None, environ: dict[str, str], arguments: dict[str, Any], sentence: str
) -> None:
    assert sentence in refused(tmp_path, file, environ, **arguments)


@pytest.mark.parametrize("name", RESERVED_KAFKA_PROPERTIES)
def test_kafka_properties_that_the_mesh_s_promises_rest_on_are_refused_with_the_reason(
    tmp_path: Path, name: str
) -> None:
    sentence = f"kafka property {name!r} can't be set: {RESERVED_KAFKA_PROPERTIES[name]}"
    assert refused(tmp_path, None, {}, kafka={name: "x"}) == sentence
    assert refused(tmp_path, None, {f"MESH_KAFKA_{name.upper().replace('.', '_')}": "x"}) == sentence
    assert refused(tmp_path, f'[kafka]\n"{name}" = "x"') == sentence


def test_static_membership_is_for_the_classic_protocol_alone(tmp_path: Path) -> None:
    instance = {"group.instance.id": "fleet-1"}
    said = refused(tmp_path, None, {}, kafka=instance)
    assert said.startswith(
        'Mesh(…): kafka.group.instance.id needs "group.protocol" = "classic": under KIP-848'
    )
    assert refused(tmp_path, None, {"MESH_KAFKA_GROUP_INSTANCE_ID": "x"}).startswith(
        "the environment: kafka."
    )
    assert refused(tmp_path, None, {}, kafka={**instance, "group.protocol": "consumer"}) == said
    classic = {**instance, "group.protocol": "classic"}
    assert loaded(tmp_path, kafka=classic).kafka == classic


def test_bad_toml_is_refused_with_its_line(tmp_path: Path) -> None:
    sentence = refused(tmp_path, "partitions = 1\npartitions = = 2\n")
    assert "mesh.toml is not valid TOML" in sentence
    assert "line 2" in sentence


def test_a_file_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").mkdir()
    assert "can't be read" in refused(tmp_path)
    (tmp_path / "latin.toml").write_bytes(b'schemas = "\xe9"')
    assert "can't be read" in refused(tmp_path, None, {"MESH_CONFIG": "latin.toml"})


def test_another_file_can_be_named_and_must_exist(tmp_path: Path) -> None:
    (tmp_path / "other.toml").write_text("partitions = 9")
    assert loaded(tmp_path, "partitions = 1", {"MESH_CONFIG": "other.toml"}).partitions == 9
    sentence = refused(tmp_path, None, {"MESH_CONFIG": "gone.toml"})
    assert sentence == "MESH_CONFIG names 'gone.toml', which does not exist"


def test_an_empty_mesh_config_names_no_file(tmp_path: Path) -> None:
    assert loaded(tmp_path, None, {"MESH_CONFIG": ""}).partitions == 6


def test_relative_paths_start_from_the_file_that_names_them_else_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "mesh.toml").write_text('schemas = "avro"')
    named = {"MESH_CONFIG": "conf/mesh.toml"}
    assert loaded(tmp_path, None, named).schemas == tmp_path / "conf" / "avro"
    assert loaded(tmp_path, None, {**named, "MESH_SCHEMAS": "mine"}).schemas == tmp_path / "mine"
    assert loaded(tmp_path, None, named, schemas="/abs").schemas == Path("/abs")


def test_variables_of_the_mesh_s_other_parts_and_of_other_programs_are_left_alone(tmp_path: Path) -> None:
    assert loaded(tmp_path, None, {"MESH_DEV_DIR": "x", "MESH_CACHE_DIR": "y", "HOME": "/", "MESHY": "z"})


def test_settings_cannot_be_changed_afterwards(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="frozen"):
        loaded(tmp_path).partitions = 3  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "hint"),
    [("fleets", ": did you mean 'fleet'?"), ("xyz", "")],
)
def test_the_nearest_name_is_offered_only_where_one_is_near(name: str, hint: str) -> None:
    assert nearest(name, ["fleet", "weather"]) == hint


def test_a_name_without_quotes_is_explained_and_its_value_not_shown(tmp_path: Path) -> None:
    said = refused(tmp_path, '[kafka]\nsasl.password = "hunter2"\n')
    assert 'write the whole name in quotes, as in "sasl.password" = …' in said
    assert said.startswith(str(tmp_path / "mesh.toml"))
    assert "hunter2" not in said


@pytest.mark.parametrize("kafka", ['kafka = "hunter2"', '[kafka]\n"sasl.password" = ["hunter2"]'])
def test_no_value_of_the_kafka_table_is_shown(tmp_path: Path, kafka: str) -> None:
    assert "hunter2" not in refused(tmp_path, kafka)


def test_each_kafka_property_has_its_own_origin(tmp_path: Path) -> None:
    (tmp_path / "mesh.toml").write_text('[kafka]\n"client.rack" = "a"\n"linger.ms" = 5\n')
    environ = {"MESH_KAFKA_CLIENT_RACK": "b"}
    _, origins = load_with_origins({}, environ=environ, directory=tmp_path)
    assert origins == {
        "kafka.client.rack": "the environment",
        "kafka.linger.ms": str(tmp_path / "mesh.toml"),
    }


def test_a_variable_can_name_a_property_with_an_underscore(tmp_path: Path) -> None:
    assert loaded(tmp_path, None, {"MESH_KAFKA_LOG_LEVEL": "3"}).kafka == {"log_level": "3"}


@pytest.mark.parametrize(
    ("file", "environ", "arguments", "servers"),
    [
        (None, {"MESH_BOOTSTRAP_SERVERS": ""}, {}, None),
        ('bootstrap_servers = "k:1"', {"MESH_BOOTSTRAP_SERVERS": ""}, {}, "k:1"),
        (None, {"MESH_BOOTSTRAP_SERVERS": "k:1"}, {"bootstrap_servers": ""}, "k:1"),
    ],
)
def test_empty_bootstrap_servers_are_as_not_given(
    tmp_path: Path, file: str | None, environ: dict[str, str], arguments: dict[str, Any], servers: str | None
) -> None:
    assert loaded(tmp_path, file, environ, **arguments).bootstrap_servers == servers


@pytest.mark.parametrize("servers", ["k:1", "k-1.example.org:9092, 10.0.0.1:65535", "[::1]:9092"])
def test_addresses(tmp_path: Path, servers: str) -> None:
    assert loaded(tmp_path, bootstrap_servers=servers).bootstrap_servers == servers


@pytest.mark.parametrize(
    ("servers", "wrong"),
    [
        ("localhost", "localhost"),
        ("k:1,k", "k"),
        ("k:0", "k:0"),
        ("k:65536", "k:65536"),
        ("k:port", "k:port"),
        (":9092", ":9092"),
        ("k:1,", ""),
        ("::1:9092", "::1:9092"),
        ("http://k:9092", "http://k:9092"),
    ],
)
def test_what_is_no_address_is_refused(tmp_path: Path, servers: str, wrong: str) -> None:
    said = refused(tmp_path, None, {"MESH_BOOTSTRAP_SERVERS": servers})
    assert said.startswith(f"the environment: bootstrap_servers: {wrong!r} is no address: write host:port")
