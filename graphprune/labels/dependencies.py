"""What is known about the channels of a program: which indices go together, where they are, and which are frozen."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
from torch import Tensor

from graphprune.labels.contractions import Contraction
from graphprune.labels.groups import NOT_PRUNABLE, Group
from graphprune.labels.labels import LabelSpace, Owner
from graphprune.labels.operand import Operand
from graphprune.program.facts import Fact
from graphprune.program.tensors import Kept


@dataclass(frozen=True)
class Dependencies(Fact):
    """What running the program on labels found.

    Attributes:
        space: Labels, their owners, and every union with its cause.
        channel_of: Channel index of each label, `NOT_PRUNABLE` for frozen labels and for those tied to no parameter.
        groups: Groups in the order of their first parameter.
        values: Shapes and planes of each node's result, by node name.
        contractions: All contractions, as nests of loops.
        normalised: Names of nodes that hold a normalisation.
        choices: Decisions of op rules, by node.
        rewritten: By node name, the nodes that write in place to the memory of that node's result.
        views: Names of nodes that only return a view of an input, in the same memory.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("build-dependencies",)

    space: LabelSpace
    channel_of: Tensor
    groups: tuple[Group, ...]
    values: dict[str, Any]
    contractions: tuple[Contraction, ...] = field(repr=False)
    normalised: frozenset[str] = frozenset()
    choices: dict[str, bool] = field(default_factory=dict)
    rewritten: dict[str, tuple[str, ...]] = field(default_factory=dict)
    views: frozenset[str] = frozenset()

    @property
    def channels(self) -> int:
        """Number of prunable channels."""
        return self.groups[-1].stop if self.groups else 0

    @cached_property
    def stored(self) -> tuple[Owner, ...]:
        """Dims of parameters and buffers."""
        return tuple(owner for owner in self.space.owners if owner.stored)

    @cached_property
    def bounds(self) -> Tensor:
        """First label of each stored dim, and one past its last, shape ``(dims, 2)``; the dims are consecutive."""
        bounds = [(owner.start, owner.start + owner.size) for owner in self.stored]
        return torch.tensor(bounds, dtype=torch.long).reshape(-1, 2)

    @cached_property
    def channel_or_last(self) -> Tensor:
        """`channel_of` with the number of channels in place of `NOT_PRUNABLE`, shape ``(labels,)``."""
        return torch.where(self.channel_of == NOT_PRUNABLE, self.channels, self.channel_of)

    def classes(self) -> Kept:
        """The channel of each index of each stored dim, -1 where the index is frozen."""
        start, end = (int(self.bounds[0, 0]), int(self.bounds[-1, 1])) if self.stored else (0, 0)
        channels = self.channel_of[start:end].split([owner.size for owner in self.stored])
        return {(owner.name, owner.dim): of_dim for owner, of_dim in zip(self.stored, channels, strict=True)}

    def frozen_indices(self, owner: Owner) -> int:
        """Number of indices of a dim that cannot be removed."""
        return int((self.channel_of[owner.start : owner.start + owner.size] == NOT_PRUNABLE).sum())

    def frozen_dims(self) -> list[Owner]:
        """Parameter and buffer dims from which nothing can be removed."""
        return [owner for owner in self.stored if self.frozen_indices(owner) == owner.size]


def leaf_operands(tree: Any) -> list[Operand]:
    """All operands in a node's recorded value."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Operand)]
