"""What a run of a program on labels notes down, for op rules to read and add to."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cache
from typing import Any

import torch
from torch import Tensor

from graphprune.labels.contractions import Contraction
from graphprune.labels.labels import Cause, LabelSpace, Origin
from graphprune.labels.planes import squash
from graphprune.program.program import Attention


@dataclass
class RunNotes:
    """What op rules read from a run, and what they note down in it.

    Attributes:
        space: Hands out labels and collects unions.
        device: The device that the program sees.
        keep: Which labels are kept, bool, shape ``(labels,)``, in the masked program; None during analysis.
        node: Name of the node that runs now.
        source: Line of that node in the user's code.
        contractions: All contractions so far.
        moved: Planes of moved tensors, with causes; the kept elements of each must be a product of index sets.
        positional: Nodes in which an op addresses channels by position (roll, strided slice, indexing), each with the
            plane of these channels and the cause.
        normalised: Names of nodes that hold a normalisation.
        choices: Decisions of rules, by node; those of an earlier run hold even though sizes have changed.
        attention: What is removed from a batched contraction if there is no earlier decision.
        hopes: For each decision, the plane that it was meant to keep prunable and the number of channels hoped for.
        strided: Strided views: the memory that each shares with its tensor, the plane and the cause. After a prune
            such a view is a copy, so the program must not write to that memory.
        memory: Memory of each node's result, by node name.
        views: Names of nodes whose results share memory with an input.
        writes: Nodes that wrote in place, each with the memory it wrote to.
        stored: Names of parameters and buffers, by their memory.
        unread: Places among the current node's results that nothing reads.
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
    attention: Attention = "heads"
    hopes: list[tuple[str, Tensor, int]] = field(default_factory=list)
    strided: list[tuple[int, Tensor, Cause]] = field(default_factory=list)
    memory: dict[str, int] = field(default_factory=dict)
    views: set[str] = field(default_factory=set)
    writes: list[tuple[str, int]] = field(default_factory=list)
    stored: dict[int, str] = field(default_factory=dict)
    unread: frozenset[int] = frozenset()
    _held: list[torch.UntypedStorage | Tensor] = field(default_factory=list, repr=False)

    def cause(self, func: Any, reason: str, origin: Origin = "program") -> Cause:
        """A cause at the node that runs now."""
        return Cause(self.node, _short_name(func), reason, self.source, origin)

    def choose(self, what: str, preferred: bool, plane: Tensor | None = None, wanted: int = 2) -> bool:
        """Returns a decision for the node that runs now: an earlier one if there is one.

        Args:
            what: Name of the choice, because a node may hold several ops.
            preferred: The decision if there is no earlier one.
            plane: Plane that a good decision keeps prunable; if it is not, the opposite decision is tried.
            wanted: Number of channels that the plane then has, at least, after the preferred decision; two are enough
                after the other one.
        """
        key = f"{self.node}: {what}"
        decision = self.choices.setdefault(key, preferred)
        if plane is not None:
            self.hopes.append((key, plane, wanted if decision == preferred else 2))
        return decision

    def moved_planes(self) -> list[tuple[Tensor, Cause]]:
        """The squashed planes of moved tensors with their causes, each layout once."""
        layouts = {}
        for plane, cause in self.moved:
            small = squash(plane)
            layouts[small.data_ptr(), small.shape, small.stride()] = (small, cause)
        return list(layouts.values())

    def memory_of(self, tensor: Tensor) -> int:
        """Identifies the memory that a labelled or plain tensor shares with its views.

        The analysis holds the memory until it ends: otherwise a later tensor in the same place would pass for a view.
        """
        value = getattr(tensor, "value", tensor)
        storage = value.untyped_storage() if value.layout == torch.strided else value  # sparse tensors have none
        if self.keep is None:
            self._held.append(storage)
        memory: int = getattr(storage, "_cdata", id(storage))
        return memory

    def rewritten(self) -> dict[str, tuple[str, ...]]:
        """By node name, the nodes that wrote in place to the memory of that node's result."""
        nodes: dict[int, list[str]] = {}
        for node, memory in self.memory.items():
            nodes.setdefault(memory, []).append(node)
        found: dict[str, tuple[str, ...]] = {}
        for writer, memory in self.writes:
            for node in nodes.get(memory, ()):
                if node != writer:
                    found[node] = (*found.get(node, ()), writer)
        return found


@cache
def _short_name(func: Any) -> str:
    return str(func).removeprefix("aten.").removesuffix(".default")
