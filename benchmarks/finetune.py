"""Accuracy after a short training without targets, on the thousand pictures that ranked and repaired the network.

A trained network loses a share of its multiply-accumulates in one round, is repaired, and then goes through
`graphprune.finetune` with pictures mirrored at random and no targets. One JSON line for each run; runs in the file are
not made again.

    python -m benchmarks.finetune --data-dir DIR --weights-dir DIR
    python -m benchmarks.finetune --summary
"""

from __future__ import annotations

import argparse
import itertools
import statistics
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor, nn

import graphprune
from benchmarks.accuracy import add_places
from benchmarks.repair import SAMPLES, dense_network, pruned
from benchmarks.rows import Row, read, record
from benchmarks.trained_networks import SETTINGS
from graphprune.deploy import describe_hardware, library_versions
from graphprune.research.datasets import Dataset, mirrored, sensitivity_batches
from graphprune.research.epochs import accuracy

RESULTS = Path(__file__).resolve().parent / "results" / "finetune.jsonl"
CRITERION = "fisher-per-mac"
SHARES = (0.3, 0.5, 0.7)
EPOCHS = 10
BATCH = 64
KEYS = ("network", "macs_asked", "seed", "epochs")


@dataclass
class Unlabelled:
    """Batches of pictures in a new order each time, half of them mirrored.

    Attributes:
        inputs: Pictures ``(N, C, H, W)``.
        generator: Of the order and of what is mirrored.
    """

    inputs: Tensor
    generator: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(0))

    def __len__(self) -> int:
        """Number of batches."""
        return -(-len(self.inputs) // BATCH)

    def __iter__(self) -> Iterator[tuple[Tensor, None]]:
        """The batches of an epoch."""
        order = torch.randperm(len(self.inputs), generator=self.generator)
        for part in order.split(BATCH):
            yield mirrored(self.inputs[part], 0.5, self.generator), None


def run(name: str, share: float, seed: int, dense: nn.Module, data: Dataset) -> Row:
    """Prunes, repairs and trains; returns the row, but for the dense accuracy."""
    batches = sensitivity_batches(data.train, SAMPLES, batch_size=128, seed=seed)
    compiled = pruned(dense, data, CRITERION, share, seed)
    compiled.repair(batches, samples=SAMPLES, seed=seed)
    repaired = accuracy(compiled.module, data.test)
    found = graphprune.finetune(compiled, Unlabelled(torch.cat([inputs for inputs, _ in batches])), epochs=EPOCHS)
    proof = compiled.verify()
    return {
        "network": name, "criterion": CRITERION, "macs_asked": share, "seed": seed, "epochs": EPOCHS,
        "macs": compiled.report.achieved["macs"], "repaired": repaired,
        "finetuned": accuracy(compiled.module, data.test), "seconds": found.seconds,
        "epoch_losses": list(found.epoch_losses), "proof_error": proof.relative_error, "samples": SAMPLES,
        "hardware": str(describe_hardware()), "threads": torch.get_num_threads(), "versions": library_versions(),
    }  # fmt: skip


def summary(rows: list[Row]) -> str:
    """Returns mean accuracies over the seeds, with the accuracy of each, by network and share."""
    groups: dict[tuple[str, float, int], list[Row]] = defaultdict(list)
    for row in rows:
        groups[row["network"], row["macs_asked"], row["epochs"]].append(row)
    lines = []
    for (network, share, epochs), of in sorted(groups.items()):
        dense, repaired, tuned = (
            statistics.mean(row[column] for row in of) for column in ("dense", "repaired", "finetuned")
        )
        each = ", ".join(f"{row['finetuned']:.2%}" for row in sorted(of, key=lambda row: row["seed"]))
        seconds = statistics.median(row["seconds"] for row in of)
        lines.append(
            f"{network}, {share:.0%} of the MACs removed: dense {dense:.2%}, repaired {repaired:.2%}, after {epochs} "
            f"epochs without targets {tuned:.2%} ({each}); {seconds:.0f} s"
        )
    return "\n".join(lines)


def main() -> None:
    """Makes the runs that the results file does not have yet, then prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=SETTINGS, default=["resnet20", "resnet56"])
    parser.add_argument("--shares", nargs="+", type=float, default=SHARES)
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    add_places(parser, RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = read(options.out)
    done = {tuple(row[key] for key in KEYS) for row in rows}
    wanted = itertools.product(options.networks, options.shares, options.seeds)
    left = [] if options.summary else [key for key in wanted if (*key, EPOCHS) not in done]
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
