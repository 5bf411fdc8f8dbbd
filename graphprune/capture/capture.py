"""The entry: a copy of the user's model, as a program."""

from __future__ import annotations

from typing import Any

from torch import fx, nn

from graphprune.capture.exported import export
from graphprune.capture.legalise import legalise
from graphprune.capture.private_copy import private_copy
from graphprune.capture.sized import trace_with_sizes
from graphprune.capture.symbolic import trace
from graphprune.capture.training import follow_mode
from graphprune.errors import CaptureError, InputError, first_line
from graphprune.program import Attention, CapturedBy, Example, Program, stored_parameters, submodules


def capture(
    model: nn.Module, example_input: Any, protect: tuple[str, ...] = (), attention: Attention = "heads"
) -> Program:
    """Captures a model; the model itself is not touched.

    The program's parameters use the model's memory until `unshare` is called; buffers are copies.

    Args:
        model: Any nn.Module.
        example_input: A tensor, a tuple of arguments, or a dict of keyword arguments.
        protect: Name patterns kept for the analysis.
        attention: What goes of attention, kept for the analysis.

    Raises:
        InputError: the example holds no tensor, or the model is not ready to run.
        CaptureError: neither front end could capture the model; the message has both reasons.
    """
    example = Example.of(example_input)
    _check_inputs(model, example)
    root = private_copy(model)
    modes = {name: module.training for name, module in submodules(root).items()}
    root = legalise(root).eval()
    graph, captured_by = _graph(root, example)
    follow_mode(graph)
    module = fx.GraphModule(root, graph, class_name=type(model).__name__)
    _restore_modes(module, modes)
    if not any(True for _ in module.parameters()):
        raise InputError(f"no parameter of {type(model).__name__} takes part in its graph (scripts hide theirs)")
    return Program(module, example, captured_by, protect, attention)


def _graph(root: nn.Module, example: Example) -> tuple[fx.Graph, CapturedBy]:
    try:
        return trace(root, example), CapturedBy("torch.fx")
    except Exception as error:  # tracing runs the user's code, which may raise anything
        fx_reason = first_line(error)
    try:
        return trace_with_sizes(root, example), CapturedBy("torch.fx with sizes", f"torch.fx: {fx_reason}")
    except Exception as error:  # likewise
        sized_reason = first_line(error)
    reasons = []
    # torch specialises batches of 0 and 1, so the graph is made from at least two samples where the model takes them
    sample = example.resized(2) if example.batch_size == 1 else example
    with _gradients_required(root):
        for candidate in (sample, example):
            try:
                graph = export(root, candidate)
                return graph, CapturedBy("torch.export", f"torch.fx: {fx_reason}; with sizes: {sized_reason}")
            except Exception as error:  # likewise
                reasons.append(first_line(error))
    raise CaptureError(
        f"{type(root).__name__} cannot be captured.\n  torch.fx: {fx_reason}\n  torch.fx with sizes: {sized_reason}\n"
        f"  torch.export: {reasons[-1]}\n"
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


def _check_inputs(model: nn.Module, example: Example) -> None:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise InputError(f"{type(model).__name__} only wraps the model; give model.module")
    if not isinstance(model, nn.Module):
        raise InputError(f"expected an nn.Module, got {type(model).__name__}")
    if not example.tensors():
        raise InputError("the example input holds no tensor; give a tensor, a tuple of arguments, or a dict of them")
    if example.batch_size == 0:
        raise InputError("the example input holds no samples: its dim 0 is 0; give at least one")
    parameters = stored_parameters(model)
    lazy = [name for name, p in parameters.items() if isinstance(p, nn.parameter.UninitializedParameter)]
    if lazy:
        raise InputError(f"parameter '{lazy[0]}' has no shape yet; run the model once before pruning it")
    if not parameters:
        raise InputError(f"{type(model).__name__} has no parameters; there is nothing to prune")


def _restore_modes(module: fx.GraphModule, modes: dict[str, bool]) -> None:
    for name, submodule in submodules(module).items():
        if submodule.training != modes.get(name, modes[""]):
            submodule.training = not submodule.training
