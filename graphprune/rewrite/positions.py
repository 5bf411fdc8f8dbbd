"""Bounds and positions along channel dims, recomputed from what survives.

A bound becomes the number of survivors before it; positions that bounds cannot express become a constant index.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.labels.operand import Operand
from graphprune.program.nodes import argument, op_name, set_argument
from graphprune.rewrite.literals import resizer
from graphprune.rewrite.sizes import Resize, Survivors

_SPLIT_DIMS = {"hsplit": 1, "vsplit": 0, "dsplit": 2}


@resizer(
    "split", "chunk", "split_with_sizes", "tensor_split", "unsafe_split", "unsafe_chunk", "unsafe_split_with_sizes",
    *_SPLIT_DIMS,
)  # fmt: skip
def _split(resize: Resize) -> None:
    node, source = resize.node, resize.source
    dim = _SPLIT_DIMS.get(op_name(node), resize.known(argument(node, 2, "dim", default=0)))
    if source is None or not source.shrinks(dim):
        return
    node.op, node.target = "call_function", torch.split
    node.args = (node.args[0], [part.size(dim) for part in resize.results], dim)
    node.kwargs = {}


@resizer("narrow")
def _narrow(resize: Resize) -> None:
    node, source, result = resize.node, resize.source, resize.result
    dim = resize.known(argument(node, 1, "dim"))
    if source is not None and result is not None and source.shrinks(dim):
        start = resize.known(argument(node, 2, "start")) % source.shape[dim]
        set_argument(node, 2, "start", source.rank_of(start, dim))
        set_argument(node, 3, "length", result.size(dim))


@resizer("select")
def _select(resize: Resize) -> None:
    node, source = resize.node, resize.source
    dim = resize.known(argument(node, 1, "dim"))
    if source is not None and source.shrinks(dim):
        index = resize.known(argument(node, 2, "index")) % source.shape[dim]
        set_argument(node, 2, "index", source.rank_of(index, dim))


@resizer("slice")
def _slice(resize: Resize) -> None:
    node, source = resize.node, resize.source
    dim = resize.known(argument(node, 1, "dim", default=0))
    if source is None or not source.shrinks(dim):
        return
    bounds = [resize.known(argument(node, place, name)) for place, name in ((2, "start"), (3, "end"), (4, "step"))]
    picked = range(*slice(*bounds).indices(source.shape[dim]))
    _pick(resize, node.args[0], dim, picked, source)


@resizer("getitem")
def _getitem(resize: Resize) -> None:
    node = resize.node
    tensor, index = node.args
    source = resize.of(tensor) if isinstance(tensor, fx.Node) else None
    if source is None:
        return
    entries = list(index) if isinstance(index, tuple) else [index]
    picks = []
    dim = 0
    for place, entry in enumerate(entries):
        if entry is None:
            continue
        if entry is Ellipsis:
            dim = len(source.shape) - sum(1 for later in entries[place + 1 :] if later is not None)
            continue
        if source.shrinks(dim):
            entry = _known_index(resize, entry)
            if isinstance(entry, int):
                entries[place] = source.rank_of(entry % source.shape[dim], dim)
            elif entry != slice(None):
                entries[place] = slice(None)
                picks.append((dim, _picked(entry, source.shape[dim])))
        dim += 1
    before = tensor
    for dim, picked in picks:
        before = _insert_pick(resize, before, dim, picked, source)
    if picks and sum(isinstance(entry, (list, fx.Node)) for entry in entries) > 0:
        raise TypeError("several lists of positions are taken together")
    node.args = (before, tuple(entries) if isinstance(index, tuple) else entries[0])


@resizer("index")
def _index(resize: Resize) -> None:
    """``aten.index`` with constant positions along one dim."""
    node, source = resize.node, resize.source
    places = [(dim, entry) for dim, entry in enumerate(argument(node, 1, "indices")) if entry is not None]
    if source is None or not any(source.shrinks(dim) for dim, _ in places):
        return
    if len(places) > 1:
        raise TypeError("several lists of positions are taken together")
    dim, entry = places[0]
    _pick(resize, node.args[0], dim, _picked(_known_index(resize, entry), source.shape[dim]), source)


def _known_index(resize: Resize, entry: Any) -> Any:
    """An index with the values of its nodes in place of the nodes; a constant tensor becomes a list."""
    value = fx.map_arg(entry, resize.known)
    constant = value.constant if isinstance(value, Operand) else value
    return constant.tolist() if isinstance(constant, torch.Tensor) else constant


def _picked(entry: Any, size: int) -> list[int]:
    """The positions that a slice or a list names, in order."""
    if isinstance(entry, slice):
        return list(range(*entry.indices(size)))
    if isinstance(entry, (list, tuple)) and all(type(position) is int for position in entry):
        return [position % size for position in entry]
    raise TypeError(f"index {entry!r} is neither a number, a slice, nor a list of numbers")


def _pick(resize: Resize, tensor: Any, dim: int, picked: Iterable[int], source: Survivors) -> None:
    """Makes the node take the survivors among the old positions ``picked`` out of the compact tensor."""
    target, where = _picking(resize, dim, picked, source)
    resize.node.op, resize.node.target = "call_function", target
    resize.node.args, resize.node.kwargs = (tensor, *where), {}


def _insert_pick(resize: Resize, tensor: Any, dim: int, picked: Iterable[int], source: Survivors) -> fx.Node:
    """Takes the survivors out by a node of its own, before the node."""
    target, where = _picking(resize, dim, picked, source)
    with resize.node.graph.inserting_before(resize.node):
        return resize.node.graph.call_function(target, (tensor, *where))


def _picking(
    resize: Resize, dim: int, picked: Iterable[int], source: Survivors
) -> tuple[Callable[..., Any], tuple[Any, ...]]:
    places = torch.full((source.shape[dim],), -1)
    survivors = source.indices(dim)
    places[survivors] = torch.arange(len(survivors))
    wanted = places[torch.tensor(list(picked), dtype=torch.long)]
    wanted = wanted[wanted >= 0]
    start = int(wanted[0]) if len(wanted) else 0
    if torch.equal(wanted, torch.arange(start, start + len(wanted))):
        return torch.narrow, (dim, start, len(wanted))
    return torch.index_select, (dim, resize.constant(wanted))


# Positions


@resizer("roll")
def _roll(resize: Resize) -> None:
    node, source = resize.node, resize.source
    shifts, dims = argument(node, 1, "shifts"), argument(node, 2, "dims", default=())
    shifts = [shifts] if isinstance(shifts, int) else list(shifts)
    dims = [dims] if isinstance(dims, int) else list(dims)
    if source is None or not any(source.shrinks(dim) for dim in dims):
        return
    total = Counter[int]()  # one dim may be named twice
    for dim, shift in zip(dims, shifts, strict=True):
        total[dim % len(source.shape)] += shift
    orders = [(dim, torch.arange(source.shape[dim]).roll(shift).tolist()) for dim, shift in total.items()]
    before = node.args[0]
    for dim, order in orders[:-1]:
        before = _insert_pick(resize, before, dim, order, source)
    _pick(resize, before, *orders[-1], source)


@resizer("index_select")
def _index_select(resize: Resize) -> None:
    node, source = resize.node, resize.source
    dim = resize.known(argument(node, 1, "dim"))
    if source is None or not source.shrinks(dim):
        return
    index = resize.values[argument(node, 2, "index").name].constant
    _pick(resize, node.args[0], dim, index.tolist(), source)


@resizer("pad", "constant_pad_nd")
def _pad(resize: Resize) -> None:
    node, source, result = resize.node, resize.source, resize.result
    if source is None or result is None:
        return
    pad = [resize.known(amount) for amount in argument(node, 1, "pad")]
    for pair in range(0, len(pad), 2):
        dim = len(source.shape) - 1 - pair // 2
        if source.shrinks(dim) or result.shrinks(dim):
            before, after = pad[pair], pad[pair + 1]
            pad[pair] = _amount(source.indices(dim), result.indices(dim), before)
            # the high end, counted from that end
            flipped = source.shape[dim] - 1 - source.indices(dim), result.shape[dim] - 1 - result.indices(dim)
            pad[pair + 1] = _amount(*flipped, after)
    set_argument(node, 1, "pad", pad)


def _amount(source: Tensor, result: Tensor, amount: int) -> int:
    """The new padding at the low end of a dim: new positions that survive, or (negative) old ones that are cut off."""
    return int((result < amount).sum()) if amount > 0 else -int((source < -amount).sum())
