"""Changes the mode, the tensors or the buffers of a module for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn

from graphprune.errors import InputError
from graphprune.program.example import Example
from graphprune.program.program import Program, device_of
from graphprune.program.tensors import submodules


@contextmanager
def in_mode(module: nn.Module, *, training: bool) -> Iterator[None]:
    """Sets training or evaluation mode everywhere, without gradients; restores every module's own mode afterwards."""
    changed = [submodule for submodule in submodules(module).values() if submodule.training is not training]
    for submodule in changed:
        submodule.training = training
    try:
        with torch.no_grad():
            yield
    finally:
        for submodule in changed:
            submodule.training = not training


def evaluating(module: nn.Module) -> AbstractContextManager[None]:
    """Sets evaluation mode everywhere, without gradients; restores every module's own mode afterwards."""
    return in_mode(module, training=False)


@contextmanager
def standing_in(module: nn.Module, replaced: Mapping[int, Tensor]) -> Iterator[None]:
    """Puts other tensors, by the ``id`` of the originals, in place of parameters and buffers; tied ones stay tied."""
    tables: list[dict[str, Any]] = [
        table
        for submodule in submodules(module).values()
        for table in (submodule._parameters, submodule._buffers)
        if table
    ]
    originals = [dict(table) for table in tables]
    for table in tables:
        table.update({name: replaced[id(tensor)] for name, tensor in table.items() if tensor is not None})
    try:
        yield
    finally:
        for table, original in zip(tables, originals, strict=True):
            table.clear()
            table.update(original)


@contextmanager
def keeping_buffers(module: nn.Module) -> Iterator[set[int]]:
    """Restores the values of all buffers afterwards, because a program may count in them.

    Yields:
        A set, to which the ``id`` of a buffer that should keep its new values can be added.
    """
    buffers, changed = [(buffer, buffer.detach().clone()) for buffer in module.buffers()], set[int]()
    try:
        yield changed
    finally:
        with torch.no_grad():
            for buffer, value in buffers:
                if id(buffer) in changed:
                    continue
                if buffer.shape != value.shape:  # observers of ranges resize their buffers in their first call
                    buffer.resize_(value.shape)
                if not is_same(buffer, value):
                    buffer.copy_(value)


def is_same(first: Tensor, second: Tensor) -> bool:
    """Whether the shapes and all values are equal; NaN equals NaN."""
    if first.layout != torch.strided:
        first, second = first.to_dense(), second.to_dense()
    if first.is_meta or first.shape != second.shape:
        return first.shape == second.shape
    return torch.equal(first, second) or bool(((first == second) | ((first != first) & (second != second))).all())


def check_has_values(program: Program, model: str) -> None:
    """Refuses what cannot be scored or proved.

    Args:
        program: The program.
        model: Class name of the user's model.

    Raises:
        InputError: the program has no values, because it is on the meta device, or inference mode is on.
    """
    if torch.is_inference_mode_enabled():
        raise InputError("step() needs gradients, which torch.inference_mode() rules out; leave it before")
    if device_of(program).type == "meta":
        raise InputError(
            f"{model} is on the meta device: without values it can be analysed and reported on, not scored or proved; "
            "load its weights first"
        )


def run_program(program: Program, example: Example) -> Any:
    """The flat outputs of a program in evaluation mode."""
    with evaluating(program.module), keeping_buffers(program.module):
        return fx.Interpreter(program.module).run(*program.inputs(example), enable_io_processing=False)
