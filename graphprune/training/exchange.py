"""Turns a module into another one; whoever holds the module or one of its parameters then holds the new ones."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.autograd.graph import increment_version

from graphprune.program.surgery import put_tensors
from graphprune.program.tensors import stored_parameters, stored_tensors, submodules


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
    for each in (former, module) if pairs else ():
        _tell_recurrent_layers(each)


def own_tensors(former: nn.Module, module: nn.Module) -> None:
    """Gives a module tensors of its own for those that it shares with another one; parameters still share memory."""
    shared = {id(tensor) for tensor in stored_tensors(module).values()}
    own: dict[int, Tensor] = {}
    for tensor in stored_tensors(former).values():
        if id(tensor) in shared and type(tensor) is nn.Parameter and not tensor.is_inference():
            own[id(tensor)] = nn.Parameter(tensor.data, tensor.requires_grad)
        elif id(tensor) in shared and not isinstance(tensor, nn.Parameter):
            own[id(tensor)] = tensor.clone()
    put_tensors(former, own)
    _tell_recurrent_layers(former)


def overwrite(module: nn.Module, other: nn.Module) -> None:
    """Copies the values of another module with the same tensors; the module keeps its own tensors."""
    theirs = stored_tensors(other)
    with torch.no_grad():
        for name, tensor in stored_tensors(module).items():
            if tensor is not theirs[name]:
                tensor.copy_(theirs[name])


def _tell_recurrent_layers(module: nn.Module) -> None:
    """Has recurrent layers make their list of their parameters anew."""
    for submodule in submodules(module).values():
        if isinstance(submodule, nn.RNNBase):
            submodule._init_flat_weights()


def _has_room(old: nn.Parameter, new: nn.Parameter) -> bool:
    same = (old.shape, old.dtype, old.device, old.layout) == (new.shape, new.dtype, new.device, new.layout)
    return same and type(old) is type(new) and not (old.is_inference() or new.is_inference())
