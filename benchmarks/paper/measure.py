"""One run: a network is trained, pruned and measured."""

from __future__ import annotations

import logging
import time
import warnings
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from benchmarks.paper.data import dataset
from benchmarks.paper.extras import ANALYSES
from benchmarks.paper.grid import Run
from benchmarks.paper.named import method_of
from benchmarks.paper.studies import STUDIES, Scale
from benchmarks.paper.watch import Watch
from benchmarks.rows import Row, versions
from graphprune.deploy import Latency, describe_hardware
from graphprune.errors import InputError
from graphprune.research.analyses import remaining
from graphprune.research.datasets import Batch, Dataset, Split
from graphprune.research.epochs import accuracy
from graphprune.research.methods import Iterated, Trained
from graphprune.research.metrics import (
    disk_size,
    forward_macs,
    harmonic_mean,
    node_sparsity,
    time_inference,
    time_training,
    training_cost,
    training_memory,
    weight_sparsity,
)
from graphprune.research.networks import build, orthogonal_init_
from graphprune.research.training import Recipe, observed

_log = logging.getLogger(__name__)

TIMED_BATCH = 128
"""Number of samples in a timed pass or step, the same for all networks, so that they can be compared."""

INFERENCE_REPEATS, STEP_REPEATS = 15, 5


@dataclass(frozen=True)
class Place:
    """Where runs are made.

    Attributes:
        data_dir: Folder of the datasets; None for what the environment says.
        device: Device of networks.
        scale: Only told in the row, and of analyses.
    """

    data_dir: Path | None
    device: str
    scale: Scale


def row_of(run: Run, place: Place) -> Row:
    """Makes a run and returns its row, with the error if the run fails.

    Raises:
        InputError: the data does not exist, so the method did not fail.
    """
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    origin = {
        "scale": place.scale, "device": place.device, "threads": torch.get_num_threads(),
        "hardware": describe_hardware().to_dict(), "versions": versions(),
    }  # fmt: skip
    data = dataset(run.data, place.data_dir, run.samples)
    _warm_up(place.device)
    start = time.perf_counter()
    try:
        found = _measured(run, data, place)
    except Exception as error:  # a method may fail in any way; that is a result
        _log.warning("%s: %s", run, error, exc_info=_log.isEnabledFor(logging.DEBUG))
        found = {"error": f"{type(error).__name__}: {str(error)[:500]}"}
    return asdict(run) | origin | found | {"run_seconds": time.perf_counter() - start}


def _measured(run: Run, data: Dataset, place: Place) -> dict[str, Any]:
    recipe = Recipe(run.epochs, run.batch_size, precision=run.precision)
    dense = orthogonal_init_(build(run.network, data.in_shape, data.classes), run.seed).to(place.device)
    if run.precision == "bfloat16":  # convolutions in bfloat16 are fast in this layout only
        dense = dense.to(memory_format=torch.channels_last)
    method = method_of(run.method, run.epochs)
    examples = (data.train.inputs[: run.batch_size].to(place.device), data.train.targets[: run.batch_size])
    watch = Watch(examples[0][:2], recipe, examples if method.structured else None)
    torch.manual_seed(run.seed)
    start = time.perf_counter()
    with observed(watch):
        trained = method.train(dense, data, recipe, run.target, run.seed)
    passed = time.perf_counter() - start
    found = {
        "recipe": asdict(recipe), "target_kind": method.target, "structured": method.structured,
        "train_samples": len(data.train), "test_samples": len(data.test),
        "accuracy": accuracy(trained.module, data.test),
        "epoch_losses": [epoch.loss for epoch in trained.epochs],
        "epoch_seconds": [epoch.seconds for epoch in trained.epochs], "training_seconds": trained.seconds,
        "pruning_seconds": passed - sum(watch.epoch_seconds) - watch.own_seconds,
    }  # fmt: skip
    found |= watch.cost(len(data.train), len(trained.epochs)) | _size(trained, dense, watch, recipe, len(data.train))
    found |= _harmonic_means(found)
    if method.structured:
        found |= _times(trained.module, dense, examples, recipe)
        found["memory_bytes_dense"] = training_memory(dense, examples, recipe).peak_bytes
    for name in STUDIES[run.study].analyses:
        found[name] = ANALYSES[name](trained.module, data, place.scale)
    return found


def _size(trained: Trained, dense: nn.Module, watch: Watch, recipe: Recipe, samples: int) -> dict[str, Any]:
    """Returns the sizes after pruning: weights, nodes, multiply-accumulates, bytes."""
    module = trained.module
    macs, macs_dense = (forward_macs(model, watch.example) for model in (module, dense))
    return {
        "weight_sparsity": weight_sparsity(module, dense), "node_sparsity": node_sparsity(module, dense),
        "node_sparsity_of_channels": trained.node_sparsity, "macs": asdict(macs), "macs_dense": macs_dense.executed,
        "training_macs_dense": training_cost([macs_dense.executed] * recipe.epochs, samples).macs,
        "disk": disk_size(module, dense).to_dict(), "disk_dense": disk_size(dense, dense).to_dict(),
        "remaining": remaining(module, dense).to_dict(),
    }  # fmt: skip


def _harmonic_means(found: dict[str, Any]) -> dict[str, float]:
    return {f"hm_{kind}s": harmonic_mean(found[f"{kind}_sparsity"], found["accuracy"]) for kind in ("weight", "node")}


def _times(module: nn.Module, dense: nn.Module, examples: Batch, recipe: Recipe) -> dict[str, Any]:
    """Times inference and a training step of the pruned and the dense network, in turns."""
    models = {"pruned": module, "dense": dense}
    batch = examples[0][:TIMED_BATCH], examples[1][:TIMED_BATCH]
    inference = time_inference(models, batch[0], warmup=2, repeats=INFERENCE_REPEATS)
    step = time_training(models, batch, recipe, warmup=1, repeats=STEP_REPEATS)
    return {"timed_batch": len(batch[1]), "inference_ms": _told(inference), "training_step_ms": _told(step)}


def _told(latencies: dict[str, Latency]) -> dict[str, dict[str, float]]:
    return {name: {key: getattr(of, key) for key in ("median_ms", "p10_ms", "p90_ms")}
            for name, of in latencies.items()}  # fmt: skip


@lru_cache
def _warm_up(device: str) -> None:
    """Makes a small run, so that one-time work of a process (imports, kernels) is not in the time of its first run."""
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(64, 2)).to(device)
    split = Split(torch.rand(8, 1, 6, 6), torch.arange(8) % 2)
    for method in (Iterated("nodes", "channel", samples=8), Iterated("weights", "weight", samples=8)):
        method.train(model, Dataset("warm-up", split, split, split), Recipe(1, 4), 0.5, seed=0)


def check_data(run: Run, place: Place) -> str | None:
    """Returns why the data of a run cannot be read, or None if it can."""
    try:
        dataset(run.data, place.data_dir, run.samples)
    except InputError as error:
        return str(error)
    return None
