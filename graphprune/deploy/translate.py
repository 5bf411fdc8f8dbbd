"""From a module to an ONNX program by torch.onnx, with given names and a free batch."""

from __future__ import annotations

import inspect
import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.utils._pytree import tree_map

from graphprune.deploy.attention import with_plain_attention
from graphprune.deploy.lower_precision import Precision
from graphprune.errors import ExportError
from graphprune.process_state import only_errors
from graphprune.program.example import Example

_log = logging.getLogger(__name__)

_NOISE = (
    # An LSTM or GRU builds its list of flat weights while torch.export traces it, and gets the old list back.
    (UserWarning, r"The tensor attributes? .* assigned during export"),
    # torch's decompositions of recurrent layers call a function that torch itself deprecates.
    (FutureWarning, r"_check_is_size will be removed"),
    # torch.export looks at the gradients of its own intermediate tensors.
    (UserWarning, r"The \.grad attribute of a Tensor that is not a leaf"),
)
"""Warnings of the exporter about which a user can do nothing: category and beginning of the message."""


@dataclass(frozen=True)
class Request:
    """What to export, under which names, and how."""

    module: nn.Module
    example: Example
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    precision: Precision
    calibration: tuple[Example, ...]
    seed: int


def capture(request: Request, reason: str) -> tuple[torch.onnx.ONNXProgram, str]:
    """Translate the module, with a free batch unless there is a reason against it; return program and reason."""
    if not reason:
        # torch.export treats a size of 1 as a constant, so a single sample is captured as two. Before torch 2.11 it
        # also leaves marks on its inputs that would make the next attempt fail, so the inputs are copies.
        example = request.example.resized(max(request.example.batch_size, 2)).mapped(torch.clone)
        try:
            return _translate(request, example, _dynamic_shapes(request.module, example)), ""
        except Exception as error:
            reason = f"torch.export cannot leave it free: {summary(error)}"
            _log.debug("dynamic export failed", exc_info=error)
    try:
        return _translate(request, request.example, None), reason
    except Exception as error:
        raise ExportError(
            f"torch.onnx.export cannot export {type(request.module).__name__}: {summary(error)}; "
            "rewrite the named operation, or keep it out of the exported module"
        ) from error


def _dynamic_shapes(module: nn.Module, example: Example) -> dict[str, Any]:
    """A free dim 0 for every batched tensor, in the structure of forward's own arguments."""

    def free_batch(leaf: Any) -> Any:
        return {0: Dim.DYNAMIC} if isinstance(leaf, Tensor) and example.is_batched(leaf) else None

    arguments = inspect.signature(module.forward).bind(*example.args, **example.kwargs).arguments
    shapes: dict[str, Any] = tree_map(free_batch, dict(arguments))
    return shapes


def _translate(request: Request, example: Example, dynamic_shapes: dict[str, Any] | None) -> torch.onnx.ONNXProgram:
    args = example.args
    if args and isinstance(args[-1], dict) and not example.kwargs:
        args = (*args, {})  # torch.onnx.export would take a dict at the end for the keyword arguments
    program = torch.onnx.export(
        with_plain_attention(request.module),
        args,
        kwargs=example.kwargs,
        dynamo=True,
        verbose=False,
        dynamic_shapes=dynamic_shapes,
    )
    assert program is not None  # only the older exporter, without dynamo, returns None
    _store_constants(program.model.graph)
    _assign_names(program.model.graph, request)
    return program


def _store_constants(graph: Any) -> None:
    """Store constants that the exporter's rewriting made and left out of the graph; the checker would refuse it."""
    for node in graph:
        for value in node.inputs:
            if value is not None and value.producer() is None and value.const_value is not None:
                graph.initializers.setdefault(value.name, value)


def _assign_names(graph: Any, request: Request) -> None:
    """Name inputs and outputs of an onnx_ir graph; an inner value of the same name gets another one.

    torch.onnx.export can name them too, but does not check whether a weight or an inner value has that name already.
    """
    named = {"takes": (request.inputs, graph.inputs), "returns": (request.outputs, graph.outputs)}
    for verb, (names, values) in named.items():
        if len({id(value) for value in values}) != len(names):
            raise ExportError(
                f"the module {verb} the tensors {', '.join(names)}, the ONNX graph {len(values)} of them; "
                "let the module take and return tensors, no sizes or other numbers that depend on them"
            )
    pairs = [(name, value) for names, values in named.values() for name, value in zip(names, values, strict=True)]
    outer = {id(value) for _, value in pairs}
    taken = {name for name, _ in pairs}
    inner = [*graph.initializers.values(), *(value for node in graph.all_nodes() for value in node.outputs)]
    for value in inner:
        if value.name in taken and id(value) not in outer:
            value.name = f"{value.name}_inner"
    for name, value in pairs:
        value.name = name


def summary(error: BaseException) -> str:
    """The innermost cause in one short line, without the colours that torch puts into its messages."""
    while error.__cause__ is not None:
        error = error.__cause__
    text = re.sub(r"\x1b\[\d*m", "", str(error))
    line = " ".join(text.split())
    return f"{type(error).__name__}: {line[:300]}{'...' if len(line) > 300 else ''}"


@contextmanager
def quiet_exporter() -> Iterator[None]:
    """Silence the exporter's messages about its internals; warnings that are not in `_NOISE` pass."""
    with only_errors("torch.onnx", "onnxscript", "onnx_ir"), warnings.catch_warnings():
        for category, message in _NOISE:
            warnings.filterwarnings("ignore", message=message, category=category)
        yield
