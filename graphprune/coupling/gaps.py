"""Finds what is frozen because a rule or a rewriting is missing, not because the program or its user needs it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.coupling.explain import behind
from graphprune.errors import FrozenError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import NOT_PRUNABLE
from graphprune.labels.labels import PINNED, Cause, LabelSpace, merged
from graphprune.program.program import Program


@dataclass(frozen=True)
class Lost:
    """Indices of a parameter or buffer dim that could be removed if there were no gap."""

    name: str
    dim: int
    indices: int
    size: int

    def __str__(self) -> str:
        some = f" ({self.indices} of {self.size})" if self.indices < self.size else ""
        return f"{self.name}[{self.dim}]{some}"


@dataclass(frozen=True)
class Gap:
    """An op without a rule, or a node that cannot be rewritten, and the indices that it froze."""

    cause: Cause
    lost: tuple[Lost, ...]

    def __str__(self) -> str:
        named = ", ".join(map(str, self.lost[:_NAMED]))
        rest = f" and {len(self.lost) - _NAMED} more" if len(self.lost) > _NAMED else ""
        return f"{self.cause}\n    froze {named}{rest}"


_NAMED = 6
"""Number of frozen dims that a message names for each gap."""


def refuse_gaps(program: Program) -> None:
    """Refuses a program that is frozen by gaps, as ``strict=True`` demands.

    Raises:
        FrozenError: something is frozen by a gap; the message lists every gap with what it froze.
    """
    found = gaps(program)
    if found:
        lines = [f"strict: {type(program.module).__name__} is frozen in places for want of an op rule or a rewriting:"]
        lines += [f"  {gap}" for gap in found]
        lines.append(
            "Protect what is named here to say that it may stay, add a rule for the op (CONTRIBUTING.md shows how), or "
            "leave strict out to freeze it"
        )
        raise FrozenError("\n".join(lines))


def gaps(program: Program) -> tuple[Gap, ...]:
    """The gaps that cost something: without them some index of a parameter or buffer would not be frozen.

    A tensor that cannot shrink because its channels end at a gap further up counts as frozen by that gap.
    """
    dependencies, freezes = program[Dependencies], _freezes_by_gaps(program)
    costly = {freeze.gap for freeze in freezes}
    while True:
        root = _solved_without(dependencies.space, {freeze.index for freeze in freezes if freeze.gap in costly})
        lost = _is_stored_and_frozen(dependencies) & (root != PINNED)
        classes = torch.zeros_like(lost).index_fill(0, root[lost], True)
        # if the labels that a gap freezes directly would be frozen anyway, so would those after it
        still = {freeze.gap for freeze in freezes if freeze.direct and bool(classes[root[freeze.labels]].any())}
        if still >= costly:
            break
        costly &= still
    found: dict[Cause, Tensor] = {}
    for freeze in freezes:
        if freeze.gap in costly:
            found.setdefault(freeze.gap, torch.zeros_like(lost))[root[freeze.labels]] = True
    return tuple(Gap(gap, _lost(dependencies, lost & classes[root])) for gap, classes in found.items())


@dataclass(frozen=True)
class _Freeze:
    """Labels that one cause froze because of a gap: the cause is the gap itself, or the gap lies further up."""

    index: int
    labels: Tensor
    gap: Cause
    direct: bool


def _freezes_by_gaps(program: Program) -> list[_Freeze]:
    space = program[Dependencies].space
    if not any(cause.origin == "gap" for cause in space.causes):
        return []
    first, second, why = space.edges()
    further_up: dict[Cause, list[Cause]] = {}
    found = []
    for index in why[(first == PINNED) | (second == PINNED)].unique().tolist():
        cause = space.causes[index]
        if cause.origin == "operand" and cause not in further_up:
            further_up[cause] = [end for end in behind(program, cause) if end.origin == "gap"]
        for gap in [cause] if cause.origin == "gap" else further_up.get(cause, []):
            labels = torch.cat([first[why == index], second[why == index]])
            found.append(_Freeze(index, labels[labels != PINNED], gap, gap is cause))
    return found


def _solved_without(space: LabelSpace, causes: Collection[int]) -> Tensor:
    """The smallest label connected to each label without the unions of some causes, shape ``(size,)``."""
    first, second, why = space.edges()
    rest = ~torch.isin(why, torch.tensor(sorted(causes), dtype=torch.long))
    return merged(torch.arange(space.size), first[rest], second[rest])


def _is_stored_and_frozen(dependencies: Dependencies) -> Tensor:
    """Which labels belong to a parameter or buffer and are frozen, bool, shape ``(size,)``."""
    frozen = dependencies.channel_of == NOT_PRUNABLE
    frozen[dependencies.space.stored_size :] = False
    return frozen


def _lost(dependencies: Dependencies, labels: Tensor) -> tuple[Lost, ...]:
    """Stored dims that have some of the labels; ``labels`` is a bool per label."""
    found = []
    for owner in dependencies.stored:
        count = int(labels[owner.start : owner.start + owner.size].sum())
        if count:
            found.append(Lost(owner.name, owner.dim, count, owner.size))
    return tuple(found)
