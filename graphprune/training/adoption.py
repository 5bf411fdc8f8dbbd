"""The module that a user holds takes on the next network, and whatever trains it follows."""

from __future__ import annotations

from collections.abc import Sequence

from torch import fx
from torch.optim import Optimizer

from graphprune.program.tensors import Kept, Masks
from graphprune.training.exchange import become
from graphprune.training.masks import hold
from graphprune.training.optimizer import Replaced, clear_dead, clear_gradients, follow


def adopt(
    module: fx.GraphModule, compact: fx.GraphModule, kept: Kept, masks: Masks, optimizers: Sequence[Optimizer],
    replaced: Replaced,
) -> fx.GraphModule:  # fmt: skip
    """Turns a module into a compact one, which must not be used any more.

    Args:
        module: The module that the user holds.
        compact: What it becomes.
        kept: What is left of each parameter's dims that shrank.
        masks: Live weights of the parameters that have dead ones.
        optimizers: They go on with the new parameters, without what they remember of dead weights.
        replaced: Notes which parameters are not those of the module any more.

    Returns:
        A module that is what ``module`` was.
    """
    old = dict(module.named_parameters())
    former = become(module, compact)
    new = dict(module.named_parameters())
    replaced.note(old, new)
    for optimizer in optimizers:
        follow(optimizer, old, new, kept)
        clear_dead(optimizer, new, masks)
    clear_gradients(new, masks)
    hold(module, masks)
    return former
