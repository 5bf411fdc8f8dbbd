"""Accuracy of the networks of a sweep."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.criteria.losses import describe
from graphprune.criteria.samples import batch_of
from graphprune.errors import OptionError, shown
from graphprune.program.module_state import evaluating


def top_one(batches: Iterable[tuple[Any, Tensor]]) -> Callable[[nn.Module], float]:
    """Returns an ``evaluate`` for `sweep`: the share of samples whose largest logit is the target's, in [0, 1].

    Args:
        batches: Batches ``(inputs, target)``, on any device; they are iterated over once for each network.

    Raises:
        OptionError: the batches cannot be iterated over, or only once, as a generator.
    """
    given: object = batches
    if not isinstance(given, Iterable) or isinstance(given, (Iterator, nn.Module)):
        raise OptionError(
            f"top_one: expected a list or data loader of batches (inputs, target), to go through once for each "
            f"network, got {shown(batches)}"
        )

    def accuracy(module: nn.Module) -> float:
        device = next((parameter.device for parameter in module.parameters()), torch.device("cpu"))
        right, samples = 0, 0
        with evaluating(module):
            for item in batches:
                batch = batch_of(item, device, "batches")
                logits, target = batch.inputs.given_to(module), batch.target
                _check(logits, target)
                right += int((logits.argmax(1) == target).sum())
                samples += len(target)
        if not samples:
            raise OptionError("top_one: there are no batches")
        return right / samples

    return accuracy


def _check(logits: Any, target: Any) -> None:
    tensors = isinstance(logits, Tensor) and isinstance(target, Tensor)
    if not tensors or logits.dim() != 2 or target.shape != logits.shape[:1]:
        raise OptionError(
            f"top_one: expected logits (N, classes) and targets (N), got {describe(logits)} and {describe(target)}; "
            "give evaluate= a function of your own for another task"
        )
