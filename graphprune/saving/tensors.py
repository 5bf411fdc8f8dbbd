"""The tensors of a module in a safetensors file: each is stored once, and further names of tied ones are aliases."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from graphprune.errors import ArtifactError
from graphprune.plan.names import named_tensors
from graphprune.plan.plan import listed

Aliases = dict[str, str]
"""The name under which a tied tensor is stored, by each of its other names."""


def write_weights(module: nn.Module, path: Path) -> Aliases:
    """Writes every parameter and buffer, even those outside the state dict, whose values may differ in a fresh model.

    Returns:
        The further names of tied tensors; safetensors refuses to store a tensor twice.

    Raises:
        ArtifactError: a tensor has a type that safetensors does not know.
    """
    first: dict[int, str] = {}
    aliases: Aliases = {}
    tensors: dict[str, Tensor] = {}
    for name, tensor in named_tensors(module).items():
        owner = first.setdefault(id(tensor), name)
        if owner != name:
            aliases[name] = owner
            continue
        # a copy: distinct tensors may be views of one storage, which safetensors refuses too
        tensors[name] = tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
    _write(tensors, path, "weights")
    return aliases


def read_weights(
    module: nn.Module, path: Path, aliases: Mapping[str, str], dropped: Collection[str] = frozenset()
) -> None:
    """Copies stored tensors into a module, in place; ties, devices and ``requires_grad`` stay as they are.

    Args:
        module: The module.
        path: What `write_weights` wrote.
        aliases: What `write_weights` returned.
        dropped: Names of tensors that the file may have and the module lacks.

    Raises:
        ArtifactError: the file cannot be read, or does not hold exactly the tensors of the module; the module is not
            changed then.
    """
    stored = _read(path)
    owners = {name: name for name in stored} | dict(aliases)
    dangling = sorted({owner for owner in aliases.values() if owner not in stored})
    if dangling:
        raise ArtifactError(f"{path} lacks the tied tensors {', '.join(dangling)}; save the artifact again")
    stored, owners = _left(stored, owners, dropped)
    own = named_tensors(module)
    problems = _misfits(own, {name: stored[owner] for name, owner in owners.items()})
    problems = problems or _broken_ties(own, owners)
    if problems:
        raise ArtifactError(
            f"{path} does not fit the model, pruned by the plan:\n  {listed(problems)}\n"
            "Give an instance built with the arguments of the model that was compiled, in the same type, its ties set."
        )
    with torch.no_grad():
        for name, value in stored.items():
            # expanded constants (views of fewer elements) cannot be written to, and need not be
            if not torch.equal(own[name].cpu(), value):
                own[name].copy_(value)


def write_outputs(outputs: Sequence[Tensor], path: Path) -> None:
    """Writes the tensors that a module returns, in their order.

    Raises:
        ArtifactError: a tensor has a type that safetensors does not know.
    """
    copies = (tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for tensor in outputs)
    # copies, because safetensors refuses tensors that share memory
    _write({str(index): tensor for index, tensor in enumerate(copies)}, path, "outputs")


def read_outputs(path: Path) -> list[Tensor]:
    """Reads the tensors that `write_outputs` wrote, in their order.

    Raises:
        ArtifactError: the file cannot be read.
    """
    stored = _read(path)
    return [stored[name] for name in sorted(stored, key=int)]


def _write(tensors: dict[str, Tensor], path: Path, what: str) -> None:
    try:
        save_file(tensors, path, metadata={"format": "pt"})
    except (SafetensorError, ValueError, KeyError) as error:
        raise ArtifactError(f"the {what} cannot be stored: {error}; convert the module to another type") from error


def _read(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}; save the artifact again") from error


def _left(
    stored: Mapping[str, Tensor], owners: Mapping[str, str], dropped: Collection[str]
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Leaves out dropped names; a tied tensor whose own name was dropped is known by the next of its names."""
    names: dict[str, list[str]] = {}
    for name, owner in owners.items():
        if name not in dropped:
            names.setdefault(owner, []).append(name)
    left = {tied[0]: stored[owner] for owner, tied in names.items()}
    return left, {name: tied[0] for tied in names.values() for name in tied}


def _misfits(own: Mapping[str, Tensor], stored: Mapping[str, Tensor]) -> list[str]:
    """Lists names that only one side has, and tensors whose shapes or types differ."""
    problems = [f"{name}: the file has no such tensor" for name in own if name not in stored]
    problems += [f"{name}: the model has no such tensor" for name in stored if name not in own]
    for name in own:
        if name in stored and _form(own[name]) != _form(stored[name]):
            problems.append(f"{name}: expected {_form(own[name])} (model), got {_form(stored[name])} (file)")
    return problems


def _form(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {tuple(tensor.shape)}"


def _broken_ties(own: Mapping[str, Tensor], owners: Mapping[str, str]) -> list[str]:
    """Lists names that are one tensor on one side and two on the other."""
    first: dict[int, str] = {}
    problems = []
    for name, owner in owners.items():
        if own[name] is not own[owner]:
            problems.append(f"{name} and {owner}: tied in the file, two tensors in the model")
        other = first.setdefault(id(own[name]), owner)
        if other != owner:
            problems.append(f"{name} and {other}: tied in the model, two tensors in the file")
    return problems
