"""The policy of one process: what its files and `_mesh.policy` say together, compiled for the layers.

On the way of a message: beside it; the authorize layers ask for its rules, `contracts/topic_contracts.py` for what it
says of adopted topics. Pure; `live.py` feeds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from broker_mesh.adoption import Adoption
from broker_mesh.control.resources import (
    MESH_DEFAULTS_KEY,
    MeshDefaults,
    Resource,
    ResourceMap,
    access_rules,
    adoptions,
)
from broker_mesh.control.store import Applied, decode
from broker_mesh.layers.authorize import Action, Rules


class Policy:
    """Resources of files and of `_mesh.policy`. Under one name the latter counts.

    Args:
        files: the resources of this process's own files, by their keys.
        topics: what mesh.toml says of adopted topics; a `Topic` resource takes the place of what it says of one.

    Attributes:
        live: what `_mesh.policy` holds, by key.
        rules: the access rules that hold now.
        adopted: what holds for adopted topics now, by topic; replaced, never changed.
    """

    def __init__(self, files: ResourceMap, topics: Mapping[str, Adoption] = MappingProxyType({})) -> None:
        self.files = files
        self._topics = topics
        self.adopted: Mapping[str, Adoption] = topics
        self.live: dict[str, Applied] = {}
        self.rules = self._compiled()
        self.compile_topics()

    @property
    def resources(self) -> dict[str, Resource]:
        """All that hold, by key."""
        return {**self.files, **{key: applied.resource for key, applied in self.live.items()}}

    def take(self, key: bytes, value: bytes | None) -> None:
        """Take a record of `_mesh.policy`; `compile` makes it count.

        Raises:
            NotUnderstood: it can't be understood, and may be left out; what held under its key goes on to hold.
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

    def compile_topics(self) -> list[str]:
        """Have `adopted` be what was taken; give the topics of which something else is said than before."""
        before, now = self.adopted, {**self._topics, **adoptions(self.resources.values())}
        changed = sorted(topic for topic in before.keys() | now.keys() if before.get(topic) != now.get(topic))
        if changed:
            # One mapping for another, since threads of programs read it.
            self.adopted = now
        return changed

    def _compiled(self) -> Rules:
        held = self.resources
        defaults = held.get(MESH_DEFAULTS_KEY)
        default = Action.AUDIT
        if isinstance(defaults, MeshDefaults):
            default = Action(defaults.spec.access.default)
        return Rules(access_rules(held[key] for key in sorted(held)), default)
