"""Finds the layers that a model's own ``train()`` keeps in evaluation mode, as for frozen batch statistics."""

from __future__ import annotations

import logging

from torch import fx, nn

from graphprune.capture.private_copy import has_own_train, in_own_memory, private_copy
from graphprune.program.surgery import copy_sharing_tensors
from graphprune.program.tensors import submodules

log = logging.getLogger(__name__)


def kept_in_evaluation(model: nn.Module, module: fx.GraphModule) -> tuple[str, ...]:
    """Paths of the submodules that ``train()`` leaves in evaluation mode in a model, but not in its graph module.

    A graph module lacks the methods, ``train()`` among them, of modules that the graph does not call as a whole.

    Args:
        model: The user's model; it is not changed.
        module: The graph module captured from it.
    """
    if not has_own_train(model):
        return ()
    copied = private_copy(model)
    own = copy_sharing_tensors(module)
    try:
        copied.train()
        with in_own_memory(own):  # its parameters use the memory of the program's
            own.train()
    except Exception as error:
        log.warning("train() of a copy of %s: %s; its modes are not compared", type(model).__name__, error)
        return ()
    theirs, ours = submodules(copied), submodules(own)
    return tuple(
        path for path, part in theirs.items() if path in ours and ours[path].training and not part.training and path
    )
