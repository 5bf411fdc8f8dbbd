"""Accuracy without training: right after pruning, with batch norms recalibrated, and with layers refitted.

A trained network loses a share of its multiply-accumulates in one round. The same samples, without their targets, then
serve the repair. One JSON line for each run; runs in the file are not made again.

    python -m benchmarks.repair --data-dir DIR --weights-dir DIR
    python -m benchmarks.repair --networks resnet56 --criteria fisher-per-mac --data-dir DIR --weights-dir DIR
    python -m benchmarks.repair --summary
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

import graphprune
from benchmarks.accuracy import add_places
from benchmarks.rows import Row, read, record
from benchmarks.trained_networks import SETTINGS
from graphprune import Budget, Compiled
from graphprune.deploy import describe_hardware, library_versions
from graphprune.research.datasets import Dataset, sensitivity_batches
from graphprune.research.epochs import accuracy
from graphprune.research.training import Recipe, train

RESULTS = Path(__file__).resolve().parent / "results" / "repair.jsonl"
CRITERIA = ("fisher-per-mac", "fisher", "elasticity-per-mac", "elasticity", "l2-norm", "random")
SHARES = (0.3, 0.5, 0.7)
SAMPLES = 1024
"""Number of samples that channels are ranked on, and that layers are fitted to or judged by."""

DENSE = Recipe(2, 128, 1e-3)
"""How the dense network goes on training on the whole training split, so that it knows these pictures."""

KEYS = ("network", "criterion", "macs_asked", "seed")


def dense_network(name: str, data: Dataset, options: argparse.Namespace) -> nn.Module:
    """Returns the dense network, which is trained once and kept in the working directory."""
    path = options.work / f"{name}-whole-split.pt"
    model = SETTINGS[name].network(options.weights_dir, 0)
    if path.exists():
        model.load_state_dict(torch.load(path, weights_only=True))
    else:
        train(model, data.train, DENSE, 0)
        torch.save(model.state_dict(), path)
    return model.eval()


def pruned(dense: nn.Module, data: Dataset, criterion: str, share: float, seed: int) -> Compiled:
    """Prunes in one round."""
    batches = sensitivity_batches(data.train, SAMPLES, batch_size=128, seed=seed)
    return graphprune.compile(
        dense, data.test.inputs[:8], budget=Budget(macs=share), data=batches, samples=SAMPLES, criterion=criterion,
        schedule="one-shot", seed=seed,
    )  # fmt: skip


def run(name: str, criterion: str, share: float, seed: int, dense: nn.Module, data: Dataset) -> Row:
    """Prunes, recalibrates, and repairs what was pruned alike; returns the row, but for the dense accuracy."""
    batches = sensitivity_batches(data.train, SAMPLES, batch_size=128, seed=seed)
    recalibrated, repaired = (pruned(dense, data, criterion, share, seed) for _ in range(2))
    right_after = accuracy(repaired.module, data.test)
    recalibrated.recalibrate(batches, samples=SAMPLES)
    started = time.perf_counter()
    found = repaired.repair(batches, samples=SAMPLES, seed=seed)
    seconds = time.perf_counter() - started
    proof = repaired.verify()
    return {
        "network": name, "criterion": criterion, "macs_asked": share, "seed": seed,
        "macs": repaired.report.achieved["macs"], "params": repaired.report.achieved["params"],
        "right_after": right_after,
        "recalibrated": accuracy(recalibrated.module, data.test), "repaired": accuracy(repaired.module, data.test),
        "seconds": seconds, "loss_before": found.loss_before, "loss_after": found.loss_after,
        "left": [list(entry) for entry in found.left], "proof_error": proof.relative_error, "samples": SAMPLES,
        "hardware": str(describe_hardware()), "threads": torch.get_num_threads(), "versions": library_versions(),
    }  # fmt: skip


def summary(rows: list[Row]) -> str:
    """Returns mean accuracies over the seeds, by network, share and criterion, the best repaired first."""
    groups: dict[tuple[str, float], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        groups[row["network"], row["macs_asked"]][row["criterion"]].append(row)
    lines = []
    for (network, share), by_criterion in sorted(groups.items()):
        dense = statistics.mean(row["dense"] for of in by_criterion.values() for row in of)
        lines.append(f"{network}, {share:.0%} of the MACs removed, dense {dense:.2%}")
        means = {
            criterion: [statistics.mean(row[column] for row in of) for column in COLUMNS]
            for criterion, of in by_criterion.items()
        }
        for criterion, values in sorted(means.items(), key=lambda entry: -entry[1][-1]):
            of = by_criterion[criterion]
            each = ", ".join(f"{row['repaired']:.2%}" for row in sorted(of, key=lambda row: row["seed"]))
            seconds = statistics.median(row["seconds"] for row in of)
            lines.append(f"  {criterion:<20}" + "".join(f"{value:>9.2%}" for value in values))
            lines[-1] += f"   repaired by seed: {each}; {seconds:.1f} s"
    return "\n".join(lines)


COLUMNS = ("right_after", "recalibrated", "repaired")


def main() -> None:
    """Makes the runs that the results file does not have yet, then prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=SETTINGS, default=["resnet20", "resnet56"])
    parser.add_argument("--criteria", nargs="+", default=list(CRITERIA))
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add_places(parser, RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(options.out)
    done = {tuple(row[key] for key in KEYS) for row in rows}
    wanted = itertools.product(options.networks, options.criteria, options.shares, options.seeds)
    left = [] if options.summary else [key for key in wanted if key not in done]
    for name, of_network in itertools.groupby(left, key=lambda key: key[0]):
        data = replace(SETTINGS[name], train_samples=None).dataset(options.data_dir)
        dense = dense_network(name, data, options)
        accuracy_dense = accuracy(dense, data.test)
        for key in of_network:
            rows.append(run(*key, dense, data) | {"dense": accuracy_dense})
            record(options.out, rows[-1])
    print(summary(rows))


if __name__ == "__main__":
    main()
