"""One trace of a model: a graph module of a copy of it, and the tensors that this must not write to."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from torch import Tensor, fx, nn

from graphprune.capture.fidelity import run
from graphprune.capture.follow_mode import follow_mode
from graphprune.capture.functions import is_transform, transforms_left
from graphprune.capture.layout import free_of_layout
from graphprune.capture.legalise import legalise
from graphprune.capture.private_copy import in_own_memory, private_copy
from graphprune.capture.routes import Route
from graphprune.capture.symbolic import OpaqueCall
from graphprune.capture.tensors_of import memory_of
from graphprune.capture.writes import SharedMemory, Versions, made_by_tracing
from graphprune.process_state import private_random_state
from graphprune.program.example import Example
from graphprune.program.tensors import submodules

_SEED = 1
"""Seed while tracing; not that of the comparison, or random numbers that tracing made constant would go unnoticed."""


@dataclass(frozen=True)
class Traced:
    """A graph module, and the tensors that it must not write to.

    Attributes:
        module: The graph module.
        constants: Tensors that tracing has made.
        shared: Tensors that share memory in the user's model.
    """

    module: fx.GraphModule
    constants: Versions
    shared: SharedMemory

    def run(self, example: Example) -> None:
        """Runs the graph in both modes, if there is anything that it must not write to."""
        for training in (False, True) if len(self.constants) or len(self.shared) else ():
            with suppress(Exception), in_own_memory(self.module):  # the analysis reports a graph that cannot run
                run(self.module, example, training=training)


def trace(model: nn.Module, example: Example, route: Route, sharing: Mapping[str, Tensor]) -> Traced:
    """Traces a copy of the model; the modules of the graph module have the modes that they have in the model.

    Args:
        model: The model.
        example: Its inputs.
        route: How it is traced.
        sharing: Tensors of the model that share memory, see `sharing_memory`.

    Raises:
        OpaqueCall: the graph calls torch.func, or uses no parameter.
        Exception: whatever tracing raised.
    """
    copies = dict[int, Any]()
    root = private_copy(model, copies)  # one for each route: a trace that failed may leave anything in it
    shared = SharedMemory(sharing, copies)
    modes = {name: module.training for name, module in submodules(root).items()}
    root = legalise(root).eval()
    own = memory_of(root)
    with private_random_state(_SEED), transforms_left(), in_own_memory(root):
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
    shared.watch(module)
    return Traced(module, made_by_tracing(module, own), shared)


def _restore_modes(module: fx.GraphModule, modes: dict[str, bool]) -> None:
    for name, submodule in submodules(module).items():
        if submodule.training != modes.get(name, modes[""]):
            submodule.training = not submodule.training


def _without_quoted_types(graph: fx.Graph) -> None:
    """Drops type annotations that are strings, because torch before 2.12 cannot pickle a module that has them."""
    for node in graph.nodes:
        if isinstance(node.type, str):
            node.type = None


def _restore_persistence(module: fx.GraphModule, root: nn.Module) -> None:
    """Keeps non-persistent buffers out of the state dict; torch before 2.12 would save them in graph modules."""
    originals = submodules(root)
    for name, submodule in submodules(module).items():
        if name in originals:
            submodule._non_persistent_buffers_set |= originals[name]._non_persistent_buffers_set & {*submodule._buffers}
    if module._non_persistent_buffers_set:
        module._register_deepcopy_hook(_NotSaved(frozenset(module._non_persistent_buffers_set)))


@dataclass(frozen=True)
class _NotSaved:
    """Called with each deep copy of a graph module; marks the named buffers as non-persistent in the copy."""

    names: frozenset[str]

    def __call__(self, copied: fx.GraphModule) -> None:
        copied._non_persistent_buffers_set |= self.names & {*copied._buffers}
