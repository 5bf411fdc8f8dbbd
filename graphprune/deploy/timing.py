"""Latency of ONNX files in onnxruntime, measured in turns, so that changes of the machine's pace affect all alike."""

from __future__ import annotations

import gc
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from graphprune.deploy.hardware import Hardware, describe_hardware, library_versions
from graphprune.deploy.sessions import CPU, BoundSession, NodePlacement, choose_provider, node_placement, open_session
from graphprune.errors import OptionError
from graphprune.program.facts import Fact

_log = logging.getLogger(__name__)

_MIN_SAMPLE_MS = 20.0
"""Smallest duration of a sample: several time slices of a busy machine, so that no single one of them decides."""

Progress = Callable[[int, int], None]
"""Function that is called between samples with (rounds done, rounds in all)."""


@dataclass(frozen=True)
class Latency:
    """Time of one run of one model.

    Attributes:
        median_ms: Median in milliseconds, as all times here.
        p10_ms: 10th percentile.
        p90_ms: 90th percentile.
        iqr_ms: Distance between the 25th and the 75th percentile.
        samples: Time of a run in each round, in the order of the rounds.
        runs_per_sample: Number of runs that each sample is the mean of.
    """

    median_ms: float
    p10_ms: float
    p90_ms: float
    iqr_ms: float
    samples: tuple[float, ...]
    runs_per_sample: int = 1

    @classmethod
    def of(cls, samples: tuple[float, ...], runs_per_sample: int = 1) -> Latency:
        """Summarise one or more samples, in milliseconds for a run."""
        p10, p25, median, p75, p90 = (float(value) for value in np.percentile(samples, [10, 25, 50, 75, 90]))
        return cls(median, p10, p90, p75 - p25, samples, runs_per_sample)


@dataclass(frozen=True)
class Speedup:
    """How many times faster one model is than another; above 1 is faster.

    Attributes:
        ratio: Ratio of the medians.
        pairwise_median: Median over the rounds of the ratio within a round.
        pairwise_p10: 10th percentile of the ratio within a round.
        pairwise_p90: 90th percentile of the ratio within a round.
    """

    ratio: float
    pairwise_median: float
    pairwise_p10: float
    pairwise_p90: float

    def __str__(self) -> str:
        spread = f"p10 {self.pairwise_p10:.2f}x, p90 {self.pairwise_p90:.2f}x"
        return f"{self.ratio:.2f}x (by round: median {self.pairwise_median:.2f}x, {spread})"


@dataclass(frozen=True)
class TimingResult(Fact):
    """Latencies of several models, with all that is needed to judge them.

    Attributes:
        provider: Execution provider that really ran.
        provider_reason: Why it is not CUDA; empty where it is.
        threads: Threads within an operator.
        batch_size: Samples in a run.
        warmup: Runs of each model before the first sample.
        repeats: Rounds; each takes one sample of every model.
        hardware: The machine.
        versions: Versions of the libraries, by name.
        latencies: The latencies by the name of the model, in the order they were given.
        placements: Which nodes ran on the CPU provider, by the name of the model.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("time-onnx",)

    provider: str
    provider_reason: str
    threads: int
    batch_size: int
    warmup: int
    repeats: int
    hardware: Hardware
    versions: dict[str, str]
    latencies: dict[str, Latency]
    placements: dict[str, NodePlacement]

    def speedup(self, baseline: str, candidate: str) -> Speedup:
        """How many times faster `candidate` is than `baseline`.

        Raises:
            OptionError: If a model of that name was not timed.
        """
        unknown = [name for name in (baseline, candidate) if name not in self.latencies]
        if unknown:
            raise OptionError(f"no latency of {', '.join(unknown)}; timed were {', '.join(self.latencies)}")
        slow, fast = self.latencies[baseline], self.latencies[candidate]
        ratios = np.divide(slow.samples, fast.samples)
        p10, median, p90 = (float(value) for value in np.percentile(ratios, [10, 50, 90]))
        return Speedup(slow.median_ms / fast.median_ms, median, p10, p90)

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON, with the speed-up of each model over the first."""
        first, *others = self.latencies
        return asdict(self) | {"speedups": {name: asdict(self.speedup(first, name)) for name in others}}

    def __str__(self) -> str:
        return "\n".join([*self._header(), *self._table(), *self._speedups()])

    def _header(self) -> list[str]:
        reason = f" ({self.provider_reason})" if self.provider_reason else ""
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return [
            f"onnxruntime on {self.provider}{reason}, {threads}, batch {self.batch_size}",
            f"{self.repeats} rounds, models in turn, after {self.warmup} warm-up runs each",
            f"{self.hardware}; {', '.join(f'{name} {version}' for name, version in self.versions.items())}",
        ]

    def _table(self) -> list[str]:
        width = max(len("model"), *map(len, self.latencies))
        columns = ("median ms", "p10 ms", "p90 ms", "iqr ms")
        lines = [f"{'model':<{width}}" + "".join(f"{column:>12}" for column in columns) + f"{'nodes on CPU':>15}"]
        for name, latency in self.latencies.items():
            times = (latency.median_ms, latency.p10_ms, latency.p90_ms, latency.iqr_ms)
            placement = self.placements[name]
            on_cpu = f"{placement.on_cpu} of {placement.nodes}"
            lines.append(f"{name:<{width}}" + "".join(f"{value:>12.4f}" for value in times) + f"{on_cpu:>15}")
        return lines

    def _speedups(self) -> list[str]:
        first, *others = self.latencies
        return [f"{name} against {first}: {self.speedup(first, name)}" for name in others]


def time_interleaved(
    models: Mapping[str, Path],
    feeds: Mapping[str, NDArray[Any]],
    *,
    provider: str = "auto",
    threads: int = 1,
    warmup: int = 5,
    repeats: int = 30,
    on_progress: Progress | None = None,
) -> TimingResult:
    """Time ONNX files in turn (A B A B ...) on the same inputs.

    Inputs and outputs stay on the device, so that a sample holds the computation and no copies to or from it.

    Args:
        models: Files by name; the first is the baseline of the printed speed-ups.
        feeds: Arrays by input name, the same for all models; dim 0 of the first is the batch.
        provider: "auto" (CUDA where there is a device, else the CPU), "cpu" or "cuda".
        threads: Number of threads within an operator, 1 or more.
        warmup: Number of runs of each model before the first sample, 1 or more.
        repeats: Number of rounds, 1 or more; each takes one sample of every model.
        on_progress: Function that is called between samples with (rounds done, rounds in all).

    Raises:
        ArtifactError: If a file is missing or is not a valid model.
        InputError: If the feeds do not fit a model.
        OptionError: If an option is out of range, or CUDA is requested where it cannot run.
    """
    _check_counts(models, threads=threads, warmup=warmup, repeats=repeats)
    paths = {name: Path(path) for name, path in models.items()}
    running, reason, placements = _place(paths, feeds, provider, threads)
    bound = {name: BoundSession(open_session(path, running, threads), feeds) for name, path in paths.items()}
    runs = {name: runs_per_sample(session, warmup) for name, session in bound.items()}
    samples = _sample(bound, runs, repeats, on_progress)
    return TimingResult(
        provider=running,
        provider_reason=reason,
        threads=threads,
        batch_size=_batch_size(feeds),
        warmup=warmup,
        repeats=repeats,
        hardware=describe_hardware(),
        versions=library_versions(),
        latencies={name: Latency.of(tuple(samples[name]), runs[name]) for name in bound},
        placements=placements,
    )


def _check_counts(models: Mapping[str, Path], **counts: int) -> None:
    wrong = [f"{name}={count} must be 1 or more" for name, count in counts.items() if count < 1]
    if not models:
        wrong.append("models is empty; give at least one ONNX file")
    if wrong:
        raise OptionError("; ".join(wrong))


def _place(
    paths: Mapping[str, Path], feeds: Mapping[str, NDArray[Any]], requested: str, threads: int
) -> tuple[str, str, dict[str, NodePlacement]]:
    """Return the provider that runs all models, why it is not CUDA, and where the models' nodes ran."""
    provider, reason = choose_provider(requested)
    try:
        placements = {name: node_placement(path, provider, threads, feeds) for name, path in paths.items()}
    except OptionError as error:
        if requested != "auto" or provider == CPU:
            raise
        _log.warning("timing on the CPU: %s", error)
        provider, reason = CPU, str(error)
        placements = {name: node_placement(path, provider, threads, feeds) for name, path in paths.items()}
    if provider != CPU:
        for name, placement in placements.items():
            if placement.on_cpu:
                ops = ", ".join(placement.cpu_ops)
                _log.warning("%s: %d of %d nodes ran on the CPU: %s", name, placement.on_cpu, placement.nodes, ops)
    return provider, reason, placements


def runs_per_sample(session: BoundSession, warmup: int, sample_ms: float = _MIN_SAMPLE_MS) -> int:
    """Warm up, then double the number of runs until they last at least ``sample_ms``."""
    for _ in range(warmup):
        session.run()
    runs = 1
    while timed_ms(session, runs) * runs < sample_ms:
        runs *= 2
    return runs


def _sample(
    bound: Mapping[str, BoundSession], runs: Mapping[str, int], repeats: int, on_progress: Progress | None
) -> dict[str, list[float]]:
    """Take one sample of every model in each round, in milliseconds for a run."""
    samples: dict[str, list[float]] = {name: [] for name in bound}
    for done in range(1, repeats + 1):
        with garbage_collector_off():
            for name, session in bound.items():
                samples[name].append(timed_ms(session, runs[name]))
        if on_progress is not None:
            on_progress(done, repeats)
    return samples


def timed_ms(session: BoundSession, runs: int) -> float:
    """Mean time of a run, in milliseconds."""
    start = time.perf_counter()
    for _ in range(runs):
        session.run()
    return (time.perf_counter() - start) * 1e3 / runs


@contextmanager
def garbage_collector_off() -> Iterator[None]:
    """Switch the garbage collector off: a collection in the middle of a sample would count as latency."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def _batch_size(feeds: Mapping[str, NDArray[Any]]) -> int:
    """Dim 0 of the first array that has one; 1 where there is none."""
    return next((int(array.shape[0]) for array in feeds.values() if array.ndim), 1)
