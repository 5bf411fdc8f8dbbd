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
import tempfile
import time
import warnings
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn

import graphprune
from benchmarks.accuracy import trained_dense
from benchmarks.rows import Row, read, record
from benchmarks.trained_networks import SETTINGS
from graphprune.criteria.elasticity import Elasticity
from graphprune.criteria.evenly import Evenly
from graphprune.data import cross_entropy
from graphprune.deploy import describe_hardware, library_versions
from graphprune.research.data_files import fashion_mnist
from graphprune.research.datasets import Dataset, Split, sensitivity_batches
from graphprune.research.methods.iterated import Iterated, published_loss
from graphprune.research.metrics import spread_over_seeds
from graphprune.research.networks import DROPOUT, NEGATIVE_SLOPE, ConvNet, build, orthogonal_init_
from graphprune.research.training import Recipe, accuracy, train

RESULTS = Path(__file__).resolve().parent / "results" / "ablation.jsonl"

Granularity = Literal["channel", "weight"]

KEYS = ("network", "granularity", "variant", "sparsity", "seed", "finetune_epochs")
"""What tells runs apart."""


@dataclass(frozen=True)
class Variant:
    """One way to rank.

    Attributes:
        granularity: What goes.
        criterion: ``"elasticity"``, or a baseline by name.
        accumulate: How samples add up.
        training: Score with batch statistics and dropout.
        before: Gates come before normalisations.
        published: The published code's loss.
        schedule: Iterated (``"halving"``) or ``"one-shot"``.
    """

    granularity: Granularity
    criterion: str = "elasticity"
    accumulate: str = "signed"
    training: bool = False
    before: bool = False
    published: bool = False
    schedule: str = "halving"

    @property
    def name(self) -> str:
        """All choices, those that are no defaults of the paper by name."""
        if self.criterion != "elasticity":
            return self.criterion
        turned = {
            "training mode": self.training, "gates before normalisation": self.before, "published loss": self.published,
        }  # fmt: skip
        return ", ".join([self.accumulate, self.schedule, *(name for name, is_so in turned.items() if is_so)])

    def ranking(self) -> Any:
        """The criterion as `graphprune.compile` takes it."""
        if self.criterion.endswith(", evenly"):
            return Evenly(self.criterion.removesuffix(", evenly"))
        if self.criterion == "elasticity" and (self.training or self.before):
            return Elasticity(self.training, self.before)
        return self.criterion


BASELINES: Mapping[Granularity, tuple[str, ...]] = {
    "channel": ("random", "random, evenly", "l1-norm", "l1-norm, evenly"), "weight": ("random", "magnitude"),
}  # fmt: skip


def variants(granularity: Granularity, schedule: str) -> list[Variant]:
    """Each way of accumulating as it is and with one choice turned round, then the baselines.

    Modes and gates are of channels; in training mode a gate before a normalisation has no gradient, so those two are
    not put together.
    """
    other = "one-shot" if schedule == "halving" else "halving"
    turns: list[dict[str, Any]] = [{}, {"published": True}, {"schedule": other}]
    if granularity == "channel":
        turns += [{"training": True}, {"before": True}]
    found = [
        Variant(granularity, **({"accumulate": accumulate, "schedule": schedule} | turned))
        for accumulate in ("signed", "absolute", "squared")
        for turned in turns
    ]
    if granularity == "channel":  # all that the published code does at once
        found.append(Variant(granularity, before=True, published=True, schedule=schedule))
    return found + [Variant(granularity, name, schedule=schedule) for name in BASELINES[granularity]]


@dataclass(frozen=True)
class Study:
    """A network and what is measured on it.

    Attributes:
        data: Reads its data.
        network: Before training, by seed; None for the trained ResNet20 of `benchmarks.trained_networks`.
        recipe: Training after the prune.
        train_samples: Of the training split that are used.
        test_samples: Of the test split.
        sparsities: Shares to remove: of the channels that may go, of the weights.
        schedule: That variants have unless it is what is turned round.
        samples: For scoring in a round.
        protect: Channels that stay; for the ResNet all but those inside of blocks.
    """

    data: Callable[[Path | None], Dataset]
    network: Callable[[int], nn.Module] | None
    recipe: Recipe
    train_samples: int
    test_samples: int
    sparsities: Mapping[Granularity, tuple[float, ...]]
    schedule: str
    samples: int = 2560
    protect: tuple[str, ...] = ()

    def dataset(self, directory: Path | None) -> Dataset:
        """The data, cut to the samples that are used."""
        data = self.data(directory)
        return replace(data, train=_first(data.train, self.train_samples), test=_first(data.test, self.test_samples))


def _first(split: Split, count: int) -> Split:
    return Split(split.inputs[:count].clone(), split.targets[:count].clone())


def narrow_conv6(seed: int) -> nn.Module:
    """Conv6 with a quarter of its channels, for images ``(1, 28, 28)``; orthogonal weights."""
    layers: list[nn.Module] = []
    for before, after in itertools.pairwise((1, 16, 16, 32, 32, 64, 64)):
        layers += [nn.Conv2d(before, after, 3, padding=1), nn.BatchNorm2d(after), nn.LeakyReLU(NEGATIVE_SLOPE)]
        if (before, after) in ((16, 16), (32, 32)):
            layers.append(nn.MaxPool2d(2))
    hidden = [nn.Dropout(DROPOUT), nn.Linear(576, 64), nn.BatchNorm1d(64), nn.LeakyReLU(NEGATIVE_SLOPE)]
    classifier = nn.Sequential(*hidden, nn.Dropout(DROPOUT), nn.Linear(64, 10))
    return orthogonal_init_(ConvNet(nn.Sequential(*layers), 3, classifier), seed)


def _lenet5(seed: int) -> nn.Module:
    return orthogonal_init_(build("lenet5", (1, 28, 28), 10), seed)


STUDIES: dict[str, Study] = {
    "lenet5": Study(
        fashion_mnist, _lenet5, Recipe(4, 128), 5000, 3000, {"channel": (0.7, 0.9), "weight": (0.95, 0.99)}, "halving"
    ),
    "conv6-narrow": Study(
        fashion_mnist, narrow_conv6, Recipe(3, 128), 4000, 3000, {"channel": (0.7, 0.9), "weight": (0.95, 0.99)},
        "halving",
    ),
    "resnet20": Study(
        SETTINGS["resnet20"].data, None, SETTINGS["resnet20"].finetune, 10_000, 2000,
        {"channel": (0.1, 0.2, 0.3, 0.4), "weight": (0.3, 0.5, 0.7, 0.9)}, "one-shot", 1024,
        ("conv1", "layer?.?.conv2"),
    ),
}  # fmt: skip


@dataclass(frozen=True)
class Job:
    """A run.

    Attributes:
        network: Name of its study.
        variant: How it ranks.
        sparsity: Share to remove.
        seed: Of initial weights, of scoring samples and of training; for the trained network of the samples.
        finetune_epochs: Of the trained network after the prune.
    """

    network: str
    variant: Variant
    sparsity: float
    seed: int
    finetune_epochs: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        """As `KEYS` of its row."""
        finetune = self.finetune_epochs if STUDIES[self.network].network is None else 0
        return (self.network, self.variant.granularity, self.variant.name, self.sparsity, self.seed, finetune)


def before_training(job: Job, model: nn.Module, data: Dataset) -> Row:
    """Prunes a fresh network, trains what is left, and tests it."""
    study, variant = STUDIES[job.network], job.variant
    method = Iterated(
        variant.name, variant.granularity, 0, variant.ranking(), variant.accumulate, variant.schedule,
        samples=study.samples, published_loss=variant.published,
    )  # fmt: skip
    trained = method.train(model, data, study.recipe, job.sparsity, job.seed)
    assert trained.compiled is not None
    return {"accuracy": accuracy(trained.module, data.test)} | _left(trained.compiled)


def after_training(job: Job, dense: nn.Module, data: Dataset) -> Row:
    """Prunes a trained network and tests it, before and, if asked for, after fine-tuning."""
    study, variant = STUDIES[job.network], job.variant
    compiled = graphprune.compile(
        dense, data.test.inputs[:2], sparsity=job.sparsity, granularity=variant.granularity,
        data=sensitivity_batches(data.train, study.samples, 128, job.seed), samples=study.samples,
        criterion=variant.ranking(), accumulate=variant.accumulate, schedule=variant.schedule, seed=job.seed,
        protect=study.protect if variant.granularity == "channel" else (),
        loss=published_loss if variant.published else cross_entropy,
    )  # fmt: skip
    row: Row = {"accuracy": accuracy(compiled.module, data.test), "accuracy_dense": accuracy(dense, data.test)}
    if job.finetune_epochs:
        recipe = replace(study.recipe, epochs=job.finetune_epochs)
        train(compiled.module, data.train, recipe, job.seed)
        row["accuracy_finetuned"] = accuracy(compiled.module, data.test)
    return row | _left(compiled)


def _left(compiled: graphprune.Compiled) -> Row:
    """What was removed, and whether it still hangs together."""
    report = compiled.report
    dead = report.dead_paths
    paths = {} if dead is None else {"dead_weights": dead.weights, "outputs_cut": dead.cut}
    return {"removed": report.achieved, "rounds": len(report.rounds)} | paths


def run(job: Job, model: nn.Module, data: Dataset) -> Row:
    """A row also where a variant cannot work: that is a result."""
    study, started = STUDIES[job.network], time.perf_counter()
    row: Row = dict(zip(KEYS, job.key, strict=True)) | {"choices": asdict(job.variant)}
    try:
        row |= (after_training if study.network is None else before_training)(job, model, data)
    except graphprune.errors.UserError as error:
        row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
    return row | {
        "seconds": time.perf_counter() - started, "samples": study.samples,
        "recipe": asdict(study.recipe), "train_samples": len(data.train), "test_samples": len(data.test),
        "hardware": str(describe_hardware()), "versions": library_versions(),
    }  # fmt: skip


def jobs(options: argparse.Namespace) -> Iterator[Job]:
    """All runs that were asked for; all variants of a network and a seed before the next, so that rows compare."""
    for seed, network, granularity in itertools.product(options.seeds, options.networks, options.granularities):
        study = STUDIES[network]
        for sparsity in options.sparsities or study.sparsities[granularity]:
            for variant in variants(granularity, study.schedule):
                yield Job(network, variant, sparsity, seed, options.finetune_epochs)


def models(network: str, data: Dataset, options: argparse.Namespace) -> Callable[[int], nn.Module]:
    """The network of each seed before the prune; the trained one is the same for all."""
    fresh = STUDIES[network].network
    if fresh is not None:
        return fresh
    dense = trained_dense(network, data, options, seed=0)
    return lambda seed: dense


def summary(rows: Sequence[Row]) -> str:
    """A Markdown table for each network and granularity: mean accuracy with its 95 % interval, by sparsity."""
    tables: dict[tuple[str, ...], dict[str, dict[float, list[float]]]] = defaultdict(lambda: defaultdict(dict))
    errors: dict[tuple[str, ...], dict[str, str]] = defaultdict(dict)
    for row in rows:
        for measure in ("accuracy", "accuracy_finetuned"):
            title = (row["network"], row["granularity"], measure.replace("_", ", "))
            if measure in row:
                tables[title][row["variant"]].setdefault(row["sparsity"], []).append(row[measure])
        if "error" in row:
            errors[row["network"], row["granularity"], "accuracy"][row["variant"]] = row["error"]
    return "\n\n".join(_table(title, of, errors.get(title, {})) for title, of in tables.items())


def _table(title: tuple[str, ...], cells: Mapping[str, Mapping[float, list[float]]], errors: Mapping[str, str]) -> str:
    """The best variant first, by the mean over its sparsities."""
    sparsities = sorted({sparsity for of in cells.values() for sparsity in of})

    def order(variant: str) -> float:
        return -sum(spread_over_seeds(values).mean for values in cells[variant].values()) / len(cells[variant])

    lines = [f"### {', '.join(title)}", "", "| variant | " + " | ".join(f"{each:.0%} removed" for each in sparsities)]
    lines[-1] += " |"
    lines.append("|---|" + "---:|" * len(sparsities))
    for variant in sorted(cells, key=order):
        texts = [_cell(cells[variant].get(sparsity, [])) for sparsity in sparsities]
        lines.append(f"| {variant} | " + " | ".join(texts) + " |")
    return "\n".join([*lines, *(f"\n{variant}: {error}" for variant, error in errors.items())])


def _cell(values: list[float]) -> str:
    """In percent."""
    if not values:
        return ""
    found = spread_over_seeds([100 * value for value in values])
    spread = "" if found.half_width is None else f" ± {found.half_width:.1f}"
    return f"{found.mean:.1f}{spread} ({len(values)})"


def main() -> None:
    """Makes the runs that the results file does not have yet, then prints the summary."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--networks", nargs="+", choices=STUDIES, default=list(STUDIES))
    parser.add_argument("--granularities", nargs="+", choices=("channel", "weight"), default=["channel", "weight"])
    parser.add_argument("--sparsities", nargs="+", type=float, help="default: those of the network's study")
    parser.add_argument("--seeds", nargs="+", type=int, default=[0, 1, 2])
    parser.add_argument("--finetune-epochs", type=int, default=0, help="of the trained network after the prune")
    parser.add_argument("--data-dir", type=Path, help="of the datasets; default: GRAPHPRUNE_DATA")
    parser.add_argument("--weights-dir", type=Path, help="of the pretrained ResNets' safetensors files")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()), help="keeps the dense networks")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--summary", action="store_true", help="print what the results file has, and run nothing")
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
