"""Nested arguments and outputs as JSON, so that what is read back has the types of what was written."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

READ_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)
"""What reading damaged or edited content may raise, because of wrong types, missing entries or absurd sizes."""

_VALUES_LIMIT = 2**16
"""Integer and boolean tensors of up to this many elements are written with their values, larger ones without."""

_ELEMENTS_LIMIT = 2**40
"""More elements than any machine holds; the limit keeps products of sizes far from overflow."""


def encode(value: Any, tensor: Callable[[Tensor], Any]) -> Any:
    """Writes a tree of tuples, lists, dicts, numbers, strings, None and tensors as JSON content.

    Args:
        value: The tree; a named tuple is written as a tuple, any mapping as a dict.
        tensor: Function that gives the content for a tensor.

    Raises:
        TypeError: the tree holds something else.
    """
    if isinstance(value, Tensor):
        return {"tensor": tensor(value)}
    if isinstance(value, float) and not math.isfinite(value):
        return {"float": str(float(value))}
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, list):
        return [encode(entry, tensor) for entry in value]
    if isinstance(value, tuple):
        return {"tuple": [encode(entry, tensor) for entry in value]}
    if isinstance(value, Mapping):
        return {"dict": [[encode(key, tensor), encode(entry, tensor)] for key, entry in value.items()]}
    raise TypeError(f"{type(value).__name__} has no form in JSON")


def decode(content: Any, tensor: Callable[[Any], Any]) -> Any:
    """Reads the tree that `encode` wrote.

    Args:
        content: JSON content.
        tensor: Function that makes a leaf from the content for a tensor; what it raises passes through.

    Raises:
        ValueError: the content is not of a form that `encode` writes.
    """
    if isinstance(content, list):
        return [decode(entry, tensor) for entry in content]
    if not isinstance(content, dict):
        return content
    if len(content) != 1:
        raise ValueError(f"expected one of tensor, float, tuple, dict; got the entries {sorted(content)[:4]}")
    [(kind, inner)] = content.items()
    if kind == "tensor":
        return tensor(inner)
    if kind == "float":
        return float(inner)
    if kind == "tuple" and isinstance(inner, list):
        return tuple(decode(entry, tensor) for entry in inner)
    if kind == "dict" and isinstance(inner, list):
        return {decode(key, tensor): decode(entry, tensor) for key, entry in inner}
    raise ValueError(f"expected one of tensor, float, tuple, dict; got {kind!r}")


def encode_example(tensor: Tensor) -> dict[str, Any]:
    """Returns shape and type of an example's tensor, and its values where it may be a mask, an index or a length.

    A graph may depend on such values (a length of zero, an index out of range), but never on the values of floats.
    """
    content: dict[str, Any] = {"shape": list(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}
    if not tensor.is_floating_point() and not tensor.is_complex() and tensor.numel() <= _VALUES_LIMIT:
        content["values"] = tensor.detach().flatten().tolist()
    return content


def decode_example(content: dict[str, Any]) -> Tensor:
    """Makes a tensor of the stored shape and type: with the stored values, or zeros that take no memory (stride 0).

    Raises:
        ValueError: the shape or the type is invalid; other malformed content raises one of `READ_ERRORS`.
    """
    shape, dtype = content["shape"], getattr(torch, content["dtype"])
    if not isinstance(dtype, torch.dtype):
        raise ValueError(f"{content['dtype']!r} is not a type of tensors")
    if not isinstance(shape, list) or not all(type(size) is int and size >= 0 for size in shape):
        raise ValueError(f"{shape} is not a shape")
    if math.prod(shape) > _ELEMENTS_LIMIT:
        raise ValueError(f"shape {shape} is larger than any tensor")
    if "values" in content:
        return torch.tensor(content["values"], dtype=dtype).reshape(shape)
    return torch.zeros((), dtype=dtype).expand(shape)


def encode_outputs(outputs: Any) -> Any:
    """Writes the structure of a module's outputs; each tensor is written as its place among the outputs.

    Containers other than tuples, lists and dicts become a tuple of their tensors.
    """
    count = 0

    def place(tensor: Tensor) -> int:
        nonlocal count
        count += 1
        return count - 1

    def structure(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: structure(entry) for key, entry in value.items()}
        if isinstance(value, (list, tuple)):
            inner = [structure(entry) for entry in value]
            return inner if isinstance(value, list) else tuple(inner)
        known = value is None or isinstance(value, Tensor)
        return value if known else tuple(leaf for leaf in tree_leaves(value) if isinstance(leaf, Tensor))

    return encode(structure(outputs), place)


def explained(error: Exception) -> str:
    """Says in one line what was wrong with content that was read."""
    if isinstance(error, KeyError):
        return f"entry {error} is missing"
    line = " ".join(str(error).split())
    return f"{type(error).__name__}: {line[:300]}"
