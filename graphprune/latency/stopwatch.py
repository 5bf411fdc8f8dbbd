"""Measured latency of compact modules against the dense one."""

from __future__ import annotations

import os
import shutil
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from graphprune.deploy import TimingResult, export_onnx, onnx_feeds, time_interleaved
from graphprune.deploy.sessions import CUDA
from graphprune.latency.profiles import Target
from graphprune.program.example import Example

REPEATS = 21
"""Number of samples of each module; the median counts."""


class Stopwatch:
    """Exports modules to ONNX and times them in turns with the dense one, which is exported once, at the beginning."""

    def __init__(self, dense: nn.Module, example: Example, target: Target) -> None:
        """Exports the dense module.

        Args:
            dense: The dense module.
            example: Example input of the dense and of the compact modules.
            target: What to run on.

        Raises:
            ExportError: the module cannot be exported.
        """
        self._example, self._target = example, target
        self._feeds = onnx_feeds(dense, example.resized(target.batch_size))
        self._folder = _Folder()
        self._export(dense, self._folder.path / "dense.onnx")

    def _export(self, module: nn.Module, path: Path) -> None:
        export_onnx(module, self._example.args, self._example.kwargs, path, precision=self._target.dtype)

    def time(self, compact: nn.Module | None = None) -> TimingResult:
        """Measures the latency of ``"dense"`` and, if a compact module is given, of ``"compact"``.

        Raises:
            ExportError: a module cannot be exported.
        """
        provider = "cuda" if self._target.provider == CUDA else "cpu"
        with tempfile.TemporaryDirectory(prefix="graphprune-") as folder:
            paths = {"dense": self._folder.path / "dense.onnx"}
            if compact is not None:
                paths["compact"] = Path(folder) / "compact.onnx"
                self._export(compact, paths["compact"])
            return time_interleaved(
                paths, self._feeds, provider=provider, threads=self._target.threads, repeats=REPEATS
            )


def _remove(folder: Path, owner: int) -> None:
    if os.getpid() == owner:  # not in a forked process, whose parent still uses the folder
        shutil.rmtree(folder, ignore_errors=True)


class _Folder:
    """A temporary folder; a copy of it, or one unpickled in another process, has the same files in another place."""

    def __init__(self, files: Mapping[str, bytes] = {}) -> None:
        self.path = Path(tempfile.mkdtemp(prefix="graphprune-"))
        weakref.finalize(self, _remove, self.path, os.getpid())
        for name, content in files.items():
            (self.path / name).write_bytes(content)

    def __reduce__(self) -> tuple[Any, ...]:
        return _Folder, ({path.name: path.read_bytes() for path in self.path.iterdir()},)
