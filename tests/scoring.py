"""Data for criteria, programs with dead weights, and a look at what a criterion left behind."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.costs.pool import pool_of
from graphprune.criteria.losses import cross_entropy
from graphprune.criteria.samples import SampleStream
from graphprune.criteria.sensitivity import Accumulate, Sensitivity
from graphprune.program.example import Example
from graphprune.program.program import Program
from tests.small_models import CLASSES, analysed, randomised

Batches = list[tuple[Tensor, Tensor]]


def batches_like(inputs: Tensor, *sizes: int) -> Batches:
    """Random batches of those sizes, each sample of the shape of one of the inputs."""
    return [(torch.randn(size, *inputs.shape[1:]).to(inputs.dtype), torch.randint(CLASSES, (size,))) for size in sizes]


def sensitivity(
    data: Any, samples: int = 2560, accumulate: Accumulate = "signed", loss: Any = cross_entropy, seed: int = 0
) -> Sensitivity:
    """Options for scoring; the example is used only where there is no data."""
    return Sensitivity(SampleStream(data, Example.of(torch.zeros(2, 5))), loss, samples, accumulate, seed)


def prepared(model: nn.Module, inputs: Tensor) -> Program:
    """The analysed program of a model in float64, in evaluation mode, with batch norms that matter."""
    return analysed(randomised(model).double().eval(), inputs.double() if inputs.is_floating_point() else inputs)[0]


def with_dead_weights(program: Program, *, dormant: bool = False, share: float = 0.3) -> Program:
    """A third of the weights dead, with zeros in the module; ``dormant`` keeps their values for a way back."""
    generator = torch.Generator().manual_seed(1)
    pool = pool_of(program)
    masks = {name: torch.rand(weight.shape, generator=generator) > share for name, weight in pool.items()}
    kept = {name: weight.detach().clone() for name, weight in pool.items()} if dormant else {}
    with torch.no_grad():
        for name, weight in pool.items():
            weight.mul_(masks[name])
    return replace(program, history=replace(program.history, masks=masks, dormant=kept))


def mean_loss(program: Program, batches: Batches) -> Tensor:
    """Cross-entropy over all samples at once, with a gradient."""
    outputs = torch.cat([program.module(inputs) for inputs, _ in batches])
    return functional.cross_entropy(outputs, torch.cat([target for _, target in batches]))


def numeric_slopes(weight: Tensor, value: Callable[[], float], indices: list[int], step: float) -> Tensor:
    """Central differences of a value in single entries of a tensor, which is given back as it was."""
    flat, slopes = weight.detach().view(-1), []
    for index in indices:
        before = float(flat[index])
        flat[index] = before + step
        above = value()
        flat[index] = before - step
        below = value()
        flat[index] = before
        slopes.append((above - below) / (2 * step))
    return torch.tensor(slopes, dtype=torch.float64)


@contextmanager
def leaving_no_trace(program: Program) -> Iterator[None]:
    """Fails where tensors, gradients, modes, code or random states are others afterwards."""

    def state() -> list[object]:
        module = program.module
        parameters = dict(module.named_parameters())
        return [
            [(name, id(each), each.requires_grad, each.grad) for name, each in parameters.items()],
            [(name, id(each)) for name, each in module.named_buffers()],
            [(name, each.training) for name, each in module.named_modules()],
            module.code, str(module.graph),
            random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist(),
            torch.backends.cudnn.enabled, torch.backends.cuda.flash_sdp_enabled(), torch.is_grad_enabled(),
        ]  # fmt: skip

    before, tensors = state(), {key: each.clone() for key, each in program.module.state_dict().items()}
    yield
    assert state() == before
    for key, each in program.module.state_dict().items():
        assert torch.equal(each, tensors[key]), key
