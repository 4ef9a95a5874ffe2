"""The command `mesh`: one file per command or group of commands.

`main` is its entry point, and the one place where an error becomes a sentence and an exit code. Command modules
import what is heavy (Kafka, schemas, rich) inside their functions, so that `mesh --help` starts at once.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Sequence

# What a write to stdout fails with: its reader is gone, its disk is full, or it is no place to write to.
_UNWRITABLE = frozenset({errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO, errno.EBADF})
_INTERRUPTED = 130


def main() -> None:
    """Run the command line of this process, and exit."""
    sys.exit(execute(sys.argv[1:]))


def execute(arguments: Sequence[str]) -> int:
    """Run one command.

    Args:
        arguments: those after the program's name.

    Returns:
        The exit code, as `broker_mesh.cli.exits` lists them.
    """
    try:
        return _execute(arguments)
    except KeyboardInterrupt:  # also while the below is being imported
        return _INTERRUPTED


def _execute(arguments: Sequence[str]) -> int:
    import logging

    from broker_mesh.cli.app import app
    from broker_mesh.cli.exits import ExitCode, exit_code
    from broker_mesh.cli.output import print_error
    from broker_mesh.errors import InternalError, MeshError

    # A command says what is wrong in one sentence; the library's log lines would say it a second time.
    logging.getLogger("broker_mesh").addHandler(logging.NullHandler())
    try:
        if sys.stdout is None:  # how Python starts without one
            sys.stdout = sys.stderr = sys.stderr or open(os.devnull, "w", encoding="utf-8")  # noqa: SIM115
            raise OSError(errno.EBADF, "stdout is closed")
        app(args=list(arguments), prog_name="mesh")
    except SystemExit as end:  # how typer ends, after it has said what is wrong with the usage
        return end.code if isinstance(end.code, int) else ExitCode.OK
    except MeshError as error:
        print_error(error)
        return exit_code(error)
    except OSError as error:
        # Those of files are translated where they are used, and name their file.
        if error.errno not in _UNWRITABLE or error.filename is not None:
            raise
        if error.errno != errno.EPIPE:
            print_error(InternalError(f"the result can't be written: {error.strerror}"))
        _discard_output()
        return ExitCode.FAILED
    return ExitCode.OK


def _discard_output() -> None:
    """Let stdout be nowhere: Python flushes what is left in it at the end, and would fail once more."""
    if sys.__stdout__ is not None:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.__stdout__.fileno())
