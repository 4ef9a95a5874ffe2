"""Kafka's errors arrive as the mesh's, each with a status; none passes through untranslated."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError, KafkaException

from broker_mesh.errors import MeshError, MessageTooLarge, SettingsError
from broker_mesh.kafka.errors import translate
from broker_mesh.status import StatusCode

ALL_CODES = sorted(
    value
    for name, value in vars(KafkaError).items()
    if isinstance(value, int) and not name.startswith("__") and name.upper() == name
)


@pytest.mark.parametrize("code", ALL_CODES)
def test_every_code_of_kafka_becomes_one_sentence_with_a_status(code: int) -> None:
    error = translate(KafkaException(KafkaError(code)), "testing")
    assert isinstance(error, MeshError)
    assert error.status is not StatusCode.OK
    assert error.message.startswith("testing: ")
    assert "\n" not in error.message


@pytest.mark.parametrize(
    ("code", "status", "retriable"),
    [
        (KafkaError._ALL_BROKERS_DOWN, StatusCode.UNAVAILABLE, True),
        (KafkaError._MSG_TIMED_OUT, StatusCode.UNAVAILABLE, True),
        (KafkaError.NOT_ENOUGH_REPLICAS, StatusCode.UNAVAILABLE, True),
        (KafkaError._AUTHENTICATION, StatusCode.UNAUTHENTICATED, False),
        (KafkaError.TOPIC_AUTHORIZATION_FAILED, StatusCode.PERMISSION_DENIED, False),
        (KafkaError.UNKNOWN_TOPIC_OR_PART, StatusCode.NOT_FOUND, False),
        (KafkaError.ILLEGAL_GENERATION, StatusCode.ABORTED, True),
    ],
)
def test_what_passes_is_retriable_and_what_stays_is_not(
    code: int, status: StatusCode, retriable: bool
) -> None:
    error = translate(KafkaError(code), "testing")
    assert (error.status, error.retriable) == (status, retriable)


def test_a_message_that_is_too_large_stays_so() -> None:
    error = translate(KafkaError(KafkaError.MSG_SIZE_TOO_LARGE), "testing")
    assert isinstance(error, MessageTooLarge)
    assert not error.retriable


def test_a_refused_property_is_a_settings_error() -> None:
    assert isinstance(translate(KafkaError(KafkaError._INVALID_ARG), "testing"), SettingsError)


def test_an_exception_without_a_code_is_translated_too() -> None:
    assert translate(KafkaException("plain text"), "testing").status is StatusCode.INTERNAL
