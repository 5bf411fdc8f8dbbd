"""Name patterns of what must stay."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.conv import _ConvTransposeNd

from graphprune.errors import OptionError
from graphprune.program import stored_tensors


def protected_dims(module: nn.Module, patterns: Sequence[str]) -> dict[tuple[str, int], str]:
    """Dims that patterns protect, each with its pattern.

    A pattern (shell wildcards) that matches a module, or a parent of it, keeps the module's output channels; one that
    matches the name of a parameter or buffer keeps all of its dims.

    Raises:
        OptionError: a pattern matches nothing.
    """
    modules = [name for name, _ in module.named_modules() if name]
    tensors = stored_tensors(module)
    found: dict[tuple[str, int], str] = {}
    missing = []
    for pattern in patterns:
        whole = [name for name in tensors if fnmatchcase(name, pattern)]
        inside = [name for name in modules if _matches_path(name, pattern)]
        if not whole and not inside:
            missing.append(pattern)
        for name in whole:
            found.update({(name, dim): pattern for dim in range(tensors[name].dim())})
        homes = set(inside)
        for name in tensors:
            home = name.rpartition(".")[0]
            if home in homes or any(home.startswith(f"{path}.") for path in homes):
                found[name, _output_dim(module.get_submodule(home), tensors[name].dim())] = pattern
    if missing:
        raise OptionError(_nothing_matches(missing, [*modules, *tensors]))
    return found


def _matches_path(name: str, pattern: str) -> bool:
    """Whether the pattern matches a module's name or a parent's."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def _output_dim(module: nn.Module, rank: int) -> int:
    return 1 if rank > 1 and isinstance(module, (_ConvTransposeNd, nn.Embedding)) else 0


def _nothing_matches(patterns: Sequence[str], names: Sequence[str]) -> str:
    lines = []
    for pattern in patterns:
        near = difflib.get_close_matches(pattern, names, n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        lines.append(f"protect: '{pattern}' matches no module, parameter or buffer{hint}")
    return "\n".join(lines)
