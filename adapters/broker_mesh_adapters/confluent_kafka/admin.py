"""confluent_kafka's administration of Kafka, passed on as it is: it goes round the mesh.

On the way of a message: beside it. For programs that change `confluent_kafka` to this package in all of their imports.
"""

from __future__ import annotations

from confluent_kafka.admin import *  # noqa: F403
