"""The records of growths: which topics were given more partitions, and where their old ones ended then.

On the way of a message: beside it. `mesh topics grow` writes a record before it adds partitions, and the ends once all
producers must know of them; a service reads it when it gets a partition on which its group has never committed. The
records stand on the ledger of groups, which each service reads and writes anyway; their keys begin with what no group
is called.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Collection

from broker_mesh.barrier import Growth
from broker_mesh.errors import Aborted, DataLoss, FailedPrecondition
from broker_mesh.kafka.fenced import FencedWriter, NewRecord
from broker_mesh.kafka.ledger import LEDGER_TOPIC
from broker_mesh.kafka.table import CompactedTable
from broker_mesh.settings import Settings

_KIND = "_growth"
_VERSION = 1
_WRITER = "_mesh.growth"
_BACKOFF_SECONDS = 1.0


class Growths:
    """All growths that are recorded. Blocking.

    Args:
        settings: with `bootstrap_servers` set.
        client_id: how brokers name this client.
    """

    def __init__(self, settings: Settings, *, client_id: str) -> None:
        self._settings = settings
        self._client_id = client_id
        # A writer that died in its transaction must not hide what others have written since. Its own record counts too:
        # each is true from the moment it is written, whatever became of the transaction, which is there to keep rivals
        # apart.
        self._table = CompactedTable(
            settings, LEDGER_TOPIC, client_id=client_id, isolation="read_uncommitted", create=True
        )

    def read(self, topics: Collection[str]) -> list[Growth]:
        """Read the growths of some topics, those of deleted ones of the same names included.

        Raises:
            DataLoss: one can't be read; nothing may be taken for not grown on that account.
            MeshError: Kafka can't be asked.
        """
        self._table.read_to_end()
        growths = []
        for key, value in sorted(self._table.items.items()):
            kind, _, place = key.decode(errors="replace").partition("/")
            if kind == _KIND and place.rpartition("/")[0] in topics:
                growths.append(_read(key, value))
        return growths

    def write(self, growth: Growth) -> None:
        """Write a growth, in place of what stands for the same one, unless a rival is growing the topic otherwise.

        Of each topic one writes at a time, and reads what others have written before it does (`fenced.py`): two who
        grow a topic at once, to different numbers, can't both begin.

        Raises:
            FailedPrecondition: the topic is grown to another number meanwhile.
            MeshError: Kafka can't be asked, or refuses.
        """
        deadline = time.monotonic() + self._settings.connect_timeout_seconds
        while True:
            try:
                return self._write_alone(growth, deadline)
            except Aborted:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(random.uniform(0, _BACKOFF_SECONDS))  # noqa: S311 - nothing secret about it

    def _write_alone(self, growth: Growth, deadline: float) -> None:
        writer_id = f"{_WRITER}.{growth.topic}"
        with FencedWriter(self._settings, writer_id, client_id=self._client_id, deadline=deadline) as writer:
            for rival in self.read([growth.topic]):
                if is_rival(rival, growth):
                    raise FailedPrecondition(
                        f"{growth.topic!r} is being grown to {rival.after} partitions: "
                        f"let '{rival.command}' finish first"
                    )
            writer.commit([NewRecord(LEDGER_TOPIC, _key(growth), _value(growth))])


def is_rival(other: Growth, growth: Growth) -> bool:
    """Tell whether another growth of the same topic stands in the way of one: it is not finished, and not the same."""
    same_topic = (other.topic, other.topic_id) == (growth.topic, growth.topic_id)
    same = (other.before, other.after) == (growth.before, growth.after)
    return same_topic and not same and (other.ends is None or other.before == growth.before)


def _key(growth: Growth) -> bytes:
    return f"{_KIND}/{growth.topic}/{growth.before}".encode()


def _value(growth: Growth) -> bytes:
    written = {"version": _VERSION, **growth._asdict()}
    return json.dumps(written, separators=(",", ":")).encode()


def _read(key: bytes, value: bytes) -> Growth:
    try:
        fields = json.loads(value)
        if fields.pop("version") != _VERSION:
            raise ValueError("it was written by another version of the mesh")
        ends = fields.pop("ends")
        return Growth(**fields, ends=None if ends is None else {int(n): end for n, end in ends.items()})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise DataLoss(
            f"the growth {key.decode(errors='replace')!r} on {LEDGER_TOPIC} can't be read ({error}): "
            "run the version of the mesh that wrote it"
        ) from error
