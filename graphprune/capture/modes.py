"""What a model's own ``train()`` keeps in evaluation mode, such as batch statistics that are frozen."""

from __future__ import annotations

import logging

from torch import fx, nn

from graphprune.capture.private_copy import private_copy
from graphprune.program import submodules
from graphprune.rewrite.compact import copy_sharing_tensors

log = logging.getLogger(__name__)


def kept_in_evaluation(model: nn.Module, module: fx.GraphModule) -> tuple[str, ...]:
    """Submodules that ``train()`` leaves in evaluation mode in a model, and not in a graph module of it.

    Methods of modules that the graph does not call as a whole are not part of the graph module.

    Args:
        model: The user's; not changed.
        module: Captured from it.
    """
    if not any("train" in vars(kind) for each in model.modules() for kind in _own_kinds(each)):
        return ()
    copied = private_copy(model)
    try:
        copied.train()
    except Exception as error:
        log.warning("train() of a copy of %s: %s; its modes are not compared", type(model).__name__, error)
        return ()
    theirs, own = submodules(copied), submodules(copy_sharing_tensors(module).train())
    return tuple(
        path for path, part in theirs.items() if path in own and own[path].training and not part.training and path
    )


def _own_kinds(module: nn.Module) -> list[type]:
    return [kind for kind in type(module).__mro__ if kind.__module__.partition(".")[0] != "torch"]
