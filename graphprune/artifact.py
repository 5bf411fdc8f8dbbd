"""Saved results: a directory with the plan, the weights, the ONNX file and the report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from graphprune.errors import ArtifactError

if TYPE_CHECKING:
    from graphprune.compiled import Compiled


def save(compiled: Compiled, directory: Path) -> Path:
    """Placeholder"""
    raise ArtifactError("x")
