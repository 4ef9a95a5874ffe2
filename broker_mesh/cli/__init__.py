"""The command `mesh`: one file per command or group of commands.

`main` is its entry point, and the one place where an error becomes a sentence and an exit code. Command modules
import what is heavy (Kafka, schemas, rich) inside their functions, so that `mesh --help` starts at once.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence


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
    import logging

    from broker_mesh.cli.app import app
    from broker_mesh.cli.exits import ExitCode, exit_code
    from broker_mesh.cli.output import print_error
    from broker_mesh.errors import MeshError

    # A command says what is wrong in one sentence; the library's log lines would say it a second time.
    logging.getLogger("broker_mesh").addHandler(logging.NullHandler())
    try:
        app(args=list(arguments), prog_name="mesh")
    except SystemExit as end:  # how typer ends, after it has said what is wrong with the usage
        return end.code if isinstance(end.code, int) else ExitCode.OK
    except MeshError as error:
        print_error(error)
        return exit_code(error)
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    return ExitCode.OK
