"""Hard-concrete gates: random numbers in [0, 1] that are exactly 0 or 1 with a differentiable probability."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

GAMMA = -0.1
ZETA = 1.1
BETA = 2 / 3
"""Stretch and temperature of the distribution. Source: Louizos et al. 2018, section 4."""

DROP_RATE = 0.5
"""Initial drop rate, from which log alpha starts. Source: Louizos et al. 2018, section 4."""

SPREAD = 1e-2
"""Standard deviation of log alpha at the start. Source: the authors' code."""

EPSILON = 1e-6
"""Least distance of uniform numbers from 0 and 1, so that their logits are finite. Source: the authors' code."""

LOG_ALPHA_RANGE = (math.log(1e-2), math.log(1e2))
"""Range that log alpha is kept in, so that no gate closes for good. Source: the authors' code."""


def stretched(log_alpha: Tensor, uniform: Tensor) -> Tensor:
    """Makes hard-concrete numbers from uniform numbers.

    The result is ``s = sigmoid((log u - log(1 - u) + log alpha) / beta)``, stretched to ``(gamma, zeta)`` and clipped
    to [0, 1].

    Source: Louizos, Welling and Kingma, Learning Sparse Neural Networks through L0 Regularization, ICLR 2018,
    equations 10 and 11.

    Args:
        log_alpha: Locations, shape ``(channels,)``.
        uniform: Uniform in (0, 1), of that shape or one that broadcasts with it.
    """
    concrete = torch.sigmoid((torch.logit(uniform) + log_alpha) / BETA)
    return (concrete * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def probability_open(log_alpha: Tensor) -> Tensor:
    """Returns P(z > 0) = ``sigmoid(log alpha - beta log(-gamma / zeta))``; source: Louizos et al., equation 12."""
    return torch.sigmoid(log_alpha - BETA * math.log(-GAMMA / ZETA))


def deterministic(log_alpha: Tensor) -> Tensor:
    """Returns gates for evaluation: stretched, clipped ``sigmoid(log alpha)``; source: Louizos et al., equation 13."""
    return (torch.sigmoid(log_alpha) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


class HardConcrete(nn.Module):
    """A gate for each channel: drawn anew for each batch in training mode, fixed in eval mode.

    Args:
        channels: Number of gates.
        drop_rate: Drop rate in (0, 1); log alpha starts around ``log(1 - drop_rate) - log(drop_rate)``.
        generator: Generator of the initial values, on the CPU.
    """

    def __init__(self, channels: int, drop_rate: float, generator: torch.Generator) -> None:
        super().__init__()
        middle = math.log(1 - drop_rate) - math.log(drop_rate)
        self.log_alpha = nn.Parameter(middle + SPREAD * torch.randn(channels, generator=generator))

    def forward(self) -> Tensor:
        """Returns gates in [0, 1], shape ``(channels,)``."""
        if not self.training:
            return deterministic(self.log_alpha)
        return stretched(self.log_alpha, torch.empty_like(self.log_alpha).uniform_(EPSILON, 1 - EPSILON))

    @torch.no_grad()
    def keep_in_range(self) -> None:
        """Moves log alpha back into `LOG_ALPHA_RANGE`."""
        self.log_alpha.clamp_(*LOG_ALPHA_RANGE)
