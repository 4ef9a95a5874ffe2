"""What callers and callees share: operations and events, declared once with their types.

On the way of a message: before it. A declaration is inert: it connects to nothing and may stand in a module
that both sides import.
"""

from __future__ import annotations

from typing import Any, Generic, TypeVar, overload

from pydantic import BaseModel

from broker_mesh import naming
from broker_mesh.errors import SettingsError

RequestT = TypeVar("RequestT", bound=BaseModel)
ReplyT = TypeVar("ReplyT", bound="BaseModel | None")
EventT = TypeVar("EventT", bound=BaseModel)


class Operation(Generic[RequestT, ReplyT]):
    """An operation of a service: request and reply, or one-way without a reply model.

    Args:
        name: ``<service>.<version>.<name>``; it is the topic's name too.
        request: the model of requests.
        reply: the model of replies; None for a one-way operation.
        key: the field of the request that orders and partitions: records of one key are handled in order.
            None spreads requests over the partitions, without order.

    Raises:
        SettingsError: the name, a model or the key field is not usable.
    """

    @overload
    def __init__(
        self: Operation[RequestT, None],
        name: str,
        request: type[RequestT],
        reply: None = ...,
        *,
        key: str | None = ...,
    ) -> None: ...
    @overload
    def __init__(
        self: Operation[RequestT, ReplyT],
        name: str,
        request: type[RequestT],
        reply: type[ReplyT],
        *,
        key: str | None = ...,
    ) -> None: ...
    def __init__(
        self, name: str, request: type[RequestT], reply: type[Any] | None = None, *, key: str | None = None
    ) -> None:
        parsed = naming.parse_operation(name)
        self.name = name
        self.service = parsed.service
        self.version = parsed.version
        self.request = _model(name, "request", request)
        self.reply = None if reply is None else _model(name, "reply", reply)
        self.key = _key_field(name, request, key)

    def __repr__(self) -> str:
        return f"Operation({self.name!r})"


class Event(Generic[EventT]):
    """A fact that a service publishes, for any number of subscribers.

    Args:
        name: ``<service>.<version>.events.<name>``; it is the topic's name too.
        model: the model of the event.
        key: the field that orders and partitions; None spreads events without order.

    Raises:
        SettingsError: the name, the model or the key field is not usable.
    """

    def __init__(self, name: str, model: type[EventT], *, key: str | None = None) -> None:
        parsed = naming.parse_event(name)
        self.name = name
        self.service = parsed.service
        self.version = parsed.version
        self.model = _model(name, "model", model)
        self.key = _key_field(name, model, key)

    def __repr__(self) -> str:
        return f"Event({self.name!r})"


def _model(name: str, what: str, model: Any) -> Any:
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        raise SettingsError(f"{name}: {what} must be a pydantic model class, not {model!r}")
    return model


def _key_field(name: str, model: type[BaseModel], key: str | None) -> str | None:
    if key is not None and key not in model.model_fields:
        fields = ", ".join(model.model_fields) or "none"
        raise SettingsError(f"{name}: key {key!r} is not a field of {model.__name__} (its fields: {fields})")
    return key
