"""Wrapped clients for programs whose framework makes the clients: put where the framework's module has the plain ones.

On the way of a message: before it. A framework that does `from confluent_kafka import Consumer` in one of its modules
makes its consumers of what that module calls so; `instrument(that_module, mesh=mesh)` has it make wrapped ones.
"""

from __future__ import annotations

import inspect
import threading
from collections.abc import Iterable, Mapping
from types import ModuleType
from typing import Any

import confluent_kafka as plain

from broker_mesh import Mesh
from broker_mesh.errors import FailedPrecondition, SettingsError
from broker_mesh_adapters import confluent_kafka as wrapped

_NAMES = ("Producer", "Consumer", "SerializingProducer", "DeserializingConsumer")
_ASYNCIO_NAMES = ("AIOProducer", "AIOConsumer")

_in_place: dict[ModuleType, Instrumentation] = {}
_lock = threading.Lock()


class Instrumentation:
    """Wrapped classes in place of plain ones in one module; made by `instrument`.

    As a context manager it is undone at the end of the block. Clients that exist stay what they are.

    Attributes:
        module: where they are.
        classes: what was put in place, by the module's name for it.
    """

    def __init__(self, module: ModuleType, said: Mapping[str, Any], classes: Mapping[str, type]) -> None:
        self.module = module
        self.classes = classes
        self._said = said
        self._plain = {name: getattr(module, name) for name in classes}
        for name, bound in classes.items():
            setattr(module, name, bound)

    def __repr__(self) -> str:
        return f"<Instrumentation of {self.module.__name__}: {', '.join(self.classes)}>"

    def undo(self) -> None:
        """Put the plain classes back; a name that something else has replaced meanwhile is left alone."""
        with _lock:
            if _in_place.get(self.module) is not self:  # undone before; what is there now is another's
                return
            del _in_place[self.module]
            for name, original in self._plain.items():
                if getattr(self.module, name, None) is self.classes[name]:
                    setattr(self.module, name, original)

    def says(self, said: Mapping[str, Any]) -> bool:
        """Tell whether it was made with the same mesh and options."""
        return self._said == said

    def __enter__(self) -> Instrumentation:
        return self

    def __exit__(self, *_: object) -> None:
        self.undo()


def instrument(
    module: ModuleType,
    *,
    mesh: Mesh,
    classes: Iterable[type] = (),
    **options: Any,
) -> Instrumentation:
    """Have a module that imported clients from confluent_kafka make wrapped ones from now on, bound to a mesh.

    Doing the same again changes nothing. The classes that are put in place take what the plain ones take, and can be
    subclassed.

    Args:
        module: the very module that has the names `Producer` or `Consumer`, by whatever name it imported them.
        mesh: of all clients that the module makes.
        classes: subclasses of wrapped classes, to be put in place instead of those.
        options: of the wrapped classes (`ordering`, `retry`, …), each for those that take it.

    Raises:
        SettingsError: the module has no client of confluent_kafka, or no wrapped class takes an option.
        FailedPrecondition: the module is instrumented already, with another mesh or other options.
    """
    if not isinstance(module, ModuleType):
        raise SettingsError(
            f"instrument({module!r}): give the module itself, as in instrument(the_module, mesh=mesh)"
        )
    instead = tuple(classes)
    said = {"mesh": mesh, "classes": instead, **options}
    with _lock:
        there = _in_place.get(module)
        if there is not None:
            if there.says(said):
                return there
            raise FailedPrecondition(
                f"{module.__name__} is instrumented already, with another mesh or other options: undo() that first"
            )
        found = _clients_in(module, instead)
        if not found:
            raise SettingsError(
                f"{module.__name__} has imported neither Producer nor Consumer from confluent_kafka: give the module "
                "that makes the clients, and do it before anything subclasses them there"
            )
        _check_options(options, found.values())
        bound = {name: _bind(cls, mesh, options) for name, cls in found.items()}
        _in_place[module] = Instrumentation(module, said, bound)
        return _in_place[module]


def _clients_in(module: ModuleType, instead: Iterable[type]) -> dict[str, type]:
    """Give the wrapped class for each name of a module that is a client of confluent_kafka."""
    counterparts: dict[Any, str] = {getattr(plain, name): name for name in _NAMES}
    values = list(vars(module).items())
    if any(getattr(value, "__module__", "").startswith("confluent_kafka.aio") for _, value in values):
        from confluent_kafka import aio  # only where it is in use: it brings a thread pool along

        counterparts |= {getattr(aio, name): name for name in _ASYNCIO_NAMES}
    found = {
        name: getattr(wrapped, counterparts[value])
        for name, value in values
        if isinstance(value, type) and value in counterparts
    }
    return {
        name: next((each for each in instead if issubclass(each, cls)), cls) for name, cls in found.items()
    }


def _bind(cls: type, mesh: Mesh, options: Mapping[str, Any]) -> type:
    taken = {name: value for name, value in options.items() if name in _options_of(cls)}

    class Bound(cls):  # type: ignore[misc]  # which one is known at run time
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            super().__init__(*args, **{"mesh": mesh, **taken, **kwargs})

    Bound.__name__ = cls.__name__
    Bound.__qualname__ = cls.__qualname__
    Bound.__doc__ = cls.__doc__
    return Bound


def _check_options(options: Mapping[str, Any], classes: Any) -> None:
    known = set().union(*(_options_of(cls) for cls in classes))
    for name in options:
        if name not in known:
            raise SettingsError(
                f"no wrapped client takes the option {name!r} (there are {', '.join(sorted(known))})"
            )


def _options_of(cls: type) -> set[str]:
    """Tell what a wrapped class takes beside the mesh: the keyword-only parameters of its constructors."""
    constructors = [
        vars(each)["__init__"] for each in cls.__mro__ if "__init__" in vars(each) and each is not object
    ]
    return {
        each.name
        for constructor in constructors
        if inspect.isfunction(constructor)
        for each in inspect.signature(constructor).parameters.values()
        if each.kind is each.KEYWORD_ONLY
    } - {"mesh"}
