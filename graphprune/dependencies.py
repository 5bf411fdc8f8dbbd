"""Channels and groups of a program: which indices can only be removed together, and which not at all."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.interpret import interpret, meta_tensors, operands_of
from graphprune.labelled import Contraction, LabelRun
from graphprune.labels import PINNED, Cause, LabelSpace, Owner, look_up, merged
from graphprune.ops.operand import Operand
from graphprune.planes import KnownSizes, channel_planes, squash, thin, varying
from graphprune.program import Kept, Program, device_of, source_line
from graphprune.protection import protected_dims
from graphprune.rewrite.literals import can_resize

NOT_PRUNABLE = -1

CHOICES = ("more of what is flattened", "outer of what is broadcast", "whole entries")
"""Kinds of choices of op rules, in the order in which the other side is tried."""


@dataclass(frozen=True)
class Member:
    """A dim of a parameter or buffer that loses ``per_channel`` indices with each channel of the group."""

    name: str
    dim: int
    per_channel: int


@dataclass(frozen=True)
class Group:
    """Channels with the same members; channel indices of a group are the range ``start:stop``."""

    id: str
    start: int
    stop: int
    members: tuple[Member, ...]

    @property
    def channels(self) -> int:
        """Number of channels."""
        return self.stop - self.start

    @cached_property
    def dims(self) -> frozenset[tuple[str, int]]:
        """Names and dims of the members, which tell the group again in a later round."""
        return frozenset((member.name, member.dim) for member in self.members)

    @cached_property
    def indices_per_channel(self) -> int:
        """Fewest indices that one channel takes of any member: the unit in which widths shrink."""
        return min(member.per_channel for member in self.members)

    @property
    def name(self) -> str:
        """The first member's name: what a reader recognises the group by."""
        return self.members[0].name


@dataclass(frozen=True)
class Dependencies:
    """What running the program on labels found.

    Attributes:
        space: Labels, their owners, and every union with its cause.
        channel_of: Channel index of each label, `NOT_PRUNABLE` for frozen labels and those of no parameter.
        groups: Groups in the order of their first parameter.
        values: Shapes and planes of each node's result, by node name.
        contractions: Multiply-accumulates of each contraction.
        normalised: Nodes that hold a normalisation.
        choices: What rules decided by sizes, by node.
        rewritten: Nodes that write to the memory of a node's result in place, by its name.
        views: Nodes that only show an input in another way, in the same memory.
    """

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
    def _bounds(self) -> Tensor:
        """First label and end of each stored dim, shape ``(dims, 2)``; one dim follows the other."""
        bounds = [(owner.start, owner.start + owner.size) for owner in self.stored]
        return torch.tensor(bounds, dtype=torch.long).reshape(-1, 2)

    @cached_property
    def _channel_or_last(self) -> Tensor:
        return torch.where(self.channel_of == NOT_PRUNABLE, self.channels, self.channel_of)

    def keep_labels(self, keep: Tensor) -> Tensor:
        """Which labels survive when the channels ``keep`` (bool, shape ``(channels,)``) do."""
        return torch.cat([keep, torch.ones(1, dtype=torch.bool)]).index_select(0, self._channel_or_last)

    def _about(self, keep: Tensor) -> dict[str, Any]:
        """What was found out about the last keep set, which several passes ask for."""
        last: dict[str, Any] = self.__dict__.get("_last", {})
        if last.get("keep") is not keep:
            last = self.__dict__["_last"] = {"keep": keep}
        return last

    def known_sizes(self, keep: Tensor) -> KnownSizes:
        """Kept sizes of planes that were looked up before; to be filled in by whoever looks up others."""
        known: KnownSizes = self._about(keep).setdefault("sizes", {})
        return known

    def kept(self, keep: Tensor) -> Kept:
        """Kept indices of each parameter or buffer dim that shrinks."""
        if "kept" not in self._about(keep):
            self._about(keep)["kept"] = self._kept(keep)
        kept: Kept = self._about(keep)["kept"]
        return kept

    def _kept(self, keep: Tensor) -> Kept:
        # all dims at once: a network has thousands
        sizes, labels = self.kept_sizes(keep), self.keep_labels(keep).nonzero().flatten()
        first = torch.searchsorted(labels, self._bounds[:1, 0])
        labels = labels[int(first) : int(first) + int(sizes.sum())] if len(first) else labels[:0]
        indices = (labels - self._bounds[:, 0].repeat_interleave(sizes)).split(sizes.tolist())
        return {
            (owner.name, owner.dim): of_dim
            for owner, of_dim in zip(self.stored, indices, strict=True)
            if len(of_dim) < owner.size
        }

    def kept_sizes(self, keep: Tensor) -> Tensor:
        """What is left of each stored dim, in the order of `stored`, shape ``(dims,)``."""
        left = torch.cat([torch.zeros(1, dtype=torch.long), self.keep_labels(keep).cumsum(0)])
        return left.index_select(0, self._bounds[:, 1]) - left.index_select(0, self._bounds[:, 0])

    def left_of_groups(self, keep: Tensor) -> list[int]:
        """Channels that stay in each group."""
        left = torch.cat([torch.zeros(1, dtype=torch.long), keep.cumsum(0)])
        bounds = torch.tensor([(group.start, group.stop) for group in self.groups]).reshape(-1, 2)
        counts: list[int] = (left[bounds[:, 1]] - left[bounds[:, 0]]).tolist()
        return counts

    def classes(self) -> Kept:
        """The channel of each index of each stored dim, -1 where it is frozen."""
        start, end = (int(self._bounds[0, 0]), int(self._bounds[-1, 1])) if self.stored else (0, 0)
        channels = self.channel_of[start:end].split([owner.size for owner in self.stored])
        return {(owner.name, owner.dim): of_dim for owner, of_dim in zip(self.stored, channels, strict=True)}

    def frozen_indices(self, owner: Owner) -> int:
        """How many indices of a dim cannot be removed."""
        return int((self.channel_of[owner.start : owner.start + owner.size] == NOT_PRUNABLE).sum())

    def frozen_dims(self) -> list[Owner]:
        """Parameter and buffer dims of which nothing can be removed."""
        return [owner for owner in self.stored if self.frozen_indices(owner) == owner.size]


def analyse(program: Program, pins: Sequence[tuple[str, str]] = ()) -> Dependencies:
    """Runs a program on labels and solves the unions.

    Where a choice turns out to be in vain (no whole head can go, but the same indices of every one might), the other
    one is tried.

    Args:
        program: The program; it is not changed.
        pins: Names of nodes whose labels are frozen besides, each with the reason.
    """
    found, in_vain = _analyse(program, pins, program.choices)
    if program.classes is not None:
        return found
    for kind in CHOICES:
        changed = {choice: not found.choices[choice] for choice in in_vain if choice.endswith(kind)}
        if changed:
            other, still_in_vain = _analyse(program, pins, found.choices | changed)
            if other.channels > found.channels:
                found, in_vain = other, still_in_vain
    return found


def _analyse(
    program: Program, pins: Sequence[tuple[str, str]], choices: dict[str, bool]
) -> tuple[Dependencies, list[str]]:
    """Dependencies under some choices, and those choices that were in vain: what they hoped for cannot go."""
    run = LabelRun(LabelSpace(), device=device_of(program), choices=dict(choices), attention=program.attention)
    values: dict[str, Any] = {}

    def record(node: fx.Node, result: Any) -> None:
        values[node.name] = operands_of(result)

    interpret(program, run, meta_tensors(program.module), program.example, record)
    _freeze_outputs(program, run, values)
    _freeze_protected(program, run)
    _tie_first_classes(program, run)
    for index, (node, reason) in enumerate(pins):
        repeats = sum(1 for earlier, _ in pins[:index] if earlier == node)
        _freeze_node(program, run, values, node, reason, reach=2**repeats)
    root = _solve(program, run)
    channel_of, groups = _groups(run.space, root, run.moved_planes())
    in_vain = [choice for choice, plane in run.hopes if _is_one_class(look_up(root, squash(plane)))]
    return Dependencies(
        run.space, channel_of, groups, values, tuple(run.contractions), frozenset(run.normalised), run.choices,
        run.rewritten(), frozenset(run.views) - {node for node, _ in run.writes},
    ), in_vain  # fmt: skip


def leaf_operands(tree: Any) -> list[Operand]:
    """All operands in a node's recorded value."""
    return [leaf for leaf in torch.utils._pytree.tree_leaves(tree) if isinstance(leaf, Operand)]


def _freeze_outputs(program: Program, run: LabelRun, values: dict[str, Any]) -> None:
    output = next(node for node in program.module.graph.nodes if node.op == "output")
    for node in output.all_input_nodes:
        cause = Cause(output.name, "output", "leaves the program", source_line(node))
        for operand in leaf_operands(values[node.name]):
            for plane in channel_planes(operand.planes):
                run.space.pin(squash(plane), cause)


def _freeze_protected(program: Program, run: LabelRun) -> None:
    owners = {(owner.name, owner.dim): owner for owner in run.space.owners if owner.stored}
    for key, pattern in protected_dims(program.module, program.protect).items():
        if key in owners:
            run.space.pin(owners[key].labels, Cause("", "protect", f"protected by '{pattern}'", origin="request"))


def _tie_first_classes(program: Program, run: LabelRun) -> None:
    """What went together in the user's model still does, also where a layer has become so small that it need not."""
    if program.classes is None:
        return
    owners = [owner for owner in run.space.owners if owner.stored]
    labels = torch.cat([owner.labels for owner in owners])
    classes = torch.cat([program.classes[owner.name, owner.dim] for owner in owners])
    cause = Cause("", "round", "was so in the user's model")
    run.space.pin(labels[classes == NOT_PRUNABLE], cause)
    labels, classes = labels[classes != NOT_PRUNABLE], classes[classes != NOT_PRUNABLE]
    order = torch.argsort(classes, stable=True)
    labels, classes = labels[order], classes[order]
    together = classes[1:] == classes[:-1]
    run.space.union(labels[1:][together], labels[:-1][together], cause)


def _freeze_node(
    program: Program, run: LabelRun, values: dict[str, Any], name: str, reason: str, *, reach: int
) -> None:
    """Pins what a node and the nodes up to ``reach`` steps before it carry."""
    node = next(node for node in program.module.graph.nodes if node.name == name)
    cause = Cause(name, str(getattr(node.target, "__name__", node.target)), reason, source_line(node), "gap")
    touched = front = {node: None}
    for _ in range(min(reach, len(program.module.graph.nodes))):
        front = {source: None for user in front for source in user.all_input_nodes if source not in touched}
        touched = touched | front
    for each in touched:
        for operand in leaf_operands(values[each.name]):
            for plane in channel_planes(operand.planes):
                run.space.pin(squash(plane), cause)


def _solve(program: Program, run: LabelRun) -> Tensor:
    """Solves the unions, and freezes channels that are addressed by position in nodes that cannot be rewritten."""
    root = _solve_with_product_sets(run)
    rewritable = {node.name for node in program.module.graph.nodes if can_resize(node)}
    stuck = [
        (plane, cause)
        for node, plane, cause in run.positional
        if node not in rewritable and bool((look_up(root, squash(plane)) != PINNED).any())
    ]
    for plane, cause in stuck:
        run.space.pin(squash(plane), cause)
    return _solve_with_product_sets(run) if stuck else root


def _solve_with_product_sets(run: LabelRun) -> Tensor:
    """Solves the unions such that what is kept of every tensor is a product of index sets, hence a smaller tensor."""
    layouts = [(plane, cause) for plane, cause in run.moved_planes() if len(varying(plane)) > 1]
    root = run.space.solve()
    settled = False
    while not settled:
        settled = True
        # in the order of the program, each on top of the ties before: two layouts of one tensor (a channel shuffle)
        # would otherwise each choose another dim to keep free, and leave none
        for plane, cause in layouts:
            if (tie := _product_tie(plane, root, cause)) is not None:
                run.space.union(*tie)
                first, second = torch.broadcast_tensors(*tie[:2])
                root = merged(root, first.reshape(-1), second.reshape(-1))
                settled = False
    return root


def _product_tie(plane: Tensor, root: Tensor, cause: Cause) -> tuple[Tensor, Tensor, Cause] | None:
    """The union that makes a plane vary along one dim only; None where it does already.

    The innermost dim along which channels differ keeps its freedom; along the others they are tied.
    """
    classes = look_up(root, plane)
    live = [dim for dim in range(plane.dim()) if plane.shape[dim] > 1 and _differs(classes, dim)]
    if len(live) <= 1:
        return None
    tied = cause.__class__(cause.node, cause.op, "what is kept must stay a full block of this shape", cause.source)
    return plane, thin(plane, live[:-1]), tied


def _is_one_class(classes: Tensor) -> bool:
    """Whether everything goes together, or is frozen."""
    return bool((classes == classes.flatten()[0]).all())


def _differs(classes: Tensor, dim: int) -> bool:
    return not bool((classes == classes.narrow(dim, 0, 1)).all())


def _groups(
    space: LabelSpace, root: Tensor, moved: Sequence[tuple[Tensor, Cause]]
) -> tuple[Tensor, tuple[Group, ...]]:
    """Numbers the channels group by group; groups are classes with the same count of labels in the same owners.

    They are also in the same parts: a split must not be left with an empty part, which some ops refuse.
    """
    labels = (root[: space.stored_size] != PINNED).nonzero().flatten()
    if len(labels) == 0:
        return torch.full((space.size,), NOT_PRUNABLE), ()
    roots, owners = root.index_select(0, labels), _owner_of(space).index_select(0, labels)
    is_class = torch.zeros(space.size, dtype=torch.bool).index_fill_(0, roots, True)
    classes = is_class.nonzero().flatten()  # each the first label of its class, which is a stored one
    signature = _signatures(owners, (is_class.cumsum(0) - 1).index_select(0, roots), len(classes))
    signature += _parts(root, classes, [plane for plane, _ in moved])
    # most groups are in one piece, so there are far fewer pieces to be sorted than classes
    pieces, piece_of = signature.unique_consecutive(return_inverse=True)
    _, group_of_piece = pieces.unique(return_inverse=True)
    group_of = group_of_piece.index_select(0, piece_of)
    counts = torch.bincount(group_of)
    first_of_group = torch.full((len(counts),), space.size).scatter_reduce(0, group_of, classes, "amin")
    order = torch.argsort(first_of_group.index_select(0, group_of) * space.size + classes)
    channel_of_root = torch.full((space.size,), NOT_PRUNABLE)
    channel_of_root[classes[order]] = torch.arange(len(classes))
    channel_of = channel_of_root.index_select(0, root)
    sizes = counts[group_of.index_select(0, order).unique_consecutive()].tolist()
    members = _members_of_first(space, channel_of.index_select(0, labels), owners, sizes)
    starts = [0, *accumulate(sizes)]
    groups = (Group(f"g{index}", starts[index], starts[index + 1], found) for index, found in enumerate(members))
    return channel_of, tuple(groups)


def _owner_of(space: LabelSpace) -> Tensor:
    """Index of each label's owner plus one; 0 for pinned and sample labels."""
    first = space.owners[0].start if space.owners else space.size
    sizes = torch.tensor([first] + [owner.size for owner in space.owners])
    return torch.repeat_interleave(torch.arange(len(sizes)), sizes)


def _signatures(owners: Tensor, class_of: Tensor, classes: int) -> Tensor:
    """A 63-bit hash of each class's multiset of owners; collisions are beyond any real number of groups."""
    generator = torch.Generator().manual_seed(0)
    random = torch.randint(2**62, (int(owners.max()) + 1,), generator=generator)
    return torch.zeros(classes, dtype=torch.long).scatter_add(0, class_of, random[owners])


def _parts(root: Tensor, classes: Tensor, planes: Sequence[Tensor]) -> Tensor:
    """A hash of the tensors that hold each class, of those that could lose everything, shape of ``classes``."""
    generator = torch.Generator().manual_seed(1)
    index_of_root = torch.full((len(root),), NOT_PRUNABLE)
    index_of_root[classes] = torch.arange(len(classes))
    index_of = index_of_root.index_select(0, root)
    total = torch.zeros(len(classes), dtype=torch.long)
    for plane, random in zip(planes, torch.randint(2**62, (len(planes),), generator=generator), strict=True):
        held = index_of.index_select(0, plane.reshape(-1))
        if int(held.min()) != NOT_PRUNABLE:  # else something stays in any case
            total.index_copy_(0, held, total.index_select(0, held) + random)
    return total


def _members_of_first(
    space: LabelSpace, channels: Tensor, owners: Tensor, sizes: Sequence[int]
) -> list[tuple[Member, ...]]:
    """The members of the first channel of each group, given the channel and the owner of each stored label."""
    firsts = torch.tensor([0, *sizes[:-1]]).cumsum(0)
    is_first = torch.zeros(sum(sizes), dtype=torch.bool).index_fill_(0, firsts, True)
    of_firsts = is_first.index_select(0, channels).nonzero().flatten()
    counted: dict[int, Counter[int]] = {first: Counter() for first in firsts.tolist()}
    for channel, owner in zip(channels[of_firsts].tolist(), owners[of_firsts].tolist(), strict=True):
        counted[channel][owner - 1] += 1
    return [
        tuple(Member(space.owners[index].name, space.owners[index].dim, count) for index, count in counts.items())
        for counts in counted.values()
    ]
