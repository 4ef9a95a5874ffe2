"""Resources: what `mesh apply` takes, each of one shape, `kind`, `name`, `spec`.

On the way of a message: beside it. Read from YAML (`files.py`) and from `_mesh.policy` (`store.py`), and compiled to
what the layers ask (`policy.py`). A field nobody knows is refused: it may be what the writer meant most.

Each kind says whether it is `optional`: whether a process that does not know the kind, or a field of it, may go on
without it. A rule about access never is.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails

from broker_mesh import naming
from broker_mesh.adoption import Adoption, check_adoptable
from broker_mesh.errors import InvalidArgument, SettingsError
from broker_mesh.layers.authorize import WILDCARD, Action, Rule
from broker_mesh.settings import nearest

Path: TypeAlias = Sequence[str | int]
"""Where in a document something stands: names of fields and indexes of lists."""

_NAME = re.compile(r"[a-z0-9]+([.-][a-z0-9]+)*")
_LONGEST_NAME = 100
_SERVICE_PATTERN = re.compile(r"[a-z0-9*-]+")
_OPERATION_PATTERN = re.compile(r"[v*][a-z0-9.*-]*")
_TOPIC_PATTERN = re.compile(r"[A-Za-z0-9._*-]+")


def _checked_name(name: str) -> str:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST_NAME:
        raise ValueError(
            f"{name[:_LONGEST_NAME]!r} is no name: write up to {_LONGEST_NAME} lower-case letters and digits, "
            "joined by hyphens or dots"
        )
    return name


def _checked_service(pattern: str) -> str:
    if WILDCARD not in pattern:
        try:
            return naming.check_service(pattern)
        except SettingsError as error:
            raise ValueError(error.message) from error
    if not _SERVICE_PATTERN.fullmatch(pattern):
        raise ValueError(
            f"{pattern!r} matches no service: write a service's name, with '*' for any characters"
        )
    return pattern


def _checked_operation(pattern: str) -> str:
    fits = bool(_OPERATION_PATTERN.fullmatch(pattern))
    if fits and WILDCARD not in pattern:
        fits = naming.is_target(f"owner.{pattern}")
    if not fits:
        raise ValueError(
            f"{pattern!r} matches no operation: write what follows the service's name, as in 'v1.find-aircraft', "
            "'v1.events.flight-departed', 'v1.*' or '*'"
        )
    return pattern


def _checked_topic(topic: str) -> str:
    try:
        return check_adoptable(topic)
    except SettingsError as error:
        raise ValueError(error.message) from error


def _checked_topic_pattern(pattern: str) -> str:
    if WILDCARD not in pattern:
        return _checked_topic(pattern)
    if not _TOPIC_PATTERN.fullmatch(pattern):
        raise ValueError(f"{pattern!r} matches no topic: write a topic's name, with '*' for any characters")
    return pattern


ServicePattern = Annotated[str, AfterValidator(_checked_service)]
OperationPattern = Annotated[str, AfterValidator(_checked_operation)]
TopicPattern = Annotated[str, AfterValidator(_checked_topic_pattern)]
ActionName: TypeAlias = Literal["allow", "deny", "audit"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class AccessSpec(_Strict):
    """Who may call what; `docs/guide/access.md` has the words."""

    to: ServicePattern
    operations: list[OperationPattern] | None = Field(default=None, min_length=1)
    topics: list[TopicPattern] | None = Field(default=None, min_length=1)
    callers: list[ServicePattern] = Field(min_length=1, alias="from")
    action: ActionName

    @model_validator(mode="after")
    def _without_owner(self) -> AccessSpec:
        if self.operations is None and self.topics is None:
            raise ValueError(
                "a rule without operations matches nothing: name one, or '*' for all; or name adopted topics in topics"
            )
        for pattern in self.operations or ():
            if pattern.startswith(f"{self.to}."):
                raise ValueError(
                    f"operation {pattern!r} repeats the service: write {pattern.removeprefix(f'{self.to}.')!r}"
                )
        return self


class Access(_Strict):
    """An access rule."""

    optional: ClassVar[bool] = False

    kind: Literal["Access"]
    name: Annotated[str, AfterValidator(_checked_name)]
    spec: AccessSpec

    def rule(self) -> Rule:
        """Give the rule as the authorize layer takes it."""
        spec = self.spec
        return Rule(
            self.name,
            spec.to,
            tuple(spec.operations or ()),
            tuple(spec.callers),
            Action(spec.action),
            tuple(spec.topics or ()),
        )


class AccessDefault(_Strict):
    """What holds where no access rule matches."""

    default: ActionName


class MeshSpec(_Strict):
    """What holds for the mesh as a whole."""

    access: AccessDefault


class MeshDefaults(_Strict):
    """The defaults of the whole mesh; there is one such resource, and its name is `default`."""

    optional: ClassVar[bool] = False

    kind: Literal["Mesh"]
    name: Literal["default"]
    spec: MeshSpec


class Topic(_Strict):
    """A topic that was there before the mesh; in place of its section in mesh.toml."""

    optional: ClassVar[bool] = True

    kind: Literal["Topic"]
    name: Annotated[str, AfterValidator(_checked_topic)]
    spec: Adoption


Resource: TypeAlias = Access | MeshDefaults | Topic

KINDS: Mapping[str, type[Access] | type[MeshDefaults] | type[Topic]] = {
    "Access": Access,
    "Mesh": MeshDefaults,
    "Topic": Topic,
}

ResourceMap: TypeAlias = Mapping[str, Resource]
"""Resources by their keys."""

MESH_DEFAULTS_KEY = "Mesh/default"


def key_of(resource: Resource) -> str:
    """Name a resource among all others: `<kind>/<name>`, its key on `_mesh.policy`."""
    return f"{resource.kind}/{resource.name}"


def plain(resource: Resource) -> dict[str, Any]:
    """Give a resource as JSON values, in the form in which it is written."""
    return resource.model_dump(mode="json", by_alias=True, exclude_none=True)


def access_rules(resources: Iterable[Resource]) -> list[Rule]:
    """Give the access rules among some resources."""
    return [resource.rule() for resource in resources if isinstance(resource, Access)]


def adoptions(resources: Iterable[Resource]) -> dict[str, Adoption]:
    """Give what some resources say of adopted topics, by topic."""
    return {resource.name: resource.spec for resource in resources if isinstance(resource, Topic)}


def check_kind(kind: str) -> str:
    """Return a kind unchanged.

    Raises:
        InvalidArgument: there is no such kind.
    """
    if kind not in KINDS:
        raise InvalidArgument(
            f"kind {kind!r} is unknown (there are {', '.join(KINDS)}){nearest(kind, KINDS)}"
        )
    return kind


def parse(document: Any, place: Callable[[Path], str]) -> Resource:
    """Read a resource.

    Args:
        document: JSON values.
        place: tells where a part of the document stands, for the error.

    Raises:
        InvalidArgument: it is none; the sentence says where and what is wrong, and offers the nearest right name.
    """
    if not isinstance(document, dict):
        raise InvalidArgument(f"{place(())}: {_shown(document)} is no resource: write kind, name and spec")
    kind = document.get("kind")
    if not isinstance(kind, str):
        raise InvalidArgument(f"{place(())}: kind is missing, or is no text: write one of {', '.join(KINDS)}")
    try:
        check_kind(kind)
    except InvalidArgument as error:
        raise InvalidArgument(f"{place(['kind'])}: {error.message}") from error
    try:
        return KINDS[kind].model_validate(document)
    except ValidationError as error:
        # An unknown field first: where a name is misspelt, the right one is missing too.
        worst = min(error.errors(), key=lambda problem: problem["type"] != "extra_forbidden")
        named = f"{kind} {_shown(document['name'])}" if "name" in document else kind
        raise InvalidArgument(f"{place(worst['loc'])}: {named}: {_sentence(worst, KINDS[kind])}") from error


def _sentence(problem: ErrorDetails, model: type[BaseModel]) -> str:
    path = problem["loc"]
    where = ".".join(str(step) for step in path) or "the resource"
    given = _shown(problem["input"])
    match problem["type"]:
        case "extra_forbidden":
            within = f" in {'.'.join(map(str, path[:-1]))}" if len(path) > 1 else ""
            known = _fields(model, path[:-1])
            hint = nearest(str(path[-1]), known) or f" (there are {', '.join(known)})"
            return f"unknown field {str(path[-1])!r}{within}{hint}"
        case "missing":
            return f"{where} is missing"
        case "literal_error":
            expected = problem["ctx"]["expected"].replace("'", "")
            return f"{where} is {given}: write {expected}{_nearest_literal(problem)}"
        case "string_type":
            return f"{where} is {given}: write text, in quotes where YAML reads it as something else"
        case "list_type":
            return f'{where} is {given}: write a list, as in ["*"]'
        case "model_type" | "model_attributes_type":
            return f"{where} is {given}: write a mapping with {', '.join(_fields(model, path))}"
        case "too_short":
            return f"{where} is empty: a rule without {path[-1]} matches nothing; name one, or '*' for all"
        case "value_error":
            return f"{where}: {problem['ctx']['error']}" if path else str(problem["ctx"]["error"])
    return f"{where} is {given}: {problem['msg']}"


def _nearest_literal(problem: ErrorDetails) -> str:
    names = re.findall(r"'([^']+)'", problem["ctx"]["expected"])
    hint = nearest(str(problem["input"]), names)
    return hint.replace(": did", "; did") if len(names) > 1 else ""


def _fields(model: type[BaseModel], path: Path) -> list[str]:
    """Tell the fields of the part of a model that a path leads to."""
    for step in path:
        by_name = {field.alias or name: field for name, field in model.model_fields.items()}
        part = by_name[str(step)].annotation
        if not (isinstance(part, type) and issubclass(part, BaseModel)):
            return []
        model = part
    return [field.alias or name for name, field in model.model_fields.items()]


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
