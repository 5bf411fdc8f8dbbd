"""The entry: a copy of the user's model, as a program."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import torch
from torch import fx, nn

from graphprune.capture.exported import export
from graphprune.capture.legalise import legalise
from graphprune.capture.symbolic import trace
from graphprune.capture.training import follow_mode
from graphprune.errors import CaptureError, InputError
from graphprune.program import CapturedBy, Example, Program


def capture(model: nn.Module, example_input: Any, protect: tuple[str, ...] = ()) -> Program:
    """Captures a model; the model itself is not touched.

    The program's parameters use the model's memory until `unshare` is called; buffers are copies.

    Args:
        model: Any nn.Module.
        example_input: A tensor, a tuple of arguments, or a dict of keyword arguments.
        protect: Name patterns kept for the analysis.

    Raises:
        InputError: the example holds no tensor, or the model is not ready to run.
        CaptureError: neither front end could capture the model; the message has both reasons.
    """
    example = Example.of(example_input)
    _check_inputs(model, example)
    root = _private_copy(model)
    modes = {name: module.training for name, module in root.named_modules()}
    root = legalise(root).eval()
    # torch specialises batches of 0 and 1, so the graph is made from at least two samples
    sample = example.resized(max(2, example.batch_size)) if example.batch_size == 1 else example
    graph, captured_by = _graph(root, sample, example)
    follow_mode(graph)
    module = fx.GraphModule(root, graph, class_name=type(model).__name__)
    _restore_modes(module, modes)
    if not any(True for _ in module.parameters()):
        raise InputError(f"no parameter of {type(model).__name__} takes part in its graph (scripts hide theirs)")
    return Program(module, example, captured_by, protect=protect)


def _graph(root: nn.Module, sample: Example, example: Example) -> tuple[fx.Graph, CapturedBy]:
    try:
        return trace(root, example), CapturedBy("torch.fx")
    except Exception as error:  # tracing runs the user's code, which may raise anything
        fx_reason = _first_line(error)
    reasons = []
    with _gradients_required(root):
        for candidate in (sample, example):
            try:
                return export(root, candidate), CapturedBy("torch.export", f"torch.fx: {fx_reason}")
            except Exception as error:  # likewise
                reasons.append(_first_line(error))
    raise CaptureError(
        f"{type(root).__name__} cannot be captured.\n  torch.fx: {fx_reason}\n  torch.export: {reasons[-1]}\n"
        "Check that model(example_input) runs, and move control flow on tensor values out of forward()."
    )


class _gradients_required:
    """Makes every floating parameter require a gradient for a while, which keeps fused inference out of the graph."""

    def __init__(self, root: nn.Module) -> None:
        self.frozen = [p for p in root.parameters() if not p.requires_grad and p.is_floating_point()]

    def __enter__(self) -> None:
        for parameter in self.frozen:
            parameter.requires_grad_(True)

    def __exit__(self, *_: object) -> None:
        for parameter in self.frozen:
            parameter.requires_grad_(False)


def _private_copy(model: nn.Module) -> nn.Module:
    """A copy whose own parameters still use the model's memory; nothing writes to it before it is unshared."""
    memo: dict[int, object] = {id(parameter): _alias(parameter) for parameter in model.parameters()}
    memo |= {id(buffer): buffer.detach().clone() for buffer in model.buffers()}
    # the tables of hooks that each module has are nearly always empty, and are most of what a deep copy would cost
    for module in model.modules():
        memo |= {id(table): type(table)() for table in module.__dict__.values() if type(table) in _TABLES and not table}
    try:
        return copy.deepcopy(model, memo)
    except Exception as error:
        raise CaptureError(
            f"{type(model).__name__} cannot be copied: {_first_line(error)}\n"
            "Remove cached activations or handles from the module, or give a fresh instance."
        ) from error


_TABLES = (dict, OrderedDict)


def _alias(parameter: nn.Parameter) -> nn.Parameter:
    # .data, not .detach(): the alias must not count as a change of a tensor that the user's autograd graph has saved
    alias = nn.Parameter(parameter.data, requires_grad=parameter.requires_grad)
    alias.__dict__.update(parameter.__dict__)
    return alias


def unshare(module: nn.Module, model: nn.Module) -> None:
    """Gives a module memory of its own for every parameter that still uses the model's."""
    shared = {parameter.data_ptr() for parameter in model.parameters()}
    own: dict[tuple[object, ...], torch.Tensor] = {}  # parameters that are one memory stay so
    for parameter in module.parameters():
        if parameter.data_ptr() in shared:
            place = (parameter.data_ptr(), parameter.shape, parameter.stride())
            parameter.data = own.setdefault(place, parameter.data.clone())


def _check_inputs(model: nn.Module, example: Example) -> None:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise InputError(f"{type(model).__name__} only wraps the model; give model.module")
    if not isinstance(model, nn.Module):
        raise InputError(f"expected an nn.Module, got {type(model).__name__}")
    if not example.tensors():
        raise InputError("the example input holds no tensor; give a tensor, a tuple of arguments, or a dict of them")
    if example.batch_size == 0:
        raise InputError("the example input holds no samples: its dim 0 is 0; give at least one")
    lazy = [name for name, p in model.named_parameters() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise InputError(f"parameter '{lazy[0]}' has no shape yet; run the model once before pruning it")
    if not any(True for _ in model.parameters()):
        raise InputError(f"{type(model).__name__} has no parameters; there is nothing to prune")


def _restore_modes(module: fx.GraphModule, modes: dict[str, bool]) -> None:
    for name, submodule in module.named_modules():
        submodule.training = modes.get(name, modes[""])


def _first_line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0] if text else ''}".rstrip(": ")


