"""Files of JSON lines that several processes may add to, and that survive being cut off."""

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
    """The rows of a file, none where there is no file; a line that was cut off, or is none, is left out with a warning.

    Raises:
        OptionError: it is a folder.
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
    """Adds a row, in one write, so that rows of several processes do not mix.

    It begins with a new line where the file does not end in one: there a process was cut off.
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
    """Versions of Python and of the libraries, and the commit of this checkout; with ``+`` where its code was changed.

    What training does to a network may change with any of them.
    """
    found = library_versions() | {"graphprune": graphprune.__version__}
    commit = _git("rev-parse", "--short=12", "HEAD")
    return found | ({"commit": commit + ("+" if _git("status", "--porcelain", "--", "*.py") else "")} if commit else {})


def worked(rows: Iterable[Row]) -> list[Row]:
    """Those without an error."""
    return [row for row in rows if "error" not in row]


def _row(line: str) -> Row | None:
    try:
        row = json.loads(line)
    except json.JSONDecodeError:
        return None
    return row if isinstance(row, dict) else None


def _git(*arguments: str) -> str:
    """What git says of this checkout; nothing where there is no git, or no checkout."""
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
