"""BatchNorm whose scale is a gate: what GateDecorators scores and prunes by."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

LARGEST_SHIFT = 10.0
"""Bound of a shift, which is beta over gamma. Source: the authors' code."""


class GatedNorm(nn.Module):
    """``gate * (normalised + shift)``: as BatchNorm, but a gate of 0 closes the channel altogether.

    The gate is BatchNorm's gamma, the same parameter; the shift is its beta, over gamma. So an optimizer that holds
    BatchNorm's parameters goes on with them.

    Source: You et al., Gate Decorator, NeurIPS 2019, section 3.2 (the gate takes over gamma); as in the authors' code
    beta / gamma is kept within ±`LARGEST_SHIFT`, so the function changes where a beta is more than ten times its gamma.

    Args:
        norm: A normalisation with scale and shift; it must not be used before `unwrapped`.
    """

    def __init__(self, norm: _BatchNorm) -> None:
        super().__init__()
        self.gate, self.shift = norm.weight, norm.bias
        self._norm = (norm,)  # hidden from torch: its parameters are here already
        self.plain = type(norm)(norm.num_features, norm.eps, norm.momentum, False, norm.track_running_stats)
        self.plain._buffers.update(norm._buffers)
        self.train(norm.training)
        with torch.no_grad():
            ratio = (self.shift / self.gate).nan_to_num(0.0)  # 0 / 0: a channel that is closed already
            self.shift.copy_(ratio.clamp(-LARGEST_SHIFT, LARGEST_SHIFT))

    def forward(self, x: Tensor) -> Tensor:
        """``(N, channels, ...)`` to the same shape."""
        shape = (1, -1, *[1] * (x.dim() - 2))
        out: Tensor = self.gate.view(shape) * (self.plain(x) + self.shift.view(shape))
        return out

    def unwrapped(self) -> _BatchNorm:
        """The BatchNorm that computes the same; this gate must not be used any more."""
        (norm,) = self._norm
        with torch.no_grad():
            self.shift.mul_(self.gate)
        norm.train(self.training)
        return norm


def norms_of(module: nn.Module) -> dict[str, _BatchNorm]:
    """Each BatchNorm with scale and shift, by path."""
    return {path: norm for path, norm in module.named_modules() if isinstance(norm, _BatchNorm) and norm.affine}


def put_gates(module: nn.Module) -> dict[str, GatedNorm]:
    """Puts a `GatedNorm` in the place of each BatchNorm with scale and shift, in place; by path."""
    gated = {path: GatedNorm(norm) for path, norm in norms_of(module).items()}
    for path, gate in gated.items():
        module.set_submodule(path, gate)
    return gated


def remove_gates(module: nn.Module, gated: dict[str, GatedNorm]) -> None:
    """Puts BatchNorms that compute the same back in their places."""
    for path, gate in gated.items():
        module.set_submodule(path, gate.unwrapped())
