"""Outages of Kafka: one log line when one begins, one when it ends, instead of twenty a second.

On the way of a message: beside it. librdkafka reconnects by itself and reports each failed try.
"""

from __future__ import annotations

import logging
import time

from confluent_kafka import KafkaError

logger = logging.getLogger(__name__)

_SECURITY_ERRORS = (KafkaError._SSL, KafkaError._AUTHENTICATION, KafkaError.SASL_AUTHENTICATION_FAILED)

_REPEAT_SECONDS = 30.0


class OutageLog:
    """An `error_cb` for a client: logs at most one line per 30 seconds of trouble, and knows the last error.

    Args:
        client: what the log line calls the client.
    """

    def __init__(self, client: str) -> None:
        self._client = client
        self._logged_at = float("-inf")
        self.down = False
        self.last_error = ""
        self.security_error = ""
        self.fatal: KafkaError | None = None

    def __call__(self, error: KafkaError) -> None:
        """Take an error that librdkafka reports; called on any thread."""
        self.last_error = error.str()
        if error.code() in _SECURITY_ERRORS:
            self.security_error = error.str()
        if error.fatal():
            self.fatal = error
        if error.code() == KafkaError._ALL_BROKERS_DOWN:
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
