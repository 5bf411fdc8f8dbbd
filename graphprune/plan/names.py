"""Names of tensors in a plan that was made before the parts which a model does not read were dropped."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from torch import Tensor, nn

from graphprune.program.tensors import Kept

Names = Mapping[str, str | None]
"""By name in the user's model, the name in its program; None for what the program does not have."""

_Entry = TypeVar("_Entry")


def named_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name; tied ones under each of their names."""
    parameters = module.named_parameters(remove_duplicate=False)
    return dict(parameters) | dict(module.named_buffers(remove_duplicate=False))


def names_of_dropped(model: nn.Module, program: nn.Module) -> Names:
    """Tensors of a model that its program does not have under the same name.

    What is tied to a dropped tensor and still there has another name in the program.

    Args:
        model: The user's model.
        program: What was captured of it, without what nobody reads.
    """
    own, left = named_tensors(model), named_tensors(program).keys()
    names_left = {id(tensor): name for name, tensor in own.items() if name in left}
    return {name: names_left.get(id(tensor)) for name, tensor in own.items() if name not in left}


def without_dropped(kept: Kept, names: Names) -> Kept:
    """Kept indices under the names of the program; those of dropped tensors are left out."""
    found = {(names.get(name, name), dim): indices for (name, dim), indices in kept.items()}
    return {(name, dim): indices for (name, dim), indices in found.items() if name is not None}


def of_program(entries: Mapping[str, _Entry], names: Names) -> dict[str, _Entry]:
    """Entries under the names of the program; those of dropped tensors are left out."""
    found = {names.get(name, name): entry for name, entry in entries.items()}
    return {name: entry for name, entry in found.items() if name is not None}
