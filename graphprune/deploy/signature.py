"""Names of the inputs and outputs of an ONNX file, and the arrays for its inputs."""

from __future__ import annotations

import inspect
import re
from collections.abc import Collection, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path

from graphprune.errors import ExportError, InputError
from graphprune.program.example import Example

Feeds = dict[str, NDArray[Any]]
"""Arrays by input name; dim 0 of the batched ones is the batch."""


def input_names(module: nn.Module, example: Example) -> tuple[str, ...]:
    """A stable name for each tensor among the arguments, in the order in which torch.export flattens them.

    A single positional tensor is called ``input``; otherwise the names are those of the forward parameters, with the
    index or key appended for tensors inside a list or dict.

    Raises:
        InputError: If `forward` takes fewer positional arguments than the example has.
    """
    positional = _positional_names(module, len(example.args))
    paths = _tensor_paths((dict(zip(positional, example.args, strict=True)), example.kwargs))
    # The first step of each path only says whether the argument was positional.
    names = [_identifier(keystr(path[1:])) or "input" for path, _ in paths]
    if len(names) == 1 and example.args:
        names = ["input"]
    return _unique(names, ())


def output_names(outputs: Any, taken: Collection[str]) -> tuple[str, ...]:
    """A stable name for each tensor that the module returns, none of them in `taken`.

    A single tensor is called ``output``, those of a tuple ``output_0`` and so on, and those of a dict by their keys.
    """
    names = [_identifier(keystr(path)) for path, _ in _tensor_paths(outputs)]
    named = [name if name and not name[0].isdigit() else f"output_{name}".rstrip("_") for name in names]
    return _unique(named, taken)


def tensor_leaves(tree: Any) -> list[Tensor]:
    """Tensors in nested tuples, lists and dicts, in the order of the names."""
    return [leaf for _, leaf in _tensor_paths(tree)]


def onnx_feeds(module: nn.Module, example: Example) -> Feeds:
    """The example's tensors as arrays, under the names that `export_onnx` gives the inputs of this module.

    Raises:
        ExportError: If a tensor has a type that numpy cannot hold.
        InputError: If `forward` takes fewer positional arguments than the example has.
    """
    tensors = tensor_leaves((example.args, example.kwargs))
    return feed(input_names(module, example), tensors)


def feed(names: Iterable[str], tensors: Iterable[Tensor]) -> Feeds:
    """Return tensors as contiguous arrays on the CPU, by name.

    Raises:
        ExportError: If a tensor has a type that numpy cannot hold.
    """
    feeds: Feeds = {}
    for name, tensor in zip(names, tensors, strict=True):
        if tensor.dtype is torch.bfloat16:
            raise ExportError(
                f"input '{name}' is torch.bfloat16, which numpy cannot hold, so that the ONNX file cannot be run and "
                "compared; convert the module and its example input to float32, for instance with .float()"
            )
        feeds[name] = np.ascontiguousarray(tensor.detach().cpu().numpy())
    return feeds


def _positional_names(module: nn.Module, count: int) -> list[str]:
    """Names of the first `count` positional arguments of `forward`; ``*args`` become ``args_0`` and so on."""
    names: list[str] = []
    for parameter in inspect.signature(module.forward).parameters.values():
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
            names.append(parameter.name)
        elif parameter.kind is parameter.VAR_POSITIONAL:
            names.extend(f"{parameter.name}_{index}" for index in range(count - len(names)))
    if len(names) < count:
        raise InputError(
            f"{type(module).__name__}.forward takes {len(names)} positional arguments ({', '.join(names) or 'none'}), "
            f"the example input has {count}; give the others by keyword or leave them out"
        )
    return names[:count]


def _tensor_paths(tree: Any) -> list[tuple[tuple[Any, ...], Tensor]]:
    """Each tensor of a nested structure with the keys that lead to it."""
    leaves, _ = tree_flatten_with_path(tree)
    return [(tuple(path), leaf) for path, leaf in leaves if isinstance(leaf, Tensor)]


def _identifier(path: str) -> str:
    """Turn a path into a name: ``['boxes'][0]`` into ``boxes_0``."""
    return re.sub(r"\W+", "_", path).strip("_")


def _unique(names: Iterable[str], taken: Collection[str]) -> tuple[str, ...]:
    """Append an underscore and a number to each name that is in use already."""
    used = set(taken)
    result = []
    for name in names:
        free = name
        suffix = 1
        while free in used:
            free = f"{name}_{suffix}"
            suffix += 1
        used.add(free)
        result.append(free)
    return tuple(result)
