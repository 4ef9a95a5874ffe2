"""The order of the layers is part of the design: a change of it must be seen here."""

from __future__ import annotations

from typing import Any

from broker_mesh import inbound, outbound
from broker_mesh.layer import Layer, Step


def named(name: str) -> Layer[Any]:
    def around(rest: Step[Any]) -> Step[Any]:
        return rest

    return Layer(name, around)


def test_the_outbound_layers_stand_in_message_order() -> None:
    layers = outbound.layers(
        trace=named("trace"),
        measure=named("measure"),
        deadline=named("deadline"),
        authorize=named("authorize"),
        validate=named("validate"),
        route=named("route"),
    )
    assert [layer.name for layer in layers] == [
        "trace",
        "measure",
        "deadline",
        "authorize",
        "validate",
        "route",
    ]


def test_replies_pass_the_trace_and_the_check_of_their_address() -> None:
    layers = outbound.reply_layers(trace=named("trace"), measure=named("measure"), route=named("route"))
    assert [layer.name for layer in layers] == ["trace", "measure", "route"]


def test_the_inbound_layers_stand_in_message_order() -> None:
    layers = inbound.layers(
        trace=named("trace"),
        measure=named("measure"),
        settle=named("settle"),
        headers=named("headers"),
        identity=named("identity"),
        dedupe=named("dedupe"),
        crashes=named("crashes"),
        deadline=named("deadline"),
        park=named("park"),
        authorize=named("authorize"),
        validate=named("validate"),
        idempotency=named("idempotency"),
    )
    assert [layer.name for layer in layers] == [
        "trace",
        "measure",
        "settle",
        "headers",
        "identity",
        "dedupe",
        "crashes",
        "deadline",
        "park",
        "authorize",
        "validate",
        "idempotency",
    ]
