"""Puts the next network into the module that a user holds; its optimizers follow."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx
from torch.optim import Optimizer

from graphprune.program.tensors import Kept, Masks
from graphprune.training.exchange import become, own_tensors
from graphprune.training.masks import hold
from graphprune.training.optimizer import Replaced, clear_dead, clear_gradients, follow


def adopt(
    module: fx.GraphModule, compact: fx.GraphModule, kept: Kept, masks: Masks, optimizers: Sequence[Optimizer],
    replaced: Replaced,
) -> fx.GraphModule:  # fmt: skip
    """Turns a module into a compact one.

    Args:
        module: The module that the user holds.
        compact: What the module becomes; this object must not be used any more.
        kept: Kept indices of each dim that shrank.
        masks: Live weights of the parameters that have dead ones.
        optimizers: Optimizers that continue with the new parameters; their state of dead weights is cleared.
        replaced: Records which parameters do not belong to the module any more.

    Returns:
        A module with the former contents of ``module``; its parameters may still use memory of the new ones.
    """
    old = dict(module.named_parameters())
    former = become(module, compact)
    own_tensors(former, module)
    new = dict(module.named_parameters())
    replaced.note(old, new)
    for optimizer in optimizers:
        follow(optimizer, old, new, kept)
        clear_dead(optimizer, new, masks)
    clear_gradients(new, masks)
    hold(module, masks)
    return former
