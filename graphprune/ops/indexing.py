"""Lookups and writes by index: indexed dims keep their sizes unless the indices are constants; others may shrink."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from graphprune.labels.operand import Operand, operand_of
from graphprune.labels.planes import Planes, compress, drop, is_sample, thin
from graphprune.ops.call import OpCall
from graphprune.ops.movement import settle
from graphprune.ops.registry import rule

aten = torch.ops.aten

_UNKNOWN = "the index is not known before the program runs"


@rule(aten.index_select)
def index_select(call: OpCall) -> list[Planes]:
    """Picks positions along one dim; along a labelled dim they must be constants."""
    operand = call.operand("self")
    assert operand is not None
    dim = call["dim"] % len(operand.shape)
    call.positional(operand, [dim])
    index = call.value("index")
    if index is None and dim in operand.labelled_dims:
        return call.freeze_all(_UNKNOWN)
    index = torch.zeros(call["index"].shape, dtype=torch.long) if index is None else index.cpu()
    planes = (compress(torch.index_select(plane, dim, index)) for plane in operand.planes)
    return [settle(call, (*planes, *_samples(call, dim, operand_of(call["index"]))))]


@rule(aten.index.Tensor)
def index(call: OpCall) -> list[Planes]:
    """Advanced indexing; along labelled dims the indices must be constants."""
    operand = call.operand("self")
    assert operand is not None
    if any(given is not None and given.dtype == torch.bool for given in call["indices"]):
        rows = _masked_rows(call, operand)
        if rows is None:
            return call.freeze_all(_UNKNOWN)
        return [tuple(plane.expand(call.shape) for plane in rows.planes)]
    positions = _positions(call, operand)
    if positions is None:
        return call.freeze_all(_UNKNOWN)
    planes = (compress(aten.index.Tensor(plane, positions)) for plane in operand.planes)
    given = _given(call)
    samples = _samples(call, given[0][0], operand_of(given[0][1])) if len(given) == 1 else ()
    return [settle(call, (*call.merge(planes, "indexed into a common dim"), *samples))]


def _samples(call: OpCall, place: int, index: Operand) -> Planes:
    """Planes of the samples that an index belongs to, in the result, where the index's dims replace one dim."""
    shape = (*(1 for _ in range(place)), *index.shape, *(1 for _ in call.shape[place + len(index.shape) :]))
    return tuple(plane.reshape(shape).expand(call.shape) for plane in index.planes if is_sample(plane))


@rule(aten.index_put, aten.index_put_)
def index_put(call: OpCall) -> list[Planes]:
    """Writes by indices or by a mask; the channels of the written values are tied to those that they replace."""
    operand, values = call.operand("self"), call.operand("values")
    assert operand is not None and values is not None
    if any(given is not None and given.dtype == torch.bool for given in call["indices"]):
        if torch.Size(values.shape).numel() == 1 and len(given := _given(call)) == 1:
            place, mask = given[0]
            shape = (*(1 for _ in range(place)), *mask.shape, *(1 for _ in operand.shape[place + mask.dim() :]))
            where = operand_of(mask).mapped(shape, lambda plane: plane.view(shape))
            return [call.join(operand.shape, [operand, where], "is written where a mask says so")]
        rows = _masked_rows(call, operand)
        if rows is None:
            return call.freeze_all(_UNKNOWN)
        call.join(rows.shape, [rows, values], "is written to")
        return [operand.planes]
    positions = _positions(call, operand)
    if positions is None:
        return call.freeze_all(_UNKNOWN)
    shape = tuple(aten.index.Tensor(torch.empty(operand.shape, device="meta"), _on_meta(positions)).shape)
    picked = operand.mapped(shape, lambda plane: compress(aten.index.Tensor(plane, positions)))
    call.join(shape, [picked, values], "is written to")
    return [operand.planes]


def _given(call: OpCall) -> list[tuple[int, Tensor]]:
    """The indices that are not left out, each with its place."""
    return [(place, given) for place, given in enumerate(call["indices"]) if given is not None]


def _on_meta(positions: Sequence[Tensor | None]) -> list[Tensor | None]:
    return [None if given is None else given.to("meta") for given in positions]


def _positions(call: OpCall, operand: Operand) -> list[Tensor | None] | None:
    """The indices, with zeros for unknown ones along dims without labels; None if one along labels is not known."""
    positions: list[Tensor | None] = []
    for dim, given in enumerate(call["indices"]):
        value = getattr(given, "value", given)
        if given is None:
            positions.append(None)
        elif value.is_meta:
            if dim in operand.labelled_dims:
                return None
            positions.append(torch.zeros(value.shape, dtype=torch.long))
        else:
            call.positional(operand, [dim])
            positions.append(value.cpu())
    return positions


def _masked_rows(call: OpCall, operand: Operand) -> Operand | None:
    """The elements that a single mask picks, in one dim in place of the mask's; None where the mask covers channels."""
    given = _given(call)
    place, mask = given[0]
    masked = range(place, place + mask.dim())
    if len(given) > 1 or operand.labelled_dims & frozenset(masked):
        return None
    for plane in operand_of(mask).planes:
        call.freeze(plane, "the mask has as many elements as what it picks from")
    shape = (*operand.shape[:place], 1, *operand.shape[place + mask.dim() :])
    return operand.mapped(shape, lambda plane: drop(plane, masked).unsqueeze(place))


@rule(aten.gather)
def gather(call: OpCall) -> list[Planes]:
    """Each element of the index looks up an element along one dim; the other dims of index and source correspond."""
    source, index = call.operand("self"), call.operand("index")
    assert source is not None and index is not None
    if not index.shape:
        return call.freeze_all("a single element is looked up")
    uneven = _uneven(call["dim"], source, [index])
    rest = _thinned(call, source, uneven).mapped(index.shape, lambda plane: plane.expand(index.shape))
    return [call.join(index.shape, [rest, index], "lookup")]


@rule(
    aten.scatter, aten.scatter_, aten.scatter_add, aten.scatter_add_, aten.scatter_reduce, aten.scatter_reduce_,
)  # fmt: skip
def scatter(call: OpCall) -> list[Planes]:
    """Each element of the source is written to an index along one dim; the reverse of `gather`."""
    names = ("self", "index", "src")
    target, index, *source = (operand for name in names if (operand := call.operand(name)) is not None)
    if not target.shape:
        return call.freeze_all("a single element is written to")
    uneven = _uneven(call["dim"], target, [index, *source])
    rest = [_thinned(call, operand, uneven) for operand in (target, index, *source)]
    planes = call.join(rest[0].shape, rest, "is written to by index")
    return [tuple(plane.expand(target.shape) for plane in planes)]


@rule(
    aten.index_add, aten.index_add_, aten.index_copy, aten.index_copy_, aten.index_reduce, aten.index_reduce_,
    aten.index_fill, aten.index_fill_,
)  # fmt: skip
def index_add(call: OpCall) -> list[Planes]:
    """Slices along one dim are written to; the other dims pass through."""
    target, source = call.operand("self"), call.operand("source")
    assert target is not None
    if not target.shape:
        return call.freeze_all("a single element is written to")
    dim = [call["dim"] % len(target.shape)]
    rest = [_thinned(call, operand, dim) for operand in (target, source) if operand is not None]
    planes = call.join(rest[0].shape, rest, "is written to by index")
    return [tuple(plane.expand(target.shape) for plane in planes)]


def _uneven(dim: int, first: Operand, others: Iterable[Operand]) -> list[int]:
    """The indexed dim, and the dims in which the operands have different sizes."""
    rank = len(first.shape)
    return [
        other
        for other in range(rank)
        if other == dim % rank or any(operand.shape[other] != first.shape[other] for operand in others)
    ]


def _thinned(call: OpCall, operand: Operand, dims: Sequence[int]) -> Operand:
    """The operand with labels tied along the indexed dims, and size 1 there."""
    rest = call.collapsed(operand, dims, "is indexed by position")
    shape = [1 if dim in dims else size for dim, size in enumerate(operand.shape)]
    return rest.mapped(shape, lambda plane: thin(plane, dims))


@rule(aten.slice_scatter, aten.select_scatter)
def slice_scatter(call: OpCall) -> list[Planes]:
    """A part of the result comes from another tensor, whose channels are tied to those that they replace."""
    target, source = call.operand("self"), call.operand("src")
    assert target is not None and source is not None
    call.positional(target, [call["dim"] % len(target.shape)])
    arguments = [value for name, value in call.arguments.items() if name not in ("self", "src")]
    take = aten.slice.Tensor if call.func is aten.slice_scatter.default else aten.select.int
    part = target.mapped(source.shape, lambda plane: compress(take(plane, *arguments)))
    call.join(source.shape, [part, source], "is written to")
    return [target.planes]


@rule(aten._embedding_bag, aten._embedding_bag_forward_only)
def embedding_bag(call: OpCall) -> list[Planes]:
    """Rows are looked up by the data, so they stay; the width passes through."""
    weight, factors = call.operand("weight"), call.operand("per_sample_weights")
    assert weight is not None
    weight = call.collapsed(weight, [0], "rows are looked up by index")
    for plane in factors.planes if factors is not None else ():
        call.freeze(plane, "there is one factor for each row that is looked up")
    indices, first = call.operand("indices"), call.value("offsets")
    assert indices is not None
    samples = (plane[first.cpu()].unsqueeze(-1) for plane in indices.planes if is_sample(plane) and first is not None)
    planes = (*(drop(plane, [0]) for plane in weight.planes), *samples)
    return [tuple(plane.expand(call.shape) for plane in planes)]
