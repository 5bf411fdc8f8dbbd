"""Measures the latency of the compact program."""

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
        batch: Number of samples in a run.
        provider: ``"auto"`` (CUDA where there is a device), ``"cpu"`` or ``"cuda"``.
        threads: Number of threads within an operator.
        repeats: Number of measurements of each latency.
    """

    dense: Path
    batch: int
    provider: str = "auto"
    threads: int = 1
    repeats: int = 30
    needs: ClassVar[frozenset[type[Fact]]] = frozenset({ExportResult})
    provides: ClassVar[frozenset[type[Fact]]] = frozenset({TimingResult})

    def run(self, program: Program) -> PassResult:
        """Adds the latencies of ``"dense"`` and ``"compact"`` to the program's facts.

        Raises:
            OptionError: the provider is not available on this machine.
        """
        feeds = onnx_feeds(program.module, program.example.resized(self.batch))
        paths = {"dense": self.dense, "compact": program[ExportResult].path}
        timing = time_interleaved(paths, feeds, provider=self.provider, threads=self.threads, repeats=self.repeats)
        medians = ", ".join(f"{name} {of_it.median_ms:.3f} ms" for name, of_it in timing.latencies.items())
        return PassResult(program.knowing(timing), True, (f"{medians}; {timing.provider}",))
