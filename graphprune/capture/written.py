"""Tensors that a graph must not write to, because its memory is not laid out as the model's is.

Of what a model makes anew in each call tracing makes a constant, once: what one call writes is there in the next one,
gradients with it, and of views of one tensor each is a constant. Tensors of the model that are views of each other are
copied one by one, and pruned one by one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
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
    """Watches tensors that nothing must write to."""

    def __init__(self, tensors: Iterable[tuple[Tensor, str]]) -> None:
        """Begins to watch tensors, each with what it is."""
        counted = [(tensor, what) for tensor, what in tensors if not tensor.is_inference()]  # nobody counts its writes
        self.watched = [_Watched(tensor, what, tensor._version) for tensor, what in counted]

    def written(self) -> str:
        """What has been written to since; empty for nothing."""
        return next((each.what for each in self.watched if each.tensor._version != each.version), "")


def made_by_tracing(module: nn.Module, own: frozenset[int]) -> ReadOnly:
    """The tensors of a graph module that tracing has made.

    Args:
        module: The graph module.
        own: Memory of what it was made of, see `memory_of`.
    """
    what = "a tensor that the model makes anew, or does not own, and that tracing makes once"
    return ReadOnly((tensor, what) for tensor in stored_tensors(module).values() if _memory(tensor) not in own)


def using_memory_of(tensors: Iterable[tuple[Tensor, str]], module: nn.Module) -> ReadOnly:
    """The tensors of a graph module that have the memory of some tensors: these, and what tracing made of them."""
    words = {_memory(tensor): what for tensor, what in tensors}
    stored = [(tensor, _memory(tensor)) for tensor in stored_tensors(module).values()]
    return ReadOnly((tensor, words[memory]) for tensor, memory in stored if memory in words)


def views_of_each_other(model: nn.Module) -> list[tuple[Tensor, str]]:
    """Tensors that a model keeps and that have some of their memory in common, each with the words for it."""
    spans = sorted(
        ((_memory(tensor), *_span(tensor), name, tensor) for name, tensor in kept_tensors(model).items()
         if tensor.layout == torch.strided and not tensor.is_nested and tensor.numel()),
        key=lambda span: span[:3],
    )  # fmt: skip
    found = dict[str, tuple[Tensor, str]]()
    furthest: tuple[Any, ...] = (-1, 0, 0, "", None)  # that which reaches furthest so far
    for span in spans:
        memory, start, stop, name, tensor = span
        if memory == furthest[0] and start < furthest[2]:
            found.setdefault(furthest[3], (furthest[4], f"'{furthest[3]}', which shares memory with '{name}'"))
            found[name] = (tensor, f"'{name}', which shares memory with '{furthest[3]}'")
        if memory != furthest[0] or stop > furthest[2]:
            furthest = span
    return list(found.values())


def _span(tensor: Tensor) -> tuple[int, int]:
    """Places in its memory, counted in bytes, between which a tensor is."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start = int(tensor.storage_offset())
    return start * tensor.element_size(), (start + int(reach) + 1) * tensor.element_size()


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)  # sparse ones have none


def memory_of(root: nn.Module) -> frozenset[int]:
    """Memory of all tensors that a module keeps."""
    return frozenset(map(_memory, kept_tensors(root).values()))


_TABLES = ("_parameters", "_buffers")


def kept_tensors(root: nn.Module) -> dict[str, Tensor]:
    """All tensors that a module keeps, each once, by path; also those in containers and in objects of its own."""
    found, seen = dict[str, Tensor](), dict[int, Any]()
    left: list[tuple[str, Any]] = [(path, vars(module)) for path, module in submodules(root).items()]
    while left:
        path, item = left.pop()
        if id(item) in seen or isinstance(item, (type, nn.Module, ModuleType, FunctionType)):
            continue
        seen[id(item)] = item
        if isinstance(item, Tensor):
            found[path] = item
        elif isinstance(item, Mapping):
            left += [(path if key in _TABLES else f"{path}.{key}".lstrip("."), entry) for key, entry in item.items()]
        elif isinstance(item, (list, tuple, set)):
            left += [(f"{path}.{index}", entry) for index, entry in enumerate(item)]
        elif hasattr(item, "__dict__"):
            left.append((path, vars(item)))
    return found
