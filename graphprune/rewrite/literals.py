"""Literal sizes, bounds and positions in the graph, recomputed from what survives.

One short function per kind of op, registered under the names that torch gives it as method, function and ATen op. A
size is the number of indices that survive; bounds and positions are in `graphprune.rewrite.positions`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import fx

from graphprune.errors import InternalError, RewriteError
from graphprune.program.nodes import argument, op_name, set_argument
from graphprune.rewrite.sizes import Resize, Survivors

Resizer = Callable[[Resize], None]

RESIZERS: dict[str, Resizer] = {}


def resizer(*names: str) -> Callable[[Resizer], Resizer]:
    """Registers a rewriting rule under op names (``view`` for ``Tensor.view`` and ``aten.view.default``)."""

    def register(function: Resizer) -> Resizer:
        for name in names:
            if name in RESIZERS:
                raise InternalError(f"'{name}' has a rewriting rule already: {RESIZERS[name].__name__}")
            RESIZERS[name] = function
        return function

    return register


def can_resize(node: fx.Node) -> bool:
    """Whether a rule rewrites nodes of this kind."""
    return node.op in ("call_function", "call_method") and op_name(node) in RESIZERS


def resize_literals(resize: Resize) -> None:
    """Rewrites a node's literals, if its op has any.

    Raises:
        RewriteError: the literals have a form that the rule does not expect.
    """
    if not can_resize(resize.node):
        return
    try:
        RESIZERS[op_name(resize.node)](resize)
    except Exception as error:  # whatever the user's code put there; the caller freezes the node
        raise RewriteError(resize.node.name, f"{type(error).__name__}: {error}") from error


# Shapes


def _new_sizes(resize: Resize, result: Survivors, sizes: Iterable[Any], first_dim: int = 0) -> list[Any]:
    """Size arguments of the dims from ``first_dim`` on: new literals where the dim shrinks, the old ones elsewhere."""
    return [
        _new_size(resize, result, size, first_dim + offset)
        if size != -1 and result.shrinks(first_dim + offset)
        else size
        for offset, size in enumerate(sizes)
    ]


def _new_size(resize: Resize, result: Survivors, size: Any, dim: int) -> Any:
    """The new literal; if samples and channels share the dim, the scaled old size, because the batch stays free."""
    new = result.size(dim)
    if not result.holds_samples(dim):
        return new
    with resize.node.graph.inserting_before(resize.node):
        scaled = resize.node.graph.call_function(operator.mul, (size, new))
        return resize.node.graph.call_function(operator.floordiv, (scaled, result.shape[dim]))


def _spread(resize: Resize, sizes: Any) -> list[Any]:
    """Size arguments as a list, even if one node gives them all."""
    if isinstance(sizes, fx.Node) and isinstance(resize.known(sizes), (tuple, list)):
        with resize.node.graph.inserting_before(resize.node):
            rank = len(resize.known(sizes))
            return [resize.node.graph.call_function(operator.getitem, (sizes, dim)) for dim in range(rank)]
    return list(sizes) if isinstance(sizes, (tuple, list)) else [sizes]


@resizer("view", "reshape", "expand", "_unsafe_view", "broadcast_to", "new_zeros", "new_ones", "new_empty")
def _shape_after_tensor(resize: Resize) -> None:
    node, result = resize.node, resize.result
    if result is None or not result.shrinks_anywhere:
        return
    given = node.args[1:] if len(node.args) > 1 else (node.kwargs.get("size", node.kwargs.get("shape")),)
    as_list = len(given) == 1 and not isinstance(resize.known(given[0]), int)
    sizes = _spread(resize, given[0]) if as_list else list(given)
    lead = len(result.shape) - len(sizes)
    new = _new_sizes(resize, result, sizes, lead)
    kwargs = {name: value for name, value in node.kwargs.items() if name not in ("size", "shape")}
    node.args = (node.args[0], new) if as_list or node.op == "call_function" else (node.args[0], *new)
    node.kwargs = kwargs


@resizer("expand_as", "broadcast_tensors", "matmul", "einsum", "normalize", "take_along_dim")
def _follows_operands(resize: Resize) -> None:
    """Changes nothing: the op takes its sizes from its operands."""


@resizer("zeros", "ones", "empty", "full", "new_full")
def _shape_of_new_tensor(resize: Resize) -> None:
    node, result = resize.node, resize.result
    if result is None or not result.shrinks_anywhere:
        return
    position = 1 if op_name(node) == "new_full" else 0
    given = argument(node, position, "size")
    loose = isinstance(resize.known(given), int)
    sizes = list(node.args[position:]) if loose else _spread(resize, given)
    new = _new_sizes(resize, result, sizes)
    if loose:
        node.args = (*node.args[:position], *new)
    else:
        set_argument(node, position, "size", new)


@resizer("squeeze")
def _squeeze(resize: Resize) -> None:
    """Names the dims that had size 1, of the given ones if any, because a layer may be left with one channel."""
    node, source = resize.node, resize.source
    if source is None:
        return
    given = resize.known(argument(node, 1, "dim", default=tuple(range(len(source.shape)))))
    dims = [dim % len(source.shape) for dim in ([given] if isinstance(given, int) else given)]
    gone = tuple(dim for dim in dims if source.shape[dim] == 1)
    node.op, node.kwargs = "call_function", {}
    if gone:
        node.target, node.args = torch.squeeze, (node.args[0], gone)
    else:
        node.target, node.args = torch.flatten, (node.args[0], 0, 0)  # the same tensor; ONNX has no squeeze of nothing


@resizer("unflatten")
def _unflatten(resize: Resize) -> None:
    node, result, source = resize.node, resize.result, resize.source
    if result is None or source is None:
        return
    dim = argument(node, 1, "dim") % len(source.shape)
    set_argument(node, 2, "sizes", _new_sizes(resize, result, argument(node, 2, "sizes"), dim))


@resizer("layer_norm", "rms_norm", "native_layer_norm")
def _normalized_shape(resize: Resize) -> None:
    node, source = resize.node, resize.source
    if source is None:
        return
    count = len(argument(node, 1, "normalized_shape"))
    new = [source.size(dim) for dim in range(len(source.shape) - count, len(source.shape))]
    set_argument(node, 1, "normalized_shape", new)


@resizer("group_norm")
def _num_groups(resize: Resize) -> None:
    source = resize.source
    if source is not None and source.shrinks(1):
        groups = resize.known(argument(resize.node, 1, "num_groups"))
        set_argument(resize.node, 1, "num_groups", groups_left(source, groups))


def groups_left(source: Survivors, groups: int, dim: int = 1) -> int:
    """Number of groups of a group norm or a convolution that still have channels along ``dim``."""
    size = source.shape[dim] // groups
    return len(torch.unique(source.indices(dim) // size))


@resizer("scaled_dot_product_attention")
def _attention_scale(resize: Resize) -> None:
    """Makes the default scale a literal, because it comes from the width of the queries, which is about to shrink."""
    node, source = resize.node, resize.source
    if source is not None and source.shrinks(-1) and argument(node, 6, "scale") is None:
        node.update_kwarg("scale", source.shape[-1] ** -0.5)


_CONVOLUTION_GROUPS = {"conv1d": 6, "conv2d": 6, "conv3d": 6, "convolution": 8}
_TRANSPOSED_GROUPS = {"conv_transpose1d": 6, "conv_transpose2d": 6, "conv_transpose3d": 6}


@resizer(*_CONVOLUTION_GROUPS, *_TRANSPOSED_GROUPS)
def _groups(resize: Resize) -> None:
    node, source = resize.node, resize.source
    position = (_CONVOLUTION_GROUPS | _TRANSPOSED_GROUPS)[op_name(node)]
    groups = resize.known(argument(node, position, "groups", default=1))
    weight = resize.of(argument(node, 1, "weight"))
    if source is None or weight is None or groups == 1:
        return
    channel = len(source.shape) - len(weight.shape) + 1  # there may be no dim of samples
    if source.shrinks(channel):
        set_argument(node, position, "groups", groups_left(source, groups, channel))
