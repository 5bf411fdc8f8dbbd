"""Labels of parameter indices, and the unions that tie them together.

Every index of every parameter dimension gets an integer label. Op rules say which labels can only be removed together
(`LabelSpace.union`) and which cannot be removed at all (`LabelSpace.pin`). The connected components of these unions are
the channels.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

PINNED = 0
"""The label of everything that must stay; a label that is united with it is frozen."""


@dataclass(frozen=True)
class Owner:
    """What a run of labels belongs to: a dimension of a parameter or buffer, or of a tensor made inside the program."""

    name: str
    dim: int
    start: int
    size: int
    stored: bool
    """True for parameters and buffers, False for tensors that the program itself creates (zeros, padding)."""

    @property
    def labels(self) -> Tensor:
        """Labels of the dimension in index order, shape ``(size,)``."""
        return torch.arange(self.start, self.start + self.size)


@dataclass(frozen=True)
class Cause:
    """Why labels were united or pinned: the rule that did it, and where."""

    node: str
    op: str
    reason: str
    source: str = ""

    def __str__(self) -> str:
        where = f" at {self.source}" if self.source else ""
        return f"{self.op} in node %{self.node}{where}: {self.reason}"


@dataclass
class LabelSpace:
    """Hands out labels and collects the unions between them.

    A space can be *replayed*: a second run of the same program (with other values, or another batch size) gets the same
    labels for the same allocations, so that keep sets found in the first run hold in the second.
    """

    owners: list[Owner] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    size: int = 1
    _edges: list[tuple[Tensor, Tensor, int]] = field(default_factory=list)

    @property
    def stored_size(self) -> int:
        """Labels below this are pinned or belong to parameters and buffers, which come first."""
        return next((owner.start for owner in self.owners if not owner.stored), self.size)

    def allocate(self, name: str, dim: int, size: int, *, stored: bool) -> Tensor:
        """Returns ``size`` new labels, shape ``(size,)``."""
        owner = Owner(name, dim, self.size, size, stored)
        self.owners.append(owner)
        self.size += size
        return owner.labels

    def union(self, first: Tensor, second: Tensor, cause: Cause) -> None:
        """Ties labels together elementwise; both tensors broadcast against each other."""
        first, second = torch.broadcast_tensors(first, second)
        self.causes.append(cause)
        self._edges.append((first.reshape(-1), second.reshape(-1), len(self.causes) - 1))

    def pin(self, labels: Tensor, cause: Cause) -> None:
        """Freezes labels: they are united with the pinned label."""
        self.union(labels, torch.tensor(PINNED), cause)

    def ties(self) -> tuple[Tensor, Tensor]:
        """All unions so far: two tensors of labels, of shape ``(E,)``."""
        nothing = [torch.empty(0, dtype=torch.long)]
        first = torch.cat(nothing + [edge[0] for edge in self._edges])
        return first, torch.cat(nothing + [edge[1] for edge in self._edges])

    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """`ties`, and for each the index into `causes`, shape ``(E,)``."""
        sizes = torch.tensor([len(edge[0]) for edge in self._edges], dtype=torch.long)
        causes = torch.tensor([edge[2] for edge in self._edges], dtype=torch.long)
        return *self.ties(), torch.repeat_interleave(causes, sizes)

    def solve(self) -> Tensor:
        """Returns the smallest label connected to each label, shape ``(size,)``; frozen labels give 0."""
        first, second = self.ties()
        return merged(torch.arange(self.size), first, second)


def merged(root: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The smallest label connected to each label once ``first`` and ``second`` are tied elementwise as well.

    Min-label hooking with pointer jumping: every pass at least halves the number of roots along a path.

    Args:
        root: The smallest connected label of each label so far, shape ``(size,)``.
        first: Labels, shape ``(E,)``.
        second: Labels, shape ``(E,)``.
    """
    root = root.clone()
    while True:
        low, high = torch.aminmax(torch.stack([root[first], root[second]]), dim=0)
        open_edges = low != high
        if not bool(open_edges.any()):
            return root
        first, second = first[open_edges], second[open_edges]
        root.scatter_reduce_(0, high[open_edges], low[open_edges], "amin")
        root = _jump(root)


def _jump(root: Tensor) -> Tensor:
    """Replaces each pointer by the end of its chain."""
    while True:
        further = root[root]
        if torch.equal(further, root):
            return root
        root = further


class ReplayedSpace(LabelSpace):
    """Gives the labels of an earlier run again, allocation by allocation; unions are ignored."""

    def __init__(self, recorded: LabelSpace) -> None:
        super().__init__(owners=recorded.owners)
        self._next = 0

    def allocate(self, name: str, dim: int, size: int, *, stored: bool) -> Tensor:
        """Returns the labels that the recorded run gave here; pinned ones where only the batch size can differ."""
        owner = self.owners[self._next]
        self._next += 1
        return owner.labels if owner.size == size else torch.tensor(PINNED).expand(size)

    def union(self, first: Tensor, second: Tensor, cause: Cause) -> None:
        """Does nothing: the channels are known already."""
