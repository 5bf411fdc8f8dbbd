"""The choices in scoring, one at a time: what the published code does, what the paper says, and the defaults.

Elasticities of channels (SNAP-it) and of weights (SNIP-it) are taken with samples' gradients accumulated signed,
absolute or squared; in evaluation or training mode; with gates after or before normalisations; with cross-entropy or
the published code's loss; and iterated or one-shot. From each way of accumulating, one choice at a time is turned
round; random and norms are beside them. Networks before training are pruned, then trained; the trained one is pruned
and tested, and fine-tuned if asked for. One JSON line for each run; runs in the file are not made again.

    python -m benchmarks.paper.ablation --networks lenet5 conv6-narrow --data-dir DIR
    python -m benchmarks.paper.ablation --networks resnet20 --data-dir DIR --weights-dir DIR --seeds 0 1
    python -m benchmarks.paper.ablation --summary
"""

from __future__ import annotations

import argparse
import itertools
import warnings
from collections.abc import Callable, Iterator

import torch
from torch import nn

from benchmarks.accuracy import add_places, trained_dense
from benchmarks.paper.ablation.runs import KEYS, Job, run
from benchmarks.paper.ablation.studies import STUDIES
from benchmarks.paper.ablation.tables import RESULTS, summary
from benchmarks.paper.ablation.variants import variants
from benchmarks.rows import read, record
from graphprune.research.datasets import Dataset


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """Yields all wanted runs, with the variants of a network and a seed together, so that their rows compare."""
    for seed, network, granularity in itertools.product(options.seeds, options.networks, options.granularities):
        study = STUDIES[network]
        for sparsity in options.sparsities or study.sparsities[granularity]:
            for variant in variants(granularity, study.schedule):
                yield Job(network, variant, sparsity, seed, options.finetune_epochs)


def models(network: str, data: Dataset, options: argparse.Namespace) -> Callable[[int], nn.Module]:
    """Returns a function from the seed to the network before the prune; a trained network is the same for all seeds."""
    fresh = STUDIES[network].network
    if fresh is not None:
        return fresh
    dense = trained_dense(network, data, options, seed=0)
    return lambda seed: dense


def main() -> None:
    """Makes the runs that the results file does not have yet, then prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--granularities", nargs="+", choices=("channel", "weight"), default=["channel", "weight"])
    parser.add_argument("--sparsities", nargs="+", type=float, help="default: those of the network's study")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--finetune-epochs", type=int, default=0, help="of the trained network after the prune")
    add_places(parser, RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    rows = read(options.out)
    done = {tuple(row[key] for key in KEYS) for row in rows}
    left = [] if options.summary else [job for job in jobs(options) if job.key not in done]
    data = {name: STUDIES[name].dataset(options.data_dir) for name in dict.fromkeys(job.network for job in left)}
    networks = {name: models(name, of, options) for name, of in data.items()}
    for job in left:
        rows.append(run(job, networks[job.network](job.seed), data[job.network]))
        record(options.out, rows[-1])
    print(summary(rows))


if __name__ == "__main__":
    main()
