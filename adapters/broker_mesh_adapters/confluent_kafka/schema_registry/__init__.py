"""confluent_kafka's clients of schema registries, passed on as they are.

On the way of a message: beside it. For programs that change `confluent_kafka` to this package in all of their imports.
"""

from __future__ import annotations

from confluent_kafka.schema_registry import *  # noqa: F403
