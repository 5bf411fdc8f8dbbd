"""Tensors that a graph must not write to, because its tensors do not share memory as the model's do.

A tensor that the model makes anew in each call is a constant of the graph: what one call writes to it, with gradients,
would be there in the next call, and views of one such tensor would be separate constants. Tensors of the model that
are views of each other are copied and pruned separately.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.capture.tensors_of import kept_tensors, memory, overlap
from graphprune.errors import CaptureError
from graphprune.program.tensors import stored_tensors


class Versions:
    """Notes how often tensors have been written to; those of inference mode have no such count and are left out."""

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
        own: Memory of the tensors of the traced module, see `memory_of`.
    """
    return Versions(tensor for tensor in stored_tensors(module).values() if memory(tensor) not in own)


def sharing_memory(model: nn.Module) -> dict[str, Tensor]:
    """Tensors of a model that share memory with another of its tensors, by path."""
    strided = {path: tensor for path, tensor in kept_tensors(model).items() if _is_strided(tensor) and tensor.numel()}
    count = Counter(map(memory, strided.values()))
    return {path: tensor for path, tensor in strided.items() if count[memory(tensor)] > 1}


def _is_strided(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested


class SharedMemory:
    """Watches the tensors of a model that share memory; made before the model is traced."""

    def __init__(self, sharing: Mapping[str, Tensor], copies: Mapping[int, Any]) -> None:
        """Begins to watch.

        Args:
            sharing: The tensors of the user's model, see `sharing_memory`.
            copies: The copy of each in the model that is traced, by the id of the original.
        """
        self._sharing = {path: tensor for path, tensor in sharing.items() if id(tensor) in copies}
        self._copies: dict[str, Tensor] = {path: copies[id(tensor)] for path, tensor in self._sharing.items()}
        self._before = Versions(self._copies.values())
        self._in_graph, self._of_graph = list[Tensor](), Versions(())

    def __len__(self) -> int:
        return len(self._sharing)

    def watch(self, module: nn.Module) -> None:
        """Watches the tensors of the graph module too, which was made from the copy."""
        self._in_graph = list(stored_tensors(module).values())
        self._of_graph = Versions(self._in_graph)

    def check(self, who: str) -> None:
        """Refuses writes to a tensor that shares memory with another one that the graph reads.

        Args:
            who: Name of the model for the message.

        Raises:
            CaptureError: there was such a write; the message names both tensors.
        """
        written = self._paths_of([*self._before.written(), *self._of_graph.written()])
        read = self._paths_of(self._in_graph) if written else []
        for first in written:
            for second in read:
                if first != second and overlap(self._sharing[first], self._sharing[second]):
                    raise CaptureError(
                        f"{who} writes to '{first}', which shares memory with '{second}'. Of a pruned model each has "
                        "memory of its own; give it that before, with .clone()"
                    )

    def _paths_of(self, tensors: Sequence[Tensor]) -> list[str]:
        """Paths in the model of tensors of the copy, or of tensors that tracing has derived from them."""
        known = set(map(id, self._copies.values()))
        same, made = set(map(id, tensors)), {memory(tensor) for tensor in tensors if id(tensor) not in known}
        return [path for path, copy in self._copies.items() if id(copy) in same or memory(copy) in made]
