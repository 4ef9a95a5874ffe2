"""What `mesh adopt` sees in a topic's records, and what it proposes to say of the topic."""

from __future__ import annotations

from collections import Counter
from typing import Any, NamedTuple

from broker_mesh import headers, naming
from broker_mesh.adoption import Adoption, KindName
from broker_mesh.cli.records import as_text
from broker_mesh.contracts.codec import schema_id_of
from broker_mesh.contracts.drafting import Drafted, Drafting
from broker_mesh.contracts.registry import Registry
from broker_mesh.contracts.sniffing import Form, KeyForm, form_of, key_form_of
from broker_mesh.contracts.values import loads_strictly
from broker_mesh.errors import SchemaError, SettingsError
from broker_mesh.message import Record

# Different schema ids, senders and fields that are counted; what comes beyond is not.
_COUNTED = 1000
# A field is the key where it is so for at least this share of the samples.
_KEY_SHARE = 0.99


class Proposal(NamedTuple):
    """What is to be said of a topic.

    Args:
        adoption: its section.
        drafted: a schema for its values; None where there is one, or none can be drafted.
        reason: why the section is as it is, in a sentence.
    """

    adoption: Adoption
    drafted: Drafted | None
    reason: str


class Survey:
    """Takes records and counts what they are; memory is bounded whatever their number.

    Args:
        topic: whose.
        registry: as far as it was read.
    """

    def __init__(self, topic: str, registry: Registry) -> None:
        self.topic = topic
        self.records = 0
        self.forms: Counter[Form] = Counter()
        self.first: dict[Form, str] = {}
        self.keys: Counter[KeyForm] = Counter()
        self.oldest: int | None = None
        self.newest: int | None = None
        self.indescribable: list[str] = []
        self._registry = registry
        self._drafting = Drafting()
        self._ids: Counter[int] = Counter()
        self._senders: Counter[str] = Counter()
        self._keyed = 0
        self._key_fields: Counter[str] = Counter()

    def take(self, record: Record) -> None:
        """Count a record."""
        place = f"{record.topic}/{record.partition}/{record.offset}"
        form = form_of(record.value, lambda schema_id: self._registry.by_id(schema_id) is not None)
        self.records += 1
        self.forms[form] += 1
        self.first.setdefault(form, place)
        self.keys[key_form_of(record.key)] += 1
        if record.timestamp >= 0:
            self.oldest = min(self.oldest if self.oldest is not None else record.timestamp, record.timestamp)
            self.newest = max(self.newest if self.newest is not None else record.timestamp, record.timestamp)
        named = dict(record.headers)
        if sender := named.get(headers.SOURCE) or named.get(headers.CE_SOURCE):
            _count(self._senders, as_text(sender) or "")
        if form is Form.AVRO and record.value is not None:
            _count(self._ids, schema_id_of(record.value))
        if form is Form.JSON and record.value is not None:
            self._take_json(loads_strictly(record.value, self.topic), record.key, place)

    def proposal(self, owner: str | None, kind: KindName, *, rare: float) -> Proposal:
        """Propose what to say of the topic.

        Args:
            owner: the service it belongs to; None for the one that most records name as their sender.
            kind: "event" or "operation".
            rare: as for `Drafting.draft`.
        """
        told = {"owner": owner or self._sender(), "kind": kind}
        prevailing = self._prevailing()
        if prevailing is Form.JSON:
            adoption = Adoption.model_validate({**told, "encoding": "json"})
            try:
                drafted = self._drafting.draft(
                    self.topic,
                    adoption.owner and adoption.owner.replace("-", "_"),
                    rare=rare,
                    key=self.key_field(),
                )
            except SchemaError as error:
                return Proposal(
                    Adoption.model_validate({**told, "encoding": "json", "validation": "off"}),
                    None,
                    f"most values are JSON objects of which no schema can be drafted: {error.message}",
                )
            return Proposal(
                adoption, drafted, "most values are JSON objects: the schema is drafted from them, for review"
            )
        if prevailing is Form.AVRO:
            subject = self._subject()
            named = {} if subject == naming.value_subject(self.topic) else {"subject": subject}
            return Proposal(
                Adoption.model_validate({**told, **named}),
                None,
                f"most values are Avro, by schemas that are registered under {subject!r}",
            )
        return Proposal(
            Adoption.model_validate({**told, "validation": "off"}),
            None,
            f"most values are {prevailing.value}, which no schema of the mesh describes: they are not checked",
        )

    def key_field(self) -> str | None:
        """Give the field that says the same as the key; None where no field does."""
        for field, matching in self._key_fields.most_common(1):
            if matching >= _KEY_SHARE * self._keyed:
                return field
        return None

    def _take_json(self, value: Any, key: bytes | None, place: str) -> None:
        if not self._drafting.add(value, place) and len(self.indescribable) < _COUNTED:
            self.indescribable.append(place)
        if key is not None:
            self._keyed += 1
            text = as_text(key)
            for name, part in value.items():
                if isinstance(part, str | int) and not isinstance(part, bool) and str(part) == text:
                    _count(self._key_fields, name)

    def _prevailing(self) -> Form:
        counted = self.forms.copy()
        del counted[Form.TOMBSTONE]
        return next((form for form, _ in counted.most_common(1)), Form.TOMBSTONE)

    def _sender(self) -> str | None:
        for sender, _ in self._senders.most_common():
            try:
                return naming.check_service(sender)
            except SettingsError:
                continue
        return None

    def _subject(self) -> str:
        """Give the subject of most values' schemas: the topic's own, where that has them."""
        own = naming.value_subject(self.topic)
        subjects = [own, *(name for name in self._registry.subjects() if name != own)]
        registered = {name: {version.id for version in self._registry.versions(name)} for name in subjects}
        return max(subjects, key=lambda name: sum(self._ids[schema_id] for schema_id in registered[name]))


def _count(counter: Counter[Any], item: Any) -> None:
    if item in counter or len(counter) < _COUNTED:
        counter[item] += 1
