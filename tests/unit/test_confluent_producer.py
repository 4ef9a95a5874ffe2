"""What a wrapped producer does before a message meets the mesh: reading arguments and the configuration."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException
from hypothesis import given as hypothesis_given
from hypothesis import strategies as st
from pydantic import BaseModel

from broker_mesh import Mesh
from broker_mesh.errors import SchemaError, SettingsError, Unavailable
from broker_mesh_adapters.confluent_kafka import Producer
from broker_mesh_adapters.confluent_kafka.batches import produce_each
from broker_mesh_adapters.confluent_kafka.conf import completed, given
from broker_mesh_adapters.confluent_kafka.sending import key_of, pairs, value_of, without_only_errors
from tests.support.fleet import make_mesh


class Order(BaseModel):
    id: int


# ── arguments ─────────────────────────────────────────────────────────────────────────────────────────────


@hypothesis_given(st.one_of(st.none(), st.binary(), st.text()))
def test_keys_and_values_are_written_as_confluent_kafka_writes_them(given: bytes | str | None) -> None:
    written = given.encode() if isinstance(given, str) else given
    assert key_of(given) == value_of(given) == written


@pytest.mark.parametrize("value", [Order(id=1), {"id": 1}, MappingProxyType({"id": 1})])
def test_models_and_mappings_are_the_mesh_s_to_encode(value: Any) -> None:
    assert value_of(value) is value
    with pytest.raises(TypeError, match="a bytes-like object is required"):
        key_of(value)


@hypothesis_given(st.lists(st.tuples(st.text(), st.one_of(st.none(), st.binary(), st.text()))))
def test_headers_keep_their_order_and_repetitions(headers: list[tuple[str, Any]]) -> None:
    read = pairs(headers)
    assert [name for name, _ in read] == [name.partition("\0")[0] for name, _ in headers]
    assert [value for _, value in read] == [
        value.encode() if isinstance(value, str) else value for _, value in headers
    ]
    assert pairs(dict(headers)) == pairs(list(dict(headers).items()))


def test_a_header_name_can_t_hide_what_it_becomes() -> None:
    assert pairs([("mesh-origin\0", b"x")]) == [("mesh-origin", b"x")]


# ── the configuration ─────────────────────────────────────────────────────────────────────────────────────

SECURED = {
    "security.protocol": "SASL_SSL",
    "sasl.username": "orders",
    "sasl.password": "secret",
    "linger.ms": 5,
}


@pytest.fixture
def mesh() -> Mesh:
    return make_mesh("orders", "mesh:9092", kafka=SECURED)


def test_a_program_s_configuration_is_taken_as_it_is(mesh: Mesh) -> None:
    conf = {
        "metadata.broker.list": "own:1",
        "security.protocol": "PLAINTEXT",
        "acks": 1,
        "partitioner": "murmur2",
    }
    assert completed(conf, mesh) == conf


def test_addresses_and_security_are_the_mesh_s_where_the_program_has_none(mesh: Mesh) -> None:
    security = {name: value for name, value in SECURED.items() if name != "linger.ms"}
    assert completed({"acks": 1}, mesh) == {"acks": 1, "bootstrap.servers": "mesh:9092", **security}
    assert completed({"bootstrap.servers": "own:1"}, mesh) == {"bootstrap.servers": "own:1", **security}


def test_security_is_never_of_two_minds(mesh: Mesh) -> None:
    assert completed({"sasl.username": "other"}, mesh) == {
        "sasl.username": "other",
        "bootstrap.servers": "mesh:9092",
    }


@pytest.mark.parametrize(
    ("args", "named", "joined"),
    [
        (({"a": 1},), {}, {"a": 1}),
        (({"a": 1, "b": 1},), {"b": 2}, {"a": 1, "b": 2}),
        ((), {"a": 1}, {"a": 1}),
    ],
)
def test_a_configuration_may_be_a_dict_or_named(args: Any, named: Any, joined: Any) -> None:
    assert given(args, named) == joined


@pytest.mark.parametrize(("args", "named"), [((), {}), ((5,), {}), (({}, {}), {}), ((None,), {"a": 1})])
def test_anything_else_is_refused_as_by_confluent_kafka(args: Any, named: Any) -> None:
    with pytest.raises(TypeError, match=r"expected configuration dict|expected tuple containing single dict"):
        given(args, named)


def test_a_producer_needs_a_mesh() -> None:
    with pytest.raises(
        SettingsError, match=r"mesh is None: give a Mesh\(…\), as in Producer\(conf, mesh=Mesh"
    ):
        Producer({"bootstrap.servers": "127.0.0.1:1"})


def test_a_producer_whose_mesh_can_t_be_reached_is_not_made() -> None:
    mesh = make_mesh("orders", "127.0.0.1:1", connect_timeout_seconds=0.2)
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:1"):
        Producer({"log_level": 0}, mesh=mesh)


def test_confluent_kafka_says_what_is_wrong_with_a_configuration(mesh: Mesh) -> None:
    with pytest.raises(KafkaException, match="No such configuration property"):
        Producer({"bogus": 1}, mesh=mesh)
    with pytest.raises(TypeError, match=r"delivery\.report\.only\.error to be bool"):
        Producer({"delivery.report.only.error": "true"}, mesh=mesh)


@pytest.mark.parametrize(("conf", "said"), [({}, False), ({"delivery.report.only.error": True}, True)])
def test_reports_of_errors_alone_are_made_by_the_mesh(conf: dict[str, Any], said: bool) -> None:
    assert without_only_errors(conf) is said
    assert conf == {}


# ── batches ───────────────────────────────────────────────────────────────────────────────────────────────


def test_a_batch_notes_what_was_not_taken_and_goes_on() -> None:
    refusal = SchemaError("does not fit")
    fate: dict[Any, Exception] = {
        "full": BufferError("Local: Queue full"),
        "large": KafkaException(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE)),
        "wrong": refusal,
    }
    produced: list[Any] = []

    def produce(topic: str, value: Any, *rest: Any, **named: Any) -> None:
        if value in fate:
            raise fate[value]
        produced.append((topic, value, *rest, named))

    messages: list[dict[str, Any]] = [
        {"value": "full"},
        {"value": "large"},
        {"value": "wrong"},
        {
            "value": "own",
            "key": "k",
            "partition": 3,
            "callback": print,
            "timestamp": 5,
            "headers": [("a", b"b")],
        },
        {},
    ]
    assert produce_each(produce, "t", messages, 1, repr) == 2
    assert produced == [
        ("t", "own", "k", 3, print, {"timestamp": 5, "headers": [("a", b"b")]}),
        ("t", None, None, 1, repr, {"timestamp": 0, "headers": None}),
    ]
    assert [each["_error"].code() for each in messages[:2]] == [
        KafkaError._QUEUE_FULL,
        KafkaError.MSG_SIZE_TOO_LARGE,
    ]
    assert messages[2]["_error"] is refusal
    assert "_error" not in messages[3]


def test_a_batch_of_which_one_message_is_misshapen_is_not_begun() -> None:
    def produce(*_: Any, **__: Any) -> None:
        raise AssertionError("begun")

    with pytest.raises(TypeError, match="Message value at index 1 must be bytes or str"):
        produce_each(produce, "t", [{"value": "good"}, {"value": 5}], -1, None)
