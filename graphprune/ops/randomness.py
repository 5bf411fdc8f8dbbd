"""Random numbers that are drawn in evaluation mode too."""

from __future__ import annotations

import torch

from graphprune.labels.planes import Planes
from graphprune.ops.call import OpCall
from graphprune.ops.registry import rule


@rule(torch.Tag.nondeterministic_seeded)
def draw(call: OpCall) -> list[Planes]:
    """A smaller tensor would get other numbers, so nothing could be proved about it."""
    return call.freeze_all("draws random numbers in evaluation mode")
