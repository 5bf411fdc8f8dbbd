"""Measured latency of compact modules against the dense one."""

from __future__ import annotations

import shutil
import tempfile
import weakref
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from torch import nn

from graphprune.deploy import TimingResult, export_onnx, onnx_feeds, time_interleaved
from graphprune.deploy.sessions import CUDA
from graphprune.example import Example
from graphprune.latency.profiles import Target

REPEATS = 21
"""Samples of each module; the median counts."""


@dataclass
class Stopwatch:
    """Exports modules to ONNX and times them in turns with the dense one.

    Attributes:
        dense: The dense module.
        example: Its input.
        target: What to run on.
    """

    dense: nn.Module
    example: Example
    target: Target

    @cached_property
    def _folder(self) -> Path:
        path = Path(tempfile.mkdtemp(prefix="graphprune-"))
        weakref.finalize(self, shutil.rmtree, path, ignore_errors=True)
        return path

    @cached_property
    def _dense_path(self) -> Path:
        return self._exported(self.dense, "dense")

    def _exported(self, module: nn.Module, name: str) -> Path:
        path = self._folder / f"{name}.onnx"
        export_onnx(module, self.example.args, self.example.kwargs, path, precision=self.target.dtype)
        return path

    def time(self, compact: nn.Module | None = None) -> TimingResult:
        """Latencies of ``"dense"`` and, if given, of ``"compact"``.

        Raises:
            ExportError: a module cannot be exported.
        """
        paths = {"dense": self._dense_path}
        if compact is not None:
            paths["compact"] = self._exported(compact, "compact")
        feeds = onnx_feeds(self.dense, self.example.resized(self.target.batch_size))
        provider = "cuda" if self.target.provider == CUDA else "cpu"
        return time_interleaved(paths, feeds, provider=provider, threads=self.target.threads, repeats=REPEATS)
