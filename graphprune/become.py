"""A module that becomes another one: whoever holds it holds the other one then."""

from __future__ import annotations

from torch import fx


def become(module: fx.GraphModule, other: fx.GraphModule) -> fx.GraphModule:
    """Turns a module into another one, which must not be used any more; the module's mode stays.

    Returns:
        A module that is what ``module`` was.
    """
    # a graph module keeps its code on a class of its own, so contents and class move together and nothing is recompiled
    former = other
    mode = module.training
    contents, kind = other.__dict__, other.__class__
    former.__dict__, former.__class__ = module.__dict__, module.__class__
    module.__dict__, module.__class__ = contents, kind
    former.graph.owning_module, module.graph.owning_module = former, module
    module.training = mode
    for name in [name for name in module.__dict__ if "_hooks" in name]:
        module.__dict__[name], former.__dict__[name] = former.__dict__[name], module.__dict__[name]
    return former
