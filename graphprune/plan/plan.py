"""A plan: which indices of a model's parameters and buffers stay."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.capture import unshare, unwrapped
from graphprune.errors import ArtifactError, InputError, UserError, shown
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.plan.names import Names, named_tensors, names_of_dropped, of_program, without_dropped
from graphprune.plan.packed_masks import pack, unpack
from graphprune.plan.plan_json import (
    FORMAT,
    VERSION,
    Sizes,
    by_name,
    content_of,
    kept_from_json,
    kept_to_json,
    sizes_from_json,
)
from graphprune.plan.trees import READ_ERRORS, decode, decode_example, encode, encode_example, explained
from graphprune.program.example import Example
from graphprune.program.facts import History
from graphprune.program.program import Attention, Program
from graphprune.program.tensors import Kept, Masks, compose_kept, stored_parameters, stored_tensors
from graphprune.request.options import attention_of
from graphprune.rewrite.compact import compact_module
from graphprune.training.masks import hold

_SHOWN = 8
"""Number of problems that an error message lists; the rest are only counted."""


@dataclass(frozen=True, eq=False)
class Plan:
    """What is kept of a model.

    Attributes:
        model: Class name of the model.
        example: Example inputs. Only their shapes and types matter, and the values of integers and masks.
        kept: Kept indices by (name, dim), for every parameter and buffer that shrank, under the names of the user's
            model.
        rounds: What each round kept, in terms of what the one before had left.
        protect: Name patterns that were protected.
        sizes: Sizes before pruning of the dims in ``kept``; empty where they are not known.
        attention: What was removed from attention: whole heads, or indices of every head.
        masks: For each compact parameter with dead weights, which of its weights are live; bool, of its shape.
    """

    model: str
    example: Example
    kept: Kept
    rounds: tuple[Kept, ...]
    protect: tuple[str, ...] = ()
    sizes: Sizes = field(default_factory=dict)
    attention: Attention = "heads"
    masks: Masks = field(default_factory=dict)

    @classmethod
    def of(cls, model: str, original: Program, history: History, rounds: tuple[Kept, ...]) -> Plan:
        """The plan of what was done to a model.

        Args:
            model: Class name of the model.
            original: The program of the model.
            history: What was done.
            rounds: What each round kept, in terms of what the one before had left.
        """
        protect, attention = original.protect, original.attention
        return cls(model, original.example, history.kept, rounds, protect, attention=attention, masks=history.masks)

    def with_sizes(self, dense: nn.Module) -> Plan:
        """Returns the plan with the model's sizes before pruning, so that it refuses a wider or narrower model."""
        tensors = stored_tensors(dense)
        return replace(self, sizes={(name, dim): tensors[name].shape[dim] for name, dim in self.kept})

    def to_json(self) -> str:
        """Returns the plan as JSON; a plan that `from_json` reads from it gives the same JSON again.

        Raises:
            ArtifactError: the example holds an argument that has no form in JSON.
        """
        try:
            example = encode([self.example.args, self.example.kwargs], encode_example)
        except TypeError as error:
            raise ArtifactError(
                f"the example input of {self.model} cannot be stored: {error}; "
                "use tensors, numbers, strings, None, and tuples, lists or dicts of them"
            ) from error
        content = {
            "format": FORMAT,
            "version": VERSION,
            "model": self.model,
            "example": example,
            "protect": list(self.protect),
            "attention": self.attention,
            "kept": kept_to_json(self.kept),
            "sizes": by_name(self.sizes),
            "rounds": [kept_to_json(kept) for kept in self.rounds],
        } | ({"masks": pack(self.masks)} if self.masks else {})
        return json.dumps(content, separators=(",", ":"), allow_nan=False)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Reads a plan.

        ``rounds``, ``sizes``, ``masks``, ``protect`` and ``attention`` may be missing, as in plans from elsewhere.

        Raises:
            ArtifactError: the text is not a plan, or the plan has another version or is inconsistent.
        """
        content = content_of(text)
        try:
            plan = _plan_of(content)
        except READ_ERRORS as error:
            raise ArtifactError(f"the plan is truncated or was edited: {explained(error)}") from error
        return plan

    def apply(self, model: nn.Module) -> fx.GraphModule:
        """Replays the plan on a fresh instance of the model, which is not changed.

        Args:
            model: Model of the class and configuration that the plan was made for, on any device.

        Returns:
            The compact module, with the kept part of the model's own weights.

        Raises:
            ArtifactError: the plan does not fit the model.
            InputError: ``model`` is not a module.
        """
        if not isinstance(model, nn.Module):
            raise InputError(f"a plan is applied to an instance of {self.model}, got {shown(model)}")
        model = unwrapped(model)
        self._check_sizes(model)
        try:
            program = self._analysed(model)
        except UserError as error:
            raise ArtifactError(
                f"the plan does not fit the model: it was made for {self.model}, this {type(model).__name__} "
                f"cannot be run with inputs of the plan's shapes: {explained(error)}"
            ) from error
        plan = self._of_what_is_read(names_of_dropped(model, program.module))
        for kept in plan._steps(program):
            program = _without(program, kept)
        plan._check_masks(program.module)
        unshare(program.module, model)
        hold(program.module, plan.masks)
        return program.module

    def _of_what_is_read(self, dropped: Names) -> Plan:
        """Leaves out what the program does not read, of which older plans have entries."""
        if not dropped:
            return self
        rounds = tuple(without_dropped(kept, dropped) for kept in self.rounds)
        masks = of_program(self.masks, dropped)
        return replace(self, kept=without_dropped(self.kept, dropped), rounds=rounds, masks=masks)

    def _check_masks(self, module: nn.Module) -> None:
        parameters = stored_parameters(module)
        problems = [
            f"{name}: the plan masks {tuple(mask.shape)}, the compact model has "
            f"{tuple(parameters[name].shape) if name in parameters else 'no such parameter'}"
            for name, mask in self.masks.items()
            if name not in parameters or parameters[name].shape != mask.shape
        ]
        if problems:
            raise ArtifactError(f"the plan does not fit the model:\n  {listed(problems)}")

    def _check_sizes(self, model: nn.Module) -> None:
        """Refuses a model in which a dim that shrank has another size; other dims, such as classes, may differ."""
        tensors = named_tensors(model)
        problems = []
        for (name, dim), size in self.sizes.items():
            tensor = tensors.get(name)
            if tensor is not None and (tensor.dim() <= dim or tensor.shape[dim] != size):
                problems.append(f"{name} dim {dim}: expected size {size}, got shape {tuple(tensor.shape)}")
        if problems:
            raise ArtifactError(f"the plan does not fit the model, which has other sizes:\n  {listed(problems)}")

    def _analysed(self, model: nn.Module) -> Program:
        example = on_device_of(model, self.example).mapped(Tensor.contiguous)
        return pipelines.analysed(model, example, self.protect, self.attention)

    def _steps(self, program: Program) -> tuple[Kept, ...]:
        """The prunes to replay: one for all rounds where the dense model's channels allow it, which is much faster."""
        try:
            keep_set_of_plan(program[Dependencies], self.kept)
        except ArtifactError:
            return self.rounds
        return (self.kept,) if self.kept else ()


def _without(program: Program, kept: Kept) -> Program:
    """Prunes a program to what is kept, and analyses it again."""
    keep = keep_set_of_plan(program[Dependencies], kept)
    smaller = program.pruned(compact_module(program, keep), kept, keep.removed)
    return Runner().run(pipelines.reanalysis(), smaller)


def keep_set_of_plan(dependencies: Dependencies, kept: Kept) -> KeepSet:
    """Returns what a plan keeps of a program.

    Raises:
        ArtifactError: the plan names what the model does not have, or keeps only some indices of a channel.
    """
    owners = {(owner.name, owner.dim): owner for owner in dependencies.stored}
    problems = []
    for key, indices in kept.items():
        owner = owners.get(key)
        if owner is None or len(indices) == 0 or int(indices.max()) >= owner.size or int(indices.min()) < 0:
            size = "has nothing of that name" if owner is None else f"has {owner.size} indices"
            problems.append(f"{key[0]} dim {key[1]}: the model {size}")
    if problems:
        raise ArtifactError(f"the plan does not fit the model:\n  {listed(problems)}")
    keep = KeepSet.of_indices(dependencies, kept)
    if kept_to_json(keep.indices) != kept_to_json(kept):
        raise ArtifactError(
            "the plan does not fit the model: it keeps indices that cannot be kept apart from those it removes; "
            "was it made for another model or configuration, or by another version of graphprune?"
        )
    return keep


def load_plan(path: Path) -> Plan:
    """Reads a plan from a file.

    Raises:
        ArtifactError: the file does not exist, or cannot be read as a plan.
    """
    if not path.is_file():
        raise ArtifactError(f"{path} does not exist; expected a file written by compiled.save()")
    try:
        return Plan.from_json(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ArtifactError(f"{path} cannot be read: {error}") from error
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def on_device_of(module: nn.Module, example: Example) -> Example:
    """Moves an example to the device of a module's parameters; floats also to the parameters' type, if there is one."""
    parameters = [parameter for parameter in module.parameters() if parameter.is_floating_point()]
    device = parameters[0].device if parameters else torch.device("cpu")
    types = {parameter.dtype for parameter in parameters}

    def move(tensor: Tensor) -> Tensor:
        cast = len(types) == 1 and tensor.is_floating_point()
        return tensor.detach().to(device, next(iter(types)) if cast else tensor.dtype)

    return example.mapped(move)


def listed(problems: list[str]) -> str:
    """Returns the first few problems of a list, one per line, and how many more there are."""
    rest = len(problems) - _SHOWN
    return "\n  ".join([*problems[:_SHOWN], *([f"and {rest} more"] if rest > 0 else [])])


def _plan_of(content: dict[str, Any]) -> Plan:
    """Reads and checks every entry; raises one of `READ_ERRORS` where an entry is malformed."""
    args, kwargs = decode(content["example"], decode_example)
    protect = content.get("protect", [])
    if not isinstance(args, tuple) or not isinstance(kwargs, dict) or not all(isinstance(key, str) for key in kwargs):
        raise ValueError("the example is not a tuple of arguments and a dict of keyword arguments")
    if not isinstance(content["model"], str):
        raise ValueError("the model is not the name of a class")
    if not isinstance(protect, list) or not all(isinstance(pattern, str) for pattern in protect):
        raise ValueError("protect is not a list of name patterns")
    kept = kept_from_json(content["kept"])
    rounds = tuple(kept_from_json(entry) for entry in content.get("rounds", [content["kept"]]))
    composed: Kept = {}
    for entry in rounds:
        composed = compose_kept(composed, entry)
    if kept_to_json(composed) != kept_to_json(kept):
        raise ValueError("its rounds do not lead to the indices that it keeps")
    sizes = sizes_from_json(content.get("sizes", {}), kept)
    attention = attention_of(content.get("attention", "heads"))
    masks = unpack(content.get("masks", {}))
    return Plan(content["model"], Example(args, kwargs), kept, rounds, tuple(protect), sizes, attention, masks)
