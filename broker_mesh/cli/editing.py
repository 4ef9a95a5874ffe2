"""Editing a dead letter's body in the user's editor, until it fits the schema of where it is put back to."""

from __future__ import annotations

import json
import os
import select
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from broker_mesh import naming
from broker_mesh.cli.output import print_error, print_note, printable
from broker_mesh.contracts.codec import Codec
from broker_mesh.contracts.plain_json import json_to_value
from broker_mesh.contracts.registry import Registry
from broker_mesh.contracts.values import is_json
from broker_mesh.dead_letters import DeadLetter
from broker_mesh.errors import FailedPrecondition, InvalidArgument, SchemaError, SettingsError

_ASK_SECONDS = 0.1


class Editor:
    """Asks the user for the new body of each dead letter; blocking, in the replay's thread.

    Args:
        registry: read already or not.
        to: another operation to put them back to; None for where they failed.
        is_interrupted: tells whether the command was: nobody answers a question then.
        environ: names the editor: VISUAL, else EDITOR.

    Raises:
        SettingsError: no editor is named, or it is not there.
    """

    def __init__(
        self,
        registry: Registry,
        to: str | None,
        is_interrupted: Callable[[], bool] = lambda: False,
        environ: Mapping[str, str] = os.environ,
    ) -> None:
        self._registry = registry
        self._to = to
        self._is_interrupted = is_interrupted
        self._command = _editor(environ)
        self._codecs: dict[str, Codec] = {}

    def __call__(self, letter: DeadLetter, body: Any) -> Any:
        """Have a body edited; gives None where it was left as it is, or emptied.

        Raises:
            SchemaError: it does not fit, and nobody is there to mend it.
            InvalidArgument: it is no JSON, and nobody is there to mend it.
            FailedPrecondition: the editor failed, or nobody is there any more.
        """
        status = letter.envelope.status.name if letter.envelope.status is not None else "no status"
        print_note(printable(f"{letter.place}: {status}: {letter.envelope.status_message or 'no message'}"))
        original = json.dumps({} if body is None else body, indent=2, ensure_ascii=False) + "\n"
        text = original
        while True:
            text = self._edited(text)
            if not text.strip() or text.strip() == original.strip():
                return None
            try:
                return self._checked(letter, text)
            except (InvalidArgument, SchemaError) as error:
                if not sys.stdin.isatty():
                    raise
                print_error(error)
                if not self._wants_again():
                    return None

    def _wants_again(self) -> bool:
        """Ask whether to edit once more; a Ctrl-C, which the main thread hears alone, ends the wait for an answer."""
        answer: str | None = None
        while answer not in ("", "y", "yes", "n", "no"):
            sys.stderr.write("Edit it again? [Y/n]: ")
            sys.stderr.flush()
            while not select.select([sys.stdin], [], [], _ASK_SECONDS)[0]:
                if self._is_interrupted():
                    return False
            line = sys.stdin.readline()
            if not line:
                raise FailedPrecondition("there is nobody to ask any more: the replay ends here")
            answer = line.strip().lower()
        return answer in ("", "y", "yes")

    def _edited(self, text: str) -> str:
        with tempfile.TemporaryDirectory(prefix="mesh-") as directory:
            file = Path(directory) / "body.json"
            file.write_text(text, encoding="utf-8")
            try:
                ended = subprocess.run([*self._command, str(file)], check=False)  # noqa: S603 - the user's own editor
            except OSError as error:  # no program for this machine, or the temporary directory is full
                raise FailedPrecondition(
                    f"the editor {self._command[0]} can't be started: {error.strerror}"
                ) from error
            if ended.returncode != 0:
                raise FailedPrecondition(
                    f"the editor {self._command[0]} ended with exit code {ended.returncode}: the replay ends here"
                )
            try:
                return file.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise FailedPrecondition(f"what the editor has left can't be read: {error}") from error

    def _checked(self, letter: DeadLetter, text: str) -> Any:
        try:
            body = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise InvalidArgument(f"the edited body is not valid JSON: {error}") from error
        name = self._to or letter.operation
        codec = self._codec(name)
        if codec is not None and (naming.is_target(name) or not is_json(letter.record.value)):
            if not isinstance(body, dict):
                raise SchemaError(f"{codec.subject}: the edited body is no JSON object")
            codec.encode(json_to_value(codec.schema, body, codec.subject))
        return body

    def _codec(self, name: str) -> Codec | None:
        """Give the codec of the present schema; where there is none, the replay itself refuses."""
        if name not in self._codecs:
            if not self._codecs:
                self._registry.refresh()
            registered = self._registry.latest(naming.value_subject(name))
            if registered is None:
                return None
            self._codecs[name] = Codec(
                registered.subject, registered.schema, registered.id, None, self._registry
            )
        return self._codecs[name]


def _editor(environ: Mapping[str, str]) -> list[str]:
    for variable in ("VISUAL", "EDITOR"):
        try:
            command = shlex.split(environ.get(variable, ""))
        except ValueError as error:
            raise SettingsError(f"{variable} is no command: {error}") from error
        if command:
            if shutil.which(command[0]) is None:
                raise SettingsError(f"{variable} names {command[0]!r}, which is not there")
            return command
    raise SettingsError("no editor is named: set VISUAL or EDITOR, as in EDITOR=vi")
