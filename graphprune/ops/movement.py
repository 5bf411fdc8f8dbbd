"""Data movement: the op itself is run on the planes.

No rule computes offsets: concatenation, channel shuffle, window partition, strided slices and flatten come out exact,
because torch does to the planes what it does to the data.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from graphprune.labels.labels import PINNED
from graphprune.labels.operand import Operand, operand_of
from graphprune.labels.planes import Planes, channel_planes, compress, is_sample, relayout, squash, thin, varying
from graphprune.ops.call import OpCall
from graphprune.ops.registry import rule
from graphprune.ops.schema import call_by_schema

aten = torch.ops.aten


def settle(call: OpCall, planes: Planes) -> Planes:
    """Notes moved planes, and freezes labels along which the result has no dim (a single channel was taken out)."""
    kept = []
    for plane in planes:
        if plane.numel() == 0:
            continue
        if is_sample(plane):
            kept.append(plane)
            continue
        if not varying(plane):
            call.freeze(plane, "a single channel is taken out")
            continue
        call.run.moved.append((plane, call.run.cause(call.func, "layout")))
        kept.append(plane)
    return tuple(kept)


def _on_plane(call: OpCall, plane: Tensor, func: Any = None) -> list[Tensor]:
    """Runs the call's op on one plane; the result has one plane for each output."""
    result = call_by_schema(func or call.func, call.arguments | {"self": plane})
    return [compress(leaf) for leaf in ([result] if isinstance(result, Tensor) else result)]


def _move(call: OpCall, func: Any = None) -> list[Planes]:
    operand = call.operand("self")
    assert operand is not None
    columns = [_on_plane(call, plane, func) for plane in operand.planes]
    return [
        settle(call, call.merge((column[index] for column in columns), "moved to a common dim"))
        for index in range(len(call.outputs))
    ]


@rule(
    aten.permute, aten.transpose, aten.t, aten.numpy_T, aten.unbind, aten.squeeze, aten.unsqueeze, aten.alias,
        aten.detach, aten.detach_copy,
    aten.lift_fresh, aten.repeat, aten.movedim, aten.alias_copy, aten.permute_copy, aten.contiguous, aten.tile,
        aten.flip,
    aten.rot90,
)  # fmt: skip
def move(call: OpCall) -> list[Planes]:
    """Ops that only rearrange or repeat elements."""
    if "memory_format" in call.arguments:
        return [operand_of(call["self"]).planes]
    return _move(call)


_IN_PLACE = {
    aten.squeeze_.default: aten.squeeze.default, aten.squeeze_.dim: aten.squeeze.dim,
    aten.squeeze_.dims: aten.squeeze.dims, aten.unsqueeze_.default: aten.unsqueeze.default,
    aten.transpose_.default: aten.transpose.int, aten.t_.default: aten.t.default,
    aten.swapaxes_.default: aten.swapaxes.default, aten.swapdims_.default: aten.swapdims.default,
}  # fmt: skip


@rule(*_IN_PLACE)
def move_in_place(call: OpCall) -> list[Planes]:
    """The tensor itself takes another shape; its planes move as under the op that returns a new tensor."""
    return _move(call, _IN_PLACE[call.func])


@rule(aten.view.default, aten._unsafe_view, aten.reshape, aten._reshape_alias, aten.view_copy.default)
def view(call: OpCall) -> list[Planes]:
    """A new shape over the same elements."""
    operand = call.operand("self")
    assert operand is not None
    planes = [relayout(plane, call.shape) for plane in operand.planes]
    return [settle(call, call.merge(_uncrowded(call, planes), "flattened into a common dim"))]


def _uncrowded(call: OpCall, planes: list[Tensor]) -> list[Tensor]:
    """Keeps one of the planes that come to share a dim and freezes the others, so that not everything is tied.

    Channels are preferred to copies, and more channels to fewer unless that is in vain.
    """
    channels = [plane for plane in planes if not is_sample(plane)]
    crowded = [
        plane for plane in channels if any(other is not plane and varying(plane) & varying(other) for other in channels)
    ]
    if all(map(call.is_made_here, crowded)):
        return planes
    ranked = sorted(crowded, key=lambda plane: (call.is_made_here(plane), -len(squash(plane).unique())))
    if len(ranked) > 1 and not call.run.choose("more of what is flattened", True, ranked[0]):
        ranked.reverse()
    for plane in ranked[1:]:
        call.freeze(plane, "is flattened together with channels")
    return [plane for plane in planes if not any(plane is other for other in ranked[1:])]


@rule(aten.expand, aten.expand_copy)
def expand(call: OpCall) -> list[Planes]:
    """Copies along a dim are all the same, so their number can follow the tensors that they meet."""
    operand = call.operand("self")
    assert operand is not None
    (moved,) = _move(call)
    new = len(call.shape) - len(operand.shape)
    copied = [dim for dim in range(len(call.shape)) if dim < new or operand.shape[dim - new] != call.shape[dim]]
    return [(*moved, *call.fresh(call.shape, copied))]


@rule(aten.as_strided_)
def restride(call: OpCall) -> list[Planes]:
    """Pooling re-strides its result in place; the shape stays."""
    operand = call.operand("self")
    assert operand is not None
    if operand.shape != tuple(call["size"]):
        return call.freeze_all("strides are set by hand", "gap")
    return [operand.planes]


@rule(
    aten.slice.Tensor, aten.select.int, aten.narrow, aten.split, aten.split_with_sizes, aten.unsafe_split,
    aten.unsafe_split_with_sizes, aten.chunk, aten.unsafe_chunk,
)  # fmt: skip
def part(call: OpCall) -> list[Planes]:
    """Parts of a tensor along one dim, given by position."""
    operand = call.operand("self")
    assert operand is not None
    dim = call.arguments.get("dim", 0) % len(operand.shape)
    if tuple(call.shape) != operand.shape:
        call.positional(operand, [dim])
    if call.arguments.get("step", 1) != 1:
        _note_strided(call, operand, dim)
    return _move(call)


def _note_strided(call: OpCall, operand: Operand, dim: int) -> None:
    """Notes channels of which the call takes every n-th one; see `graphprune.labels.notes.RunNotes.strided`."""
    memory = call.run.memory_of(call["self"])
    cause = call.run.cause(call.func, "is written to in place, where its channels are not next to each other", "gap")
    for plane in channel_planes(operand.planes):
        if dim in varying(plane):
            call.run.strided.append((memory, plane, cause))


@rule(aten.repeat_interleave.self_int)
def repeat_interleave(call: OpCall) -> list[Planes]:
    """Repeats every element; without a dim the result is flat."""
    return _move(call)


@rule(aten.roll)
def roll(call: OpCall) -> list[Planes]:
    """Rotates along dims; without dims it rotates the flattened tensor."""
    operand = call.operand("self")
    assert operand is not None
    if not call["dims"] and len(operand.shape) > 1:
        return call.freeze_all("elements move from one channel to the next")
    call.positional(operand, [dim % len(operand.shape) for dim in call["dims"] or [0]])
    return _move(call)


@rule(aten.constant_pad_nd)
def constant_pad(call: OpCall) -> list[Planes]:
    """Padding along a channel dim makes new channels, which can be removed like any other."""
    operand = call.operand("self")
    assert operand is not None
    pad, rank = call["pad"], len(operand.shape)
    padded = frozenset(rank - 1 - pair // 2 for pair in range(0, len(pad), 2) if pad[pair] or pad[pair + 1])
    planes = []
    for plane in operand.planes:
        if is_sample(plane) and varying(plane) & padded:
            continue
        if varying(plane) & padded:
            call.positional(operand, padded)
            padded_plane = aten.constant_pad_nd(plane, pad, -1)
            planes.append(compress(_with_fresh_labels(call, padded_plane)))
        else:
            planes.append(thin(plane, padded).expand(call.shape))
    return [settle(call, tuple(planes))]


def _with_fresh_labels(call: OpCall, plane: Tensor) -> Tensor:
    """Gives a new label to each padded element (-1); elements that differ only in dims without labels share one."""
    small = squash(compress(plane)).clone()
    missing = small == -1
    count = int(missing.sum())
    small[missing] = call.run.space.allocate(f"%{call.run.node}", 0, count, stored=False)
    return small.expand(plane.shape)


@rule(aten.cat)
def cat(call: OpCall) -> list[Planes]:
    """Concatenation: labels are chained along the common dim, and tied across the operands along the other dims."""
    tensors = [tensor for tensor in call["tensors"] if tensor.numel() > 0 or tensor.dim() > 1]
    return [_concatenated(call, [operand_of(tensor) for tensor in tensors], call.arguments.get("dim", 0))]


@rule(aten.stack)
def stack(call: OpCall) -> list[Planes]:
    """Concatenation along a new dim."""
    dim = call.arguments.get("dim", 0) % len(call.shape)
    operands = []
    for tensor in call["tensors"]:
        shape = [*tensor.shape[:dim], 1, *tensor.shape[dim:]]
        operands.append(operand_of(tensor).mapped(shape, lambda plane: plane.unsqueeze(dim)))
    return [_concatenated(call, operands, dim)]


def _concatenated(call: OpCall, operands: list[Operand], dim: int) -> Planes:
    shape = call.shape
    dim %= len(shape)
    across = call.join(_with_size(shape, dim, 1), [_without(operand, dim) for operand in operands], "concatenation")
    along_dim = [[plane for plane in operand.planes if dim in varying(plane)] for operand in operands]
    parts = [next(iter(channel_planes(tuple(planes))), None) for planes in along_dim]
    samples = [next(filter(is_sample, planes), None) for planes in along_dim]
    planes = [plane.expand(shape) for plane in across]
    if any(part is not None for part in parts):
        planes.append(_chained(operands, parts, dim))
    if all(plane is not None for plane in samples):
        planes.append(_chained(operands, samples, dim))
    return settle(call, call.merge(planes, "concatenation"))


def _without(operand: Operand, dim: int) -> Operand:
    """The operand with size 1 along ``dim``, without the planes that vary along it: these are chained."""
    shape = _with_size(operand.shape, dim, 1)
    planes = tuple(thin(plane, [dim]) for plane in operand.planes if dim not in varying(plane))
    return Operand(shape, planes, operand.labelled_dims - {dim})


def _chained(operands: list[Operand], parts: list[Tensor | None], dim: int) -> Tensor:
    """The plane along the concatenated dim; operands without one contribute pinned labels."""
    live = frozenset().union(*(varying(part) for part in parts if part is not None)) | {dim}
    rank = len(operands[0].shape)
    dead = [other for other in range(rank) if other not in live]
    pieces = []
    for operand, part in zip(operands, parts, strict=True):
        plane = torch.full((), PINNED).expand(operand.shape) if part is None else part
        pieces.append(thin(plane, dead))
    total = sum(operand.shape[dim] for operand in operands)
    shape = _with_size(operands[0].shape, dim, total)
    return compress(torch.cat(pieces, dim)).expand(shape)


def _with_size(shape: tuple[int, ...], dim: int, size: int) -> tuple[int, ...]:
    return (*shape[:dim], size, *shape[dim + 1 :])
