"""What a measurement ran on: processor, accelerator, library versions."""

from __future__ import annotations

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import torch

_CPU_LISTING = Path("/proc/cpuinfo")


@dataclass(frozen=True)
class Hardware:
    """The machine of a measurement.

    Attributes:
        cpu: Model name of the processor.
        cores: Logical cores of the machine.
        usable_cores: Logical cores that this process may run on; the CPU quota of a container is not considered.
        gpu: Name of CUDA device 0; None where torch sees no device.
    """

    cpu: str
    cores: int
    usable_cores: int
    gpu: str | None

    def to_dict(self) -> dict[str, Any]:
        """The fields, ready for JSON."""
        return asdict(self)

    def __str__(self) -> str:
        used = f"{self.usable_cores} of {self.cores} cores"
        return f"{self.cpu}, {used}, {self.gpu or 'no GPU'}"


def describe_hardware() -> Hardware:
    """Describes the machine that this process runs on."""
    cores = os.cpu_count() or 1
    affinity = getattr(os, "sched_getaffinity", None)  # not on macOS and Windows
    return Hardware(
        cpu=_cpu_model(),
        cores=cores,
        usable_cores=len(affinity(0)) if affinity else cores,
        gpu=torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    )


def library_versions() -> dict[str, str]:
    """Versions of Python and of the libraries that decide a latency, by name."""
    libraries = {"torch": torch, "onnxruntime": onnxruntime, "onnx": onnx, "numpy": np}
    return {"python": platform.python_version()} | {name: str(lib.__version__) for name, lib in libraries.items()}


def _cpu_model() -> str:
    """Model name of the processor as Linux gives it; the architecture where there is no such name."""
    if _CPU_LISTING.is_file():
        for line in _CPU_LISTING.read_text(encoding="utf-8", errors="replace").splitlines():
            key, _, value = line.partition(":")
            if key.strip() == "model name":
                return value.strip()
    return platform.processor() or platform.machine() or "unknown"
