"""The result of a compilation."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path

from torch import Tensor, fx

from graphprune.deploy import ExportResult, TimingResult, export_onnx, onnx_feeds, time_interleaved
from graphprune.equivalence import MaskedProgram, Verification, verify_compact
from graphprune.plan import Plan
from graphprune.program import Kept, Program, stored_tensors
from graphprune.report import Report, kept_labels


class Compiled:
    """A compact network, and what there is to know about it.

    Attributes:
        module: The compact module: trains, evaluates, and has the state dict keys of the user's model.
        plan: What was kept; can be replayed on a fresh instance of the model.
    """

    def __init__(
        self,
        module: fx.GraphModule,
        plan: Plan,
        report: Callable[[], Report],
        original: Program,
        compact: Program,
    ) -> None:
        self.module, self.plan = module, plan
        self._make_report, self._original, self._compact = report, original, compact

    @cached_property
    def report(self) -> Report:
        """What was done, by group."""
        return self._make_report()

    def __repr__(self) -> str:
        """Channels, parameters and multiply-accumulates before and after."""
        costs = ", ".join(f"{name} {before:,} -> {after:,}" for name, (before, after) in self.report.costs.items())
        return f"Compiled({self.report.model}: {costs})"

    def verify(self, seed: int = 0) -> Verification:
        """Proves that the compact module, with the weights it has now, equals the masked dense one.

        The compact weights are put into their places among zeros in the dense program; so this holds after training too.

        Raises:
            VerificationError: they differ; names the first node that does.
        """
        dependencies = self._original.dependencies
        assert dependencies is not None
        labels = kept_labels(dependencies, self.plan.kept)
        compact = stored_tensors(self.module)
        values = {
            name: embedded(compact[name], tensor, name, self.plan.kept)
            for name, tensor in stored_tensors(self._original.module).items()
        }
        return verify_compact(MaskedProgram(self._original, dependencies.space, labels, values), self._compact, seed)

    def export_onnx(self, path: str | Path) -> ExportResult:
        """Writes the compact module as ONNX with a free batch size, checked and compared with torch.

        Raises:
            ExportError: the file would not be valid or would not compute the same; nothing is written then.
        """
        example = self._compact.example
        return export_onnx(self.module, example.args, example.kwargs, path)

    def benchmark(self, *, provider: str = "auto", threads: int = 1, repeats: int = 30) -> TimingResult:
        """Times dense against compact in onnxruntime, in turns.

        Args:
            provider: ``"auto"`` (CUDA where there is a device), ``"cpu"`` or ``"cuda"``.
            threads: Threads within an operator.
            repeats: Samples of each.
        """
        example = self._compact.example
        with tempfile.TemporaryDirectory() as directory:
            paths = {"dense": Path(directory) / "dense.onnx", "compact": Path(directory) / "compact.onnx"}
            export_onnx(self._original.module, example.args, example.kwargs, paths["dense"])
            self.export_onnx(paths["compact"])
            feeds = onnx_feeds(self.module, example)
            return time_interleaved(paths, feeds, provider=provider, threads=threads, repeats=repeats)

    def save(self, directory: str | Path) -> Path:
        """Writes plan, weights, ONNX file and report into a directory; see `graphprune.load`."""
        from graphprune.artifact import save

        return save(self, Path(directory))


def embedded(compact: Tensor, dense: Tensor, name: str, kept: Kept) -> Tensor:
    """A compact tensor in its places in a dense one, zero elsewhere."""
    result = compact.detach()
    for (owner, dim), indices in kept.items():
        if owner == name:
            shape = [*result.shape]
            shape[dim] = dense.shape[dim]
            result = result.new_zeros(shape).index_copy(dim, indices.to(result.device), result)
    return result


