"""Models that torch.compile gave."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from graphprune.program.tensors import submodules


def unwrapped(model: Any) -> Any:
    """The model that `torch.compile` wraps, which has the same parameters under their own names; others as they are."""
    return model._orig_mod if _is_wrapper(model) else model


def compiled_parts(model: nn.Module) -> list[str]:
    """Paths of the modules inside that `torch.compile` wraps."""
    return [path for path, module in submodules(model).items() if path and _is_wrapper(module)]


def _is_wrapper(model: object) -> bool:
    # importing it takes a second, and who has compiled a model has it
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(model, dynamo.OptimizedModule)
