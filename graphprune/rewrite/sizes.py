"""What a rewriting rule knows about the node it rewrites: old shapes, and which indices survive."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.labels.keep_set import KeepSet
from graphprune.labels.operand import Operand
from graphprune.labels.planes import KnownSizes, channel_planes, is_sample, kept_indices, kept_size, varying


@dataclass(slots=True)
class Survivors:
    """A tensor of the program under a keep set."""

    operand: Operand
    keep: Tensor
    """Which labels are kept, bool, shape ``(labels,)``."""
    known: KnownSizes = field(default_factory=dict, repr=False, compare=False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape before the prune."""
        return self.operand.shape

    def shrinks(self, dim: int) -> bool:
        """Whether anything is removed along the dim."""
        return self.size(dim) != self.shape[dim % len(self.shape)]

    @property
    def shrinks_anywhere(self) -> bool:
        """Whether anything is removed from the tensor."""
        return any(self.shrinks(dim) for dim in self.operand.labelled_dims)

    def holds_samples(self, dim: int) -> bool:
        """Whether the dim is the batch, or the batch is a part of it."""
        return any(is_sample(plane) and dim in varying(plane) for plane in self.operand.planes)

    def size(self, dim: int) -> int:
        """New size of the dim."""
        return kept_size(self.operand.planes, self.shape, dim % len(self.shape), self.keep, self.known)

    def indices(self, dim: int) -> Tensor:
        """Surviving old indices along the dim."""
        dim %= len(self.shape)
        for plane in channel_planes(self.operand.planes):
            if dim in varying(plane):
                return kept_indices(plane, dim, self.keep)
        return torch.arange(self.shape[dim])

    def rank_of(self, index: int, dim: int) -> int:
        """New position of an old position: how many survivors come before it."""
        return int((self.indices(dim) < index).sum())


@dataclass(slots=True)
class Resize:
    """One node to be rewritten.

    Attributes:
        module: The compact module, which holds the graph.
        node: The node, in the compact module's graph.
        keep: What is kept of the program.
    """

    module: nn.Module
    node: fx.Node
    keep: KeepSet

    @property
    def values(self) -> dict[str, Any]:
        """Old shapes and planes of every node's result, by node name."""
        return self.keep.dependencies.values

    def survivors(self, operand: Operand) -> Survivors:
        """An operand under the keep set."""
        return Survivors(operand, self.keep.labels, self.keep.known_sizes)

    def of(self, node: fx.Node) -> Survivors | None:
        """The result of a node under the keep set; None if it is not a single tensor."""
        value = self.values.get(node.name)
        return self.survivors(value) if isinstance(value, Operand) else None

    @property
    def result(self) -> Survivors | None:
        """The node's own result; None if it is not a single tensor."""
        return self.of(self.node)

    @property
    def results(self) -> list[Survivors]:
        """The node's results if there are several tensors; empty if not."""
        value = self.values[self.node.name]
        return [self.survivors(leaf) for leaf in value] if isinstance(value, (tuple, list)) else []

    @property
    def source(self) -> Survivors | None:
        """The first tensor argument; None if there is none."""
        found = (self.of(node) for node in self.node.all_input_nodes)
        return next((survivors for survivors in found if survivors is not None), None)

    def known(self, argument: Any) -> Any:
        """The value of a size argument, even if a node computes it."""
        return self.values[argument.name] if isinstance(argument, fx.Node) else argument

    def constant(self, tensor: Tensor) -> fx.Node:
        """Inserts a node that gives a constant tensor, which the module holds outside its state dict."""
        name = f"_index{sum(1 for _ in self.module.buffers(recurse=False))}_{self.node.name}"
        device = next(self.module.parameters()).device
        self.module.register_buffer(name, tensor.to(device), persistent=False)
        with self.node.graph.inserting_before(self.node):
            return self.node.graph.create_node("get_attr", name)
