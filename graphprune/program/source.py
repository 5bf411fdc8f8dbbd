"""Lines of a user's code, named alike on every machine."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path


def source_of(file: str, line: int | str) -> str:
    """Returns ``file:line`` with the file as `short_path` names it."""
    return f"{short_path(file)}:{line}"


@cache
def short_path(file: str) -> str:
    """Returns the path of a file from where its package or project begins, wherever that lies.

    - A file of a package is named from the package's top folder: ``torchvision/models/resnet.py``.
    - Other files are named from the innermost folder that Python imports from: ``train.py``, ``tests/test_report.py``.
    - What lies nowhere there (a notebook's cell, generated code) keeps its name.
    """
    path = Path(file)
    if not path.is_absolute():
        return file
    top = path.parent
    while (top / "__init__.py").exists() and top != top.parent:
        top = top.parent
    if top == path.parent:
        roots = [folder for folder in map(Path, sys.path) if folder.is_absolute() and path.is_relative_to(folder)]
        top = max(roots, key=lambda folder: len(folder.parts), default=top)
    return path.relative_to(top).as_posix()
