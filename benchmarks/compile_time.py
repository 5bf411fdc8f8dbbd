"""Times analysis and rewriting against torch-pruning's build and prune, interleaved, on one thread.

graphprune: capture, label run, trial prune, selection under a random ranking, rewriting; the proof is left out, for
torch-pruning has none. torch-pruning: build of a BasePruner and one step with a random ranking. Both remove half of the
channels of random-weight torchvision models.

    python benchmarks/compile_time.py --models resnet50 densenet201 --out benchmarks/results/compile_time.json
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import graphprune
from graphprune.capture import capture
from graphprune.deploy import describe_hardware, library_versions
from graphprune.errors import GraphPruneError

SPARSITY = 0.5
IMAGE = (1, 3, 224, 224)


def build(name: str) -> nn.Module:
    """A torchvision classification model with random weights, in evaluation mode."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = getattr(torchvision.models, name)(weights=None, **options)
    return model.eval()


def graphprune_seconds(name: str) -> float:
    """Analysis and rewriting by graphprune, one round, without the proof."""
    model, example = build(name), torch.randn(IMAGE)
    started = time.perf_counter()
    graphprune.compile(model, example, sparsity=SPARSITY, criterion="random", schedule="one-shot", verify=False)
    return time.perf_counter() - started


def torch_pruning_seconds(name: str) -> float:
    """Build and prune by torch-pruning."""
    import torch_pruning as tp

    model, example = build(name), torch.randn(IMAGE)
    heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 1000]
    started = time.perf_counter()
    pruner = tp.pruner.BasePruner(
        model,
        example,
        importance=tp.importance.RandomImportance(),
        pruning_ratio=SPARSITY,
        global_pruning=True,
        ignored_layers=heads,
    )
    pruner.step()
    return time.perf_counter() - started


TOOLS: dict[str, Callable[[str], float]] = {"graphprune": graphprune_seconds, "torch-pruning": torch_pruning_seconds}


def measure(name: str, repeats: int) -> dict[str, Any]:
    """Both tools in turns; a tool that fails is recorded with its error and not tried again."""
    seconds: dict[str, list[float]] = {tool: [] for tool in TOOLS}
    errors: dict[str, str] = {}
    for _ in range(repeats + 1):
        for tool, run in TOOLS.items():
            if tool in errors:
                continue
            gc.collect()
            try:
                seconds[tool].append(run(name))
            except GraphPruneError:
                raise
            except Exception as error:  # the peer may fail in any way; that is a result
                errors[tool] = f"{type(error).__name__}: {error}"
    rows = {tool: _summary(values[1:]) for tool, values in seconds.items() if len(values) > 1}
    ratio = None
    if len(rows) == len(TOOLS):
        ratio = rows["graphprune"]["median_s"] / rows["torch-pruning"]["median_s"]
    return {"model": name, "seconds": rows, "errors": errors, "ratio": ratio}


def _summary(values: list[float]) -> dict[str, float]:
    return {"median_s": statistics.median(values), "min_s": min(values), "max_s": max(values), "samples": len(values)}


def main() -> None:
    """Runs the benchmark and writes JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "mobilenet_v2", "densenet201"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    capture(build("resnet18"), torch.randn(IMAGE))  # imports and first-call costs are not what is compared
    rows = []
    for name in options.models:
        rows.append(measure(name, options.repeats))
        print(json.dumps(rows[-1]), flush=True)
    result = {
        "what": "seconds of analysis + rewriting and of build + prune; one thread, first run dropped",
        "hardware": str(describe_hardware()),
        "versions": library_versions(),
        "rows": rows,
    }
    if options.out:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
