"""The policy of one process: what its files and `_mesh.policy` say together, compiled for the layers.

On the way of a message: beside it; the authorize layers ask for its rules. Pure; `live.py` feeds it.
"""

from __future__ import annotations

from broker_mesh.control.resources import (
    MESH_DEFAULTS_KEY,
    MeshDefaults,
    Resource,
    ResourceMap,
    access_rules,
)
from broker_mesh.control.store import Applied, decode
from broker_mesh.layers.authorize import Action, Rules


class Policy:
    """Resources of files and of `_mesh.policy`. Under one name the latter counts.

    Args:
        files: the resources of this process's own files, by their keys.

    Attributes:
        live: what `_mesh.policy` holds, by key.
        rules: the access rules that hold now.
    """

    def __init__(self, files: ResourceMap) -> None:
        self.files = files
        self.live: dict[str, Applied] = {}
        self.rules = self._compiled()

    @property
    def resources(self) -> dict[str, Resource]:
        """All that hold, by key."""
        return {**self.files, **{key: applied.resource for key, applied in self.live.items()}}

    def take(self, key: bytes, value: bytes | None) -> None:
        """Take a record of `_mesh.policy`; `compile` makes it count.

        Raises:
            InvalidArgument: it can't be understood; what held under its key goes on to hold.
        """
        if value is None:
            self.live.pop(key.decode("utf-8", "backslashreplace"), None)
        else:
            applied = decode(key, value)
            self.live[key.decode()] = applied

    def compile(self) -> bool:
        """Have the rules be those of what was taken; tell whether they are others than before."""
        before, self.rules = self.rules, self._compiled()
        return (before.rules, before.default) != (self.rules.rules, self.rules.default)

    def _compiled(self) -> Rules:
        held = self.resources
        defaults = held.get(MESH_DEFAULTS_KEY)
        default = Action.AUDIT
        if isinstance(defaults, MeshDefaults):
            default = Action(defaults.spec.access.default)
        return Rules(access_rules(held[key] for key in sorted(held)), default)
