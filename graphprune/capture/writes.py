"""Tensors that a graph must not write to, because its memory is not laid out as the model's is.

Of what a model makes anew in each call tracing makes a constant, once: what one call writes is there in the next one,
gradients with it, and of views of one tensor each is a constant. Tensors of the model that are views of each other are
copied one by one, and pruned one by one.
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
    return Versions(tensor for tensor in stored_tensors(module).values() if memory(tensor) not in own)


def sharing_memory(model: nn.Module) -> dict[str, Tensor]:
    """Tensors that a model keeps and whose memory another one that it keeps has too, by path."""
    strided = {path: tensor for path, tensor in kept_tensors(model).items() if _is_strided(tensor) and tensor.numel()}
    count = Counter(map(memory, strided.values()))
    return {path: tensor for path, tensor in strided.items() if count[memory(tensor)] > 1}


def _is_strided(tensor: Tensor) -> bool:
    return tensor.layout == torch.strided and not tensor.is_nested


class SharedMemory:
    """Watches the tensors of a model that share memory; made before it is traced."""

    def __init__(self, sharing: Mapping[str, Tensor], copies: Mapping[int, Any]) -> None:
        """Begins to watch.

        Args:
            sharing: The tensors of the user's model, see `sharing_memory`.
            copies: What became of each in the copy that is traced, by identity.
        """
        self._sharing = {path: tensor for path, tensor in sharing.items() if id(tensor) in copies}
        self._copies: dict[str, Tensor] = {path: copies[id(tensor)] for path, tensor in self._sharing.items()}
        self._before = Versions(self._copies.values())
        self._in_graph, self._of_graph = list[Tensor](), Versions(())

    def __len__(self) -> int:
        return len(self._sharing)

    def watch(self, module: nn.Module) -> None:
        """Watches what the graph module has of them as well, which was made of the copy."""
        self._in_graph = list(stored_tensors(module).values())
        self._of_graph = Versions(self._in_graph)

    def check(self, who: str) -> None:
        """Refuses writes to what shares memory with something that the graph reads.

        Raises:
            CaptureError: there was one; it names who it was, and both.
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
        """Where the model keeps some tensors of the copy, or what tracing has made of them."""
        known = set(map(id, self._copies.values()))
        same, made = set(map(id, tensors)), {memory(tensor) for tensor in tensors if id(tensor) not in known}
        return [path for path, copy in self._copies.items() if id(copy) in same or memory(copy) in made]
