"""Checks that a captured program computes what the user's model computes.

Tracing follows one path through Python code. Where the code branches on something that differs while tracing (the type
of a tensor, the size of the batch, the content of a cache), the graph is a different program. So a copy of the model
is run, and the graph's outputs are compared with its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from graphprune.capture.private_copy import Lent, in_own_memory
from graphprune.errors import WRITES, CaptureError, InputError, first_line, is_out_of_memory
from graphprune.process_state import private_random_state
from graphprune.program.example import Example
from graphprune.program.module_state import in_mode, is_same, keeping_buffers
from graphprune.program.program import CapturedBy, Program
from graphprune.verification.comparison import TOLERANCES, difference, scale_of

_BATCH_SIZES = (1, 2, 3)
"""Tried besides the example's batch size and one more, at which a loop that was traced over the samples stops short."""

_MORE = 10
"""Factor on `TOLERANCES`: fused and decomposed ops add in other orders, and the errors grow from layer to layer."""


@dataclass(frozen=True)
class Difference:
    """The batch size at which a program differs from the model, and how it differs."""

    batch_size: int
    what: str

    def __str__(self) -> str:
        return f"for {self.batch_size} sample{'s' if self.batch_size > 1 else ''} {self.what}"


@dataclass(frozen=True)
class Reference:
    """What a model computes.

    Attributes:
        model: A copy of the user's model, in evaluation mode.
        examples: Inputs at every batch size that was tried and that the model accepts, the example's own first.
        outputs: The model's output tensors for each of the examples.
    """

    model: nn.Module
    examples: tuple[Example, ...]
    outputs: tuple[list[Tensor], ...]

    @classmethod
    def of(cls, model: nn.Module, example: Example) -> Reference:
        """Runs a model and keeps it; the caller must not use the model any more.

        Raises:
            InputError: the model fails on its own example.
            CaptureError: the model writes to its parameters.
        """
        with in_own_memory(model) as parameters:
            return cls._of(model, example, parameters)

    @classmethod
    def _of(cls, model: nn.Module, example: Example, parameters: Sequence[Lent]) -> Reference:
        try:
            found = [(example, run(model, example))]
        except Exception as error:  # the user's code
            if is_out_of_memory(error):
                raise
            raise InputError(
                f"{type(model).__name__} fails on its example input: {first_line(error)}\n"
                "Check that model(example_input) runs in evaluation mode"
            ) from error
        others = {*_BATCH_SIZES, example.batch_size + 1} - {example.batch_size}
        for batch_size in sorted(others) if any(map(example.is_batched, example.tensors())) else ():
            resized = example.resized(batch_size)
            try:
                found.append((resized, run(model, resized)))
            except Exception as error:  # a model may accept only the batch size of its example
                if is_out_of_memory(error):
                    raise
        _refuse_writes(model, parameters)
        examples, outputs = zip(*found, strict=True)
        return cls(model, examples, outputs)

    def difference(self, program: nn.Module) -> Difference | None:
        """Returns the first difference between a program and the model, or None; the example's batch size is first."""
        with in_own_memory(program):
            for example, expected in zip(self.examples, self.outputs, strict=True):
                what = _difference(program, example, expected)
                if what:
                    return Difference(example.batch_size, what)
        return None

    def remarked(self, program: Program) -> CapturedBy:
        """Returns how a program was captured, with a remark if it differs from the model in training mode."""
        example = self.examples[0].resized(max(2, self.examples[0].batch_size))  # statistics need two samples
        try:
            with in_own_memory(self.model):
                expected = run(self.model, example, training=True)
        except Exception:  # a model may not be able to run in training mode
            return program.captured_by
        with in_own_memory(program.module):
            difference = _difference(program.module, example, expected, training=True)
        if not difference:
            return program.captured_by
        reasons = [program.captured_by.reason] if program.captured_by.reason else []
        return CapturedBy(program.captured_by.route, "; ".join([*reasons, _TRAINING]))


def _refuse_writes(model: nn.Module, parameters: Sequence[Lent]) -> None:
    """Refuses a model that has written to its parameters in evaluation mode.

    Raises:
        CaptureError: a parameter has changed; the message says what to do instead.
    """
    for each in parameters:
        if not is_same(each.parameter, each.data):
            raise CaptureError(WRITES.format(f"{type(model).__name__} writes", each.name))


_TRAINING = (
    "in training mode it differs from the model, by code that asks for self.training outside of layers, or by drawing "
    "random numbers in another order"
)


def _difference(program: nn.Module, example: Example, expected: list[Tensor], *, training: bool = False) -> str:
    try:
        found = run(program, example, training=training)
    except Exception as error:  # a wrong program may fail in any op
        if is_out_of_memory(error):
            raise
        return f"the graph fails where the model does not: {first_line(error)}"
    if [tensor.shape for tensor in found] != [tensor.shape for tensor in expected]:
        shapes = [", ".join(str(tuple(tensor.shape)) for tensor in tensors) for tensors in (found, expected)]
        return f"the graph gives shapes {shapes[0]}, the model {shapes[1]}"
    for first, second in zip(expected, found, strict=True):
        off, scale = difference(first, second), scale_of(first)
        if not off <= _tolerance(first) * max(scale, 1e-6):
            return f"the graph is off by {off:.3g}, at an output scale of {scale:.3g}"
    return ""


def run(model: nn.Module, example: Example, *, training: bool = False) -> list[Tensor]:
    """Runs a model, all of it in evaluation or in training mode, and returns copies of its output tensors."""
    with in_mode(model, training=training), keeping_buffers(model), private_random_state(0):
        output = example.mapped(torch.clone).given_to(model)  # code may write to its input
        return [leaf.detach().clone() for leaf in _tensors(output)]


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []
    for leaf in tree_leaves(value):
        if isinstance(leaf, Tensor):
            found.append(leaf)
        elif is_dataclass(leaf):
            found += _tensors([getattr(leaf, entry.name) for entry in fields(leaf)])
        elif isinstance(leaf, Mapping):
            found += _tensors(list(leaf.values()))
    return found


def _tolerance(tensor: Tensor) -> float:
    return min(_MORE * TOLERANCES.get(tensor.dtype, 0.0), 5e-2)
