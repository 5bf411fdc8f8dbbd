"""Measures how fast the compact program is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from graphprune.deploy import ExportResult, TimingResult, onnx_feeds, time_interleaved
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.program.facts import Fact
from graphprune.program.program import Program


@dataclass(frozen=True)
class TimeOnnx(Pass):
    """Times the exported program in onnxruntime, in turns with the dense one.

    Attributes:
        dense: The ONNX file of the dense program.
        batch: Samples in a run.
        provider: ``"auto"`` (CUDA where there is a device), ``"cpu"`` or ``"cuda"``.
        threads: Threads within an operator.
        repeats: Samples of each latency.
    """

    dense: Path
    batch: int
    provider: str = "auto"
    threads: int = 1
    repeats: int = 30
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({ExportResult})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({TimingResult})

    def run(self, program: Program) -> PassResult:
        """Notes the latencies of ``"dense"`` and ``"compact"``.

        Raises:
            OptionError: the provider cannot run here.
        """
        feeds = onnx_feeds(program.module, program.example.resized(self.batch))
        paths = {"dense": self.dense, "compact": program[ExportResult].path}
        timing = time_interleaved(paths, feeds, provider=self.provider, threads=self.threads, repeats=self.repeats)
        medians = ", ".join(f"{name} {of_it.median_ms:.3f} ms" for name, of_it in timing.latencies.items())
        return PassResult(program.knowing(timing), True, (f"{medians}; {timing.provider}",))
