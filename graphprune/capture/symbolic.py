"""Capture by torch.fx, which is fast, and keeps modules whole and sizes dynamic."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.utils._pytree import tree_leaves

from graphprune.capture.functions import conversions_as_nodes, functions_as_nodes
from graphprune.capture.in_place import ModelProxy, assign_instead_of_writing
from graphprune.program.example import Example
from graphprune.program.source import source_of
from graphprune.program.tensors import stored_tensors, submodules

_TRANSPARENT = ("torch", "_operator", "operator", "math", "builtins", "graphprune")


class OpaqueCall(Exception):
    """The graph calls a function whose inside cannot be rewritten."""


class ModelTracer(fx.Tracer):
    """Traces only the arguments that the example gives; the others keep their defaults."""

    def __init__(self, model: nn.Module, example: Example) -> None:
        super().__init__()
        self.given = _given(model, example)
        self.names = {id(tensor): name for name, tensor in stored_tensors(model).items()}
        self.regions = _regions()

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Makes a proxy that writes in place where the code does."""
        return ModelProxy(node, self)

    def create_proxy(self, kind: str, target: Any, *args: Any, **kwargs: Any) -> fx.Proxy:
        """Makes a proxy whose node has its source line."""
        proxy: fx.Proxy = super().create_proxy(kind, target, *args, **kwargs)
        self.note_source(proxy.node)
        return proxy

    def note_source(self, node: fx.Node) -> None:
        """Notes where in the user's code a node comes from.

        Raises:
            OpaqueCall: the code runs in a region that a graph does not show.
        """
        if _regions() != self.regions:
            raise OpaqueCall("a part of forward runs without gradients or under autocast")
        node.meta["source"] = _calling_line()

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Turns reads of parameters and buffers into nodes; a buffer would otherwise be folded into a constant."""
        name = self.names.get(id(attr_val)) if isinstance(attr_val, Tensor) else None
        if name is None:
            return attr_val
        if name not in parameter_proxy_cache:
            parameter_proxy_cache[name] = self.create_proxy("get_attr", name, (), {})
        return parameter_proxy_cache[name]

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Keeps leaf modules whole, without torch's record of the modules that a node is in."""
        if not is_leaf(m):
            return forward(*args, **kwargs)
        if kwargs or not all(type(argument) is fx.Proxy for argument in args):
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)
        # the usual case, in which no argument has to be converted
        node = self.graph.create_node("call_module", self.path_of_module(m), tuple(proxy.node for proxy in args))
        self.note_source(node)
        return self.proxy(node)

    def _proxy_placeholder(
        self,
        name: str,
        concrete_args: dict[str, Any] | None,
        sig: inspect.Signature,
        fn_for_analysis: Callable[..., Any],
    ) -> Any:
        if name.startswith("*"):
            return {} if name.startswith("**") else ()
        if name not in self.given:
            return sig.parameters[name].default
        return super()._proxy_placeholder(name, concrete_args, sig, fn_for_analysis)


def _given(model: nn.Module, example: Example) -> set[str]:
    """Names of the parameters of a model's forward that an example gives.

    Raises:
        OpaqueCall: forward takes ``*args`` or ``**kwargs``, or an argument is a container, which a graph cannot take
            apart.
    """
    signature = inspect.signature(model.forward)
    bound = signature.bind(*example.args, **example.kwargs).arguments
    variadic = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    hidden = [name for name in bound if signature.parameters[name].kind in variadic]
    if hidden:
        raise OpaqueCall(f"forward takes *{hidden[0]}")
    # torch.fx would ask for every argument, defaults included, once one of them is a container
    values = {name: bound.get(name, parameter.default) for name, parameter in signature.parameters.items()}
    nested = [name for name, value in values.items() if isinstance(value, (list, tuple, dict))]
    if nested:
        raise OpaqueCall(f"argument '{nested[0]}' is a container")
    return set(bound)


def trace(model: nn.Module, example: Example, tracer: type[ModelTracer] = ModelTracer) -> fx.Graph:
    """Traces a model in its present mode.

    Raises:
        Exception: whatever tracing raised; `OpaqueCall` if the graph gives sizes or parameters to a foreign function.
    """
    with functions_as_nodes(), conversions_as_nodes(), _buffers_in_place(model):
        graph = tracer(model, example).trace(model)
    assign_instead_of_writing(graph, model)
    graph._tracer_cls = None  # a pickled module traces its code again, with torch's own tracer
    _adopt_constants(graph, model)
    for node in graph.nodes:
        if node.op == "call_function" and is_foreign(node.target) and _takes_sizes(node):
            name = getattr(node.target, "__name__", str(node.target))
            raise OpaqueCall(f"function '{name}' of {node.target.__module__} takes sizes or parameters")
    return graph


@contextmanager
def _buffers_in_place(model: nn.Module) -> Iterator[None]:
    """Restores the buffers that the traced code assigned to; the graph does not show such an assignment.

    Raises:
        OpaqueCall: the code assigned to a buffer.
    """
    before = [(module, dict(module._buffers)) for module in submodules(model).values() if module._buffers]
    assigned = []
    try:
        yield
    finally:
        for module, buffers in before:
            for name, buffer in buffers.items():
                if getattr(module, name, None) is not buffer:
                    module.__dict__.pop(name, None)
                    module._buffers[name] = buffer
                    assigned.append(name)
    if assigned:
        raise OpaqueCall(f"forward assigns to buffer '{assigned[0]}'")


def _regions() -> tuple[bool, ...]:
    """Whether gradients are enabled, and whether autocast is on the CPU and on CUDA devices."""
    return torch.is_grad_enabled(), *(torch.is_autocast_enabled(device) for device in ("cpu", "cuda"))


def _calling_line() -> str:
    """``file:line`` of the innermost frame outside of torch and graphprune, or an empty string."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("torch", "graphprune"):
        frame = None if frame.f_code is trace.__code__ else frame.f_back
    return source_of(frame.f_code.co_filename, frame.f_lineno) if frame is not None else ""


def _adopt_constants(graph: fx.Graph, model: nn.Module) -> None:
    """Turns plain tensor attributes, and those that tracing adds for constants, into buffers not in the state dict."""
    for node in graph.find_nodes(op="get_attr"):
        prefix, _, name = str(node.target).rpartition(".")
        home = model.get_submodule(prefix)
        value = getattr(home, name)
        if isinstance(value, Tensor) and name in vars(home):
            delattr(home, name)
            home.register_buffer(name, value, persistent=False)


def is_foreign(function: Any) -> bool:
    """Whether a function is the user's or another package's, so that nothing is known about what it does."""
    module = getattr(function, "__module__", None) or "torch"
    return module.split(".")[0] not in _TRANSPARENT


def _takes_sizes(node: fx.Node) -> bool:
    """Whether a node's arguments hold integers, parameters or buffers."""
    return any(
        (isinstance(leaf, int) and not isinstance(leaf, bool)) or (isinstance(leaf, fx.Node) and leaf.op == "get_attr")
        for leaf in tree_leaves((node.args, node.kwargs))
    )


_COMPOSITE = (
    nn.Sequential,
    nn.ModuleList,
    nn.ModuleDict,
    nn.MultiheadAttention,
    nn.Transformer,
    nn.TransformerEncoder,
    nn.TransformerDecoder,
    nn.TransformerEncoderLayer,
    nn.TransformerDecoderLayer,
)


def is_leaf(module: nn.Module) -> bool:
    """True for layers of torch.nn, and for modules without parameters that switch with the mode (DropPath).

    A subclass counts as the layer if it inherits ``forward``. A subclass of a normalisation always does: its running
    statistics follow its own mode, which a graph of functions could not express.
    """
    kind = type(module)
    if "forward" in vars(module):  # replaced on this instance, by code that may do anything
        return False
    if kind.__module__.startswith("torch.nn"):
        return not isinstance(module, _COMPOSITE)
    if isinstance(module, _NormBase):
        return True
    inherited = getattr(kind.forward, "__module__", "") or ""
    if inherited.startswith("torch.nn.modules") and not isinstance(module, (*_COMPOSITE, fx.GraphModule)):
        return inherited != "torch.nn.modules.module"
    return switches_with_mode(module)


def switches_with_mode(module: nn.Module) -> bool:
    """True for a module without state or children whose forward reads ``self.training``."""
    if next(module.children(), None) is not None or any(True for _ in (*module.parameters(), *module.buffers())):
        return False
    code = getattr(type(module).forward, "__code__", None)
    return code is not None and "training" in code.co_names
