"""Models that torch.compile has wrapped."""

from __future__ import annotations

import sys
from typing import Any

from torch import nn

from graphprune.program.tensors import submodules


def unwrapped(model: Any) -> Any:
    """The model inside the wrapper of `torch.compile`, with the parameters' own names; any other model as it is."""
    return model._orig_mod if _is_wrapper(model) else model


def compiled_parts(model: nn.Module) -> list[str]:
    """Paths of the submodules that `torch.compile` has wrapped."""
    return [path for path, module in submodules(model).items() if path and _is_wrapper(module)]


def _is_wrapper(model: object) -> bool:
    # not imported here, which would take a second; whoever has compiled a model has imported it
    dynamo = sys.modules.get("torch._dynamo.eval_frame")
    return dynamo is not None and isinstance(model, dynamo.OptimizedModule)
