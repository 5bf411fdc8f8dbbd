"""What seven rounds cost beyond the forward and backward passes that they cannot do without.

Before each round the same sensitivity samples go forward and backward through the network as it is then; that, summed
over the shrinking networks, is what the rounds are compared with. Peak memory is measured in processes of its own, of
a compilation and of one training step of the dense network, each above what the process had before.

    python -m benchmarks.compile_overhead --repeats 3 --out benchmarks/results/compile_overhead.json
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional

import graphprune
from graphprune.deploy import describe_hardware, library_versions
from graphprune.pass_manager.runner import Runner

SAMPLES, BATCH, SIDE, CLASSES, SPARSITY = 2560, 128, 32, 10, 0.9

Batches = list[tuple[Tensor, Tensor]]


def network() -> nn.Module:
    """Returns torchvision's resnet18 with random weights."""
    torch.manual_seed(0)
    model: nn.Module = torchvision.models.resnet18(num_classes=CLASSES)
    return model.eval()


def batches() -> Batches:
    """Returns random images with random classes, in batches."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(SAMPLES, 3, SIDE, SIDE, generator=generator)
    targets = torch.randint(CLASSES, (SAMPLES,), generator=generator)
    return [*zip(images.split(BATCH), targets.split(BATCH), strict=True)]


def forward_and_backward(module: nn.Module, data: Batches) -> float:
    """Returns the seconds that all batches take, with gradients of all weights."""
    started = time.perf_counter()
    for inputs, targets in data:
        functional.cross_entropy(module(inputs), targets).backward()
        module.zero_grad()
    return time.perf_counter() - started


def one_run() -> dict[str, Any]:
    """Returns the seconds of all rounds, and of the passes that they are compared with."""
    data, runner = batches(), Runner()
    started = time.perf_counter()
    pruner = graphprune.Pruner(network(), data[0][0][:2], sparsity=SPARSITY, data=data, samples=SAMPLES, runner=runner)
    compile_s, needed_s = time.perf_counter() - started, 0.0
    while pruner.rounds_left:
        needed_s += forward_and_backward(pruner.module.eval(), data)
        compile_s += pruner.step().seconds
    return {
        "compile_s": compile_s, "forward_and_backward_s": needed_s, "ratio": compile_s / needed_s,
        "rounds": len(pruner.rounds), "seconds_by_pass": dict(runner.seconds),
    }  # fmt: skip


def peak_mib() -> float:
    """Returns the largest memory that this process has had, in MiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def added_mib(what: str) -> float:
    """Returns the peak memory of a job, in MiB, above that of data and libraries."""
    data = batches()
    graphprune.compile(nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 2)), torch.randn(2, 4))  # loads libraries
    before = peak_mib()
    model = network()
    if what == "compile":
        graphprune.compile(model, data[0][0][:2], sparsity=SPARSITY, data=data, samples=SAMPLES)
    else:
        forward_and_backward(model.train(), data[:1])
    return peak_mib() - before


def added_mib_apart(what: str) -> float:
    """Runs `added_mib` in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.compile_overhead", "--memory", what]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Measures, prints, and writes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--memory", choices=("compile", "step"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    if options.memory:
        print(added_mib(options.memory))
        return
    memory = {what: added_mib_apart(what) for what in ("compile", "step")}
    runs = [one_run() for _ in range(options.repeats)]
    ratios = [run["ratio"] for run in runs]
    result = {
        "ratio_median": statistics.median(ratios), "ratio_min": min(ratios), "ratio_max": max(ratios),
        "memory_mib": memory, "memory_ratio": memory["compile"] / memory["step"], "runs": runs,
        "samples": SAMPLES, "batch": BATCH, "sparsity": SPARSITY, "threads": 1,
        "hardware": str(describe_hardware()), "versions": library_versions(),
    }  # fmt: skip
    print(json.dumps(result, indent=1))
    if options.out:
        options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
