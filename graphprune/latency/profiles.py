"""What operators cost on one machine: measured once, kept on disk."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import statistics
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

from graphprune.deploy.hardware import describe_hardware
from graphprune.deploy.sessions import CUDA, BoundSession, choose_provider, open_session
from graphprune.deploy.timing import runs_per_sample, timed_ms
from graphprune.errors import ArtifactError, OptionError
from graphprune.labels.contractions import Window
from graphprune.latency.kernels import Kernel, model_of
from graphprune.request.options import check_counts

log = logging.getLogger(__name__)

FORMAT = 1
SAMPLES = 5
"""Samples of each kernel; their median counts."""

SAMPLE_MS = 4.0
"""Smallest duration of a sample."""


@dataclass(frozen=True)
class Target:
    """What latencies are measured on.

    Attributes:
        hardware: Hardware of the machine, as text.
        onnxruntime: Its version.
        provider: The execution provider.
        threads: Threads within an operator.
        batch_size: Samples in a run.
        dtype: Type of weights and activations.
    """

    hardware: str
    onnxruntime: str
    provider: str
    threads: int
    batch_size: int
    dtype: str = "float32"

    @classmethod
    def here(cls, provider: str = "auto", threads: int = 1, batch_size: int = 1, dtype: str = "float32") -> Target:
        """Returns the target that is this machine.

        Raises:
            OptionError: the provider or the type is unknown, the provider cannot run here, or a number is below 1.
        """
        import onnxruntime

        check_counts(threads=threads, batch=batch_size)
        if dtype not in ("float32", "float16"):
            raise OptionError(f"dtype='{dtype}': expected 'float32' or 'float16'")
        found, _ = choose_provider(provider)
        return cls(str(describe_hardware()), onnxruntime.__version__, found, threads, batch_size, dtype)

    def __str__(self) -> str:
        threads = f"{self.threads} thread{'s' if self.threads > 1 else ''}"
        return f"onnxruntime {self.onnxruntime}, {self.provider}, {threads}, {self.dtype} on {self.hardware}"

    @property
    def file(self) -> Path:
        """Where the measurements are kept; they do not depend on the batch size, which is among a kernel's sizes."""
        text = json.dumps(asdict(replace(self, batch_size=0)), sort_keys=True)
        folder = Path(os.environ.get("GRAPHPRUNE_CACHE") or platformdirs.user_cache_path("graphprune"))
        return folder / f"profile-{hashlib.sha256(text.encode()).hexdigest()[:16]}.json"


@dataclass(eq=False)
class Profile:
    """Latencies of single operators on a target; missing ones are measured when they are needed.

    Attributes:
        target: What the latencies are measured on.
        known_ms: Median latency of each known kernel, in milliseconds.
        of_before: Whether some latencies were measured by an earlier process, when the machine may have been busy.
    """

    target: Target
    known_ms: dict[Kernel, float] = field(default_factory=dict, repr=False)
    of_before: bool = False

    @classmethod
    def here(cls, provider: str = "auto", threads: int = 1, batch_size: int = 1, dtype: str = "float32") -> Profile:
        """Returns the profile of this machine, with what was measured on it before.

        Raises:
            OptionError: an option is invalid; see `Target.here`.
            ArtifactError: the file of earlier measurements is damaged.
        """
        target = Target.here(provider, threads, batch_size, dtype)
        return cls.load(target.file, batch_size) if target.file.exists() else cls(target)

    @classmethod
    def load(cls, path: str | Path, batch_size: int = 1) -> Profile:
        """Reads a profile that `save` wrote.

        Raises:
            ArtifactError: the file is missing or damaged, or was measured on another machine or version.
        """
        try:
            entries = json.loads(Path(path).read_text(encoding="utf-8"))
            if entries["format"] != FORMAT:
                raise ValueError(f"format {entries['format']}, this version reads {FORMAT}")
            target = Target(**entries["target"], batch_size=batch_size)
            known_ms = {_kernel_of(entry): float(entry["ms"]) for entry in entries["kernels"]}
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtifactError(f"{path} is no profile of graphprune: {error}; delete it and measure anew") from error
        provider = "cuda" if target.provider == CUDA else "cpu"
        here = Target.here(provider, target.threads, batch_size, target.dtype)
        if here != target:
            raise ArtifactError(
                f"{path} was measured on another machine:\n  it has {target}\n  here is {here}\n"
                "Latencies of one say nothing about the other; run graphprune.profile() here"
            )
        return cls(target, known_ms, of_before=True)

    def anew(self) -> Profile:
        """Returns a profile of the same target without any measurements."""
        return replace(self, known_ms={}, of_before=False)

    def save(self, path: str | Path | None = None) -> Path:
        """Writes the measurements, by default to where `here` finds them; returns the path."""
        path = self.target.file if path is None else Path(path)
        target = {name: value for name, value in asdict(self.target).items() if name != "batch_size"}
        kernels = [asdict(kernel) | {"ms": ms} for kernel, ms in self.known_ms.items()]
        text = json.dumps({"format": FORMAT, "target": target, "kernels": kernels})
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
            file.write(text)
        Path(file.name).replace(path)  # the file is whole at any time, even if two processes write it
        return path

    def _keep(self) -> None:
        try:
            self.save()
        except OSError as error:  # the measurements can be used without being kept
            log.warning("the profile is not kept: %s; set GRAPHPRUNE_CACHE to a folder that can be written to", error)

    def ms(self, kernels: Iterable[Kernel]) -> list[float]:
        """Returns the median latency of each kernel in milliseconds; measures and saves those not known yet."""
        wanted = list(kernels)
        missing = [kernel for kernel in dict.fromkeys(wanted) if kernel not in self.known_ms]
        for kernel in missing:
            self.known_ms[kernel] = measured_ms(kernel, self.target)
        if missing:
            self._keep()
        return [self.known_ms[kernel] for kernel in wanted]


def measured_ms(kernel: Kernel, target: Target) -> float:
    """Measures the median time of one run of an operator alone, in milliseconds."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.onnx"
        content, feeds = model_of(kernel, np.dtype(target.dtype))
        path.write_bytes(content)
        session = BoundSession(open_session(path, target.provider, target.threads), feeds)
        runs = runs_per_sample(session, warmup=1, sample_ms=SAMPLE_MS)
        return statistics.median(timed_ms(session, runs) for _ in range(SAMPLES))


def _kernel_of(entry: dict[str, Any]) -> Kernel:
    first, second, third, fourth = entry["sizes"]
    return Kernel(entry["op"], (first, second, third, fourth), entry["window"] and _window_of(entry["window"]))


def _window_of(entry: dict[str, Any]) -> Window:
    lists = {name: tuple(value) for name, value in entry.items() if name != "transposed"}
    return Window(**lists, transposed=entry["transposed"])
