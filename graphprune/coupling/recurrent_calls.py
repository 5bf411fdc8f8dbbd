"""Hands recurrent layers to the op rules as single ops; torch would split them into time steps before dispatch."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.rnn import RNNBase, RNNCellBase
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

from graphprune.coupling.labelled import Labelled, LabelRun
from graphprune.labels.planes import along

aten = torch.ops.aten

_LAYERS = {torch.lstm: aten.lstm, torch.gru: aten.gru, torch.rnn_tanh: aten.rnn_tanh, torch.rnn_relu: aten.rnn_relu}
_CELLS = {
    torch.lstm_cell: aten.lstm_cell, torch.gru_cell: aten.gru_cell, torch.rnn_tanh_cell: aten.rnn_tanh_cell,
    torch.rnn_relu_cell: aten.rnn_relu_cell,
}  # fmt: skip
_PACKETS = frozenset((*_LAYERS.values(), *_CELLS.values()))


def is_recurrent(module: nn.Module, node: fx.Node) -> bool:
    """Whether a node calls a recurrent layer or cell."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), (RNNBase, RNNCellBase))
    return node.op == "call_function" and (node.target in _CELLS or _packet(node.target) in _PACKETS)


def is_recurrent_layer(module: nn.Module, node: fx.Node) -> bool:
    """Whether a node calls a recurrent layer with all its time steps, not a cell."""
    if node.op == "call_module":
        return isinstance(module.get_submodule(str(node.target)), RNNBase)
    return node.op == "call_function" and _packet(node.target) in _LAYERS.values()


def recurrent_layer(func: Any, args: tuple[Any, ...]) -> Any:
    """The ATen overload that a call of a recurrent layer stands for; None for any other call."""
    if isinstance(func, torch._ops.OpOverload):
        return func if func.overloadpacket in _LAYERS.values() else None
    if func not in _LAYERS:
        return None
    packed = isinstance(args[1], Tensor) and not args[1].is_floating_point()  # the batch size of each step, not a state
    return _LAYERS[func].data if packed else _LAYERS[func].input


class RecurrentCalls(TorchFunctionMode):
    """Hands calls of recurrent ops to a run, and labels initial states that a layer makes itself: they can shrink."""

    def __init__(self, run: LabelRun) -> None:
        super().__init__()
        self.run = run

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs one call."""
        kwargs = kwargs or {}
        if func is torch.zeros:
            return fresh_tensor(self.run, func(*args, **kwargs))
        overload = _CELLS[func].default if func in _CELLS else func if _packet(func) in _CELLS.values() else None
        overload = overload or recurrent_layer(func, args)
        if overload is not None and any(isinstance(leaf, Labelled) for leaf in tree_leaves(args)):
            return self.run.dispatch(overload, args, kwargs)
        return func(*args, **kwargs)


def fresh_tensor(run: LabelRun, value: Tensor) -> Labelled:
    """Labels a uniform tensor that the program makes, so that it shrinks with the tensors it is combined with."""
    shape = tuple(value.shape)
    planes = tuple(
        along(run.space.allocate(f"%{run.node}", dim, size, stored=False), shape, dim)
        for dim, size in enumerate(shape)
        if size > 1
    )
    return run.label(value, planes)


def _packet(target: Any) -> Any:
    """The ATen packet of an overload or of a torch function; None for anything else."""
    return getattr(target, "overloadpacket", None) or _LAYERS.get(target)
