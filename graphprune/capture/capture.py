"""Entry point of capture: turns a copy of the user's model into a program."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from graphprune.capture.fidelity import Difference, Reference
from graphprune.capture.inputs import check_inputs
from graphprune.capture.private_copy import private_copy
from graphprune.capture.requirements import require_sizes
from graphprune.capture.routes import ROUTES
from graphprune.capture.torch_compiled import unwrapped
from graphprune.capture.traced import Traced, trace
from graphprune.capture.writes import sharing_memory
from graphprune.errors import CaptureError, first_line
from graphprune.program.example import Example
from graphprune.program.program import Attention, CapturedBy, Program


def capture(
    model: nn.Module,
    example_input: Any,
    protect: tuple[str, ...] = (),
    attention: Attention = "heads",
    *,
    verify: bool = True,
) -> Program:
    """Captures a model; the model itself is not touched.

    The program's parameters use the model's memory until `unshare` is called; buffers are copies.

    Args:
        model: Any nn.Module.
        example_input: A tensor, a tuple of arguments, or a dict of keyword arguments.
        protect: Name patterns of what must not be pruned; stored in the program for the analysis.
        attention: What is removed from attention; stored in the program for the analysis.
        verify: Run the model, and accept a graph only if it computes the same. Without it, a graph runs at most once
            in each mode, to see what it writes to. A model with hooks of its own is compared in any case. On the meta
            device there is nothing to compare.

    Raises:
        InputError: the example holds no tensor, or the model is not ready to run.
        CaptureError: no front end could capture the model (the message gives the reason of each), or the model writes
            to its parameters or to tensors that are views of each other.
    """
    model, example = unwrapped(model), Example.of(example_input)
    check_inputs(model, example, example_input)
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    compared = not on_meta and (verify or _has_hooks(model))
    reference = Reference.of(private_copy(model).eval(), example) if compared else None
    sharing = sharing_memory(model)
    reasons: list[str] = []
    at_one_size: Program | None = None
    for name, route in ROUTES.items():
        try:
            traced = trace(model, example, route, sharing)
        except Exception as error:  # tracing runs the user's code, which may raise anything
            reasons.append(f"{name}: {first_line(error)}")
            continue
        program = Program(traced.module, example, CapturedBy(name, "; ".join(reasons)), protect, attention)
        difference, program = _compared(traced, program, reference, run=not on_meta)
        traced.shared.check(type(model).__name__)
        if traced.constants.written():
            reasons.append(f"{name}: it writes to a tensor that the model makes anew, or does not own")
            continue
        if difference is None:
            return program
        reasons.append(f"{name}: {difference}")
        if at_one_size is None and difference.batch_size != example.batch_size:
            at_one_size = program
    if at_one_size is None:
        raise _refusal(model, reasons)
    return _fixed(at_one_size, "; ".join(reasons))


def _compared(
    traced: Traced, program: Program, reference: Reference | None, *, run: bool
) -> tuple[Difference | None, Program]:
    """Compares a graph with the model; returns the difference, or None, and the program with remarks on its capture.

    Args:
        traced: The graph.
        program: The graph as a program.
        reference: What the model computes; None if the graph is not compared.
        run: Whether a graph that is not compared is run, to see what it writes to.
    """
    if reference is None:
        if run:
            traced.run(program.example)
        return None, program
    difference = reference.difference(traced.module)
    return difference, program if difference else replace(program, captured_by=reference.remarked(program))


def _refusal(model: nn.Module, reasons: list[str]) -> CaptureError:
    listed = "".join(f"\n  {reason}" for reason in reasons)
    return CaptureError(
        f"{type(model).__name__} cannot be captured.{listed}\n"
        "Move control flow on tensor values, on the size of the batch and on what earlier calls left behind, and "
        "writes to parameters, out of forward()."
    )


def _has_hooks(model: nn.Module) -> bool:
    """Whether the model as a whole has hooks; they are not traced, and only a run shows what they change."""
    return bool(model._forward_hooks or model._forward_pre_hooks)


def _fixed(program: Program, reasons: str) -> Program:
    """Makes a program that is right only at the example's batch size refuse all others."""
    batch_size = program.example.batch_size
    require_sizes(program.module.graph, program.inputs(), first=0)
    program.module.recompile()
    route = f"{program.captured_by.route}, for batches of {batch_size} only"
    return replace(program, captured_by=CapturedBy(route, reasons))
