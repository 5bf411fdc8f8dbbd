"""Running a program on labelled tensors.

A `Labelled` tensor is a value (on the meta device while a program is analysed, real while it is verified) together with
its label planes. Every ATen op on such a tensor is dispatched to `LabelRun`, which computes the value and asks the op's
rule in `graphprune.ops` for the planes. So one table of rules serves every front end, module, function and method.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._mode_utils import no_dispatch
from torch.utils._pytree import tree_leaves

from graphprune.labels.notes import RunNotes
from graphprune.labels.planes import Planes, along, scatter, squash
from graphprune.ops.call import OpCall
from graphprune.ops.evaluation import evaluate, evaluate_over_kept, evaluate_with_zeros
from graphprune.ops.likeness import STATISTICS
from graphprune.ops.registry import rule_for
from graphprune.ops.schema import call_by_schema, schema_of


class Labelled(Tensor):
    """A tensor that carries its label planes through a program."""

    value: Tensor
    planes: Planes
    run: LabelRun
    stored: bool = False
    """Whether the tensor itself is a parameter or buffer."""
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, value: Tensor, planes: Planes, run: LabelRun, device: torch.device) -> Labelled:
        """Wraps ``value``; ``device`` is the one that the program sees, even while the value is on the meta device."""
        self: Labelled = torch.Tensor._make_wrapper_subclass(
            cls,
            value.shape,
            strides=value.stride(),
            storage_offset=value.storage_offset(),
            dtype=value.dtype,
            device=device,
        )
        self.value, self.planes, self.run = value, planes, run
        return self

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Hands the op over to the run that the tensor belongs to."""
        first = next(leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Labelled))
        return first.run.dispatch(func, args, kwargs or {})

    def __repr__(self, *, tensor_contents: object = None) -> str:  # type: ignore[override]
        """Shows the shape and the number of planes."""
        return f"Labelled({tuple(self.shape)}, {len(self.planes)} planes)"


@dataclass
class LabelRun(RunNotes):
    """One run of a program on labels.

    With ``keep`` (bool per label) the run evaluates the *masked* program: ops that mix statistics over channels see
    only the kept channels.
    """

    def label(self, value: Tensor, planes: Planes = ()) -> Labelled:
        """Wraps a value of this run; a lazy conjugate is computed first, because the wrapper cannot represent it."""
        value = value.resolve_conj() if value.is_complex() else value
        return Labelled(value, planes, self, self.device if value.is_meta else value.device)

    def label_stored(self, name: str, tensor: Tensor) -> Labelled:
        """Wraps a parameter or buffer; every index of every dim with a size above 1 gets a label of its own."""
        shape = tuple(tensor.shape)
        planes = tuple(
            along(self.space.allocate(name, dim, size, stored=True), shape, dim)
            for dim, size in enumerate(shape)
            if size > 1
        )
        labelled = self.label(tensor.detach() if tensor.requires_grad else tensor, planes)
        labelled.stored = True
        self.stored[self.memory_of(labelled)] = name
        return labelled

    def note_memory(self, node: fx.Node, result: Any) -> None:
        """Notes the memory of a node's result (the first of several), and whether an input shares it."""
        first = result[0] if isinstance(result, tuple) and result else result
        if isinstance(first, Labelled):
            memory = self.memory[node.name] = self.memory_of(first)
            if any(self.memory.get(source.name) == memory for source in node.all_input_nodes):
                self.views.add(node.name)

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs one ATen op on values, then its rule on planes."""
        call = OpCall.bind(self, func, args, kwargs)
        outputs = evaluate(call)
        flat = _flat(outputs)
        call.outputs = tuple(leaf for leaf in flat if isinstance(leaf, Tensor))
        planes = self._planes_of_outputs(call)
        if self.keep is not None and call.mixes:
            flat = _over_kept(tree_leaves(evaluate_over_kept(call, call.mixes, self.keep)), flat, planes, self.keep)
        elif self.keep is not None and (call.sums or (call.contracts and not _is_finite(flat))):
            # after a logarithm or a quotient, removed elements can have any value, even infinity
            flat = _flat(evaluate_with_zeros(call, self.keep))
        written = _written(call)
        if written is not None:
            if isinstance(written, Labelled):
                self._write(call, written, planes[0])
            return written
        left = iter(planes)
        results = [self.label(leaf, next(left)) if _is_read(leaf) else leaf for leaf in flat]
        return type(outputs)(results) if isinstance(outputs, (tuple, list)) else results[0]

    def _write(self, call: OpCall, written: Labelled, planes: Planes) -> None:
        """Updates the planes, and where needed the shape, of a tensor that an in-place op wrote to."""
        written.planes = planes
        memory = self.memory_of(written)
        self.writes.append((self.node, memory))
        for other, plane, cause in self.strided:
            if other == memory:
                self.space.pin(squash(plane), cause)
        if torch.Tag.inplace_view in call.func.tags:  # the op changed its shape
            with no_dispatch():
                call_by_schema(call.func, call.arguments)

    def _planes_of_outputs(self, call: OpCall) -> list[Planes]:
        rule = rule_for(call.func)
        planes = list(rule(call)) if rule else call.freeze_all("no rule for this op", "gap")
        return planes + [()] * (len(call.outputs) - len(planes))


class ShapeRun(LabelRun):
    """A run on shapes only, without labels."""

    def _planes_of_outputs(self, call: OpCall) -> list[Planes]:
        return [()] * len(call.outputs)

    def label(self, value: Tensor, planes: Planes = ()) -> Labelled:
        """Wraps a value without planes."""
        return super().label(value)

    def label_stored(self, name: str, tensor: Tensor) -> Labelled:
        """Wraps a parameter or buffer without labels."""
        return self.label(tensor.detach())


def _is_read(result: Any) -> bool:
    return isinstance(result, Tensor) and result is not STATISTICS


def _is_finite(leaves: list[Any]) -> bool:
    return all(bool(torch.isfinite(leaf).all()) for leaf in leaves if isinstance(leaf, Tensor))


def _flat(outputs: Any) -> list[Any]:
    """The outputs of an op as a list."""
    return list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]


def _over_kept(compact: list[Any], dense: list[Any], planes: list[Planes], keep: Tensor) -> list[Any]:
    """The results of an op over the kept channels, expanded with zeros in place of the removed ones."""
    left = iter(planes)
    return [
        scatter(leaf, dense_leaf.shape, next(left), keep) if isinstance(leaf, Tensor) else leaf
        for leaf, dense_leaf in zip(compact, dense, strict=True)
    ]


def _written(call: OpCall) -> Any:
    """The argument that an in-place op writes to, which is also what it returns; None for other ops."""
    written = schema_of(call.func).written
    return None if written is None else call.arguments[written]
