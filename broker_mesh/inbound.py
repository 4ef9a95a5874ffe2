"""The inbound pipeline: ONE list of layers, in the order in which a record meets them.

On the way of a message: between the consumer and the handler.
"""

from __future__ import annotations

from broker_mesh.layer import Layer, Step, stack
from broker_mesh.outcome import Outcome


def layers(
    *,
    trace: Layer[Outcome],
    measure: Layer[Outcome],
    settle: Layer[Outcome],
    headers: Layer[Outcome],
    identity: Layer[Outcome],
    dedupe: Layer[Outcome],
    crashes: Layer[Outcome],
    deadline: Layer[Outcome],
    park: Layer[Outcome],
    authorize: Layer[Outcome],
    validate: Layer[Outcome],
    idempotency: Layer[Outcome],
) -> list[Layer[Outcome]]:
    """Give the layers in message order."""
    return [
        trace,  # first, so that its span covers the settlement and every refusal
        measure,  # beside the span, so that figures and access log cover the same, and name its trace
        settle,  # outermost of all that can fail: each failure is classified once, here
        headers,  # what follows trusts the envelope
        identity,  # who asks must be known before any rule about who may
        dedupe,  # as soon as it is known who sent it: a repeat must be neither refused nor dead-lettered once more
        crashes,  # before all that reads what the record holds, which is what may end the process
        deadline,  # cheap, and spares expired work the decode
        park,  # what has to wait behind others is judged when its turn comes; only what has expired hears of it now
        authorize,  # before anything of the body is looked at: what is refused may hold anything
        validate,  # the handler gets a model, never bytes
        idempotency,  # around the handler alone: what is refused before uses up no key
    ]


def client_layers(
    *,
    trace: Layer[Outcome],
    measure: Layer[Outcome],
    settle: Layer[Outcome],
    headers: Layer[Outcome],
    identity: Layer[Outcome],
    deadline: Layer[Outcome],
    authorize: Layer[Outcome],
    validate: Layer[Outcome],
    idempotency: Layer[Outcome],
) -> list[Layer[Outcome]]:
    """Give the layers of wrapped clients, in the order of `layers` and for the same reasons.

    Without dedupe: a program that reads Kafka by itself has always seen each record, and goes on seeing each. Without
    crashes: its commits are its own client's, and say nothing of records that end its process. Without park: its
    retries are made in place, or have no order.
    """
    return [trace, measure, settle, headers, identity, deadline, authorize, validate, idempotency]


def pipeline(stacked: list[Layer[Outcome]], handle: Step[Outcome]) -> Step[Outcome]:
    """Join the layers and the handler at their end."""
    return stack(stacked, handle)
