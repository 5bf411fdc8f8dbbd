"""Work and memory of a network in each epoch of its training, measured without a change to the method."""

from __future__ import annotations

import statistics
import time
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.research.datasets import Batch
from graphprune.research.metrics import Macs, forward_macs, training_cost, training_memory
from graphprune.research.training import Epoch, Recipe


@dataclass
class Watch:
    """Observer of epochs, see `graphprune.research.training.observed`.

    Networks are pruned between epochs, so the network after an epoch has the structure of the whole epoch. Memory is
    not measured again while parameters keep their shapes, and work not while they also keep their numbers of zeros.

    Attributes:
        example: Samples ``(2, C, H, W)`` on the network's device.
        recipe: Recipe of the training step whose memory is measured.
        memory_batch: Batch of that step; None measures no memory.
        macs: Macs of each epoch, per sample.
        memory_bytes: Memory in bytes of each epoch: peak around a step.
        epoch_seconds: Epoch in seconds of each epoch, of all trainers.
        own_seconds: Time that watching took.
    """

    example: Tensor
    recipe: Recipe
    memory_batch: Batch | None
    macs: list[Macs] = field(default_factory=list)
    memory_bytes: list[int] = field(default_factory=list)
    epoch_seconds: list[float] = field(default_factory=list)
    own_seconds: float = 0.0
    _known_macs: dict[Any, Macs] = field(default_factory=dict)
    _known_memory: dict[Any, int] = field(default_factory=dict)

    def __call__(self, model: nn.Module, epoch: Epoch) -> None:
        """Notes work, memory and seconds of an epoch."""
        start = time.perf_counter()
        shapes = tuple((name, tuple(p.shape), p.requires_grad) for name, p in model.named_parameters())
        zeros = torch.stack([torch.count_nonzero(p.detach()) for p in model.parameters()])
        signature = (shapes, tuple(zeros.tolist()))
        if signature not in self._known_macs:
            self._known_macs[signature] = forward_macs(model, self.example)
        self.macs.append(self._known_macs[signature])
        if self.memory_batch is not None:
            if shapes not in self._known_memory:
                self._known_memory[shapes] = training_memory(model, self.memory_batch, self.recipe).peak_bytes
            self.memory_bytes.append(self._known_memory[shapes])
        self.epoch_seconds.append(epoch.seconds)
        self.own_seconds += time.perf_counter() - start

    def cost(self, samples: int, epochs: int) -> dict[str, Any]:
        """Returns the work and memory of the last epochs, ready for JSON.

        Args:
            samples: Number of samples seen in each epoch.
            epochs: Number of last epochs. For a control, the epochs of the method that found its masks are left out.
        """
        first = len(self.macs) - epochs
        macs, memory = self.macs[first:], self.memory_bytes[first:]
        found: dict[str, Any] = {
            "training_macs": training_cost([each.executed for each in macs], samples).macs,
            "training_macs_nonzero": training_cost([each.nonzero for each in macs], samples).macs,
        }
        if memory:
            found["memory_bytes"] = {"peak": max(memory), "median": statistics.median(memory), "first": memory[0]}
        return found
