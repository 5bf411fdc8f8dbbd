"""Running a program on labelled tensors.

A `Labelled` tensor is a value (on the meta device while a program is analysed, real while it is verified) together with
its label planes. Every ATen op that meets one is dispatched to `LabelRun`, which computes the value and asks the op's
rule in `graphprune.ops` for the planes. One rule table so serves every front end, module, function and method.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from graphprune.labels import Cause, LabelSpace
from graphprune.ops.call import OpCall
from graphprune.ops.registry import rule_for
from graphprune.ops.schema import schema_of
from graphprune.planes import Planes, planes_of_stored, scatter


class Labelled(Tensor):
    """A tensor that carries its label planes through a program."""

    value: Tensor
    planes: Planes
    run: LabelRun
    __torch_function__ = torch._C._disabled_torch_function_impl  # type: ignore[assignment]

    @staticmethod
    def __new__(cls, value: Tensor, planes: Planes, run: LabelRun, device: torch.device) -> Labelled:
        """Wraps ``value``; ``device`` is the one that the program sees, also while the value is on the meta device."""
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
        """Shape and number of planes."""
        return f"Labelled({tuple(self.shape)}, {len(self.planes)} planes)"


@dataclass(frozen=True)
class Contraction:
    """The multiply-accumulates of one contraction, and the planes that its loops shrink with."""

    node: str
    macs: int
    planes: Planes


@dataclass
class LabelRun:
    """One run of a program on labels.

    With ``keep`` (bool per label) the run evaluates the *masked* program: ops that mix statistics over channels see the
    kept ones only.

    Attributes:
        moved: Planes of tensors that data movement made; what is kept of each must be a product of index sets.
        positional: Nodes in which an op addresses channels by position (roll, strided slice, indexing), with the plane
            that it moves along.
        normalised: Nodes in which a normalisation took place.
        choices: What rules decided by sizes, by node: an earlier run's decision holds, though sizes have changed.
    """

    space: LabelSpace
    device: torch.device
    keep: Tensor | None = None
    node: str = ""
    source: str = ""
    contractions: list[Contraction] = field(default_factory=list)
    moved: list[tuple[Tensor, Cause]] = field(default_factory=list)
    positional: list[tuple[str, Tensor, Cause]] = field(default_factory=list)
    normalised: set[str] = field(default_factory=set)
    choices: dict[str, bool] = field(default_factory=dict)

    def label(self, value: Tensor, planes: Planes = ()) -> Labelled:
        """Wraps a value of this run."""
        return Labelled(value, planes, self, self.device if value.is_meta else value.device)

    def label_stored(self, name: str, tensor: Tensor) -> Labelled:
        """Wraps a parameter or buffer, every index of every dim with a label of its own."""
        labels = [
            self.space.allocate(name, dim, size, stored=True) if size > 1 else None
            for dim, size in enumerate(tensor.shape)
        ]
        return self.label(tensor.detach(), planes_of_stored(labels, tensor.shape))

    def cause(self, func: Any, reason: str) -> Cause:
        """A cause at the node that runs now."""
        return Cause(self.node, str(func).removeprefix("aten.").removesuffix(".default"), reason, self.source)

    def choose(self, preferred: bool) -> bool:
        """The decision of the node that runs now: the one that was taken first."""
        return self.choices.setdefault(self.node, preferred)

    def count_macs(self, macs: int, planes: Planes) -> None:
        """Notes a contraction of the node that runs now."""
        self.contractions.append(Contraction(self.node, macs, planes))

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Runs one ATen op on values, then its rule on planes."""
        call = OpCall.bind(self, func, args, kwargs)
        outputs = call.compute()
        flat = list(outputs) if isinstance(outputs, (tuple, list)) else [outputs]
        call.outputs = tuple(leaf for leaf in flat if isinstance(leaf, Tensor))
        planes = self._planes_of_outputs(call)
        if self.keep is not None and call.mixes:
            flat = _evaluate_over_kept(call, flat, planes, self.keep)
        written = _written(call)
        if written is not None:
            if isinstance(written, Labelled):
                written.planes = planes[0]
            return written
        left = iter(planes)
        results = [self.label(leaf, next(left)) if isinstance(leaf, Tensor) else leaf for leaf in flat]
        return type(outputs)(results) if isinstance(outputs, (tuple, list)) else results[0]

    def _planes_of_outputs(self, call: OpCall) -> list[Planes]:
        rule = rule_for(call.func)
        planes = list(rule(call)) if rule else call.freeze_all("no rule for this op")
        return planes + [()] * (len(call.outputs) - len(planes))


class ShapeRun(LabelRun):
    """A run without labels: shapes only."""

    def _planes_of_outputs(self, call: OpCall) -> list[Planes]:
        return [()] * len(call.outputs)

    def label(self, value: Tensor, planes: Planes = ()) -> Labelled:
        """Wraps a value, without planes."""
        return super().label(value)

    def label_stored(self, name: str, tensor: Tensor) -> Labelled:
        """Wraps a parameter or buffer, without labels."""
        return self.label(tensor.detach())


def _evaluate_over_kept(call: OpCall, dense: list[Any], planes: list[Planes], keep: Tensor) -> list[Any]:
    """Runs a mixing op on the kept channels and puts zeros where the removed ones were."""
    compact = tree_leaves(call.compute_over_kept(keep))
    left = iter(planes)
    return [
        scatter(leaf, dense_leaf.shape, next(left), keep) if isinstance(leaf, Tensor) else leaf
        for leaf, dense_leaf in zip(compact, dense, strict=True)
    ]


def _written(call: OpCall) -> Any:
    """The argument that an in-place op writes to, which is also what it returns; None for other ops."""
    schema = schema_of(call.func)
    return call.arguments[schema.written] if schema.returns and schema.written else None
