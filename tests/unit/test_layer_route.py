"""Routing: keys, and topics that must exist."""

from __future__ import annotations

import enum
import uuid
from typing import Any

import pytest
from pydantic import BaseModel

from broker_mesh.errors import InvalidArgument, NotFound
from broker_mesh.headers import Envelope
from broker_mesh.layer import stack
from broker_mesh.layers import route
from broker_mesh.message import Message


class Model(BaseModel):
    key: Any = None


class Colour(enum.StrEnum):
    BLUE = "blue"


UUID = uuid.UUID("017f22e2-79b0-7cc3-98c4-dc0c0c07398f")


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("N14228", b"N14228"),
        ("é", "é".encode()),
        ("", b""),
        (17, b"17"),
        (0, b"0"),
        (-5, b"-5"),
        (UUID, str(UUID).encode()),
        (b"\x00\xff", b"\x00\xff"),
        (Colour.BLUE, b"blue"),
        (None, None),
    ],
)
@pytest.mark.parametrize(
    "make", [lambda value: Model(key=value), lambda value: {"key": value}], ids=["model", "dict"]
)
def test_a_key_is_the_text_of_its_field(value: Any, expected: bytes | None, make: Any) -> None:
    assert route.key_of(make(value), "key") == expected


@pytest.mark.parametrize("value", [True, 1.5, ["a"], {"a": 1}])
def test_a_value_without_one_text_form_is_no_key(value: Any) -> None:
    with pytest.raises(InvalidArgument, match=f"is a {type(value).__name__}"):
        route.key_of({"key": value}, "key")


def test_a_body_without_its_key_field_is_refused() -> None:
    with pytest.raises(InvalidArgument, match="no key field 'key'"):
        route.key_of({"other": 1}, "key")


def test_without_a_key_field_there_is_no_key() -> None:
    assert route.key_of({"key": "a"}, None) is None


@pytest.mark.parametrize(
    ("field", "body", "idempotency_key", "key"),
    [
        ("tailnum", {"tailnum": "N1"}, "once", b"N1"),
        ("tailnum", {"tailnum": None}, "once", b"once"),
        (None, {}, "once", b"once"),
        (None, {}, None, None),
    ],
)
def test_without_a_key_of_its_own_a_message_is_keyed_by_its_idempotency_key(
    field: str | None, body: dict[str, Any], idempotency_key: str | None, key: bytes | None
) -> None:
    envelope = Envelope(idempotency_key=idempotency_key)
    assert route.record_key(Message("fleet.v1.x", "fleet.v1.x", envelope, body=body), field) == key


async def test_a_topic_is_ensured_before_the_message_goes_on_with_its_key() -> None:
    events: list[object] = []

    async def ensure_topic(topic: str) -> None:
        events.append(topic)

    async def end(message: Message) -> None:
        events.append(message.key)

    layer: Any = route.layer(lambda _: "tailnum", ensure_topic)
    await stack([layer], end)(Message("fleet.v1.x", "fleet.v1.x", Envelope(), body={"tailnum": "N1"}))
    assert events == ["fleet.v1.x", b"N1"]


async def test_a_message_to_a_topic_that_does_not_exist_goes_nowhere() -> None:
    async def ensure_topic(_: str) -> None:
        raise NotFound("no such topic")

    async def end(_: Message) -> None:
        pytest.fail("the message went on")

    layer: Any = route.layer(lambda _: None, ensure_topic)
    with pytest.raises(NotFound):
        await stack([layer], end)(Message("fleet.v1.x", "fleet.v1.x", Envelope()))
