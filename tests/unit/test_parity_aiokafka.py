"""Every public method and property of aiokafka's clients is there in the wrapped ones, with the same parameters."""

from __future__ import annotations

import inspect
from typing import Any

import aiokafka
import pytest

import broker_mesh_adapters.aiokafka as wrapped
from broker_mesh.errors import SettingsError
from broker_mesh_adapters.aiokafka.batches import Batch
from broker_mesh_adapters.aiokafka.messages import MeshRecord
from tests.support.fleet import make_mesh

PAIRS = [
    (aiokafka.AIOKafkaProducer, wrapped.AIOKafkaProducer),
    (aiokafka.AIOKafkaConsumer, wrapped.AIOKafkaConsumer),
    (aiokafka.producer.message_accumulator.BatchBuilder, Batch),
]
PROTOCOL = {"__aenter__", "__aexit__", "__aiter__", "__anext__"}


def public_names(kind: type) -> list[str]:
    return [name for name in dir(kind) if not name.startswith("_") or name in PROTOCOL]


CASES = [(plain, ours, name) for plain, ours in PAIRS for name in public_names(plain)]


def is_awaited(method: Any) -> bool:
    """Tell whether a method gives a coroutine; a few of ours note who calls before they do."""
    return inspect.iscoroutinefunction(method) or str(method.__annotations__.get("return")).startswith(
        "Coroutine["
    )


@pytest.mark.parametrize(("plain", "ours", "name"), CASES, ids=lambda each: getattr(each, "__name__", each))
def test_it_is_there_with_the_same_parameters(plain: type, ours: type, name: str) -> None:
    theirs, own = inspect.getattr_static(plain, name), inspect.getattr_static(ours, name, None)
    assert own is not None, f"{ours.__name__} has no {name}"
    assert isinstance(theirs, property) == isinstance(own, property)
    if not callable(theirs):
        return
    assert inspect.iscoroutinefunction(theirs) == is_awaited(own)
    if name == "__aexit__":
        return  # its three are always given by place
    kinds = [(each.name, each.kind) for each in inspect.signature(theirs).parameters.values()]
    assert [(each.name, each.kind) for each in inspect.signature(own).parameters.values()] == kinds
    for parameter in inspect.signature(theirs).parameters.values():
        given = inspect.signature(own).parameters[parameter.name].default
        assert (given or None) == (parameter.default or None), parameter.name  # () and [] mean the same


def test_the_producers_client_is_there() -> None:
    assert isinstance(inspect.getattr_static(wrapped.AIOKafkaProducer, "client"), property)


def test_all_public_names_are_there() -> None:
    for name in (*aiokafka.__all__, "errors", "structs", "abc", "helpers"):
        ours = getattr(wrapped, name)
        assert ours is getattr(aiokafka, name) or name in ("AIOKafkaConsumer", "AIOKafkaProducer")
    assert set(wrapped.__all__) >= set(aiokafka.__all__)


def test_a_message_is_a_consumer_record() -> None:
    assert issubclass(MeshRecord, aiokafka.ConsumerRecord)


# ── options ───────────────────────────────────────────────────────────────────────────────────────────────


async def test_unknown_options_are_refused_as_aiokafka_does() -> None:
    for kind in (wrapped.AIOKafkaProducer, wrapped.AIOKafkaConsumer):
        with pytest.raises(TypeError, match="no_such_option"):
            kind(mesh=make_mesh("orders", "localhost:1"), no_such_option=1)


async def test_uncommitted_reads_are_refused() -> None:
    with pytest.raises(SettingsError, match="leave the argument out"):
        wrapped.AIOKafkaConsumer(mesh=make_mesh("orders", "localhost:1"), isolation_level="read_uncommitted")


async def test_a_mesh_must_be_given() -> None:
    with pytest.raises(SettingsError, match="mesh is None"):
        wrapped.AIOKafkaProducer(mesh=None)  # type: ignore[arg-type]


def options_of(kafka: dict[str, Any], **options: Any) -> dict[str, Any]:
    from broker_mesh_adapters.aiokafka.options import with_addresses

    return with_addresses(options, make_mesh("orders", "kafka-1:9093", kafka=kafka))


def test_addresses_come_from_the_mesh_unless_given() -> None:
    assert options_of({}) == {"bootstrap_servers": "kafka-1:9093"}
    assert options_of({}, bootstrap_servers=["other:1"]) == {"bootstrap_servers": ["other:1"]}


def test_sasl_and_tls_are_said_in_aiokafkas_words() -> None:
    given = options_of(
        {
            "security.protocol": "sasl_ssl",
            "sasl.mechanism": "SCRAM-SHA-512",
            "sasl.username": "orders",
            "sasl.password": "secret",
            "ssl.endpoint.identification.algorithm": "none",
            "linger.ms": 5,
        }
    )
    context = given.pop("ssl_context")
    assert context.check_hostname is False
    assert given == {
        "bootstrap_servers": "kafka-1:9093",
        "security_protocol": "SASL_SSL",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "orders",
        "sasl_plain_password": "secret",
    }


def test_security_of_the_program_replaces_the_meshs() -> None:
    context = object()
    given = options_of({"ssl.engine.location": "x"}, security_protocol="SSL", ssl_context=context)
    assert given == {
        "bootstrap_servers": "kafka-1:9093",
        "security_protocol": "SSL",
        "ssl_context": context,
    }


@pytest.mark.parametrize(
    ("kafka", "what"),
    [
        ({"ssl.keystore.location": "keys.p12"}, "ssl_context=…"),
        ({"sasl.oauthbearer.config": "x"}, "sasl_… arguments"),
        ({"sasl.mechanism": "OAUTHBEARER"}, "sasl_oauth_token_provider=…"),
        ({"security.protocol": "ssl", "ssl.ca.location": "no-such-file.pem"}, "ssl.ca.location"),
    ],
)
def test_what_has_no_counterpart_is_refused_with_what_to_pass(kafka: dict[str, Any], what: str) -> None:
    with pytest.raises(SettingsError, match=what.replace("(", r"\(")):
        options_of(kafka)
