"""Tensors that a graph must not write to, because its memory is not laid out as the model's is.

Of what a model makes anew in each call tracing makes a constant, once: what one call writes is there in the next one,
gradients with it, and of views of one tensor each is a constant. Tensors of the model that are views of each other are
copied one by one, and pruned one by one.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import BuiltinFunctionType, FunctionType, ModuleType, NoneType
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.program import stored_tensors, submodules


class Versions:
    """How often tensors had been written to; those of inference mode, which nobody counts, are left out."""

    def __init__(self, tensors: Iterable[Tensor]) -> None:
        self._noted = [(tensor, tensor._version) for tensor in tensors if not tensor.is_inference()]

    def __len__(self) -> int:
        return len(self._noted)

    def written(self) -> list[Tensor]:
        """The tensors that have been written to since."""
        return [tensor for tensor, version in self._noted if tensor._version != version]


def made_by_tracing(module: nn.Module, own: frozenset[int]) -> Versions:
    """The tensors of a graph module that tracing has made.

    Args:
        module: The graph module.
        own: Memory of what it was made of, see `memory_of`.
    """
    return Versions(tensor for tensor in stored_tensors(module).values() if _memory(tensor) not in own)


@dataclass(frozen=True)
class Overlap:
    """Two tensors that a model keeps, by path, and that have some of their memory in common."""

    names: tuple[str, str]
    tensors: tuple[Tensor, Tensor]

    def copied(self, copies: Mapping[int, Any]) -> Overlap:
        """The same of a copy of the model, which was made with this memo."""
        first, second = self.tensors
        return Overlap(self.names, (copies[id(first)], copies[id(second)]))

    def __str__(self) -> str:
        return f"'{self.names[0]}', which shares memory with '{self.names[1]}'"

    def turned(self) -> Overlap:
        """The second first."""
        return Overlap((self.names[1], self.names[0]), (self.tensors[1], self.tensors[0]))


class Overlapping:
    """Watches the tensors of a model that are views of each other; made before it is traced."""

    def __init__(self, overlaps: Iterable[Overlap]) -> None:
        self._overlaps = list(overlaps)
        self._tensors = {id(tensor): tensor for overlap in self._overlaps for tensor in overlap.tensors}
        self._before = Versions(self._tensors.values())
        self._in_graph, self._of_graph = list[Tensor](), Versions(())

    def __len__(self) -> int:
        return len(self._overlaps)

    def watch(self, module: nn.Module) -> None:
        """Watches what the graph module has of them as well, which was made of the model."""
        self._in_graph = list(stored_tensors(module).values())
        self._of_graph = Versions(self._in_graph)

    def written(self) -> str:
        """What has been written to since, though the graph reads what shares memory with it; empty for nothing."""
        written, read = [*self._before.written(), *self._of_graph.written()], self._in_graph
        for overlap in self._overlaps if written else ():
            for each in (overlap, overlap.turned()):
                if self._is_among(each.tensors[0], written) and self._is_among(each.tensors[1], read):
                    return str(each)
        return ""

    def _is_among(self, tensor: Tensor, others: list[Tensor]) -> bool:
        """Whether a tensor, or what tracing made of it, is one of the others."""
        return any(
            other is tensor or (id(other) not in self._tensors and _memory(other) == _memory(tensor))
            for other in others
        )


@dataclass(frozen=True)
class _Span:
    """A tensor that a model keeps, and between which bytes of its memory it is."""

    memory: int
    start: int
    stop: int
    name: str
    tensor: Tensor

    @classmethod
    def of(cls, name: str, tensor: Tensor) -> _Span:
        reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
        start, size = int(tensor.storage_offset()), tensor.element_size()
        return cls(_memory(tensor), start * size, (start + int(reach) + 1) * size, name, tensor)


def overlaps_of(model: nn.Module) -> list[Overlap]:
    """All pairs of tensors that a model keeps and that have some of their memory in common."""
    kept = kept_tensors(model).items()
    spans = [_Span.of(name, tensor) for name, tensor in kept if _is_strided(tensor) and tensor.numel()]
    found, open_spans = list[Overlap](), list[_Span]()
    for span in sorted(spans, key=lambda span: (span.memory, span.start)):
        open_spans = [other for other in open_spans if other.memory == span.memory and other.stop > span.start]
        found += [
            Overlap((other.name, span.name), (other.tensor, span.tensor))
            for other in open_spans
            if _meet(other.tensor, span.tensor)
        ]
        open_spans.append(span)
    return found


def _is_strided(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested


def _meet(first: Tensor, second: Tensor) -> bool:
    """Whether two tensors of one memory have an element in common; halves of the columns do not."""
    if first.element_size() != second.element_size():
        return True
    offset = int(min(first.storage_offset(), second.storage_offset()))
    taken = torch.zeros(max(map(_elements, (first, second))) - offset, dtype=torch.bool)
    places = [_placed(taken, tensor, offset) for tensor in (first, second)]
    try:
        places[0].fill_(True)
    except RuntimeError:  # elements of its own meet
        return True
    return bool(places[1].any())


def _elements(tensor: Tensor) -> int:
    return _Span.of("", tensor).stop // tensor.element_size()


def _placed(memory: Tensor, tensor: Tensor, offset: int) -> Tensor:
    """A view of other memory as a tensor is one of its own; what is expanded counts once."""
    sizes = [1 if stride == 0 else size for size, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    return memory.as_strided(sizes, tensor.stride(), tensor.storage_offset() - offset)


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)  # sparse ones have none


def memory_of(root: nn.Module) -> frozenset[int]:
    """Memory of all tensors that a module keeps."""
    return frozenset(map(_memory, kept_tensors(root).values()))


_LEAVES = (NoneType, bool, int, float, complex, str, bytes, type, nn.Module, ModuleType, FunctionType,
           BuiltinFunctionType, torch.dtype, torch.device)  # fmt: skip
_TABLES = ("_parameters", "_buffers")


def kept_tensors(root: nn.Module) -> dict[str, Tensor]:
    """All tensors that a module keeps, each once, by path; also those in containers and in objects of its own."""
    found, seen = dict[str, Tensor](), dict[int, Any]()
    left: list[tuple[str, Any]] = [(path, vars(module)) for path, module in submodules(root).items()]
    while left:
        path, item = left.pop()
        if id(item) in seen:
            continue
        seen[id(item)] = item
        if isinstance(item, Tensor):
            found[path if path not in found else f"{path} ({len(found)})"] = item
        else:
            left += [(_joined(path, key), entry) for key, entry in _entries(item) if not isinstance(entry, _LEAVES)]
    return found


def _joined(path: str, key: Any) -> str:
    if key in _TABLES:
        return path
    return f"{path}.{key}" if path else str(key)


def _entries(item: Any) -> Iterator[tuple[Any, Any]]:
    """What a container, or an object, holds."""
    if isinstance(item, Mapping):
        yield from item.items()
    elif isinstance(item, (list, tuple, set, frozenset, deque)):
        yield from enumerate(item)
    else:
        yield from getattr(item, "__dict__", {}).items()
        slots = [name for kind in type(item).__mro__ for name in _slots(kind)]
        yield from ((name, getattr(item, name)) for name in slots if hasattr(item, name))


def _slots(kind: type) -> Iterable[str]:
    slots = vars(kind).get("__slots__", ())
    return (slots,) if isinstance(slots, str) else slots
