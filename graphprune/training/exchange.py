"""Turns a module into another one; whoever holds the module or one of its parameters then holds the new ones."""

from __future__ import annotations

from torch import fx, nn
from torch.autograd.graph import increment_version

from graphprune.program.surgery import put_tensors
from graphprune.program.tensors import stored_parameters, submodules


def become(module: fx.GraphModule, other: fx.GraphModule) -> fx.GraphModule:
    """Turns a module into another one; ``other`` must not be used any more, and the module keeps its mode.

    Parameters that have the same shape, type and device in both modules stay the same objects: optimizers, averages
    and wrappers that hold them continue with the new values.

    Returns:
        A module with the former contents of ``module``.
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
    _keep_parameters(module, former)
    return former


def _keep_parameters(module: nn.Module, former: nn.Module) -> None:
    """Gives a module its former parameter objects back, by exchanging values and places with ``former``."""
    theirs = stored_parameters(former)
    pairs = [(theirs[name], own) for name, own in stored_parameters(module).items() if name in theirs]
    pairs = [(old, new) for old, new in pairs if old is not new and _has_room(old, new)]
    for old, new in pairs:
        old.data, new.data = new.data, old.data
        increment_version(old)  # so that autograd refuses an earlier graph, which still needs the former values
    put_tensors(module, {id(new): old for old, new in pairs})
    put_tensors(former, {id(old): new for old, new in pairs})
    # the module in use comes last: memory that both use is laid out for it
    for submodule in [*submodules(former).values(), *submodules(module).values()] if pairs else ():
        if isinstance(submodule, nn.RNNBase):
            submodule._init_flat_weights()  # the layer keeps a list of its parameters, which has to be made anew


def _has_room(old: nn.Parameter, new: nn.Parameter) -> bool:
    same = (old.shape, old.dtype, old.device, old.layout) == (new.shape, new.dtype, new.device, new.layout)
    return same and type(old) is type(new) and not (old.is_inference() or new.is_inference())
