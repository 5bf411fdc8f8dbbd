"""The parts of a plan as JSON content."""

from __future__ import annotations

import json
from typing import Any

import torch

from graphprune.errors import ArtifactError, shown
from graphprune.plan.trees import explained
from graphprune.program.tensors import Kept

FORMAT = "graphprune-plan"
VERSION = 1

Sizes = dict[tuple[str, int], int]
"""Size of each (parameter or buffer name, dim) before pruning."""


def content_of(text: str) -> dict[str, Any]:
    """Parses the JSON of a plan.

    Raises:
        ArtifactError: the text is not a plan, or is a plan of another version.
    """
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"the plan is not valid JSON, was it truncated? {explained(error)}") from error
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise ArtifactError(f"not a graphprune plan: format is {shown(found)}, expected {FORMAT!r}")
    if content.get("version") != VERSION:
        raise ArtifactError(f"plan of version {shown(content.get('version'))}; this graphprune reads {VERSION}")
    return content


def by_name(entries: dict[tuple[str, int], Any]) -> dict[str, dict[str, Any]]:
    """Nests entries by name, then by dim, sorted, because JSON has no tuples as keys."""
    result: dict[str, dict[str, Any]] = {}
    for (name, dim), value in sorted(entries.items()):
        result.setdefault(name, {})[str(dim)] = value
    return result


def _by_dim(content: dict[str, dict[str, Any]]) -> dict[tuple[str, int], Any]:
    result = {(name, int(dim)): value for name, dims in content.items() for dim, value in dims.items()}
    if by_name(result) != content or any(dim < 0 for _, dim in result):
        raise ValueError("the names of dims are not 0, 1 and so on")
    return result


def kept_to_json(kept: Kept) -> dict[str, dict[str, list[int]]]:
    """Returns kept indices as lists, by name and dim."""
    return by_name({key: indices.tolist() for key, indices in kept.items()})


def kept_from_json(content: dict[str, dict[str, list[int]]]) -> Kept:
    """Reads the indices that `kept_to_json` wrote; raises `ValueError` where they are not ascending whole numbers."""
    kept: Kept = {}
    for (name, dim), indices in _by_dim(content).items():
        whole = isinstance(indices, list) and all(type(index) is int for index in indices)
        if not whole or not indices or indices[0] < 0 or sorted(set(indices)) != indices:
            raise ValueError(f"{name} dim {dim}: expected whole numbers in ascending order, got {indices!r:.60}")
        kept[name, dim] = torch.tensor(indices, dtype=torch.long)
    return kept


def sizes_from_json(content: dict[str, dict[str, int]], kept: Kept) -> Sizes:
    """Reads the sizes of the dims in ``kept``; raises `ValueError` for other dims, or a size below a kept index."""
    sizes = _by_dim(content)
    if sizes and sizes.keys() != kept.keys():
        raise ValueError("it has sizes of other dims than those it keeps indices of")
    for (name, dim), size in sizes.items():
        if type(size) is not int or size <= int(kept[name, dim][-1]):
            raise ValueError(f"{name} dim {dim}: size {size!r:.60} has no room for the indices that are kept")
    return sizes
