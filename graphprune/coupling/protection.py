"""Name patterns that protect modules, parameters and buffers."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import Tensor, nn
from torch.nn.modules.conv import _ConvTransposeNd

from graphprune.errors import OptionError
from graphprune.program.tensors import stored_tensors


def protected_dims(module: nn.Module, patterns: Sequence[str]) -> dict[tuple[str, int], str]:
    """Dims that patterns protect, each with its pattern.

    A pattern (shell wildcards) that matches a module, or a parent of it, keeps the module's output channels; a pattern
    that matches the name of a parameter or buffer keeps all dims of that tensor.

    Raises:
        OptionError: a pattern matches nothing.
    """
    if not patterns:
        return {}
    modules = [name for name, _ in module.named_modules() if name]
    tensors = _tensors_under_all_names(module)
    known_as = {id(tensor): name for name, tensor in stored_tensors(module).items()}
    found: dict[tuple[str, int], str] = {}
    missing = []
    for pattern in patterns:
        named = [name for name in tensors if fnmatchcase(name, pattern)]
        dims = [(name, dim) for name in named for dim in range(tensors[name].dim())]
        for name, tensor in tensors.items():
            home = name.rpartition(".")[0]
            if _matches_path(home, pattern) and tensor.dim():
                dims.append((name, output_dim(module.get_submodule(home), tensor.dim())))
        if not dims and not named:  # a scalar has no dims and stays anyway
            missing.append(pattern)
        found.update({(known_as[id(tensors[name])], dim): pattern for name, dim in dims})
    if missing:
        raise OptionError(_nothing_matches(missing, modules, list(tensors)))
    return found


def protected_tensors(module: nn.Module, patterns: Sequence[str]) -> set[int]:
    """Parameters and buffers, by identity, that patterns protect: a dim of them, or a number as a whole.

    Raises:
        OptionError: a pattern matches nothing.
    """
    tensors = stored_tensors(module)
    protected = {id(tensors[name]) for name, _ in protected_dims(module, patterns)}
    named = _tensors_under_all_names(module).items() if patterns else ()
    return protected | {id(tensor) for name, tensor in named if any(fnmatchcase(name, each) for each in patterns)}


def _tensors_under_all_names(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; a tied tensor is listed under each of its names."""
    return dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))


def _matches_path(name: str, pattern: str) -> bool:
    """Whether the pattern matches the name of a module or of one of its parents."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[:end]), pattern) for end in range(1, len(parts) + 1))


def output_dim(module: nn.Module, rank: int) -> int:
    """The dim along which a module's output channels lie in a parameter with ``rank`` dims."""
    return 1 if rank > 1 and isinstance(module, (_ConvTransposeNd, nn.Embedding)) else 0


def _nothing_matches(patterns: Sequence[str], modules: Sequence[str], tensors: Sequence[str]) -> str:
    lines = []
    for pattern in patterns:
        if any(_matches_path(name, pattern) for name in modules):
            lines.append(f"protect: '{pattern}' matches only modules without parameters; name the layer before them")
            continue
        near = difflib.get_close_matches(pattern, [*modules, *tensors], n=3, cutoff=0.4)
        hint = f"; did you mean {', '.join(map(repr, near))}?" if near else ""
        lines.append(f"protect: '{pattern}' matches no module, parameter or buffer{hint}")
    return "\n".join(lines)
