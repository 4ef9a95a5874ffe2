"""Where a wrapped aiokafka client finds Kafka: its own arguments, else the mesh's settings.

On the way of a message: before it. `[kafka]` of the settings holds librdkafka's properties; those of TLS and SASL are
said in aiokafka's words where both mean the same, and refused with what to pass instead where they don't.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any

from broker_mesh import Mesh
from broker_mesh.errors import SettingsError

_SECURITY_ARGUMENTS = ("security_protocol", "ssl_context")
_SECURITY_PREFIXES = ("security.", "ssl.", "sasl.", "enable.ssl.", "enable.sasl.", "https.")

_SAID_ALIKE = {
    "security.protocol": "security_protocol",
    "sasl.mechanism": "sasl_mechanism",
    "sasl.mechanisms": "sasl_mechanism",
    "sasl.username": "sasl_plain_username",
    "sasl.password": "sasl_plain_password",
    "sasl.kerberos.service.name": "sasl_kerberos_service_name",
}
_FOR_THE_SSL_CONTEXT = frozenset(
    {
        "ssl.ca.location",
        "ssl.ca.pem",
        "ssl.certificate.location",
        "ssl.key.location",
        "ssl.key.password",
        "ssl.endpoint.identification.algorithm",
        "enable.ssl.certificate.verification",
    }
)
_IN_UPPER_CASE = frozenset({"security_protocol", "sasl_mechanism"})


def with_addresses(options: Mapping[str, Any], mesh: Mesh) -> dict[str, Any]:
    """Give a client's arguments with Kafka's addresses, from the mesh where the program gives none.

    The mesh's TLS and SASL go with the mesh's addresses, unless the program gives its own.

    Raises:
        SettingsError: `mesh` is none, or a property can't be said in aiokafka's arguments.
        Unavailable: nobody says where Kafka is.
    """
    if not isinstance(mesh, Mesh):
        raise SettingsError(f"mesh is {mesh!r}: give a Mesh(…), as in AIOKafkaProducer(mesh=Mesh('orders'))")
    if "bootstrap_servers" in options:
        return dict(options)
    settings = mesh.reachable_settings()
    given = {**options, "bootstrap_servers": settings.bootstrap_servers}
    if any(name in _SECURITY_ARGUMENTS or name.startswith("sasl_") for name in options):
        return given
    return {**given, **security(settings.kafka)}


def reading_committed(options: Mapping[str, Any]) -> dict[str, Any]:
    """Give a consumer's arguments so that it reads committed messages alone.

    Raises:
        SettingsError: the program asks for others.
    """
    level = options.get("isolation_level", "read_committed")
    if level != "read_committed":
        raise SettingsError(
            f"isolation_level={level!r} shows messages that were never sent: behind the mesh a consumer reads "
            "committed ones; leave the argument out"
        )
    return {**options, "isolation_level": level}


def security(properties: Mapping[str, Any]) -> dict[str, Any]:
    """Say librdkafka's TLS and SASL properties as aiokafka's arguments; other properties are librdkafka's alone.

    Raises:
        SettingsError: one has no counterpart, or a file that it names can't be read.
    """
    arguments: dict[str, Any] = {}
    for name, value in properties.items():
        if name in _SAID_ALIKE:
            argument = _SAID_ALIKE[name]
            arguments[argument] = str(value).upper() if argument in _IN_UPPER_CASE else value
        elif name.startswith(_SECURITY_PREFIXES) and name not in _FOR_THE_SSL_CONTEXT:
            raise _without_counterpart(name)
    if arguments.get("sasl_mechanism") == "OAUTHBEARER":
        raise SettingsError(
            "kafka property 'sasl.mechanism' OAUTHBEARER needs a source of tokens in aiokafka: "
            "pass security_protocol=…, sasl_mechanism='OAUTHBEARER' and sasl_oauth_token_provider=… to the client"
        )
    if arguments.get("security_protocol", "").endswith("SSL"):
        arguments["ssl_context"] = _ssl_context(properties)
    return arguments


def _ssl_context(properties: Mapping[str, Any]) -> ssl.SSLContext:
    given = {name: properties[name] for name in _FOR_THE_SSL_CONTEXT if name in properties}
    try:
        context = ssl.create_default_context(
            cafile=given.get("ssl.ca.location"), cadata=given.get("ssl.ca.pem")
        )
        if "ssl.certificate.location" in given:
            context.load_cert_chain(
                given["ssl.certificate.location"],
                given.get("ssl.key.location"),
                given.get("ssl.key.password"),
            )
    except (OSError, ValueError) as error:
        raise SettingsError(
            f"a TLS file of the kafka properties can't be used: {error}: correct {', '.join(sorted(given))}"
        ) from error
    if str(given.get("ssl.endpoint.identification.algorithm", "https")).lower() == "none":
        context.check_hostname = False
    if str(given.get("enable.ssl.certificate.verification", "true")).lower() == "false":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _without_counterpart(name: str) -> SettingsError:
    instead = (
        "ssl_context=… (aiokafka.helpers.create_ssl_context makes one) and security_protocol=…"
        if "ssl" in name
        else "security_protocol=… and aiokafka's sasl_… arguments"
    )
    return SettingsError(
        f"kafka property {name!r} has no counterpart in aiokafka: pass {instead} to the client"
    )
