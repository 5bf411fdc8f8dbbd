"""Interpreting a program on labelled tensors, node by node."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._pytree import tree_map_only

from graphprune.errors import InputError
from graphprune.labelled import Labelled, LabelRun
from graphprune.ops.operand import Operand, planes_of
from graphprune.planes import Planes, along, sample_plane
from graphprune.program import Example, Program, source_line, stored_tensors

aten = torch.ops.aten
_UNIFORM = {
    torch.zeros, torch.ones, torch.full, torch.empty, aten.zeros.default, aten.ones.default, aten.full.default,
    aten.empty.memory_format,
}  # fmt: skip


class LabelInterpreter(fx.Interpreter):
    """Runs the graph, telling the run which node it is at and keeping what ``record`` makes of each result."""

    def __init__(self, module: fx.GraphModule, run: LabelRun, record: Callable[[fx.Node, Any], None]) -> None:
        super().__init__(module)
        self.extra_traceback = False  # torch would append to the message of every error
        self.run_state, self.record = run, record

    def run_node(self, n: fx.Node) -> Any:
        """Runs one node."""
        self.run_state.node, self.run_state.source = n.name, source_line(n)
        try:
            result = super().run_node(n)
        except (RuntimeError, IndexError, ValueError) as error:
            first_line = str(error).strip().partition("\n")[0]
            where = f" at {self.run_state.source}" if self.run_state.source else ""
            raise InputError(
                f"the example input does not fit the model: node %{n.name} ({n.target}){where}: {first_line}"
            ) from error
        if n.op == "call_function" and n.target in _UNIFORM and isinstance(result, Tensor):
            call_planes = _fresh(self.run_state, tuple(result.shape))
            result = self.run_state.label(result, call_planes)
        self.record(n, result)
        return result


def _fresh(run: LabelRun, shape: tuple[int, ...]) -> Planes:
    name = f"%{run.node}"
    return tuple(
        along(run.space.allocate(name, dim, size, stored=False), shape, dim)
        for dim, size in enumerate(shape)
        if size > 1
    )


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Evaluation mode without gradients; every module's own mode comes back."""
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    module.eval()
    try:
        with torch.no_grad():
            yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode


@contextmanager
def keeping_buffers(module: nn.Module) -> Iterator[None]:
    """Buffers that the program counts in get their values back."""
    buffers = [(buffer, buffer.detach().clone()) for buffer in module.buffers()]
    try:
        yield
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                if not torch.equal(buffer, value):
                    buffer.copy_(value)


def label_stored(run: LabelRun, tensors: Mapping[str, Tensor]) -> dict[str, Labelled]:
    """Gives labels to every index of every dim of every floating parameter and buffer."""
    return {name: run.label_stored(name, tensor) for name, tensor in tensors.items() if tensor.is_floating_point()}


def _own_counters(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies of the buffers without labels (integers), for a program may count in them."""
    return {name: tensor.detach().clone() for name, tensor in tensors.items() if not tensor.is_floating_point()}


def label_inputs(run: LabelRun, program: Program, example: Example) -> list[Any]:
    """Inputs carry sample labels along the batch dim, nothing else."""

    def label(tensor: Tensor) -> Labelled:
        planes: Planes = ()
        if example.is_batched(tensor) and tensor.shape[0] > 1:
            planes = (sample_plane(tensor.shape),)
        return run.label(tensor, planes)

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
        run: Where labels, unions and causes go.
        stored: Value of each parameter and buffer: on the meta device for analysis, real for evaluation.
        example: The inputs.
        record: Called with each node and its result.

    Returns:
        The output of the graph, tensors as `Labelled`.
    """
    module = program.module
    replaced: dict[str, Tensor] = {**label_stored(run, stored), **_own_counters(stored)}
    inputs = label_inputs(run, program, example)
    interpreter = LabelInterpreter(module, run, record)
    with evaluating(module), _reparametrize_module(module, replaced, tie_weights=True):
        return interpreter.run(*inputs, enable_io_processing=False)


def operands_of(result: Any) -> Any:
    """The shapes and planes of a node's result; sizes as they are."""

    def operand(tensor: Tensor) -> Operand:
        value = getattr(tensor, "value", tensor)
        return Operand(tuple(tensor.shape), planes_of(tensor), constant=None if value.is_meta else value)

    return operand(result) if isinstance(result, Tensor) else tree_map_only(Tensor, operand, result)


def meta_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Stored tensors for analysis: parameters without values, buffers (constants of the program) with theirs."""
    return {
        name: tensor.detach().to("meta") if isinstance(tensor, nn.Parameter) else tensor.detach().clone()
        for name, tensor in stored_tensors(module).items()
    }

