"""Peak memory around one training step, as the allocator counts it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from graphprune.errors import OptionError
from graphprune.research.datasets import Batch
from graphprune.research.metrics.step import TrainingStep
from graphprune.research.training import Recipe


@dataclass(frozen=True)
class PeakMemory:
    """Largest memory that was allocated at one time.

    Attributes:
        resident_bytes: Memory of parameters, buffers and moments of the optimizer, which stays between steps.
        added_bytes: Memory above that: activations, gradients, workspace of the kernels.
        measured_by: Name of the measure that gave the peak.
    """

    resident_bytes: int
    added_bytes: int
    measured_by: str

    @property
    def peak_bytes(self) -> int:
        """Resident and added memory together, without the batch."""
        return self.resident_bytes + self.added_bytes

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields and the peak, ready for JSON."""
        return asdict(self) | {"peak_bytes": self.peak_bytes}


def training_memory(model: nn.Module, batch: Batch, recipe: Recipe | None = None) -> PeakMemory:
    """Measures the peak memory around one training step of a copy of the network.

    A step before it makes the moments and warms up the kernels. Other things in memory, such as another network, do not
    count. On CUDA torch's allocator reports the peak. On the CPU torch's profiler reports every allocation, and the
    peak is their highest sum. Memory that kernels allocate without torch's allocator is in neither.

    Args:
        model: Network to train; it is not changed.
        batch: Inputs ``(B, C, H, W)`` and class indices ``(B,)``; moved to the device of the network.
        recipe: Recipe of the step; the paper's by default.

    Raises:
        OptionError: the network is on a device that is neither the CPU nor CUDA.
    """
    step = TrainingStep.of(model, batch, recipe)
    device = step.batch[0].device
    if device.type not in ("cpu", "cuda"):
        raise OptionError(f"memory is measured on the CPU and on CUDA, the network is on {device}")
    step()
    resident = sum(tensor.untyped_storage().nbytes() for tensor in step.resident())
    if device.type == "cuda":
        return PeakMemory(resident, _added_on_cuda(step, device), "torch.cuda.max_memory_allocated")
    return PeakMemory(resident, added_on_cpu(step), "torch.profiler, allocations on the CPU")


def _added_on_cuda(run: Callable[[], None], device: torch.device) -> int:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    run()
    torch.cuda.synchronize(device)
    return torch.cuda.max_memory_allocated(device) - before


def added_on_cpu(run: Callable[[], object]) -> int:
    """Returns the highest sum of allocations less what was freed, while `run` runs; in bytes."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        run()
    assert profiler.profiler is not None
    results: Any = profiler.profiler.kineto_results
    changes = sorted((event.start_ns(), event.nbytes()) for event in results.events() if event.name() == "[memory]")
    now = peak = 0
    for _, change in changes:
        now += change
        peak = max(peak, now)
    return peak
