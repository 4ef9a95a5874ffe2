"""Outages of Kafka: one log line when one begins, one when it ends, instead of twenty a second.

On the way of a message: beside it. librdkafka reconnects by itself and reports each failed try.
"""

from __future__ import annotations

import logging
import time

from confluent_kafka import KafkaError

logger = logging.getLogger(__name__)

# What librdkafka adds once each broker has failed; how they failed it said before.
_SUMMARY = KafkaError._ALL_BROKERS_DOWN

_SECURITY_ERRORS = (KafkaError._SSL, KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)

# A plaintext listener closes the connection, which is a lost one to librdkafka; its text alone tells.
_FAILED_HANDSHAKE = "SSL handshake failed"

_REPEAT_SECONDS = 30.0


class LastErrors:
    """An `error_cb` for a client whose caller hears of a failure anyway: knows why Kafka can't be reached.

    Attributes:
        last_error: the last that was reported, without librdkafka's summary where it said more before.
        security_error: the last that was about TLS or SASL.
    """

    def __init__(self) -> None:
        self.last_error = ""
        self.security_error = ""

    def __call__(self, error: KafkaError) -> None:
        """Take an error that librdkafka reports; called on any thread."""
        if error.code() != _SUMMARY or not self.last_error:
            self.last_error = error.str()
        if error.code() in _SECURITY_ERRORS or _FAILED_HANDSHAKE in error.str():
            self.security_error = error.str()


class OutageLog(LastErrors):
    """An `error_cb` for a client: logs at most one line per 30 seconds of trouble, and knows the last error.

    Args:
        client: what the log line calls the client.
    """

    def __init__(self, client: str) -> None:
        super().__init__()
        self._client = client
        self._logged_at = float("-inf")
        self.down = False
        self.fatal: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        """Take an error that librdkafka reports; called on any thread."""
        super().__call__(error)
        if error.fatal():
            self.fatal = error
        if error.code() == _SUMMARY:
            self.down = True
        now = time.monotonic()
        if now - self._logged_at >= _REPEAT_SECONDS:
            self._logged_at = now
            logger.warning(
                "Kafka can't be reached by the %s: %s; it reconnects by itself and nothing is lost",
                self._client,
                self.last_error,
            )

    def healed(self) -> None:
        """Note a sign of life from a broker."""
        if self.down:
            self.down = False
            self._logged_at = float("-inf")
            logger.warning("Kafka can be reached by the %s again", self._client)
