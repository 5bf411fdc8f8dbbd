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
    """What op rules read of a run, and what they note down for it.

    Attributes:
        space: Hands out labels and collects unions.
        device: The device that the program sees.
        keep: Labels that survive, bool, where the masked program is evaluated; None while it is analysed.
        node: The node that runs now.
        source: Its line in the user's code.
        contractions: All contractions so far.
        moved: Planes of tensors that data movement made; what is kept of each must be a product of index sets.
        positional: Nodes in which an op addresses channels by position (roll, strided slice, indexing), with the plane
            that it moves along.
        normalised: Nodes in which a normalisation took place.
        choices: What rules decided, by node: an earlier run's decision holds, though sizes have changed.
        attention: What goes of a batched contraction where nothing was decided before.
        hopes: Planes that a decision was meant to keep prunable, and in how many channels.
        strided: Views at every so many positions of a tensor, by the memory that they share with it: once channels are
            removed they are copies, which nobody may write to.
        memory: The memory of each node's result.
        views: Nodes whose results share memory with an input.
        writes: Nodes that wrote in place, with the memory.
        stored: Names of parameters and buffers, by their memory.
        unread: Places among the node's results that nothing reads.
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
        """A decision of the node that runs now: the one that was taken first.

        Args:
            what: What is decided, for a node may hold several ops.
            preferred: The decision where none was taken yet.
            plane: Is prunable if the decision was a good one; the other one is tried where it is not.
            wanted: Channels that it has if the preferred decision was a good one; of the other one two are enough.
        """
        key = f"{self.node}: {what}"
        decision = self.choices.setdefault(key, preferred)
        if plane is not None:
            self.hopes.append((key, plane, wanted if decision == preferred else 2))
        return decision

    def moved_planes(self) -> list[tuple[Tensor, Cause]]:
        """What data movement made, each layout once, squashed."""
        layouts = {}
        for plane, cause in self.moved:
            small = squash(plane)
            layouts[small.data_ptr(), small.shape, small.stride()] = (small, cause)
        return list(layouts.values())

    def memory_of(self, tensor: Tensor) -> int:
        """Names the memory that a labelled or plain tensor shares with its views.

        Analysis holds it to the end: another tensor that got it later would be taken for a view.
        """
        value = getattr(tensor, "value", tensor)
        storage = value.untyped_storage() if value.layout == torch.strided else value  # sparse ones have none
        if self.keep is None:
            self._held.append(storage)
        memory: int = getattr(storage, "_cdata", id(storage))
        return memory

    def rewritten(self) -> dict[str, tuple[str, ...]]:
        """Nodes that wrote to the memory of a node's result in place, by its name."""
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
