"""Profiles: what operators cost on this machine."""

from __future__ import annotations

from typing import Any

from torch import nn

from graphprune.latency.model import LatencyModel
from graphprune.latency.profiles import Profile
from graphprune.passes import pipelines


def profile(
    model: nn.Module | None = None,
    example_input: Any = None,
    *,
    provider: str = "auto",
    threads: int = 1,
    batch: int = 1,
    dtype: str = "float32",
) -> Profile:
    """Returns what operators cost on this machine, for `graphprune.compile(target=)`.

    Measurements are kept on disk, by hardware, version of onnxruntime, provider, threads and data type, so each is made
    once. If a model is given, the measurements that it needs and that are missing are made here; otherwise they are
    made when a model is compiled.

    Args:
        model: Its operators are measured, at their own shapes; the model is not changed.
        example_input: See `graphprune.compile`.
        provider: ``"auto"`` (CUDA where there is a device), ``"cpu"`` or ``"cuda"``.
        threads: Number of threads within an operator.
        batch: Number of samples in a run.
        dtype: Type of weights and activations, ``"float32"`` or ``"float16"``.

    Raises:
        OptionError: an option is out of range, or CUDA is requested where it cannot run.
        ArtifactError: the file of earlier measurements is damaged.
    """
    found = Profile.here(provider, threads, batch, dtype)
    if model is not None:
        latency = LatencyModel(pipelines.analysed(model, example_input), found)
        latency.ms(latency.full)
        latency.steps()
    return found
