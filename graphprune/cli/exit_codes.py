"""Exit codes of exceptions: 2 for a user's mistake, 1 for a bug, 130 for an interrupt."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any

import typer
from typer.core import TyperGroup

from graphprune.errors import InternalError, UserError

USER_MISTAKE, BUG, INTERRUPTED = 2, 1, 130

# typer does not export the base class of its errors about options and arguments
UsageError: type[Exception] = typer.BadParameter.__bases__[0]


class Commands(TyperGroup):
    """A group of commands that ends with a message and an exit code instead of a traceback."""

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = None,
        complete_var: str | None = None,
        standalone_mode: bool = True,
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs a command; without any argument, prints the help."""
        given = list(sys.argv[1:] if args is None else args) or ["--help"]
        run = super().main

        def command() -> int:
            return run(given, prog_name, complete_var, False, windows_expand_args, **extra) or 0

        code = exit_code(command)
        if standalone_mode:
            sys.exit(code)
        return code


def exit_code(command: Callable[[], int]) -> int:
    """Runs a command, says on stderr what went wrong, and returns the exit code.

    Unexpected exceptions pass through, because a report needs their traceback.
    """
    try:
        return command()
    except UserError as error:
        return _end(f"error: {error}", USER_MISTAKE)
    except UsageError as error:
        return _end(f"error: {_about_usage(error)}", USER_MISTAKE)
    except OSError as error:
        if error.filename is None:
            raise
        return _end(f"error: {error.filename}: {error.strerror}", USER_MISTAKE)
    except InternalError as error:
        return _end(
            f"internal error ({type(error).__name__}): {error}\n"
            "This is a bug in graphprune; please report this message with the command and the versions that "
            "`graphprune --version` prints.",
            BUG,
        )
    except (KeyboardInterrupt, typer.Abort):
        return _end("interrupted", INTERRUPTED)


def _about_usage(error: Any) -> str:
    """The message of an error, with the command whose help says more."""
    path = error.ctx.command_path if error.ctx is not None else "graphprune"
    return f"{error.format_message().rstrip('.')} (see `{path} --help`)"


def _end(message: str, code: int) -> int:
    # not through rich, which would break lines at the width of the terminal
    typer.echo(f"graphprune: {message}", err=True)
    return code
