"""A run of the ablation, in which a network is pruned by one variant and tested, and its row."""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace

from torch import nn

import graphprune
from benchmarks.paper.ablation.studies import STUDIES
from benchmarks.paper.ablation.variants import Variant
from benchmarks.rows import Row, versions
from graphprune.criteria.losses import cross_entropy
from graphprune.deploy import describe_hardware
from graphprune.research.datasets import Dataset, sensitivity_batches
from graphprune.research.epochs import accuracy
from graphprune.research.methods.iterated import Iterated, published_loss
from graphprune.research.training import train

KEYS = ("network", "granularity", "variant", "sparsity", "seed", "finetune_epochs")
"""Fields of a row that tell runs apart."""


@dataclass(frozen=True)
class Job:
    """A run of the ablation.

    Attributes:
        network: Name of its study.
        variant: How it ranks.
        sparsity: Share to remove.
        seed: Seed of initial weights, of scoring samples and of training; for the trained network of the samples.
        finetune_epochs: Finetune epochs of the trained network after the prune.
    """

    network: str
    variant: Variant
    sparsity: float
    seed: int
    finetune_epochs: int = 0

    @property
    def key(self) -> tuple[object, ...]:
        """Values of `KEYS` in the row of the run."""
        finetune = self.finetune_epochs if STUDIES[self.network].network is None else 0
        return (self.network, self.variant.granularity, self.variant.name, self.sparsity, self.seed, finetune)


def before_training(job: Job, model: nn.Module, data: Dataset) -> Row:
    """Prunes a fresh network, trains the pruned network, and tests it."""
    study, variant = STUDIES[job.network], job.variant
    method = Iterated(
        variant.name, variant.granularity, 0, variant.ranking(), variant.accumulate, variant.schedule,
        samples=study.samples, published_loss=variant.published,
    )  # fmt: skip
    trained = method.train(model, data, study.recipe, job.sparsity, job.seed)
    assert trained.compiled is not None
    return {"accuracy": accuracy(trained.module, data.test)} | _left(trained.compiled)


def after_training(job: Job, dense: nn.Module, data: Dataset) -> Row:
    """Prunes a trained network and tests it, also after fine-tuning if the run has epochs for it."""
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
    """Returns what was removed, and whether the outputs are still connected to the inputs."""
    report = compiled.report
    dead = report.dead_paths
    paths = {} if dead is None else {"dead_weights": dead.weights, "outputs_cut": dead.cut}
    return {"removed": report.achieved, "rounds": len(report.rounds)} | paths


def run(job: Job, model: nn.Module, data: Dataset) -> Row:
    """Makes a run and returns its row; if a variant cannot work, the row has the error, which is a result too."""
    study, started = STUDIES[job.network], time.perf_counter()
    row: Row = dict(zip(KEYS, job.key, strict=True)) | {"choices": asdict(job.variant)}
    try:
        row |= (after_training if study.network is None else before_training)(job, model, data)
    except graphprune.errors.UserError as error:
        row["error"] = f"{type(error).__name__}: {str(error)[:300]}"
    return row | {
        "seconds": time.perf_counter() - started, "samples": study.samples,
        "recipe": asdict(study.recipe), "train_samples": len(data.train), "test_samples": len(data.test),
        "hardware": str(describe_hardware()), "versions": versions(),
    }  # fmt: skip
