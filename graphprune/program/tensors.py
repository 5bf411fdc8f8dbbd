"""A module's parameters and buffers by name, and what is kept of them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

Kept = dict[tuple[str, int], Tensor]
"""Kept indices of each (parameter or buffer name, dim) that shrank; int64, ascending, shape ``(kept,)``."""


Cut = tuple[int, Tensor]
"""A dim and its kept indices."""


def cuts_of(kept: Kept) -> dict[str, list[Cut]]:
    """Kept indices by the name of their tensor."""
    cuts: dict[str, list[Cut]] = {}
    for (name, dim), indices in kept.items():
        cuts.setdefault(name, []).append((dim, indices))
    return cuts


def kept_of(tensor: Tensor, dim: int, indices: Tensor) -> Tensor:
    """A tensor at the kept indices of a dim, in its memory format: users choose ``channels_last`` for speed."""
    kept = tensor.index_select(dim, indices.to(tensor.device))
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if last is not None and tensor.is_contiguous(memory_format=last) and not tensor.is_contiguous():
        return kept.contiguous(memory_format=last)
    return kept


def take(tensor: Tensor, cuts: Iterable[Cut]) -> Tensor:
    """A tensor at the kept indices of some of its dims."""
    for dim, indices in cuts:
        tensor = kept_of(tensor, dim, indices)
    return tensor


def _selected(tables: Kept, indices: Kept) -> Kept:
    """Entries of each table at its indices, computed all at once because there are thousands of tables."""
    if not tables:
        return {}
    sizes = torch.tensor([len(table) for table in tables.values()])
    counts = torch.tensor([len(indices[key]) for key in tables])
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(counts)
    places = torch.cat([indices[key] for key in tables]) + starts
    entries = torch.cat(list(tables.values())).index_select(0, places).split(counts.tolist())
    return dict(zip(tables, entries, strict=True))


def submodules(module: nn.Module) -> dict[str, nn.Module]:
    """The module and all modules inside it, by path, each once."""
    found, seen = {"": module}, {id(module)}

    def visit(parent: nn.Module, start: str) -> None:
        for name, child in parent._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                found[start + name] = child
                if child._modules:
                    visit(child, f"{start}{name}.")

    visit(module, "")
    return found


class Layers:
    """The modules inside a module by path, because `nn.Module.get_submodule` is slow."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.by_path = module, submodules(module)

    def called_by(self, node: fx.Node) -> nn.Module:
        """The layer that a node calls."""
        path = str(node.target)
        known = self.by_path.get(path)
        return self.module.get_submodule(path) if known is None else known  # a shared module has several paths


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, then buffers, by name; each tensor once, in the order of the modules."""
    found, seen = submodules(module), set[int]()
    return _entries(found, "_parameters", seen) | _entries(found, "_buffers", seen)


def stored_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters among the stored tensors."""
    return _entries(submodules(module), "_parameters", set())


def _entries(modules: Mapping[str, nn.Module], table: str, seen: set[int]) -> dict[str, Any]:
    """The entries of one of the modules' tables that are not in ``seen`` yet, under their full names."""
    found: dict[str, Any] = {}
    for path, module in modules.items():
        entries = vars(module)[table]
        if not entries:
            continue
        start = f"{path}." if path else ""
        for name, tensor in entries.items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                found[start + name] = tensor
    return found


def compose_kept(before: Kept, now: Kept) -> Kept:
    """Kept indices of the original after another prune: ``now`` counts within what ``before`` left."""
    return before | {key: before[key][indices] if key in before else indices for key, indices in now.items()}


Masks = dict[str, Tensor]
"""Which weights are live, by parameter name, bool, of the parameter's shape; a missing parameter is fully live."""
