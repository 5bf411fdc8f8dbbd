"""BatchNorm whose scale is a gate, by which GateDecorators scores and prunes channels."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

LARGEST_SHIFT = 10.0
"""Largest absolute value of a shift, which is beta / gamma. Source: the authors' code."""


class GatedNorm(nn.Module):
    """Computes ``gate * (normalised + shift)``: like BatchNorm, but a gate of 0 closes the channel completely.

    The gate is the parameter gamma of the BatchNorm; the shift is its parameter beta, divided by gamma. So an optimizer
    that holds the BatchNorm's parameters goes on with them.

    Source: You et al., Gate Decorator, NeurIPS 2019, section 3.2 (the gate takes over gamma). As in the authors' code,
    beta / gamma is kept within ±`LARGEST_SHIFT`, so the function changes where a beta is more than ten times its gamma.

    Args:
        norm: A normalisation with scale and shift; it must not be used before `unwrapped`.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.gate, self.shift = norm.weight, norm.bias
        self._norm = (norm,)  # in a tuple, so that torch does not register its parameters twice
        self.plain = type(norm)(norm.num_features, norm.eps, norm.momentum, False, norm.track_running_stats)
        self.plain._buffers.update(norm._buffers)
        self.train(norm.training)
        with torch.no_grad():
            ratio = (self.shift / self.gate).nan_to_num(0.0)  # 0 / 0 is a channel that is closed already
            self.shift.copy_(ratio.clamp(-LARGEST_SHIFT, LARGEST_SHIFT))

    def forward(self, x: Tensor) -> Tensor:
        """Maps ``(N, channels, ...)`` to the same shape."""
        shape = (1, -1, *[1] * (x.dim() - 2))
        out: Tensor = self.gate.view(shape) * (self.plain(x) + self.shift.view(shape))
        return out

    def unwrapped(self) -> _BatchNorm:
        """Returns the BatchNorm, set to compute the same; this module must not be used after that."""
        (norm,) = self._norm
        with torch.no_grad():
            self.shift.mul_(self.gate)
        norm.train(self.training)
        return norm


def norms_of(module: nn.Module) -> dict[str, _BatchNorm]:
    """Returns each BatchNorm with scale and shift, by path."""
    return {path: norm for path, norm in module.named_modules() if isinstance(norm, _BatchNorm) and norm.affine}


def put_gates(module: nn.Module) -> dict[str, GatedNorm]:
    """Replaces each BatchNorm with scale and shift by a `GatedNorm`, in place; returns these by path."""
    gated = {path: GatedNorm(norm) for path, norm in norms_of(module).items()}
    for path, gate in gated.items():
        module.set_submodule(path, gate)
    return gated


def remove_gates(module: nn.Module, gated: dict[str, GatedNorm]) -> None:
    """Replaces each `GatedNorm` by its BatchNorm, which then computes the same."""
    for path, gate in gated.items():
        module.set_submodule(path, gate.unwrapped())
