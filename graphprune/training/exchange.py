"""A module that becomes another one: whoever holds it, or one of its parameters, holds those of the other one then."""

from __future__ import annotations

from torch import fx, nn
from torch.autograd.graph import increment_version

from graphprune.program.surgery import put_tensors
from graphprune.program.tensors import stored_parameters, submodules


def become(module: fx.GraphModule, other: fx.GraphModule) -> fx.GraphModule:
    """Turns a module into another one, which must not be used any more; the module's mode stays.

    Parameters of which the other one has as many values stay the objects that they are: optimizers, averages and
    wrappers that hold them go on with the new values.

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
    _keep_parameters(module, former)
    return former


def _keep_parameters(module: nn.Module, former: nn.Module) -> None:
    """Gives a module the parameters of another one back, with values and places exchanged."""
    theirs = stored_parameters(former)
    pairs = [(theirs[name], own) for name, own in stored_parameters(module).items() if name in theirs]
    pairs = [(old, new) for old, new in pairs if old is not new and _has_room(old, new)]
    for old, new in pairs:
        old.data, new.data = new.data, old.data
        increment_version(old)  # a graph from before, which still wants the former values, is refused by autograd
    put_tensors(module, {id(new): old for old, new in pairs})
    put_tensors(former, {id(old): new for old, new in pairs})
    # the one in use comes last: what both have is laid out in memory for it
    for submodule in [*submodules(former).values(), *submodules(module).values()] if pairs else ():
        if isinstance(submodule, nn.RNNBase):
            submodule._init_flat_weights()  # a list of the parameters that the layer keeps beside them


def _has_room(old: nn.Parameter, new: nn.Parameter) -> bool:
    same = (old.shape, old.dtype, old.device, old.layout) == (new.shape, new.dtype, new.device, new.layout)
    return same and type(old) is type(new) and not (old.is_inference() or new.is_inference())
