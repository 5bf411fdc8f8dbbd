"""Accuracy at equal measured latency: one trained network, pruned by each tool and criterion, then fine-tuned alike.

Networks are trained dense first. Every method then prunes the same weights until the ONNX file takes 1/2 or 1/3 of the
dense one's time, measured; all are fine-tuned by one recipe. Methods are graphprune with its own criteria, graphprune
with torch-pruning's importance objects, and torch-pruning's own pruner, whose ratio is searched by bisection. One JSON
line for each run; runs in the file are not made again.

    python -m benchmarks.accuracy --networks lenet5 --data-dir DIR
    python -m benchmarks.accuracy --networks resnet20 --data-dir DIR --weights-dir DIR --seeds 0 1 2
    python -m benchmarks.accuracy --summary
"""

from __future__ import annotations

import argparse
import copy
import itertools
import statistics
import tempfile
import warnings
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

import graphprune
from benchmarks.latency_tools import searched
from benchmarks.rows import Row, read, record
from benchmarks.trained_networks import SETTINGS, Setting
from graphprune import Budget, Profile
from graphprune.deploy import TimingResult, describe_hardware, export_onnx, library_versions, time_interleaved
from graphprune.research.datasets import Dataset, sensitivity_batches
from graphprune.research.epochs import accuracy
from graphprune.research.training import train

RESULTS = Path(__file__).resolve().parent / "results" / "accuracy.jsonl"
SPEEDUPS = (2.0, 3.0)
SAMPLES = 2560
"""Number of samples that channels are ranked on, the same for all methods."""

TRIES = 7
"""Tries of the bisection for torch-pruning's ratio."""


@dataclass(frozen=True)
class Job:
    """A dense network that is to be pruned to a latency.

    Attributes:
        dense: Trained network; it is not changed.
        setting: How the network was trained.
        data: Dataset of the network.
        speedup: How many times faster the result has to be.
        seed: Seed of ranking samples, of random rankings and of fine-tuning.
        folder: For ONNX files.
    """

    dense: nn.Module
    setting: Setting
    data: Dataset
    speedup: float
    seed: int
    folder: Path

    @property
    def example(self) -> Tensor:
        """Batch of the size that is timed."""
        return self.data.test.inputs[: self.setting.batch_size]

    def batches(self) -> list[tuple[Tensor, Tensor]]:
        """Returns the training samples that channels are ranked on."""
        return sensitivity_batches(self.data.train, SAMPLES, batch_size=128, seed=self.seed)

    def timed(self, module: nn.Module, repeats: int) -> TimingResult:
        """Times the module against the dense network."""
        files = {name: self.folder / f"{name}.onnx" for name in ("dense", "compact")}
        if not files["dense"].exists():
            export_onnx(self.dense, (self.example,), {}, files["dense"])
        export_onnx(module, (self.example,), {}, files["compact"])
        return time_interleaved(files, {"input": self.example.numpy()}, repeats=repeats)

    def left(self, module: nn.Module) -> float:
        """Returns the latency of the module as a share of the dense network's."""
        return 1 / self.timed(module, repeats=15).speedup("dense", "compact").pairwise_median


Method = Callable[[Job], nn.Module]


def by_graphprune(job: Job, criterion: Any, accumulate: str = "absolute") -> nn.Module:
    """Prunes by graphprune in seven rounds, which choose widths by their gain in latency."""
    budget = Budget(latency=1 - 1 / job.speedup)
    target = Profile.here(batch_size=job.setting.batch_size)
    return graphprune.compile(
        job.dense, job.example, budget=budget, data=job.batches(), samples=SAMPLES, criterion=criterion,
        accumulate=accumulate, target=target, seed=job.seed,
    ).module  # fmt: skip


def by_torch_pruning(job: Job, importance: Callable[[], Any], takes_gradients: bool = False) -> nn.Module:
    """Prunes by torch-pruning's `BasePruner` with its default of one ratio for all layers."""
    import torch_pruning as tp

    def prune(ratio: float) -> nn.Module:
        model = copy.deepcopy(job.dense).eval()
        heads = [module for module in model.modules() if isinstance(module, nn.Linear) and module.out_features == 10]
        pruner = tp.pruner.BasePruner(
            model, job.example, importance=importance(), pruning_ratio=ratio, ignored_layers=heads
        )
        if takes_gradients:
            for inputs, targets in job.batches():
                functional.cross_entropy(model(inputs), targets).backward()
        pruner.step()
        model.zero_grad()
        return model

    torch.manual_seed(job.seed)
    return searched(prune, job.left, 1 / job.speedup, TRIES)


def methods() -> dict[str, Method]:
    """Returns every tool with every criterion, by name."""
    import torch_pruning as tp

    importance = tp.importance
    theirs: dict[str, tuple[Callable[[], Any], bool]] = {
        "random": (importance.RandomImportance, False),
        "l1": (lambda: importance.MagnitudeImportance(p=1), False),
        "group l2": (lambda: importance.GroupMagnitudeImportance(p=2), False),
        "bn scale": (importance.BNScaleImportance, False),
        "lamp": (importance.LAMPImportance, False),
        "taylor": (importance.GroupTaylorImportance, True),
    }
    found: dict[str, Method] = {
        "graphprune: elasticity": lambda job: by_graphprune(job, "elasticity"),
        "graphprune: elasticity, signed": lambda job: by_graphprune(job, "elasticity", "signed"),
        "graphprune: random": lambda job: by_graphprune(job, "random"),
        "graphprune: l2-norm": lambda job: by_graphprune(job, "l2-norm"),
        "graphprune: taylor of torch-pruning": lambda job: by_graphprune(job, importance.GroupTaylorImportance()),
    }
    for name, (make, takes_gradients) in theirs.items():

        def method(job: Job, make: Callable[[], Any] = make, takes_gradients: bool = takes_gradients) -> nn.Module:
            return by_torch_pruning(job, make, takes_gradients)

        found[f"torch-pruning: {name}"] = method
    return found


def trained_dense(name: str, data: Dataset, options: argparse.Namespace, seed: int) -> nn.Module:
    """Returns the dense network of a seed, which is trained once and kept in the working directory."""
    setting, path = SETTINGS[name], options.work / f"{name}-{seed}.pt"
    model = setting.network(options.weights_dir, seed)
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        train(model, data.train, setting.dense, seed)
        torch.save(model.state_dict(), path)
    return model.eval()


def run(name: str, method: str, job: Job) -> Row:
    """Prunes, measures, fine-tunes, measures again; returns the row."""
    module = methods()[method](job)
    timing = job.timed(module, repeats=41)
    speedup = timing.speedup("dense", "compact")
    pruned = accuracy(module, job.data.test)
    train(module, job.data.train, job.setting.finetune, job.seed)
    return {
        "network": name, "method": method, "speedup_asked": job.speedup, "seed": job.seed,
        "accuracy": accuracy(module, job.data.test), "accuracy_pruned": pruned,
        "accuracy_dense": accuracy(job.dense, job.data.test), "speedup": speedup.pairwise_median,
        "speedup_p10": speedup.pairwise_p10, "speedup_p90": speedup.pairwise_p90,
        "latency_ms": timing.latencies["compact"].median_ms, "params": sum(p.numel() for p in module.parameters()),
        "batch": timing.batch_size, "provider": timing.provider, "threads": timing.threads, "repeats": timing.repeats,
        "hardware": str(describe_hardware()), "versions": library_versions(),
    }  # fmt: skip


def run_or_error(name: str, method: str, job: Job) -> Row:
    """Returns the row of a run, with the error if a tool fails."""
    try:
        return run(name, method, job)
    except Exception as error:  # a tool may fail in any way; that is a result
        key = {"network": name, "method": method, "speedup_asked": job.speedup, "seed": job.seed}
        return key | {"error": f"{type(error).__name__}: {str(error)[:300]}"}


def summary(rows: list[Row]) -> str:
    """Returns mean accuracies over the seeds with their spread, by network, speed-up and method, the best first."""
    groups: dict[tuple[str, float], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["network"], row["speedup_asked"]][row["method"]].append(row)
    lines = []
    for (network, speedup), by_method in groups.items():
        worked = {method: [row for row in of if "error" not in row] for method, of in by_method.items()}
        dense = [row["accuracy_dense"] for of in worked.values() for row in of]
        lines.append(f"{network}, {speedup:g}x" + (f", dense {statistics.mean(dense):.2%}" if dense else ""))
        means = {method: statistics.mean(row["accuracy"] for row in of) for method, of in worked.items() if of}
        for method in sorted(means, key=lambda each: -means[each]):
            values = [row["accuracy"] for row in worked[method]]
            faster = statistics.mean(row["speedup"] for row in worked[method])
            spread = f"{min(values):.2%} to {max(values):.2%}"
            lines.append(f"  {method:<38}{means[method]:>8.2%}  {spread}  {len(values)} seeds  {faster:.2f}x")
        lines += [f"  {m:<38}{of[0]['error']}" for m, of in by_method.items() if "error" in of[0]]
    return "\n".join(lines)


def add_places(parser: argparse.ArgumentParser, results: Path) -> None:
    """Adds the options that say where data, weights and results are, as `trained_dense` reads them."""
    parser.add_argument("--data-dir", type=Path, help="of the datasets; default: GRAPHPRUNE_DATA")
    parser.add_argument("--weights-dir", type=Path, help="of the pretrained ResNets' safetensors files")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="keeps the dense networks")
    parser.add_argument("--out", type=Path, default=results)
    parser.add_argument("--summary", action="store_true", help="print what the results file has, and run nothing")


def main() -> None:
    """Makes the runs that the results file does not have yet, then prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=SETTINGS, default=["lenet5", "resnet20"])
    parser.add_argument("--methods", nargs="+", help="names as in the summary; default: all")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--speedups", nargs="+", type=float, default=SPEEDUPS)
    add_places(parser, RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = read(options.out)
    keys = ("network", "seed", "speedup_asked", "method")
    done = {tuple(row[key] for key in keys) for row in rows}
    names = options.methods or list(methods())
    wanted = list(itertools.product(options.networks, options.seeds, options.speedups, names))
    for (name, seed), runs in itertools.groupby([] if options.summary else wanted, key=lambda key: key[:2]):
        left = [run for run in runs if run not in done]
        if not left:
            continue
        data = SETTINGS[name].dataset(options.data_dir)
        dense = trained_dense(name, data, options, seed)
        with tempfile.TemporaryDirectory() as folder:
            for _, _, speedup, method in left:
                job = Job(dense, SETTINGS[name], data, speedup, seed, Path(folder))
                rows.append(run_or_error(name, method, job))
                record(options.out, rows[-1])
    print(summary(rows))


if __name__ == "__main__":
    main()
