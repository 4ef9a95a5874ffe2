"""Writes records that confluent_kafka refuses to write: header names that are not UTF-8, which other clients can send.

It speaks to the librdkafka that confluent_kafka's wheel carries, through ctypes (rdkafka.h, rd_kafka_producev).
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import confluent_kafka

_PRODUCER, _ERROR_TEXT_BYTES, _FLUSH_MS = 0, 512, 20_000
_END, _TOPIC, _PARTITION, _VALUE, _KEY, _FLAGS, _HEADER = 0, 1, 3, 4, 5, 7, 9
_COPY = 2


def write_raw(
    bootstrap_servers: str, topic: str, partition: int, value: bytes, headers: list[tuple[bytes, bytes]]
) -> None:
    """Write one record and wait until it is there."""
    library = ctypes.CDLL(str(_librdkafka()))
    pointer, text = ctypes.c_void_p, ctypes.create_string_buffer(_ERROR_TEXT_BYTES)
    library.rd_kafka_conf_new.restype = pointer
    library.rd_kafka_new.restype = pointer
    configuration = pointer(library.rd_kafka_conf_new())
    library.rd_kafka_conf_set(
        configuration,
        b"bootstrap.servers",
        bootstrap_servers.encode(),
        text,
        ctypes.c_size_t(_ERROR_TEXT_BYTES),
    )
    producer = pointer(
        library.rd_kafka_new(_PRODUCER, configuration, text, ctypes.c_size_t(_ERROR_TEXT_BYTES))
    )
    assert producer.value, text.value
    arguments = [
        *(ctypes.c_int(_TOPIC), ctypes.c_char_p(topic.encode())),
        *(ctypes.c_int(_PARTITION), ctypes.c_int(partition)),
        *(ctypes.c_int(_FLAGS), ctypes.c_int(_COPY)),
        *(ctypes.c_int(_VALUE), ctypes.c_char_p(value), ctypes.c_size_t(len(value))),
        *(ctypes.c_int(_KEY), ctypes.c_char_p(b"k"), ctypes.c_size_t(1)),
    ]
    for name, content in headers:
        arguments += [ctypes.c_int(_HEADER), ctypes.c_char_p(name), ctypes.c_char_p(content)]
        arguments += [ctypes.c_ssize_t(len(content))]
    assert library.rd_kafka_producev(producer, *arguments, ctypes.c_int(_END)) == 0
    assert library.rd_kafka_flush(producer, _FLUSH_MS) == 0
    library.rd_kafka_destroy(producer)


def _librdkafka() -> Path:
    package = Path(confluent_kafka.__file__).parent
    folders = (package.parent / "confluent_kafka.libs", package / ".dylibs")
    return next(found for folder in folders for found in folder.glob("librdkafka*"))
