"""Resources in files: YAML, of which JSON is a part, several documents to a file, and where in it each part stands.

On the way of a message: before it, when a mesh reads the folder of its setting `policy`, and for `mesh apply`.
"""

from __future__ import annotations

import sys
from collections.abc import Hashable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from broker_mesh.control import resources
from broker_mesh.control.conflicts import refuse_contradictions
from broker_mesh.control.resources import Resource, access_rules, key_of
from broker_mesh.errors import InvalidArgument, NotFound

SUFFIXES = (".yaml", ".yml")

STDIN = Path("-")

_MERGE = "tag:yaml.org,2002:merge"


class Document(NamedTuple):
    """One YAML document: its values, and how it was written.

    Args:
        source: the file, or what else it was read from.
        number: which of the source's documents it is, from 1 on; 0 where there is only one.
        values: as Python has them.
        node: as YAML has them.
    """

    source: str
    number: int
    values: Any
    node: yaml.Node

    def place(self, path: resources.Path) -> str:
        """Tell where a part stands: file, line and document; of a part that is missing, where its parent does."""
        line = _line_of(self.node, path) + 1
        return f"{self.source}:{line}" + (f" (document {self.number})" if self.number else "")


def read_folder(folder: Path) -> dict[str, Resource]:
    """Read all resources of a folder's YAML files, by their keys.

    Args:
        folder: one that does not exist holds none.

    Raises:
        InvalidArgument: a file is wrong, or two of them contradict each other.
    """
    return read_files([folder]) if folder.is_dir() else {}


def read_files(paths: Iterable[Path]) -> dict[str, Resource]:
    """Read all resources of some files and folders, by their keys.

    Args:
        paths: files; folders, for the YAML files right in them; or `-` for standard input.

    Raises:
        NotFound: there is no such file or folder.
        InvalidArgument: a file is wrong, two say different things under one name, or contradict each other.
    """
    return collect(document for path in paths for file in _files(path) for document in _read(file))


def read_text(text: str, source: str) -> dict[str, Resource]:
    """Read all resources of a text, by their keys; errors as for `read_files`.

    Args:
        text: YAML.
        source: what it was read from, for errors.
    """
    return collect(documents(text, source))


def collect(found: Iterable[Document]) -> dict[str, Resource]:
    """Read the resources of documents, by their keys; errors as for `read_files`."""
    collected: dict[str, Resource] = {}
    places: dict[str, str] = {}
    for document in found:
        resource = resources.parse(document.values, document.place)
        key, place = key_of(resource), document.place(())
        if key in collected:
            raise InvalidArgument(
                f"{place}: {resource.kind} {resource.name!r} stands at {places[key]} already: "
                "keep one of them, or give them different names"
            )
        collected[key], places[key] = resource, place
    refuse_contradictions(access_rules(collected.values()))
    return collected


def documents(text: str, source: str) -> list[Document]:
    """Take a text apart into its YAML documents; those that say nothing are left out.

    Raises:
        InvalidArgument: it is no YAML, or a mapping names a key twice; the sentence says in which line.
    """
    loader = None
    try:
        loader = _StrictLoader(text)
        read = list(_documents(loader))
    except yaml.MarkedYAMLError as error:
        line = f":{error.problem_mark.line + 1}" if error.problem_mark else ""
        raise InvalidArgument(f"{source}{line}: no valid YAML: {error.problem or error.context}") from error
    except yaml.YAMLError as error:
        raise InvalidArgument(f"{source}: no valid YAML: {str(error).splitlines()[0]}") from error
    except RecursionError as error:
        raise InvalidArgument(f"{source}: no resources: the YAML is nested too deep") from error
    except ValueError as error:  # of a value that looks like a date, and is none
        raise InvalidArgument(f"{source}: no valid YAML: {error}; put the text in quotes") from error
    finally:
        if loader is not None:
            loader.dispose()
    return [
        Document(source, number if len(read) > 1 else 0, values, node)
        for number, (values, node) in enumerate(read, 1)
        if values is not None
    ]


def _documents(loader: _StrictLoader) -> Iterator[tuple[Any, yaml.Node]]:
    while loader.check_node():
        node = loader.get_node()
        assert node is not None  # asked before
        yield loader.construct_document(node), node


class _StrictLoader(yaml.SafeLoader):
    """Makes plain values only, and refuses a mapping that names a key twice, of which YAML would keep the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Hashable] = set()
        for key_node, _ in node.value:
            if key_node.tag == _MERGE:
                continue
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key!r} is given twice in one mapping", key_node.start_mark
                    )
                seen.add(key)
        return super().construct_mapping(node, deep)


def _files(path: Path) -> list[Path]:
    if path.is_dir():
        return sorted(file for file in path.iterdir() if file.suffix in SUFFIXES and file.is_file())
    if not path.exists() and path != STDIN:
        raise NotFound(f"there is no file or folder {str(path)!r}")
    return [path]


def _read(file: Path) -> list[Document]:
    source = "standard input" if file == STDIN else str(file)
    try:
        text = (sys.stdin.buffer.read() if file == STDIN else file.read_bytes()).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgument(f"{source}: byte {error.start} is not UTF-8: save the file as UTF-8") from error
    except OSError as error:
        raise InvalidArgument(f"{source}: can't be read: {error.strerror or error}") from error
    return documents(text, source)


def _line_of(node: yaml.Node, path: resources.Path) -> int:
    """Tell the line, from 0 on, where the part at the end of a path begins, as far as the path leads."""
    line = node.start_mark.line
    for step in path:
        if isinstance(node, yaml.MappingNode):
            found = next((pair for pair in node.value if pair[0].value == step), None)
            if found is None:
                break
            line, node = found[0].start_mark.line, found[1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
            node = node.value[step]
            line = node.start_mark.line
        else:
            break
    return int(line)
