"""Group settings for tests."""

from __future__ import annotations

from confluent_kafka.admin import AdminClient, AlterConfigOpType, ConfigEntry, ConfigResource, ResourceType


def shorten_sessions(bootstrap_servers: str, group: str, milliseconds: int = 2500) -> None:
    """Have a killed member lose its partitions soon: it keeps them until its session ends, 6 s by default.

    Long enough for a live member to be heard of in time on a busy machine.
    """
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    entry = ConfigEntry(
        "consumer.session.timeout.ms", str(milliseconds), incremental_operation=AlterConfigOpType.SET
    )
    resource = ConfigResource(ResourceType.GROUP, group, incremental_configs=[entry])
    for future in admin.incremental_alter_configs([resource]).values():
        future.result(10)


def delete_group(bootstrap_servers: str, group: str) -> None:
    """Drop a group with its offsets, as Kafka does after `offsets.retention.minutes` without a member."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in admin.delete_consumer_groups([group]).values():
        future.result(10)
