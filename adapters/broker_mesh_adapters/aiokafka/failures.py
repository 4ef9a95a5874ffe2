"""aiokafka's errors as the mesh's, for the layers and for telemetry; programs go on seeing aiokafka's own.

On the way of a message: where Kafka has refused it, or could not be reached. By name, so that every version's will do.
"""

from __future__ import annotations

import asyncio

from aiokafka.errors import KafkaError

from broker_mesh.errors import (
    Aborted,
    Cancelled,
    FailedPrecondition,
    InternalError,
    InvalidArgument,
    MeshError,
    MessageTooLarge,
    NotFound,
    PermissionDenied,
    Unauthenticated,
    Unavailable,
)

_BY_NAME: dict[str, type[MeshError]] = {
    "AuthenticationFailedError": Unauthenticated,
    "AuthenticationMethodNotSupported": Unauthenticated,
    "ClusterAuthorizationFailedError": PermissionDenied,
    "GroupAuthorizationFailedError": PermissionDenied,
    "IllegalOperation": FailedPrecondition,
    "InvalidProducerEpoch": Aborted,
    "InvalidTimestampError": InvalidArgument,
    "InvalidTopicError": InvalidArgument,
    "KafkaConnectionError": Unavailable,
    "KafkaTimeoutError": Unavailable,
    "MessageSizeTooLargeError": MessageTooLarge,
    "ProducerClosed": FailedPrecondition,
    "ProducerFenced": Aborted,
    "RecordListTooLargeError": MessageTooLarge,
    "TopicAuthorizationFailedError": PermissionDenied,
    "TransactionalIdAuthorizationFailed": PermissionDenied,
    "UnknownTopicOrPartitionError": NotFound,
}


def translated(error: BaseException, doing: str) -> MeshError:
    """Give the mesh's error for what came of a send.

    Args:
        error: what aiokafka raised, or was given to a message's future.
        doing: what was being done, to begin the sentence: "sending to 'orders'".
    """
    if isinstance(error, MeshError):
        return error
    kind: type[MeshError] = InternalError
    if isinstance(error, asyncio.CancelledError):
        kind = Cancelled
    elif isinstance(error, KafkaError):
        kind = _BY_NAME.get(type(error).__name__, Unavailable if error.retriable else InternalError)
    result = kind(f"{doing}: {error or type(error).__name__}")
    result.__cause__ = error
    return result
