"""Files of JSON lines, which several processes may add to, and which can be read after a write was cut off."""

from __future__ import annotations

import json
import logging
import os
import subprocess
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import graphprune
from graphprune.deploy import library_versions
from graphprune.errors import OptionError

_log = logging.getLogger(__name__)

Row = dict[str, Any]


def read(path: Path | None) -> list[Row]:
    """Returns the rows of a file, or no rows if there is no file.

    A line that was cut off or is not a JSON object is left out with a warning.

    Raises:
        OptionError: the path is a folder.
    """
    if path is not None and path.is_dir():
        raise OptionError(f"{path} is a folder; name a file of JSON lines")
    found: list[Row] = []
    text = path.read_text(encoding="utf-8") if path is not None and path.exists() else ""
    for number, line in enumerate(text.splitlines(), start=1):
        row = _row(line)
        if row is not None:
            found.append(row)
        elif line.strip():
            _log.warning("%s, line %d is not whole and is left out", path, number)
    return found


def append(path: Path, row: Row) -> None:
    """Adds a row in one write, so that rows of several processes do not mix.

    If the file does not end with a newline, a process was cut off there, and the row begins on a new line.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    cut_off = path.exists() and path.stat().st_size > 0 and _last_byte(path) != b"\n"
    line = ("\n" if cut_off else "") + json.dumps(row) + "\n"
    target = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        os.write(target, line.encode())
    finally:
        os.close(target)


def record(path: Path | None, row: Row) -> None:
    """Prints a row, and adds it to the file if there is one."""
    print(json.dumps(row), flush=True)
    if path is not None:
        append(path, row)


@cache
def versions() -> dict[str, str]:
    """Returns versions of Python and the libraries, and the commit of this checkout, with ``+`` if code was changed.

    The result of a training may change with any of them.
    """
    found = library_versions() | {"graphprune": graphprune.__version__}
    commit = _git("rev-parse", "--short=12", "HEAD")
    return found | ({"commit": commit + ("+" if _git("status", "--porcelain", "--", "*.py") else "")} if commit else {})


def worked(rows: Iterable[Row]) -> list[Row]:
    """Returns the rows without an error."""
    return [row for row in rows if "error" not in row]


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


def _git(*arguments: str) -> str:
    """Returns the output of a git command in this checkout; empty if there is no git or no checkout."""
    try:
        done = subprocess.run(
            ["git", *arguments], cwd=Path(__file__).parent.parent, capture_output=True, text=True, check=True
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return done.stdout.strip()


def _last_byte(path: Path) -> bytes:
    with path.open("rb") as file:
        file.seek(-1, os.SEEK_END)
        return file.read(1)
