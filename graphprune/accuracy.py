"""How right a network is."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from graphprune.coupling.interpret import evaluating
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

    def accuracy(module: nn.Module) -> float:
        right, samples = 0, 0
        with evaluating(module):
            for inputs, target in batches:
                example = Example.of(inputs)
                logits = module(*example.args, **example.kwargs)
                if logits.dim() != 2 or target.shape != logits.shape[:1]:
                    raise OptionError(
                        f"top_one: expected logits (N, classes) and targets (N), got {tuple(logits.shape)} and "
                        f"{tuple(target.shape)}; give evaluate= a function of your own for another task"
                    )
                right += int((logits.argmax(1) == target).sum())
                samples += len(target)
        if not samples:
            raise OptionError("evaluate: there are no batches; give a list or a data loader, no generator")
        return right / samples

    return accuracy
