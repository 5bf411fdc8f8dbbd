"""Running a program on shapes alone."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, ClassVar

from torch import Tensor, fx
from torch.fx.experimental._config import patch  # type: ignore[attr-defined]
from torch.fx.node import map_aggregate
from torch.utils._pytree import tree_leaves, tree_map_only

from graphprune.coupling.interpret import LabelInterpreter, without_values
from graphprune.coupling.labelled import Labelled, ShapeRun
from graphprune.labels.labels import LabelSpace
from graphprune.labels.operand import Operand
from graphprune.ops.likeness import result_like
from graphprune.ops.schema import bind
from graphprune.program.facts import Fact
from graphprune.program.module_state import evaluating, standing_in
from graphprune.program.nodes import Kind, kind_of, op_name
from graphprune.program.program import Program, device_of
from graphprune.program.tensors import stored_tensors


@dataclass(frozen=True)
class RecordedShapes(Fact):
    """Shapes of each node's result, recorded by a run or, after a prune, predicted.

    Attributes:
        by_node: Shapes of the tensors in each node's result, in order, by node name.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("build-dependencies", "prune-channels")

    by_node: dict[str, Any]


class ShapeInterpreter(LabelInterpreter):
    """Runs on plain meta tensors; nodes whose results do not follow from these alone run on labelled tensors."""

    def result(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """The result of one node."""
        known = self._known_op(node, args, kwargs)
        told = result_like(known[0], bind(*known)) if known and _on_meta((*args, *kwargs.values())) else None
        if told is not None:
            return told[0] if isinstance(told, tuple) else told
        if _only_reads_shape(node, args):
            return self._call(node, args, kwargs)
        args, kwargs = map_aggregate((args, kwargs), self._labelled)
        result = super().result(node, args, kwargs)
        return result.value if isinstance(result, Labelled) else tree_map_only(Labelled, attrgetter("value"), result)

    def _call(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if node.op == "get_attr":
            stored = super()._call(node, args, kwargs)
            return without_values(stored) if isinstance(stored, Tensor) else stored
        if node.op != "call_module":
            return super()._call(node, args, kwargs)
        layer = self.layers.called_by(node)
        # labelled, because a layer may compute with its parameters and buffers alone (a parametrization)
        labelled = {id(tensor): self._labelled(without_values(tensor)) for tensor in stored_tensors(layer).values()}
        with standing_in(layer, labelled):
            return super()._call(node, args, kwargs)

    def _labelled(self, argument: Any) -> Any:
        return self.run_state.label(argument) if isinstance(argument, Tensor) else argument


def _on_meta(arguments: Iterable[Any]) -> bool:
    """Whether any tensor among the arguments, or in lists among them, is on the meta device."""
    return any(
        argument.is_meta if isinstance(argument, Tensor) else isinstance(argument, (tuple, list)) and _on_meta(argument)
        for argument in arguments
    )


def _only_reads_shape(node: fx.Node, args: tuple[Any, ...]) -> bool:
    """Whether torch finds the result of a node quickly, and correctly for any layout of the network's tensors."""
    if node.op not in ("call_function", "call_method") or len(node.all_input_nodes) != 1:
        return False
    if op_name(node) == "getattr":
        return isinstance(args[0], tuple) or args[1] in ("shape", "dtype", "ndim")
    kind = kind_of(node)
    contiguous = bool(args) and isinstance(args[0], Tensor) and args[0].is_contiguous()
    return Kind.READS_SHAPE in kind or (Kind.READS_SHAPE_IN_ORDER in kind and contiguous)


def propagate_shapes(program: Program) -> tuple[dict[str, Any], str]:
    """Runs the program without values, in evaluation mode.

    Returns:
        Shapes of every node's result, and why the run stopped early (empty where it did not).
    """
    shapes: dict[str, Any] = {}

    def record(node: fx.Node, result: Any) -> None:
        shapes[node.name] = shapes_of(result)

    interpreter = ShapeInterpreter(program.module, ShapeRun(LabelSpace(), device_of(program)), record)
    inputs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), program.inputs())
    try:
        # without values, a mask is assumed to pick every element
        with evaluating(program.module), patch(meta_nonzero_assume_all_nonzero=True):
            interpreter.run(program.module.graph, inputs)
    except Exception as error:  # any op may raise its own kind of error for wrong sizes
        return shapes, str(error)
    return shapes, ""


def shapes_of(value: Any) -> Any:
    """Shapes of the tensors in a node's value, in order."""
    if isinstance(value, (Operand, Tensor)):
        return (tuple(value.shape),)
    return tuple(tuple(leaf.shape) for leaf in tree_leaves(value) if isinstance(leaf, (Operand, Tensor)))
