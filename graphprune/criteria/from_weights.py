"""Computes scores of channels from scores of single weights."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, fx, nn

from graphprune.costs.pool import weights_by_node
from graphprune.coupling.protection import output_dim
from graphprune.errors import OptionError
from graphprune.labels.contractions import Contraction
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import Group
from graphprune.labels.planes import Planes, channel_planes, squash
from graphprune.program.program import Program
from graphprune.program.tensors import stored_parameters

log = logging.getLogger(__name__)


def channel_scores(program: Program, of_weights: Mapping[str, Tensor], criterion: str, warned: set[str]) -> Tensor:
    """Sum of the scores of the weights that make a channel: its rows in every weight of its group.

    A group whose channels no weight makes (an embedding, a parameter that is added) is removed last, with a warning.

    Args:
        program: The program, with its dependencies.
        of_weights: Scores of the weights by name of the parameter, of its shape.
        criterion: Name of the criterion, for messages.
        warned: Warnings that have been given before.

    Returns:
        Float64, shape ``(channels,)``.

    Raises:
        OptionError: no group has such weights.
    """
    dependencies = program[Dependencies]
    total = torch.zeros(dependencies.channels + 1, dtype=torch.float64)
    rated = torch.zeros(dependencies.channels + 1, dtype=torch.bool)
    making = making_dims(program)
    for owner in dependencies.stored:
        if owner.name in of_weights and owner.dim in making.get(owner.name, ()):
            rows = of_weights[owner.name].detach().double().movedim(owner.dim, 0).flatten(1).sum(1).cpu()
            channels = dependencies.channel_of[owner.start : owner.start + owner.size]
            total.index_add_(0, channels % len(total), rows)
            rated[channels] = True
    importance = total[:-1]
    unrated = [group for group in dependencies.groups if not bool(rated[group.start : group.stop].any())]
    put_last(importance, unrated, dependencies.groups, criterion, "no weight makes their channels", warned)
    return importance


def making_dims(program: Program) -> dict[str, set[int]]:
    """Returns, by name of the weight, the dims of the channels that it makes; its other dims are summed over.

    If the same channels are made and summed over (a layer whose result is added to its input), the layer's type says
    which dim is which.
    """
    dependencies = program[Dependencies]
    names = {id(parameter): name for name, parameter in stored_parameters(program.module).items()}
    found: dict[str, set[int]] = {}
    for node, weights in weights_by_node(program):
        made, summed = _channels_at(dependencies, node)
        for weight in weights:
            name = names[id(weight)]
            found.setdefault(name, set()).update(_dims(program.module, dependencies, name, made, summed))
    return found


def _dims(module: nn.Module, dependencies: Dependencies, name: str, made: Tensor, summed: Tensor) -> set[int]:
    candidates, certain, rank = set(), set(), 0
    for owner in dependencies.stored:
        if owner.name == name:
            rank = max(rank, owner.dim + 1)
            channels = dependencies.channel_of[owner.start : owner.start + owner.size]
            if bool(made[channels].any()):
                candidates.add(owner.dim)
                if not bool(summed[channels].any()):
                    certain.add(owner.dim)
    usual = output_dim(module.get_submodule(name.rpartition(".")[0]), rank)
    return certain or (candidates & {usual}) or candidates


def _channels_at(dependencies: Dependencies, node: fx.Node) -> tuple[Tensor, Tensor]:
    """Channels that the contractions of a node make, and those that they sum over, bool, ``(channels + 1,)``."""
    made = torch.zeros(dependencies.channels + 1, dtype=torch.bool)
    summed = made.clone()
    for contraction in dependencies.contractions:
        if contraction.node == node.name:
            _mark(made, dependencies, _made_planes(contraction))
            _mark(summed, dependencies, contraction.summed_planes)
    return made, summed


def _made_planes(contraction: Contraction) -> Planes:
    over = {id(plane) for plane in contraction.summed_planes}
    return tuple(plane for plane in contraction.planes if id(plane) not in over)


def _mark(mask: Tensor, dependencies: Dependencies, planes: Planes) -> None:
    for plane in channel_planes(planes):
        mask[dependencies.channel_of[squash(plane)].flatten()] = True
    mask[-1] = False  # frozen labels, which are not channels


def put_last(
    importance: Tensor, unrated: Sequence[Group], groups: Sequence[Group], criterion: str, why: str, warned: set[str]
) -> None:
    """Makes groups without a rating the most important, in place, so that they are removed last.

    Args:
        importance: Importance of each channel, shape ``(channels,)``.
        unrated: Groups without a rating.
        groups: All groups.
        criterion: Name of the criterion, for messages.
        why: Why the groups have no rating, for messages: "they have no ...".
        warned: Warnings that have been given before; a later round does not repeat them.

    Raises:
        OptionError: no group has a rating.
    """
    if not unrated:
        return
    names = ", ".join(f"{group.id} ({group.name})" for group in unrated[:4]) + (", ..." if len(unrated) > 4 else "")
    if len(unrated) == len(groups):
        raise OptionError(f"criterion {criterion}: it rates none of the {len(groups)} groups ({names}), for {why}")
    last = importance.max() + 1
    for group in unrated:
        importance[group.start : group.stop] = last
    if (key := f"{criterion}: {names}") not in warned:
        warned.add(key)
        log.warning(
            "criterion %s cannot rate %d of %d groups; they go last: %s", criterion, len(unrated), len(groups), names
        )
