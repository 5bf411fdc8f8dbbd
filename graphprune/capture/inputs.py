"""Checks the model and the example input that a user gives to be captured."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from graphprune.capture.torch_compiled import compiled_parts
from graphprune.errors import InputError
from graphprune.program.example import Example
from graphprune.program.tensors import stored_parameters, stored_tensors

_OF_GRAPH_MODULES = frozenset({*dir(fx.GraphModule), "meta"} - {*dir(nn.Module)})


def check_inputs(model: nn.Module, example: Example, example_input: Any) -> None:
    """Refuses a model or an example input that no front end could capture, whatever the code of the model.

    Raises:
        InputError: one of them cannot be captured; the message says what to give instead.
    """
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise InputError(f"{type(model).__name__} only wraps the model; give model.module")
    if not isinstance(model, nn.Module):
        raise InputError(f"expected an nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("TorchScript cannot be pruned, its code is no Python any more; give the model it was made of")
    if parts := compiled_parts(model):
        raise InputError(
            f"'{parts[0]}' was wrapped by torch.compile, which changes the names of its parameters and hides its code; "
            "prune the model before, and compile the compact module"
        )
    taken = [name for name in (*model._modules, *model._parameters, *model._buffers) if name in _OF_GRAPH_MODULES]
    if taken:
        raise InputError(
            f"{type(model).__name__} has a part named '{taken[0]}', a name that torch.fx.GraphModule needs itself; "
            f"give it another one, self.{taken[0]}_ say"
        )
    if not example.tensors():
        raise InputError(
            f"the example input holds no tensor, it is of type {type(example_input).__name__}; give a tensor, a tuple "
            "of arguments, or a dict of them"
        )
    if example.batch_size == 0:
        raise InputError("the example input holds no samples: its dim 0 is 0; give at least one")
    parameters = stored_parameters(model)
    lazy = [name for name, tensor in stored_tensors(model).items() if nn.parameter.is_lazy(tensor)]
    if lazy:
        kind = "parameter" if lazy[0] in parameters else "buffer"
        raise InputError(f"{kind} '{lazy[0]}' has no shape yet; run the model once before pruning it")
    if not parameters:
        raise InputError(f"{type(model).__name__} has no parameters; there is nothing to prune")
