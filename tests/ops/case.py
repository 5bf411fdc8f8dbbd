"""What a row of the table of cases is, and the short ways in which rows build their models."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class Case:
    """One op or pattern.

    Attributes:
        name: What the row is about.
        model: Makes the model.
        inputs: Makes the example: a tensor, a tuple, or a dict.
        prunable: Dims of which every index can be removed: ``weight`` for dim 0, ``weight:1`` for another.
        frozen: Dims of which nothing can be removed, in the same form.
        reason: Text that the cause of each frozen dim contains.
        mixing: An op mixes statistics over channels, or draws random numbers, so zeroing slices is no oracle and only
            the verifier compares.
        exported: torch.export must be what captured the model.
    """

    name: str
    model: Callable[[], nn.Module]
    inputs: Callable[[], Any]
    prunable: tuple[str, ...] = ()
    frozen: tuple[str, ...] = ()
    reason: str = ""
    mixing: bool = False
    exported: bool = False


def dim_of(entry: str) -> tuple[str, int]:
    """The parameter and the dim that an entry of ``prunable`` or ``frozen`` names."""
    name, _, dim = entry.partition(":")
    return name, int(dim or 0)


def net(forward: Callable[..., Any], **parts: nn.Module | nn.Parameter | Tensor) -> nn.Module:
    """A module with the given layers, parameters and buffers, and ``forward(self, ...)`` as its forward."""
    module: nn.Module = type("Net", (nn.Module,), {"forward": forward})()
    for name, part in parts.items():
        if isinstance(part, Tensor) and not isinstance(part, nn.Parameter):
            module.register_buffer(name, part)
        else:
            setattr(module, name, part)
    return module


def randomised(module: nn.Module) -> nn.Module:
    """Gives parameters and statistics that start at 0 or 1 random values, so that a forgotten slice shows."""
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.is_floating_point() and tensor.numel() > 1 and bool((tensor == tensor.flatten()[0]).all()):
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return module


def image(*shape: int) -> Callable[[], Tensor]:
    """Makes a random tensor."""
    return lambda: torch.randn(*shape)


def images(*shapes: tuple[int, ...]) -> Callable[[], tuple[Tensor, ...]]:
    """Makes several random tensors."""
    return lambda: tuple(torch.randn(*shape) for shape in shapes)


def tokens(*shape: int, below: int) -> Callable[[], Tensor]:
    """Makes random token numbers."""
    return lambda: torch.randint(0, below, shape)
