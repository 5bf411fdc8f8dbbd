"""Times analysis and rewriting against torch-pruning's build and prune, interleaved, on one thread.

graphprune: capture, label run, trial prune, selection under a random ranking, rewriting; the proof is left out, for
torch-pruning has none. torch-pruning: build of a BasePruner and one step with a random ranking. Both remove half of the
channels of random-weight torchvision models. Each model has a process of its own, in which the tools take turns; one
that fails or does not end is recorded with its error. One JSON line per model; models in the file are not run again.

    python -m benchmarks.compile_time --models resnet50 densenet201
    python -m benchmarks.compile_time --models all --out benchmarks/results/compile_time.jsonl
"""

from __future__ import annotations

import argparse
import gc
import json
import signal
import statistics
import subprocess
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import nn

import graphprune
from benchmarks.rows import read, record
from graphprune.deploy import describe_hardware, library_versions

SPARSITY = 0.5
IMAGE = (1, 3, 224, 224)
MAX_PARAMETERS = 100e6
"""Parameters at most of the models that ``--models all`` stands for."""

Seconds = dict[str, float]
"""Seconds of one run, as ``wall`` and ``cpu``."""


def build(name: str) -> nn.Module:
    """Returns a torchvision classification model with random weights, in evaluation mode."""
    options = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
    model: nn.Module = torchvision.models.get_model(name, weights=None, **options)
    return model.eval()


def all_models() -> list[str]:
    """Returns the names of torchvision's classification models of up to `MAX_PARAMETERS`."""
    parameters = {
        name: next(iter(torchvision.models.get_model_weights(name))).meta["num_params"]
        for name in torchvision.models.list_models(module=torchvision.models)
    }
    return [name for name, count in parameters.items() if count <= MAX_PARAMETERS]


def run_graphprune(model: nn.Module, example: torch.Tensor) -> None:
    """Analyses and rewrites a model by graphprune in one round, without the proof."""
    graphprune.compile(model, example, sparsity=SPARSITY, criterion="random", schedule="one-shot", verify=False)


def run_torch_pruning(model: nn.Module, example: torch.Tensor) -> None:
    """Builds a pruner of torch-pruning and prunes a model by it."""
    import torch_pruning as tp

    heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 1000]
    options = {"pruning_ratio": SPARSITY, "global_pruning": True, "ignored_layers": heads}
    tp.pruner.BasePruner(model, example, importance=tp.importance.RandomImportance(), **options).step()


Tool = Callable[[nn.Module, torch.Tensor], None]
TOOLS: dict[str, Tool] = {"graphprune": run_graphprune, "torch-pruning": run_torch_pruning}


@contextmanager
def time_limit(limit_s: float) -> Iterator[None]:
    """Raises TimeoutError in code that is still running after ``limit_s`` seconds."""

    def stop(*_: object) -> None:
        raise TimeoutError(f"no end in {limit_s:.0f} s")

    signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, limit_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


def timed(tool: str, name: str, limit_s: float) -> Seconds:
    """Times one run of a tool on a fresh model."""
    model, example = build(name), torch.randn(IMAGE)
    gc.collect()
    with time_limit(limit_s):
        wall, cpu = time.perf_counter(), time.process_time()
        TOOLS[tool](model, example)
        return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def measure(name: str, repeats: int, limit_s: float) -> dict[str, Any]:
    """Times both tools in turns, without their first runs; a tool that fails is not tried again, and its error kept."""
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    samples: dict[str, list[Seconds]] = {tool: [] for tool in TOOLS}
    errors: dict[str, str] = {}
    for _ in range(repeats + 1):
        for tool in TOOLS:
            if tool in errors:
                continue
            try:
                samples[tool].append(timed(tool, name, limit_s))
            except Exception as error:  # a tool may fail in any way; that is a result
                errors[tool] = f"{type(error).__name__}: {error}"
    seconds = {tool: _summary(values[1:]) for tool, values in samples.items() if tool not in errors}
    ratio = None if errors else seconds["graphprune"]["median_s"] / seconds["torch-pruning"]["median_s"]
    return {"model": name, "seconds": seconds, "errors": errors, "ratio": ratio}


def _summary(samples: list[Seconds]) -> dict[str, float]:
    wall, cpu = ([sample[clock] for sample in samples] for clock in ("wall", "cpu"))
    return {
        "median_s": statistics.median(wall), "min_s": min(wall), "max_s": max(wall),
        "cpu_median_s": statistics.median(cpu), "samples": len(samples),
    }  # fmt: skip


def measure_apart(name: str, repeats: int, limit_s: float) -> dict[str, Any]:
    """Runs `measure` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.compile_time", "--apart", name]
    done = subprocess.run(
        [*command, "--repeats", str(repeats), "--limit-s", str(limit_s)], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        return {"model": name, "seconds": {}, "errors": {"process": f"ended with {done.returncode}"}, "ratio": None}
    row: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return row


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns the ratios over the models where both tools work, and the failures."""
    ratios = {row["model"]: row["ratio"] for row in rows if row["ratio"]}
    return {
        "models": len(rows),
        "both_work": len(ratios),
        "geometric_mean_ratio": statistics.geometric_mean(ratios.values()) if ratios else None,
        "worst_ratio": max(ratios.values(), default=None),
        "worst_model": max(ratios, key=lambda name: ratios[name], default=None),
        "failures": {row["model"]: row["errors"] for row in rows if row["errors"]},
    }


def main() -> None:
    """Measures the models that the results file does not have yet, then prints the summary of all."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["resnet18", "resnet50", "mobilenet_v2", "densenet201"])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--limit-s", type=float, default=300, help="of one run of one tool")
    parser.add_argument("--out", type=Path, help="JSON lines")
    parser.add_argument("--apart", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.apart:
        print(json.dumps(measure(options.apart, options.repeats, options.limit_s)))
        return
    rows = [row for row in read(options.out) if "model" in row]
    if not rows:
        record(options.out, {"hardware": str(describe_hardware()), "versions": library_versions(), "threads": 1})
    done = {row["model"] for row in rows}
    for name in all_models() if options.models == ["all"] else options.models:
        if name not in done:
            rows.append(measure_apart(name, options.repeats, options.limit_s))
            record(options.out, rows[-1])
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
