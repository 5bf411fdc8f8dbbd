"""How right a network is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import OptionError
from graphprune.example import Example


def top_one(batches: Iterable[tuple[Any, Tensor]]) -> Callable[[nn.Module], float]:
    """An ``evaluate`` for `sweep`: the share of samples whose largest logit is the target's.

    Args:
        batches: ``(inputs, target)``; gone through once for each network, so no generator.

    Raises:
        OptionError: they are nothing to go through.
    """
    if not isinstance(batches, Iterable):
        raise OptionError(f"top_one: expected batches (inputs, target), got {type(batches).__name__}")

    @torch.no_grad()
    def accuracy(module: nn.Module) -> float:
        right, samples, training = 0, 0, module.training
        module.eval()
        for inputs, target in batches:
            example = Example.of(inputs)
            right += int((module(*example.args, **example.kwargs).argmax(1) == target).sum())
            samples += len(target)
        module.train(training)
        if not samples:
            raise OptionError("evaluate: there are no batches; give a list or a data loader, no generator")
        return right / samples

    return accuracy
