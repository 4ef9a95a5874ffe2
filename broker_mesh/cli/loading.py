"""Finds the `Mesh` that `mesh run package.module:name` names, and says in one sentence why it can't be had."""

from __future__ import annotations

import importlib
import pkgutil
import sys
import traceback
from collections.abc import Iterable
from pathlib import Path
from types import ModuleType

from broker_mesh.errors import InvalidArgument, MeshError, NotFound, SettingsError
from broker_mesh.mesh import Mesh
from broker_mesh.settings import nearest


def load_mesh(target: str, directory: Path) -> Mesh:
    """Import a module and give the mesh in it.

    Args:
        target: ``package.module:name``.
        directory: is searched first for modules.

    Raises:
        InvalidArgument: the target is not of that form.
        NotFound: there is no such module, or no such name in it.
        SettingsError: the module raises when it is imported, or the name is not a mesh.
    """
    module_name, colon, name = target.partition(":")
    parts = module_name.split(".")
    if not colon or not all(part.isidentifier() for part in (*parts, name)) or parts[-1] == "py":
        guess = module_name.removesuffix(".py").strip("/").replace("/", ".")
        hint = f"{guess or 'package.module'}:{name or 'name'}"
        raise InvalidArgument(f"{target!r} names no mesh: write package.module:name, as in {hint}")
    if str(directory) not in sys.path:
        sys.path.insert(0, str(directory))
    module = _import(module_name, directory)
    found = getattr(module, name, None)
    meshes = [key for key, value in vars(module).items() if isinstance(value, Mesh)]
    if isinstance(found, Mesh):
        return found
    there_is = f" (there is {', '.join(meshes)})" if meshes else " (it has no Mesh at all)"
    if found is None:
        hint = nearest(name, meshes or vars(module)) or there_is
        raise NotFound(f"module {module_name!r} has no {name!r}{hint}")
    raise SettingsError(f"{target} is a {type(found).__name__}, not a Mesh{there_is}")


def _import(name: str, directory: Path) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        missing = error.name or name
        if name == missing or name.startswith(f"{missing}."):
            hint = (
                nearest(name, _siblings(name, directory))
                or f"; it is looked for in {directory} and the Python path"
            )
            raise NotFound(f"there is no module {missing!r}{hint}") from error
        raise _import_failed(name, error, directory) from error
    # A module may raise anything, SystemExit too, and whatever it is gets its sentence.
    except (Exception, SystemExit) as error:
        raise _import_failed(name, error, directory) from error


def _import_failed(name: str, error: BaseException, directory: Path) -> MeshError:
    if isinstance(error, SyntaxError) and error.filename is not None:
        place = f"{error.filename}, line {error.lineno}"
        reason = error.msg
    else:
        frames = traceback.extract_tb(error.__traceback__)
        # The user's own line, rather than the one of the library that it called.
        own = [frame for frame in frames if Path(frame.filename).is_relative_to(directory)]
        last = (own or frames)[-1]
        place = f"{last.filename}, line {last.lineno}"
        reason = error.message if isinstance(error, MeshError) else str(error) or "no message"
    return SettingsError(f"module {name!r} can't be imported: {type(error).__name__}: {reason} ({place})")


def _siblings(name: str, directory: Path) -> Iterable[str]:
    """List the modules that stand where the named one was looked for."""
    package = name.rpartition(".")[0]
    folder = directory / package.replace(".", "/")
    prefix = f"{package}." if package else ""
    return [prefix + module.name for module in pkgutil.iter_modules([str(folder)])]
