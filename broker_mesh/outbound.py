"""The outbound pipeline: ONE list of layers, in the order in which a message meets them.

On the way of a message: between `client.py` (or a settlement) and Kafka.
"""

from __future__ import annotations

from broker_mesh import headers
from broker_mesh.kafka.producer import Producer
from broker_mesh.layer import Layer, Step, stack
from broker_mesh.message import Message, Receipt


def layers(
    *,
    trace: Layer[Receipt],
    measure: Layer[Receipt],
    deadline: Layer[Receipt],
    authorize: Layer[Receipt],
    validate: Layer[Receipt],
    route: Layer[Receipt],
) -> list[Layer[Receipt]]:
    """Give the layers in message order."""
    return [
        trace,  # first, so that its span covers every refusal below and the wait for Kafka
        measure,  # beside the span: the same time, the same refusals
        deadline,  # before anything is spent on work that has expired already
        authorize,  # who may not call learns nothing of how the body should have looked, and nothing is sent
        validate,  # a body that doesn't fit is refused before its key is read from it
        route,  # last: needs a good body for its key, and asks Kafka about a topic only when all else is well
    ]


def reply_layers(
    *, trace: Layer[Receipt], measure: Layer[Receipt], route: Layer[Receipt]
) -> list[Layer[Receipt]]:
    """Give the layers of replies: their body is encoded by the handler's step, their address is the request's."""
    return [
        trace,  # as above
        measure,  # as above
        route,  # an address that does not exist is known at once
    ]


def client_layers(
    *,
    trace: Layer[Receipt],
    measure: Layer[Receipt],
    deadline: Layer[Receipt],
    authorize: Layer[Receipt],
    validate: Layer[Receipt],
) -> list[Layer[Receipt]]:
    """Give the layers of wrapped clients: topic, key and partition are the program's own, so nothing is routed."""
    return [trace, measure, deadline, authorize, validate]  # in the order of `layers`, for the same reasons


def pipeline(stacked: list[Layer[Receipt]], producer: Producer) -> Step[Receipt]:
    """Join the layers and the producer at their end."""

    async def produce(message: Message) -> Receipt:
        return await producer.send(
            message.topic,
            key=message.key,
            value=message.value,
            headers=headers.write(message.envelope),
            partition=message.partition,
        )

    return stack(stacked, produce)
