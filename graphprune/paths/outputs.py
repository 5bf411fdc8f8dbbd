"""Outputs of a program, and the rows of weights that make them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from graphprune.labels.dependencies import Dependencies
from graphprune.labels.labels import PINNED, look_up, merged
from graphprune.paths.steps import Step, WeightPath, distinct

Rows = tuple[str, int]
"""A parameter, and its dim of output channels."""


@dataclass(frozen=True)
class Leaving:
    """A tensor that leaves the program.

    Attributes:
        roots: The distinct roots of its labels, see `ties_without_pins`.
        bundles: The bundles that it depends on, if it depends on nothing else; otherwise none.
    """

    roots: Tensor
    bundles: frozenset[int]


@dataclass(frozen=True, eq=False)
class Outputs:
    """The outputs of a program, as far as rows of weights make them.

    Attributes:
        makers: Rows, and the output that each of them makes: int64, -1 for none.
        otherwise: Outputs that something else (the input, another layer) influences too: bool, ``(outputs,)``.
        mixed: Sets of outputs that influence each other, as in a softmax or a normalisation: int64, in the order of
            the program.
    """

    makers: tuple[tuple[Rows, Tensor], ...]
    otherwise: Tensor
    mixed: tuple[Tensor, ...]

    def cut(self, hits: Mapping[Rows, Tensor]) -> tuple[int, tuple[tuple[str, int], ...]]:
        """Finds the outputs that are not reached; returns their number, and their rows as parameter and index.

        An output may be made by several rows (a sum of two heads); it is cut if none of them is reached.

        Args:
            hits: The rows that are reached, bool.
        """
        reached = self.otherwise.clone()
        for rows, made in self.makers:
            reached[made[hits[rows] & (made >= 0)]] = True
        for together in self.mixed:
            reached[together] |= reached[together].any()
        rows_of_cut = dict.fromkeys(
            (rows[0], index)
            for rows, made in self.makers
            for index in ((made >= 0) & ~reached[made]).nonzero().flatten().tolist()
        )
        return int((~reached).sum()), tuple(rows_of_cut)


def outputs_of(
    dependencies: Dependencies, root: Tensor, steps: Sequence[Step], leaving: Sequence[Leaving], otherwise: Tensor,
    mixed: Sequence[Tensor],
) -> Outputs:  # fmt: skip
    """Finds the rows that make the outputs of a program.

    An index of a tensor that leaves the program is an output of its own if its labels identify its rows. The rest of
    the tensor (where labels are lost, and what weights with a single row make) is one output, made by all rows that
    influence it. What the same rows make twice counts once.

    Args:
        dependencies: Dependencies of the program.
        root: Root of each label.
        steps: The steps, with all weights.
        leaving: The tensors that leave the program.
        otherwise: Roots of what something other than its rows influences.
        mixed: Sets of roots that influence each other.
    """
    channels_of = {(step.name, step.row): step.rows for step in steps if isinstance(step, WeightPath)}
    owners = {(owner.name, owner.dim): owner for owner in dependencies.stored}
    roots_of = {rows: look_up(root, owners[rows].labels) for rows in channels_of if rows in owners}
    told = _among(distinct(roots_of.values()), distinct(tensor.roots for tensor in leaving))
    makers = [
        (rows, torch.where(torch.isin(roots, told), torch.searchsorted(told, roots), -1))
        for rows, roots in roots_of.items()
        if bool(torch.isin(roots, told).any())
    ]
    bundles = {rows: int(channels[0]) for rows, channels in channels_of.items() if len(channels)}
    untold = _untold(leaving, told, bundles, roots_of, otherwise)
    for output, of_output in enumerate(untold, len(told)):
        makers += [
            (rows, torch.full((len(channels_of[rows]),), output))
            for rows, bundle in bundles.items() if bundle in of_output
        ]  # fmt: skip
    missed = torch.zeros(len(untold), dtype=torch.bool)
    together = (torch.isin(told, roots).nonzero().flatten() for roots in mixed)
    return Outputs(
        tuple(makers), torch.cat([torch.isin(told, otherwise), missed]), tuple(each for each in together if len(each))
    )


def _untold(
    leaving: Sequence[Leaving], told: Tensor, bundles: Mapping[Rows, int], roots_of: Mapping[Rows, Tensor],
    otherwise: Tensor,
) -> list[frozenset[int]]:  # fmt: skip
    """Bundles of the rows that make a tensor that leaves, where labels do not tell which row makes which index."""
    untold = dict[frozenset[int], None]()
    for tensor in leaving:
        roots = _among(tensor.roots, told)
        named = {bundles[rows] for rows, of_rows in roots_of.items() if bool(torch.isin(of_rows, roots).any())}
        rest = tensor.bundles - named
        if rest and rest <= {*bundles.values()} and not bool(torch.isin(roots, otherwise).any()):
            untold[rest] = None
    return list(untold)


def ties_without_pins(dependencies: Dependencies) -> Tensor:
    """The root of each label: the smallest label that is tied to it, whether or not they are frozen."""
    first, second = dependencies.space.ties()
    free = (first != PINNED) & (second != PINNED)
    return merged(torch.arange(dependencies.space.size), first[free], second[free])


def reached_rows(steps: Sequence[Step], hits: Iterable[Tensor]) -> dict[Rows, Tensor]:
    """The rows of each weight that are reached at one of its steps at least, bool."""
    found: dict[Rows, Tensor] = {}
    for step, hit in zip(steps, hits, strict=True):
        if isinstance(step, WeightPath):
            rows = step.name, step.row
            found[rows] = found[rows] | hit if rows in found else hit
    return found


def _among(these: Tensor, others: Tensor) -> Tensor:
    return these[torch.isin(these, others)]
