"""How replies are written by wrapped consumers: by the reply schemas of what they handle.

On the way of a message: asked when a program answers a request. Answers come from memory once an operation is ready.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from broker_mesh.contracts.catalog import Catalog, Target
from broker_mesh.contracts.codec import Codec
from broker_mesh.errors import FailedPrecondition


class Replying:
    """The reply codecs of a process.

    Args:
        catalog: knows the schemas.
        target_of: gives the declaration of an operation, or its name where it has none.
    """

    def __init__(self, catalog: Catalog, target_of: Callable[[str], Target]) -> None:
        self._catalog = catalog
        self._target_of = target_of
        self._codecs: dict[str, Codec] = {}

    def is_ready(self, operation: str) -> bool:
        """Tell whether replies to an operation's requests can be encoded."""
        return operation in self._codecs

    async def ready(self, operation: str) -> None:
        """Learn how replies are written, or learn it anew; on the mesh's loop.

        Raises:
            FailedPrecondition: the operation is one-way.
            MeshError: the schema can't be read.
        """
        target = self._target_of(operation)
        await self._catalog.ready(target)
        codec = self._catalog.reply_decoder(target)  # one codec does both
        if codec is None:
            raise FailedPrecondition(f"{operation} is one-way and has no reply")
        self._codecs[operation] = codec

    def encode(self, operation: str, body: Any) -> bytes:
        """Encode a reply to one that is ready, or check that bytes are one; from any thread.

        Raises:
            SchemaError: it does not fit the reply's schema.
        """
        codec = self._codecs[operation]
        if isinstance(body, bytes):
            codec.decode(body)
            return body
        return codec.encode(body)
