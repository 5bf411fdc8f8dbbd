"""Tensors that a graph must not write to, because its memory is not laid out as the model's is.

Of what a model makes anew in each call tracing makes a constant, once: what one call writes is there in the next one,
gradients with it, and of views of one tensor each is a constant. Buffers that are views of each other are copied one by
one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.program import stored_tensors, submodules


@dataclass(frozen=True)
class _Watched:
    """A tensor, what it is, and how often it had been written to."""

    tensor: Tensor
    what: str
    version: int


class ReadOnly:
    """Watches the tensors that a graph module must not write to."""

    def __init__(self, module: nn.Module, own: frozenset[int], model: nn.Module) -> None:
        """Begins to watch.

        Args:
            module: The graph module.
            own: Memory of what it was made of, see `memory_of`; what else the module keeps, tracing has made.
            model: The user's.
        """
        views, self.watched = _views_of_each_other(model), list[_Watched]()
        for name, tensor in stored_tensors(module).items():
            if tensor.is_inference():  # its writes are not counted
                continue
            if name in views:
                what = f"buffer '{name}', which shares memory with another one"
            elif _memory(tensor) not in own:
                what = "a tensor that the model makes anew, and that tracing makes once"
            else:
                continue
            self.watched.append(_Watched(tensor, what, tensor._version))

    def written(self) -> str:
        """What has been written to since; empty for nothing."""
        return next((each.what for each in self.watched if each.tensor._version != each.version), "")


def _views_of_each_other(model: nn.Module) -> frozenset[str]:
    """Names of buffers that have some of their memory in common."""
    spans = sorted(
        (_memory(tensor), *_span(tensor), name)
        for name, tensor in stored_tensors(model).items()
        if not isinstance(tensor, nn.Parameter) and tensor.layout == torch.strided and tensor.numel()
    )
    found, until, last = set[str](), -1, ("", -1)
    for memory, start, stop, name in spans:
        if memory == last[1] and start < until:
            found |= {name, last[0]}
        if memory != last[1] or stop > until:
            until, last = stop, (name, memory)
    return frozenset(found)


def _span(tensor: Tensor) -> tuple[int, int]:
    """Places in its memory, counted in bytes, between which a tensor is."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset())
    return start * tensor.element_size(), (start + int(reach) + 1) * tensor.element_size()


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)  # sparse ones have none


def memory_of(root: nn.Module) -> frozenset[int]:
    """Memory of all tensors that a module keeps, also in containers and in objects of its own."""
    found, seen = set[int](), dict[int, Any]()
    left: list[Any] = [vars(module) for module in submodules(root).values()]
    while left:
        item = left.pop()
        if id(item) in seen or isinstance(item, (type, nn.Module, ModuleType, FunctionType)):
            continue
        seen[id(item)] = item
        if isinstance(item, Tensor):
            found.add(_memory(item))
        elif isinstance(item, Mapping):
            left += item.values()
        elif isinstance(item, (list, tuple, set)):
            left += item
        elif hasattr(item, "__dict__"):
            left.append(vars(item))
    return frozenset(found)
