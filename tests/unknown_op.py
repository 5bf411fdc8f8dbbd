"""An op of torch's registry that graphprune has no rule for, and never will have."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


@torch.library.custom_op("graphprune_tests::unknown", mutates_args=())
def _unknown(x: Tensor) -> Tensor:
    return x.flip(1)


@_unknown.register_fake
def _(x: Tensor) -> Tensor:
    return torch.empty_like(x)


def _backward(context: Any, gradient: Tensor) -> Tensor:
    return unknown(gradient)


_unknown.register_autograd(_backward)


def unknown(x: Tensor) -> Tensor:
    """Reverses dim 1; appears as one node in a graph of either front end."""
    out: Tensor = torch.ops.graphprune_tests.unknown(x)
    return out
