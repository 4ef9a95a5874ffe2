"""What the keys and values of a topic look like that nobody has described yet.

On the way of a message: long before it, when `mesh adopt` looks at live traffic. Bytes don't say what they are: where
two readings are possible, the one that fewer accidents lead to is taken.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import StrEnum

from broker_mesh.contracts.errors import NotJson
from broker_mesh.contracts.values import loads_strictly

_WIRE_HEADER = 5  # magic byte 0 and a schema id
_LONGEST_VARINT = 10  # bytes (protobuf.dev, encoding)
_FIXED_BYTES = {1: 8, 5: 4}  # wire types I64 and I32


class Form(StrEnum):
    """What a value is."""

    JSON = "JSON objects"
    OTHER_JSON = "other JSON"
    AVRO = "Avro in the wire format"
    PROTOBUF = "Protobuf in the wire format"
    UNKNOWN_ID = "wire format with an unknown schema id"
    BARE_PROTOBUF = "bare Protobuf, by its looks"
    TEXT = "text"
    BYTES = "bytes"
    EMPTY = "empty"
    TOMBSTONE = "tombstones"


class KeyForm(StrEnum):
    """What a key is."""

    NONE = "none"
    NUMBER = "numbers as text"
    TEXT = "text"
    JSON = "JSON"
    WIRE = "wire format"
    BYTES = "bytes"


def form_of(value: bytes | None, is_avro_id: Callable[[int], bool]) -> Form:
    """Tell what a value looks like.

    Args:
        value: of a record.
        is_avro_id: tells whether a schema id is that of an Avro schema in the registry.
    """
    if value is None:
        return Form.TOMBSTONE
    if not value:
        return Form.EMPTY
    if value[0] == 0 and len(value) >= _WIRE_HEADER:
        if is_avro_id(int.from_bytes(value[1:_WIRE_HEADER], "big")):
            return Form.AVRO
        if _is_framed_protobuf(value[_WIRE_HEADER:]):
            return Form.PROTOBUF
        return Form.UNKNOWN_ID
    try:
        parsed = loads_strictly(value, "")
    except NotJson:
        if _is_text(value):
            return Form.TEXT
        return Form.BARE_PROTOBUF if _is_protobuf(value) else Form.BYTES
    return Form.JSON if isinstance(parsed, dict) else Form.OTHER_JSON


def key_form_of(key: bytes | None) -> KeyForm:
    """Tell what a key looks like."""
    if key is None:
        return KeyForm.NONE
    if _is_text(key):
        if key[:1] in (b"{", b"[", b'"'):
            return KeyForm.JSON
        return KeyForm.NUMBER if key.removeprefix(b"-").isdigit() else KeyForm.TEXT
    # A number in 4 or 8 bytes may begin with a 0 too.
    return KeyForm.WIRE if key[0] == 0 and len(key) > 8 else KeyForm.BYTES


def _is_text(data: bytes) -> bool:
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n" for character in text)


def _is_framed_protobuf(data: bytes) -> bool:
    """Tell whether bytes are Confluent's message indexes and a Protobuf message.

    The indexes are a count and so many numbers, each a varint in zigzag; a lone 0 stands for the first message.
    https://docs.confluent.io/platform/current/schema-registry/fundamentals/serdes-develop/index.html#wire-format
    """
    first = _varint(data, 0)
    if first is None:
        return False
    count, position = first[0] >> 1, first[1]
    for _ in range(min(count, len(data))):
        following = _varint(data, position)
        if following is None:
            return False
        position = following[1]
    return count <= len(data) and (position == len(data) or _is_protobuf(data[position:]))


def _is_protobuf(data: bytes) -> bool:
    """Tell whether bytes are whole fields of Protobuf, one after the other (protobuf.dev, encoding)."""
    position = 0
    while position < len(data):
        tag = _varint(data, position)
        if tag is None or tag[0] >> 3 == 0:
            return False
        wire_type, position = tag[0] & 7, tag[1]
        if wire_type in _FIXED_BYTES:
            position += _FIXED_BYTES[wire_type]
        elif wire_type in (0, 2):
            number = _varint(data, position)
            if number is None:
                return False
            position = number[1] + (number[0] if wire_type == 2 else 0)
        else:
            return False
    return position == len(data)


def _varint(data: bytes, position: int) -> tuple[int, int] | None:
    """Read a varint: its number, and the position behind it; None where there is none."""
    number = 0
    for index, byte in enumerate(data[position : position + _LONGEST_VARINT]):
        number |= (byte & 0x7F) << (7 * index)
        if byte < 0x80:
            return number, position + index + 1
    return None
