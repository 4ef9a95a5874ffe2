"""From confluent_kafka's message to a record of ours, whatever its sender put into it.

On the way of a message: where it leaves librdkafka, in a service as in a caller.
"""

from __future__ import annotations

from operator import methodcaller
from typing import Any

from confluent_kafka import Message as KafkaMessage

from broker_mesh.headers import RawHeaders
from broker_mesh.message import Record

# The client's own code gives a list with an error still pending. A direct call that CPython has specialised does not
# look, and the error comes up somewhere later; this way of calling always looks.
_headers_of: Any = methodcaller("headers")


def to_record(message: KafkaMessage) -> Record:
    """Give a message, which is no error event, as a record.

    confluent_kafka can't give the headers of a record with a header name that is not UTF-8; such a record is
    marked, so that it is refused by itself instead of ending the thread that read it.
    """
    kind, timestamp = message.timestamp()
    headers: RawHeaders = []
    unreadable = None
    try:
        headers = _headers_of(message) or []
    except (SystemError, UnicodeDecodeError):
        unreadable = "the headers can't be read: a header's name is not UTF-8"
    return Record(
        message.topic() or "",
        -1 if (partition := message.partition()) is None else partition,
        -1 if (offset := message.offset()) is None else offset,
        timestamp if kind else -1,
        message.key(),
        message.value(),
        headers,
        unreadable,
    )
