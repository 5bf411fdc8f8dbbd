"""Times of training steps and, separately, of inference in torch; several networks are measured in turns."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from graphprune.deploy.timing import Latency, garbage_collector_off
from graphprune.errors import OptionError
from graphprune.research.datasets import Batch
from graphprune.research.epochs import device_of
from graphprune.research.metrics.step import TrainingStep
from graphprune.research.training import Recipe


def time_training(
    models: Mapping[str, nn.Module], batch: Batch, recipe: Recipe | None = None, *, warmup: int = 3, repeats: int = 20
) -> dict[str, Latency]:
    """Measures the time of one training step: forward, backward, clipping, optimizer.

    Args:
        models: Networks by name, all on one device; they are copied, so they do not change.
        batch: Inputs ``(B, C, H, W)`` and class indices ``(B,)``; moved to the device first.
        recipe: Recipe of the step; the paper's by default.
        warmup: Steps of each before the first sample, 1 or more.
        repeats: Rounds, 1 or more; each takes one sample of every network, so a change of pace hits all alike.

    Returns:
        Time of a step in milliseconds, for each network; on CUDA measured by events on the device.

    Raises:
        OptionError: a count is out of range, there are no networks, or they are on several devices.
    """
    _check(models, warmup, repeats)
    steps = {name: TrainingStep.of(model, batch, recipe) for name, model in models.items()}
    return _in_turns(steps, _device(models), warmup, repeats)


def time_inference(
    models: Mapping[str, nn.Module], inputs: Tensor, *, warmup: int = 3, repeats: int = 20
) -> dict[str, Latency]:
    """Measures the time of one forward pass in evaluation mode, without gradients.

    Args:
        models: See `time_training`.
        inputs: A batch ``(B, C, H, W)``; moved to the device first.
        warmup: See `time_training`.
        repeats: See `time_training`.

    Returns:
        Time of a pass in milliseconds, for each network; on CUDA measured by events on the device.

    Raises:
        OptionError: see `time_training`.
    """
    _check(models, warmup, repeats)
    device = _device(models)
    runs = {name: _forward(copy.deepcopy(model).eval(), inputs.to(device)) for name, model in models.items()}
    return _in_turns(runs, device, warmup, repeats)


def _forward(model: nn.Module, inputs: Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.inference_mode():
            model(inputs)

    return run


def _check(models: Mapping[str, nn.Module], warmup: int, repeats: int) -> None:
    if not models or warmup < 1 or repeats < 1:
        raise OptionError(f"expected networks, warmup and repeats of 1 or more; got {len(models)}, {warmup}, {repeats}")


def _device(models: Mapping[str, nn.Module]) -> torch.device:
    devices = {device_of(model) for model in models.values()}
    if len(devices) > 1:
        raise OptionError(f"networks to compare must be on one device, got {', '.join(map(str, devices))}")
    return devices.pop()


def _in_turns(
    runs: Mapping[str, Callable[[], None]], device: torch.device, warmup: int, repeats: int
) -> dict[str, Latency]:
    if device.type == "cuda":
        torch.cuda.set_device(device)  # events are recorded on the current device
    measure = _ms_on_cuda if device.type == "cuda" else _ms
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for run in runs.values():
        for _ in range(warmup):
            run()
    for _ in range(repeats):
        with garbage_collector_off():
            for name, run in runs.items():
                samples[name].append(measure(run))
    return {name: Latency.of(tuple(of_run)) for name, of_run in samples.items()}


def _ms(run: Callable[[], None]) -> float:
    start = time.perf_counter()
    run()
    return (time.perf_counter() - start) * 1e3


def _ms_on_cuda(run: Callable[[], None]) -> float:
    """Measures by events on the device; what was queued before has ended."""
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    torch.cuda.synchronize()
    return float(start.elapsed_time(end))
