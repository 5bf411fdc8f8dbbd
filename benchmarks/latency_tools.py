"""Prunes one torchvision model with one tool and writes the ONNX file, in a process of its own.

    python -m benchmarks.latency_tools graphprune mobilenet_v2 out.onnx --measure macs --share 2/3
    python -m benchmarks.latency_tools torch-pruning resnet18 out.onnx --measure latency --share 0.5

The tools that have no such budget are given a ratio, and the ratio is searched by bisection until the result has the
multiply-accumulates, or the measured latency, that was asked for. All weights are random, and the classifier stays.
"""

from __future__ import annotations

import argparse
import copy
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import onnx
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import graphprune
from benchmarks.arguments import count, share
from benchmarks.models import make
from benchmarks.onnx_macs import count_macs
from graphprune import Budget
from graphprune.deploy import export_onnx, onnx_feeds, time_interleaved
from graphprune.program.example import Example

TRIES = {"macs": 9, "latency": 6}
"""Steps of the bisection. Each latency takes an export, and its noise is about the interval after six halvings."""

_Pruned = TypeVar("_Pruned")


@dataclass(frozen=True)
class Task:
    """Task of a tool.

    Attributes:
        model: Name of a torchvision model.
        measure: ``"macs"`` or ``"latency"``.
        share: Share to be removed.
        provider: Provider of onnxruntime, for latencies.
        threads: Threads of onnxruntime, for latencies.
        batch: Images in a run, of files that are for one number of them.
    """

    model: str
    measure: str
    share: float
    provider: str
    threads: int
    batch: int = 1

    def network(self) -> nn.Module:
        """Returns the model, with the same random weights each time."""
        return make(f"torchvision:{self.model}")[0].eval()

    def searched(self, prune: Callable[[float], _Pruned], left: Callable[[_Pruned], float]) -> _Pruned:
        """Searches the ratio for this task, see the function `searched`."""
        return searched(prune, left, 1 - self.share, TRIES[self.measure])


def image(batch: int = 1) -> torch.Tensor:
    """Returns the example input ``(batch, 3, 224, 224)``."""
    return torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(0))


def export(module: nn.Module, path: Path) -> Path:
    """Exports a module in the same way for all tools; returns the path."""
    export_onnx(module, (image(),), {}, path)
    return path


def searched(prune: Callable[[float], _Pruned], left: Callable[[_Pruned], float], wanted: float, tries: int) -> _Pruned:
    """Searches the ratio by bisection; returns the result that keeps the share nearest to the wanted one."""
    low, high = 0.0, 0.98
    found: tuple[float, _Pruned] | None = None
    for _ in range(tries):
        ratio = (low + high) / 2
        pruned = prune(ratio)
        share = left(pruned)
        if found is None or abs(share - wanted) < found[0]:
            found = abs(share - wanted), pruned
        low, high = (ratio, high) if share > wanted else (low, ratio)
    assert found is not None
    return found[1]


def latency_left(task: Task, dense: Path, compact: Path) -> float:
    """Measures the latency of a file as a share of the dense file's."""
    feeds = onnx_feeds(nn.Identity(), Example.of(image()))
    files = {"dense": dense, "compact": compact}
    timing = time_interleaved(files, feeds, provider=task.provider, threads=task.threads, repeats=15)
    return 1 / timing.speedup("dense", "compact").pairwise_median


def by_graphprune(task: Task, path: Path, align: int | str) -> None:
    """Prunes by one call of `graphprune.compile`, and exports."""
    target = graphprune.profile(provider=task.provider, threads=task.threads)
    budget = Budget(**{task.measure: task.share})
    compiled = graphprune.compile(task.network(), image(), budget=budget, align=align, target=target)
    compiled.export_onnx(path)


def by_torch_pruning(task: Task, path: Path, round_to: int | None) -> None:
    """Prunes by torch-pruning's `BasePruner` with group magnitude and its default of one ratio for all layers."""
    import torch_pruning as tp

    def prune(ratio: float) -> nn.Module:
        model = task.network()
        heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 1000]
        options: dict[str, Any] = {"pruning_ratio": ratio, "ignored_layers": heads, "round_to": round_to}
        tp.pruner.BasePruner(model, image(), importance=tp.importance.GroupMagnitudeImportance(), **options).step()
        return model

    with tempfile.TemporaryDirectory() as folder:
        if task.measure == "macs":
            whole = torch_macs(task.network())
            export(task.searched(prune, lambda model: torch_macs(model) / whole), path)
            return
        dense = export(task.network(), Path(folder) / "dense.onnx")
        files = (Path(folder) / f"{number}.onnx" for number in range(99))
        best_file = task.searched(
            lambda ratio: export(prune(ratio), next(files)), lambda file: latency_left(task, dense, file)
        )
        shutil.copy(best_file, path)


def torch_macs(model: nn.Module) -> int:
    """Counts the multiply-accumulates of a forward pass."""
    counter = FlopCounterMode(display=False)
    with torch.no_grad(), counter:
        model(image())
    return int(counter.get_total_flops()) // 2


def by_onnxsim(task: Task, path: Path) -> None:
    """Prunes the dense file by `onnxsim.apply_structured_pruning`, with one ratio for all layers."""
    import onnxsim

    with tempfile.TemporaryDirectory() as folder:
        dense = Path(folder) / "dense.onnx"
        export_onnx(task.network(), (image(task.batch),), {}, dense, dynamic_batch=False)
        proto, _ = onnxsim.simplify(onnx.load(dense))
        whole = count_macs(dense)
        files = (Path(folder) / f"{number}.onnx" for number in range(99))

        def prune(ratio: float) -> Path:
            file = next(files)
            onnx.save(onnxsim.apply_structured_pruning(copy.deepcopy(proto), sparsity=ratio), file)
            return file

        def left(file: Path) -> float:
            return count_macs(file) / whole if task.measure == "macs" else latency_left(task, dense, file)

        shutil.copy(task.searched(prune, left), path)


TOOLS: dict[str, Callable[[Task, Path], object]] = {
    "dense": lambda task, path: export(task.network(), path),
    "graphprune": lambda task, path: by_graphprune(task, path, "auto"),
    "graphprune, align=1": lambda task, path: by_graphprune(task, path, 1),
    "torch-pruning": lambda task, path: by_torch_pruning(task, path, None),
    "torch-pruning, round_to=16": lambda task, path: by_torch_pruning(task, path, 16),
    "onnxsim": by_onnxsim,
}
"""Functions that do a task with a tool and write the ONNX file, by name of the tool."""


def main() -> None:
    """Runs one tool."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tool", choices=TOOLS)
    parser.add_argument("model")
    parser.add_argument("path", type=Path)
    parser.add_argument("--measure", choices=("macs", "latency"), default="macs")
    parser.add_argument("--share", type=share, default=2 / 3, help="to be removed")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--batch", type=count, default=1, help="images in a run")
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    task = Task(options.model, options.measure, options.share, options.provider, options.threads, options.batch)
    TOOLS[options.tool](task, options.path)


if __name__ == "__main__":
    main()
