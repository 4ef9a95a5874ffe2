"""A group's epoch and its members' as the broker has them, which confluent_kafka does not tell.

Spoken by hand: ConsumerGroupDescribe, version 1 (KIP-848; https://kafka.apache.org/protocol).
"""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

_API, _VERSION = 69, 1
_TIMEOUT_SECONDS = 10.0


class Membership(NamedTuple):
    """Who is in a group, and since when.

    Args:
        epoch: of the group; every change of its members begins a new one.
        members: their ids, each with the epoch that it has reached.
    """

    epoch: int
    members: tuple[tuple[str, int], ...]


def membership(bootstrap_servers: str, group: str) -> Membership:
    """Ask the broker, which has to be the only one, for a group of the KIP-848 protocol."""
    host, _, port = bootstrap_servers.partition(":")
    body = b"\x02" + _compact(group) + b"\x00\x00"  # one group, without authorized operations
    request = struct.pack(">hhih", _API, _VERSION, 1, -1) + b"\x00" + body
    with socket.create_connection((host, int(port)), _TIMEOUT_SECONDS) as connection:
        connection.sendall(struct.pack(">i", len(request)) + request)
        with connection.makefile("rb") as answers:
            (length,) = struct.unpack(">i", answers.read(4))
            answer = _Reader(answers.read(length))
    answer.number(">i")  # the correlation id
    answer.varint()  # no tagged fields
    answer.number(">i")  # not throttled
    assert answer.varint() == 2, "one group"
    assert answer.number(">h") == 0, answer.text()
    answer.text()
    assert answer.text() == group
    answer.text()  # its state
    epoch = answer.number(">i")
    answer.number(">i")  # of its assignment
    answer.text()  # its assignor
    return Membership(epoch, tuple(_member(answer) for _ in range(answer.varint() - 1)))


def _member(answer: _Reader) -> tuple[str, int]:
    identity = answer.text()
    answer.text()  # its instance
    answer.text()  # its rack
    epoch = answer.number(">i")
    answer.text()  # its client
    answer.text()  # its host
    for _ in range(answer.varint() - 1):
        answer.text()  # what it has subscribed to
    answer.text()  # the same as an expression
    for _ in range(2):  # what it has, and what it is to have
        for _ in range(answer.varint() - 1):
            answer.bytes(16)
            answer.text()
            for _ in range(answer.varint() - 1):
                answer.number(">i")
            answer.varint()
        answer.varint()
    answer.number(">b")  # its protocol
    answer.varint()
    return identity or "", epoch


class _Reader:
    def __init__(self, content: bytes) -> None:
        self._content = content
        self._at = 0

    def bytes(self, length: int) -> bytes:
        self._at += length
        return self._content[self._at - length : self._at]

    def number(self, form: str) -> int:
        (number,) = struct.unpack(form, self.bytes(struct.calcsize(form)))
        return int(number)

    def varint(self) -> int:
        number = shift = 0
        while True:
            byte = self.bytes(1)[0]
            number |= (byte & 0x7F) << shift
            if byte < 0x80:
                return number
            shift += 7

    def text(self) -> str | None:
        length = self.varint()
        return None if length == 0 else self.bytes(length - 1).decode()


def _compact(text: str) -> bytes:
    assert len(text) < 127
    return bytes([len(text) + 1]) + text.encode()
