"""Finds all tensors that a module keeps, wherever it keeps them, and where they are in memory."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from types import BuiltinFunctionType, FunctionType, ModuleType, NoneType
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.program.tensors import submodules

_LEAVES = (NoneType, bool, int, float, complex, str, bytes, type, nn.Module, ModuleType, FunctionType,
           BuiltinFunctionType, torch.dtype, torch.device)  # fmt: skip
_CONTAINERS = (dict, list, tuple, set, frozenset)
_TABLES = ("_parameters", "_buffers")


def kept_tensors(root: nn.Module) -> dict[str, Tensor]:
    """All tensors that a module keeps, each once, by path; also those in containers and in attributes of objects."""
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
            left += [(_joined(path, key), entry) for key, entry in _entries(item) if not _holds_nothing(entry)]
    return found


def _holds_nothing(item: Any) -> bool:
    """Whether a value can hold no tensor: most values in a module are numbers and empty tables of hooks."""
    return isinstance(item, _LEAVES) or (isinstance(item, _CONTAINERS) and not item)


def _joined(path: str, key: Any) -> str:
    if key in _TABLES:
        return path
    return f"{path}.{key}" if path else str(key)


def _entries(item: Any) -> Iterator[tuple[Any, Any]]:
    """Yields the entries of a container, or the attributes of an object, with their keys."""
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


def memory(tensor: Tensor) -> int:
    """Identifies the memory of a tensor; its views have the same."""
    return tensor.untyped_storage()._cdata if tensor.layout == torch.strided else id(tensor)  # sparse: no storage


def memory_of(root: nn.Module) -> frozenset[int]:
    """The memory of all tensors that a module keeps; see `memory`."""
    return frozenset(map(memory, kept_tensors(root).values()))


def overlap(first: Tensor, second: Tensor) -> bool:
    """Whether two strided tensors have a byte in common; the left and right half of a matrix do not."""
    if memory(first) != memory(second):
        return False
    (start, stop), (other_start, other_stop) = _bytes(first), _bytes(second)
    if stop <= other_start or other_stop <= start:
        return False
    start = min(start, other_start)
    taken = torch.zeros(max(stop, other_stop) - start, dtype=torch.bool)
    try:
        _view(taken, first, start).fill_(True)
    except RuntimeError:  # elements of the first overlap each other, as those of unfold() do
        return True
    return bool(_view(taken, second, start).any())


def _bytes(tensor: Tensor) -> tuple[int, int]:
    """Offset of a tensor's first byte in its storage, and of the byte after its last."""
    reach = sum((size - 1) * stride for size, stride in zip(tensor.shape, tensor.stride(), strict=True))
    start, size = int(tensor.storage_offset()), tensor.element_size()
    return start * size, (start + int(reach) + 1) * size


def _view(taken: Tensor, tensor: Tensor, start: int) -> Tensor:
    """A view of the bytes of a tensor in ``taken``, which begins at byte ``start``; expanded dims count once."""
    size = tensor.element_size()
    sizes = [1 if stride == 0 else count for count, stride in zip(tensor.shape, tensor.stride(), strict=True)]
    strides = [stride * size for stride in tensor.stride()]
    return taken.as_strided([*sizes, size], [*strides, 1], _bytes(tensor)[0] - start)
