"""The source files of the project, for tests of how they hang together."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "graphprune"
PASSES = "graphprune.passes"


def python_files(folder: Path) -> Iterator[Path]:
    """All Python files below `folder`, following links (the passes are behind one)."""
    for here, _, names in os.walk(folder, followlinks=True):
        yield from (Path(here) / name for name in sorted(names) if name.endswith(".py"))


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
