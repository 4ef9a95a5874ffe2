"""Kafka's errors, translated into the mesh's tree.

On the way of a message: wherever confluent_kafka raises or reports. Which codes are retriable follows Kafka's
protocol guide (https://kafka.apache.org/protocol#protocol_error_codes) and librdkafka's `retriable()`.
"""

from __future__ import annotations

from confluent_kafka import KafkaError, KafkaException

from broker_mesh.errors import (
    Aborted,
    DataLoss,
    InternalError,
    InvalidArgument,
    MeshError,
    MessageTooLarge,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    SettingsError,
    Unauthenticated,
    Unavailable,
)

_BY_CODE: dict[int, type[MeshError]] = {
    KafkaError._ALL_BROKERS_DOWN: Unavailable,
    KafkaError._TRANSPORT: Unavailable,
    KafkaError._RESOLVE: Unavailable,
    KafkaError._TIMED_OUT: Unavailable,
    KafkaError._TIMED_OUT_QUEUE: Unavailable,
    KafkaError._MSG_TIMED_OUT: Unavailable,
    KafkaError._WAIT_COORD: Unavailable,
    KafkaError._QUEUE_FULL: ResourceExhausted,
    KafkaError._AUTHENTICATION: Unauthenticated,
    KafkaError._SSL: Unauthenticated,
    KafkaError._UNKNOWN_TOPIC: NotFound,
    KafkaError._UNKNOWN_PARTITION: NotFound,
    KafkaError._INVALID_ARG: SettingsError,
    KafkaError._FENCED: Aborted,
    KafkaError._AUTO_OFFSET_RESET: DataLoss,
    KafkaError.OFFSET_OUT_OF_RANGE: DataLoss,
    KafkaError.UNKNOWN_TOPIC_OR_PART: NotFound,
    KafkaError.UNKNOWN_TOPIC_ID: NotFound,
    KafkaError.GROUP_ID_NOT_FOUND: NotFound,
    KafkaError.MSG_SIZE_TOO_LARGE: MessageTooLarge,
    KafkaError.RECORD_LIST_TOO_LARGE: MessageTooLarge,
    KafkaError.SASL_AUTHENTICATION_FAILED: Unauthenticated,
    KafkaError.UNSUPPORTED_SASL_MECHANISM: Unauthenticated,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: PermissionDenied,
    KafkaError.GROUP_AUTHORIZATION_FAILED: PermissionDenied,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: PermissionDenied,
    KafkaError.TRANSACTIONAL_ID_AUTHORIZATION_FAILED: PermissionDenied,
    KafkaError.TOPIC_EXCEPTION: InvalidArgument,
    KafkaError.INVALID_CONFIG: InvalidArgument,
    KafkaError.INVALID_PARTITIONS: InvalidArgument,
    KafkaError.INVALID_REPLICATION_FACTOR: InvalidArgument,
    KafkaError.INVALID_RECORD: InvalidArgument,
    KafkaError.POLICY_VIOLATION: PermissionDenied,
    KafkaError.NOT_ENOUGH_REPLICAS: Unavailable,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND: Unavailable,
    KafkaError.LEADER_NOT_AVAILABLE: Unavailable,
    KafkaError.NOT_LEADER_FOR_PARTITION: Unavailable,
    KafkaError.COORDINATOR_NOT_AVAILABLE: Unavailable,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS: Unavailable,
    KafkaError.NOT_COORDINATOR: Unavailable,
    KafkaError.NETWORK_EXCEPTION: Unavailable,
    KafkaError.REQUEST_TIMED_OUT: Unavailable,
    KafkaError.KAFKA_STORAGE_ERROR: Unavailable,
    KafkaError.ILLEGAL_GENERATION: Aborted,
    KafkaError.UNKNOWN_MEMBER_ID: Aborted,
    KafkaError.REBALANCE_IN_PROGRESS: Aborted,
    KafkaError.INVALID_PRODUCER_EPOCH: Aborted,
    KafkaError.CONCURRENT_TRANSACTIONS: Aborted,
    KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER: DataLoss,
    KafkaError.UNSUPPORTED_VERSION: SettingsError,
}


def translate(error: KafkaException | KafkaError, doing: str) -> MeshError:
    """Give the mesh's error for one of Kafka's; the caller raises it `from` the original.

    Args:
        error: what confluent_kafka raised or reported.
        doing: what was being done, to begin the sentence: "sending to 'fleet.v1.find-aircraft'".
    """
    kafka_error = error.args[0] if isinstance(error, KafkaException) else error
    if not isinstance(kafka_error, KafkaError):  # older paths raise plain text
        return InternalError(f"{doing}: {kafka_error}")
    kind = _BY_CODE.get(kafka_error.code())
    if kind is None:
        kind = Unavailable if kafka_error.retriable() else InternalError
    return kind(f"{doing}: {kafka_error.str()}", details={"kafka": kafka_error.name()})
