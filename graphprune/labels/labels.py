"""Labels of parameter indices, and the unions that tie them together.

Every index of every parameter dimension gets an integer label. Op rules say which labels can only be removed together
(`LabelSpace.union`) and which cannot be removed at all (`LabelSpace.pin`). The connected components of these unions are
the channels.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

PINNED = 0
"""The label of everything that must stay; a label that is united with it is frozen."""

_PINNED_LABEL = torch.tensor(PINNED)


@dataclass(slots=True, unsafe_hash=True)
class Owner:
    """What consecutive labels belong to: a dimension of a parameter or buffer, or of a tensor made inside the program.

    Owners and causes are never changed. Their classes are not frozen dataclasses, because there are thousands of
    objects, and frozen ones take four times as long to make.
    """

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


Origin = Literal["program", "request", "operand", "gap"]
"""What kind of reason freezes an index.

- ``"program"``: the program needs every index: it returns them, looks them up by data, or mixes positions.
- ``"request"``: the user protects the index.
- ``"operand"``: the index meets a tensor that cannot shrink; earlier nodes say why that tensor cannot.
- ``"gap"``: graphprune lacks something: a rule for the op, or for this form of it, or a rewriting of the node.

Only a gap is a loss: with the missing piece the indices might be prunable.
"""


@dataclass(slots=True, unsafe_hash=True)
class Cause:
    """Why labels were united or pinned: the op whose rule did it, the node, the reason, and the kind of reason."""

    node: str
    op: str
    reason: str
    source: str = ""
    origin: Origin = "program"

    def __str__(self) -> str:
        # for a file of an installed package, the end of the path says enough
        where = f" at {self.source.rpartition('site-packages/')[2]}" if self.source else ""
        return f"{self.op} in node %{self.node}{where}: {self.reason}" if self.node else f"{self.op}: {self.reason}"


@dataclass
class LabelSpace:
    """Hands out labels and collects the unions between them.

    A space can be *replayed* (`ReplayedSpace`): a second run of the same program (with other values, or another
    batch size) gets the same labels for the same allocations, so that keep sets of the first run hold in the second.
    """

    owners: list[Owner] = field(default_factory=list)
    causes: list[Cause] = field(default_factory=list)
    size: int = 1
    _unions: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    @property
    def stored_size(self) -> int:
        """End of the labels of parameters and buffers, which come first after the pinned label."""
        return next((owner.start for owner in self.owners if not owner.stored), self.size)

    def allocate(self, name: str, dim: int, size: int, *, stored: bool) -> Tensor:
        """Returns ``size`` new labels, shape ``(size,)``."""
        owner = Owner(name, dim, self.size, size, stored)
        self.owners.append(owner)
        self.size += size
        return owner.labels

    def union(self, first: Tensor, second: Tensor, cause: Cause) -> None:
        """Ties labels together elementwise; both tensors broadcast against each other."""
        self.causes.append(cause)
        self._unions.append((first, second))

    def pin(self, labels: Tensor, cause: Cause) -> None:
        """Freezes labels by uniting them with the pinned label."""
        self.union(labels, _PINNED_LABEL, cause)

    def ties(self) -> tuple[Tensor, Tensor]:
        """All ties so far: two tensors of labels, each of shape ``(E,)``."""
        return self._ties()[:2]

    def edges(self) -> tuple[Tensor, Tensor, Tensor]:
        """All `ties` with the index of each into `causes`, shape ``(E,)``."""
        first, second, sizes = self._ties()
        return first, second, torch.repeat_interleave(torch.arange(len(sizes)), torch.tensor(sizes, dtype=torch.long))

    def _ties(self) -> tuple[Tensor, Tensor, list[int]]:
        """All `ties`, and the number of ties that each union made."""
        pairs = [_flat_pair(first, second) for first, second in self._unions]
        nothing = [torch.empty(0, dtype=torch.long)]
        first, second = (torch.cat(nothing + [pair[side] for pair in pairs]) for side in (0, 1))
        return first, second, [len(pair[0]) for pair in pairs]

    def solve(self) -> Tensor:
        """Returns the smallest label connected to each label, shape ``(size,)``; frozen labels give 0."""
        first, second = self.ties()
        return merged(torch.arange(self.size), first, second)


def _flat_pair(first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
    """Two tensors broadcast against each other and flattened."""
    if first.dim() == 1 and first.shape == second.shape:
        return first, second
    first, second = torch.broadcast_tensors(first, second)
    return first.reshape(-1), second.reshape(-1)


def merged(root: Tensor, first: Tensor, second: Tensor) -> Tensor:
    """The smallest label connected to each label once ``first`` and ``second`` are tied elementwise as well.

    The method is min-label hooking with pointer jumping: every pass at least halves the number of roots along a path.

    Args:
        root: The smallest connected label of each label so far, shape ``(size,)``.
        first: Labels, shape ``(E,)``.
        second: Labels, shape ``(E,)``.
    """
    root = root.clone()
    while True:
        first, second = root.index_select(0, first), root.index_select(0, second)
        open_edges = (first != second).nonzero().flatten()
        if not len(open_edges):
            return root
        first, second = first.index_select(0, open_edges), second.index_select(0, open_edges)
        root.scatter_reduce_(0, torch.maximum(first, second), torch.minimum(first, second), "amin")
        root = _jump(root)


def _jump(root: Tensor) -> Tensor:
    """Replaces each pointer by the end of its chain."""
    while True:
        further = root.index_select(0, root)
        if torch.equal(further, root):
            return root
        root = further


def look_up(table: Tensor, labels: Tensor) -> Tensor:
    """Entries of a table, shape ``(size,)``, at labels of any shape; several times as fast as indexing."""
    return table.index_select(0, labels.reshape(-1)).view(labels.shape)


class ReplayedSpace(LabelSpace):
    """Gives the labels of an earlier run again, allocation by allocation; unions are ignored.

    Labels are found by the names of their owners, because torch may decompose an op differently once it has values.
    """

    def __init__(self, recorded: LabelSpace) -> None:
        super().__init__(owners=recorded.owners, size=recorded.size)
        self._waiting: dict[tuple[str, int], deque[Owner]] = {}
        for owner in recorded.owners:
            self._waiting.setdefault((owner.name, owner.dim), deque()).append(owner)

    def allocate(self, name: str, dim: int, size: int, *, stored: bool) -> Tensor:
        """Returns the labels of the recorded run; pinned ones if it has none here, or another size (another batch)."""
        waiting = self._waiting.get((name, dim))
        owner = waiting.popleft() if waiting else None
        return owner.labels if owner is not None and owner.size == size else torch.tensor(PINNED).expand(size)

    def union(self, first: Tensor, second: Tensor, cause: Cause) -> None:
        """Does nothing: the channels are known already."""
