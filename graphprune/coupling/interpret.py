"""Interpreting a program on labelled tensors, node by node."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from operator import attrgetter, getitem
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx.experimental._config import patch  # type: ignore[attr-defined]
from torch.utils._pytree import tree_leaves, tree_map_only

from graphprune.coupling.known_ops import OpOf, op_of_function, op_of_layer
from graphprune.coupling.labelled import Labelled, LabelRun
from graphprune.coupling.recurrent_calls import RecurrentCalls, fresh_tensor, is_recurrent
from graphprune.errors import InputError
from graphprune.labels.operand import Operand, planes_of
from graphprune.labels.planes import Planes, sample_plane
from graphprune.program.example import Example
from graphprune.program.module_state import evaluating, standing_in
from graphprune.program.nodes import source_line
from graphprune.program.program import Program
from graphprune.program.tensors import Layers, stored_tensors

aten = torch.ops.aten
_UNIFORM = {
    torch.zeros, torch.ones, torch.full, torch.empty, aten.zeros.default, aten.ones.default, aten.full.default,
    aten.empty.memory_format,
}  # fmt: skip

_FROM_DATA = {torch.as_tensor, torch.asarray, torch.tensor}
"""Functions that read the memory of their argument; labelled tensors have none."""


class LabelInterpreter:
    """Runs a graph; notes the current node in the run, and hands each node and its result to ``record``."""

    def __init__(self, module: nn.Module, run: LabelRun, record: Callable[[fx.Node, Any], None]) -> None:
        self.module, self.run_state, self.record = module, run, record
        self.layers = Layers(module)

    def run(self, graph: fx.Graph, inputs: Sequence[Any]) -> Any:
        """Runs a graph and returns its output; each result is held until its last user has run."""
        waiting, results = iter(inputs), dict[fx.Node, Any]()
        users_left = {node: len(node.users) for node in graph.nodes}
        for node in graph.nodes:
            args, kwargs = fx.map_arg((node.args, node.kwargs), results.__getitem__)
            if node.op == "output":
                self.record(node, args[0])
                return args[0]
            self.run_state.node, self.run_state.source = node.name, source_line(node)
            self.run_state.unread = unread_results(node)
            result = next(waiting, *args) if node.op == "placeholder" else self._run_node(node, args, kwargs)
            self.record(node, result)
            self.run_state.note_memory(node, result)
            results[node] = result
            for source in node.all_input_nodes:
                users_left[source] -= 1
                if not users_left[source]:
                    del results[source]
        return None

    def _run_node(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs one node.

        Raises:
            InputError: an op refuses its arguments.
        """
        try:
            return self.result(node, args, kwargs)
        except (RuntimeError, IndexError, ValueError, AssertionError) as error:
            first_line = str(error).strip().partition("\n")[0]
            where = f" at {self.run_state.source}" if self.run_state.source else ""
            if any(map(_is_sparse, tree_leaves((args, kwargs)))):
                raise InputError(
                    f"node %{node.name} ({node.target}){where} works on a sparse tensor, which analysis cannot follow; "
                    "keep it dense (.to_dense()), or compile the parts of the model around it"
                ) from error
            if "on meta tensors" in first_line:
                raise InputError(
                    f"node %{node.name} ({node.target}){where} looks at values of tensors to decide what to compute "
                    f"({first_line}); analysis knows none. Compile the model without it, or the parts around it"
                ) from error
            raise InputError(
                f"the example input does not fit the model: node %{node.name} ({node.target}){where}: {first_line}"
            ) from error

    def result(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of one node."""
        known = self._known_op(node, args, kwargs)
        if known is not None:
            result = self.run_state.dispatch(*known)
            return result[0] if isinstance(result, tuple) else result
        result = self._call(node, args, kwargs)
        if node.op == "call_function" and node.target in _UNIFORM and isinstance(result, Tensor):
            return fresh_tensor(self.run_state, result)
        if type(result) is Tensor:  # a constant: tensors made from it (copies along a dim) may have labels
            return self.run_state.label(result)
        return result

    def _known_op(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpOf | None:
        """The single ATen op that a node stands for, with its arguments; None if it is not known."""
        if node.op == "call_function":
            return op_of_function(node.target, args, kwargs)
        alone = node.op == "call_module" and len(args) == 1 and not kwargs and isinstance(args[0], Tensor)
        return op_of_layer(self.layers.called_by(node), args[0]) if alone else None

    def _call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        target: Any = node.target
        with RecurrentCalls(self.run_state) if is_recurrent(self.module, node) else nullcontext():
            if node.op == "call_module":
                return self.layers.called_by(node)(*args, **kwargs)
            if target in _FROM_DATA and isinstance(args[0], Tensor):
                return args[0].to(kwargs["dtype"]) if kwargs.get("dtype") else args[0].clone()
            if node.op == "call_function":
                return target(*args, **kwargs)
            if node.op == "call_method":
                return getattr(args[0], target)(*args[1:], **kwargs)
            return attrgetter(target)(self.module)


def _is_sparse(leaf: Any) -> bool:
    return isinstance(leaf, Tensor) and getattr(leaf, "value", leaf).layout != torch.strided


def label_stored(run: LabelRun, tensors: Mapping[str, Tensor]) -> dict[str, Labelled]:
    """Labels every index of every dim of each floating-point or complex parameter and buffer.

    Other tensors (integers) get no labels; they are copied, because a program may use them as counters.
    """
    return {
        name: run.label_stored(name, tensor) if _is_number(tensor) else run.label(tensor.detach().clone())
        for name, tensor in tensors.items()
    }


def _is_number(tensor: Tensor) -> bool:
    return tensor.is_floating_point() or tensor.is_complex()


def label_inputs(run: LabelRun, program: Program, example: Example) -> list[Any]:
    """Labels the inputs: the samples along the batch dim, and nothing else.

    The analysis does not see the values of inputs, so an index that comes from an input is not a constant.
    """

    def label(tensor: Tensor) -> Labelled:
        planes: Planes = ()
        if example.is_batched(tensor) and tensor.shape[0] > 1:
            planes = (sample_plane(tensor.shape),)
        return run.label(tensor.to("meta") if run.keep is None else tensor, planes)

    inputs: list[Any] = tree_map_only(Tensor, label, program.inputs(example))
    return inputs


def interpret(
    program: Program,
    run: LabelRun,
    stored: Mapping[str, Tensor],
    example: Example,
    record: Callable[[fx.Node, Any], None] = lambda node, result: None,
) -> Any:
    """Runs a program on labels, in evaluation mode.

    Args:
        program: The program.
        run: The run that collects labels, unions and causes.
        stored: Value of each parameter and buffer, by name: `meta_tensors` for analysis, real values for evaluation.
        example: The inputs.
        record: Called with each node and its result.

    Returns:
        The output of the graph, with tensors as `Labelled`.
    """
    module = program.module
    by_name = label_stored(run, stored)
    replaced = {id(tensor): by_name[name] for name, tensor in stored_tensors(module).items()}
    inputs = label_inputs(run, program, example)
    interpreter = LabelInterpreter(module, run, record)
    # without values, a mask is assumed to pick every element
    with evaluating(module), standing_in(module, replaced), patch(meta_nonzero_assume_all_nonzero=True):
        return interpreter.run(module.graph, inputs)


_EXTREMA = {torch.max, torch.min, aten.max.dim, aten.min.dim, "max", "min"}
_PLACES = {"values": 0, "indices": 1}


def unread_results(node: fx.Node) -> frozenset[int]:
    """Places of those results of a maximum or minimum (0: values, 1: their indices) that nothing reads."""
    if node.target not in _EXTREMA:
        return frozenset()
    read = set()
    for user in node.users:
        if user.target in (getitem, getattr) and not user.users:
            continue  # an unpacked result that is not used
        place = user.args[1] if len(user.args) > 1 else None
        if user.target is getattr:
            place = _PLACES.get(str(place))
        if user.target not in (getitem, getattr) or not isinstance(place, int):
            return frozenset()
        read.add(place % 2)
    return frozenset({0, 1} - read)


def operands_of(result: Any) -> Any:
    """A node's result with operands (shapes and planes) in place of tensors; sizes stay as they are."""

    def operand(tensor: Tensor) -> Operand:
        value = getattr(tensor, "value", tensor)
        constant = None if value.is_meta else value
        return Operand(tuple(tensor.shape), planes_of(tensor), constant=constant, dtype=value.dtype)

    return operand(result) if isinstance(result, Tensor) else tree_map_only(Tensor, operand, result)


def meta_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Stored tensors for analysis, by name; see `without_values`."""
    return {name: without_values(tensor) for name, tensor in stored_tensors(module).items()}


def without_values(tensor: Tensor) -> Tensor:
    """A parameter without its values, or a copy of a buffer with its values, which are constants of the program."""
    if not isinstance(tensor, nn.Parameter):
        return tensor.detach().clone()
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device="meta")
