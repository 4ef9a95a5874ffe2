"""confluent_kafka's errors, passed on as they are.

On the way of a message: beside it. For programs that change `confluent_kafka` to this package in all of their imports.
"""

from __future__ import annotations

from confluent_kafka.error import *  # noqa: F403
