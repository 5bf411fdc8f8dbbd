"""Capture by torch.fx: quick, keeps modules whole and sizes dynamic."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from torch import Tensor, fx, nn
from torch.utils._pytree import tree_leaves

from graphprune.capture.functions import functions_as_nodes
from graphprune.capture.leaves import is_leaf
from graphprune.program import Example, submodules

_TRANSPARENT = ("torch", "_operator", "operator", "math", "builtins", "graphprune")


class OpaqueCall(Exception):
    """The graph calls a function whose inside cannot be rewritten."""


class _Tracer(fx.Tracer):
    """Traces only the arguments that the example gives; the others keep their defaults."""

    def __init__(self, given: set[str]) -> None:
        super().__init__()
        self.given = given
        self.proxy_buffer_attributes = True  # a buffer that code computes with would else be folded into a constant

    def create_proxy(self, *args: Any, **kwargs: Any) -> fx.Proxy:
        """Notes where in the user's code each node comes from."""
        proxy: fx.Proxy = super().create_proxy(*args, **kwargs)
        proxy.node.meta["source"] = _calling_line()
        return proxy

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Keeps leaves whole, without torch's record of the modules that a node is in."""
        if not is_leaf(m):
            return forward(*args, **kwargs)
        if kwargs or not all(type(argument) is fx.Proxy for argument in args):
            return self.create_proxy("call_module", self.path_of_module(m), args, kwargs)
        # the usual case, in which there is nothing to be converted
        node = self.graph.create_node("call_module", self.path_of_module(m), tuple(proxy.node for proxy in args))
        node.meta["source"] = _calling_line()
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


def trace(model: nn.Module, example: Example) -> fx.Graph:
    """Traces a model in its present mode.

    Raises:
        Exception: whatever tracing raised; `OpaqueCall` for a graph that hides sizes inside a foreign function.
    """
    signature = inspect.signature(model.forward)
    bound = signature.bind(*example.args, **example.kwargs).arguments
    variadic = {inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD}
    hidden = [name for name in bound if signature.parameters[name].kind in variadic]
    if hidden:
        raise OpaqueCall(f"forward takes *{hidden[0]}")
    nested = [name for name, value in bound.items() if isinstance(value, (list, tuple, dict))]
    if nested:
        raise OpaqueCall(f"argument '{nested[0]}' is a container of tensors")
    with functions_as_nodes(), _buffers_in_place(model):
        graph = _Tracer(set(bound)).trace(model)
    graph._tracer_cls = None  # a pickled module traces its code again, with torch's own tracer
    _adopt_constants(graph, model)
    for node in graph.nodes:
        if node.op == "call_function" and _is_opaque(node):
            name = getattr(node.target, "__name__", str(node.target))
            raise OpaqueCall(f"function '{name}' of {node.target.__module__} takes sizes or parameters")
    return graph


@contextmanager
def _buffers_in_place(model: nn.Module) -> Iterator[None]:
    """Puts buffers back that the traced code assigned to; the assignment itself is not in the graph.

    Raises:
        OpaqueCall: there was one.
    """
    before = [(module, dict(module._buffers)) for module in submodules(model).values() if module._buffers]
    yield
    assigned = []
    for module, buffers in before:
        for name, buffer in buffers.items():
            if getattr(module, name, None) is not buffer:
                module.__dict__.pop(name, None)
                module._buffers[name] = buffer
                assigned.append(name)
    if assigned:
        raise OpaqueCall(f"forward assigns to buffer '{assigned[0]}'")


def _calling_line() -> str:
    """``file:line`` of the innermost frame outside of torch and graphprune."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_globals.get("__name__", "").split(".")[0] in ("torch", "graphprune"):
        frame = frame.f_back
    return f"{frame.f_code.co_filename}:{frame.f_lineno}" if frame is not None else ""


def _adopt_constants(graph: fx.Graph, model: nn.Module) -> None:
    """Makes plain tensor attributes, and those that tracing adds for constants, buffers outside of the state dict."""
    for node in graph.find_nodes(op="get_attr"):
        prefix, _, name = str(node.target).rpartition(".")
        home = model.get_submodule(prefix)
        value = getattr(home, name)
        if isinstance(value, Tensor) and name in vars(home):
            delattr(home, name)
            home.register_buffer(name, value, persistent=False)


def _is_opaque(node: fx.Node) -> bool:
    module = getattr(node.target, "__module__", None) or "torch"
    if module.split(".")[0] in _TRANSPARENT:
        return False
    arguments = tree_leaves((node.args, node.kwargs))
    return any(
        (isinstance(leaf, int) and not isinstance(leaf, bool)) or (isinstance(leaf, fx.Node) and leaf.op == "get_attr")
        for leaf in arguments
    )
