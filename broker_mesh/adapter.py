"""What adapters build on: the documented surface for putting a client of Kafka, or anything else, behind the mesh.

On the way of a message: between a program's own client and the layers. `adapters/` is built on this module and the
public names alone; docs/guide/writing-adapters.md walks through one. The parts, in the order in which an adapter
meets them:

- `connect(mesh, client)` gives the `Connection` that all wrapped clients of one mesh in a process share.
- Sending: `Connection.outbound()` gives an `Outbound`; its `prepare(…)` passes a message through the layers and gives
  an `Outgoing` to be produced as it stands, which is told of its delivery.
- Receiving: a `Reception` makes the topics of retries and dead letters and has an `Intake`, which takes the client's
  records (`Record`) and gives `Delivery` objects: checked messages, to be settled.
- For adapters of confluent_kafka: `to_record` makes a `Record` of its message, `translate` our error of its error.
- `across` awaits something of the connection's loop on another.
"""

from __future__ import annotations

from broker_mesh.bridge import across
from broker_mesh.connection import Connection, Declaration, connect
from broker_mesh.contracts.topic_contracts import TopicContract, Validation
from broker_mesh.delivery import Delivery, State
from broker_mesh.headers import RawHeaders
from broker_mesh.intake import Intake
from broker_mesh.kafka.errors import translate
from broker_mesh.kafka.records import to_record
from broker_mesh.message import Message, Record
from broker_mesh.outgoing import Outbound, Outgoing
from broker_mesh.reception import Reception
from broker_mesh.sync import SyncHandle

__all__ = [
    "Connection",
    "Declaration",
    "Delivery",
    "Intake",
    "Message",
    "Outbound",
    "Outgoing",
    "RawHeaders",
    "Reception",
    "Record",
    "State",
    "SyncHandle",
    "TopicContract",
    "Validation",
    "across",
    "connect",
    "to_record",
    "translate",
]
