"""The entry: a copy of the user's model, as a program."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx, nn

from graphprune.capture.fidelity import Reference, run
from graphprune.capture.functions import is_transform, transforms_left
from graphprune.capture.layout import free_of_layout
from graphprune.capture.legalise import legalise
from graphprune.capture.private_copy import private_copy, unshare
from graphprune.capture.requirements import require_sizes
from graphprune.capture.routes import ROUTES, Route
from graphprune.capture.symbolic import OpaqueCall
from graphprune.capture.training import follow_mode
from graphprune.capture.unwrapped import compiled_parts, unwrapped
from graphprune.capture.written import ReadOnly, made_by_tracing, memory_of, using_memory_of, views_of_each_other
from graphprune.coupling.interpret import is_same
from graphprune.errors import CaptureError, InputError, first_line
from graphprune.example import Example
from graphprune.program import Attention, CapturedBy, Program, stored_parameters, submodules
from graphprune.randomness import private_random_state


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
        protect: Name patterns kept for the analysis.
        attention: What goes of attention, kept for the analysis.
        verify: Run the model, and take a graph only if it computes the same. Without it a graph runs at most once
            in each mode, to see what it writes to. On the meta device there is nothing to compare.

    Raises:
        InputError: the example holds no tensor, or the model is not ready to run.
        CaptureError: no front end could capture the model, the message has the reason of each; or it writes to its
            parameters, or to tensors that are views of each other.
    """
    model, example = unwrapped(model), Example.of(example_input)
    _check_inputs(model, example, example_input)
    on_meta = any(parameter.is_meta for parameter in model.parameters())
    reference = _reference(model, example) if verify and not on_meta else None
    reasons: list[str] = []
    at_one_size: Program | None = None
    for name, route in ROUTES.items():
        try:
            traced = _traced(model, example, route)
        except Exception as error:  # tracing runs the user's code, which may raise anything
            reasons.append(f"{name}: {first_line(error)}")
            continue
        program = Program(traced.module, example, CapturedBy(name, "; ".join(reasons)), protect, attention)
        difference, captured_by = None, program.captured_by
        if reference is not None:
            difference = reference.difference(traced.module)
            captured_by = captured_by if difference else reference.remarked(program)
        elif traced.is_watched and not on_meta:
            unshare(traced.module, model)
            for training in (False, True):
                with suppress(Exception):  # of a graph that cannot run analysis says where
                    run(traced.module, example, training=training)
        if written := traced.views.written():
            raise CaptureError(
                f"{type(model).__name__} writes to {written}. Of a pruned model each has memory of its own; give it "
                "that before, with .clone()"
            )
        if written := traced.constants.written():
            reasons.append(f"{name}: it writes to {written}")
            continue
        if difference is None:
            return replace(program, captured_by=captured_by)
        reasons.append(f"{name}: {difference}")
        if at_one_size is None and difference.batch_size != example.batch_size:
            at_one_size = program
    if at_one_size is not None:
        return _fixed(at_one_size, "; ".join(reasons))
    listed = "".join(f"\n  {reason}" for reason in reasons)
    raise CaptureError(
        f"{type(model).__name__} cannot be captured.{listed}\n"
        "Move control flow on tensor values, on the size of the batch and on what earlier calls left behind out of "
        "forward()."
    )


def _reference(model: nn.Module, example: Example) -> Reference:
    """What a copy of the model computes, which has its own memory: it may write to its parameters.

    Raises:
        CaptureError: it does.
    """
    copied = private_copy(model).eval()
    unshare(copied, model)
    reference = Reference.of(copied, example)
    after = stored_parameters(copied)
    for name, parameter in stored_parameters(model).items():
        if not is_same(parameter, after[name]):
            raise CaptureError(
                f"{type(model).__name__} writes to its parameter '{name}' in forward(). Make it a buffer, or write to "
                "it between the steps of training"
            )
    return reference


def _fixed(program: Program, reasons: str) -> Program:
    """A program that is right at the example's batch size only, and refuses others."""
    batch_size = program.example.batch_size
    require_sizes(program.module.graph, program.inputs(), first=0)
    program.module.recompile()
    route = f"{program.captured_by.route}, for batches of {batch_size} only"
    return replace(program, captured_by=CapturedBy(route, reasons))


_SEED = 1
"""While tracing: not that of the comparison, or numbers that tracing draws once and for all would pass for new ones."""


@dataclass(frozen=True)
class _Traced:
    """A graph module, and the tensors in it that it must not write to.

    Attributes:
        module: The graph module.
        constants: What tracing made.
        views: What is a view of another tensor in the user's model.
    """

    module: fx.GraphModule
    constants: ReadOnly
    views: ReadOnly

    @property
    def is_watched(self) -> bool:
        return bool(self.constants.watched or self.views.watched)


def _traced(model: nn.Module, example: Example, route: Route) -> _Traced:
    """A graph module of a copy of the model, in the modes of the model."""
    copies = dict[int, Any]()
    root = private_copy(model, copies)  # one for each route: a trace that failed may leave anything in it
    shared = [(copies[id(tensor)], what) for tensor, what in views_of_each_other(model) if id(tensor) in copies]
    modes = {name: module.training for name, module in submodules(root).items()}
    root = legalise(root).eval()
    own = memory_of(root)
    with private_random_state(_SEED), transforms_left():
        graph = route(root, example)
    transforms = [node for node in graph.nodes if is_transform(node.target)]
    if transforms:
        raise OpaqueCall(f"%{transforms[0].name} is a part of torch.func (vmap, grad), which is not supported")
    free_of_layout(graph)
    follow_mode(graph)
    _without_quoted_types(graph)
    module = fx.GraphModule(root, graph, class_name=type(model).__name__)
    _restore_modes(module, modes)
    _restore_persistence(module, root)
    if not any(True for _ in module.parameters()):
        raise OpaqueCall(f"no parameter of {type(model).__name__} takes part in its graph (scripts hide theirs)")
    return _Traced(module, made_by_tracing(module, own), using_memory_of(shared, module))


_OF_GRAPH_MODULES = frozenset({*dir(fx.GraphModule), "meta"} - {*dir(nn.Module)})


def _check_inputs(model: nn.Module, example: Example, example_input: Any) -> None:
    if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        raise InputError(f"{type(model).__name__} only wraps the model; give model.module")
    if not isinstance(model, nn.Module):
        raise InputError(f"expected an nn.Module, got {type(model).__name__}")
    if isinstance(model, torch.jit.ScriptModule):
        raise InputError("TorchScript cannot be pruned, its code is no Python any more; give the model it was made of")
    if parts := compiled_parts(model):
        raise InputError(
            f"'{parts[0]}' was wrapped by torch.compile, which changes the names of its parameters and hides its code; "
            "prune the model before, and compile the compact module"
        )
    taken = [name for name in (*model._modules, *model._parameters, *model._buffers) if name in _OF_GRAPH_MODULES]
    if taken:
        raise InputError(
            f"{type(model).__name__} has a part named '{taken[0]}', a name that torch.fx.GraphModule needs itself; "
            f"give it another one, self.{taken[0]}_ say"
        )
    if not example.tensors():
        raise InputError(
            f"the example input holds no tensor, it is of type {type(example_input).__name__}; give a tensor, a tuple "
            "of arguments, or a dict of them"
        )
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


def _without_quoted_types(graph: fx.Graph) -> None:
    """Annotations that are strings keep torch before 2.12 from pickling the module."""
    for node in graph.nodes:
        if isinstance(node.type, str):
            node.type = None


def _restore_persistence(module: fx.GraphModule, root: nn.Module) -> None:
    """Torch before 2.12 saves buffers of a graph module, and of its copies, that the model does not save."""
    originals = submodules(root)
    for name, submodule in submodules(module).items():
        if name in originals:
            submodule._non_persistent_buffers_set |= originals[name]._non_persistent_buffers_set & {*submodule._buffers}
    if module._non_persistent_buffers_set:
        module._register_deepcopy_hook(_NotSaved(frozenset(module._non_persistent_buffers_set)))


@dataclass(frozen=True)
class _NotSaved:
    """Called with each deep copy of a graph module: buffers of its own that are not saved."""

    names: frozenset[str]

    def __call__(self, copied: fx.GraphModule) -> None:
        copied._non_persistent_buffers_set |= self.names & {*copied._buffers}
