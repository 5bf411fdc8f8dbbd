"""Keeps functions whole in a graph: custom autograd functions, which would lose their backward, and conversions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from torch import fx
from torch.utils._pytree import tree_leaves

Function = type[torch.autograd.Function]


@contextmanager
def functions_as_nodes() -> Iterator[None]:
    """While torch.fx traces, turns the call of a custom autograd function on a proxy into one node that calls it."""

    def trace(function: Function, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        proxies = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, fx.Proxy)]
        if not proxies:
            return call(*args, **kwargs)
        return proxies[0].tracer.create_proxy("call_function", _as_plain_function(function), args, kwargs)

    with _applied_by(trace):
        yield


@contextmanager
def conversions_as_nodes() -> Iterator[None]:
    """While torch.fx traces, turns conversions of a proxy into nodes; the functions would read the proxy's memory."""
    originals = {name: getattr(torch, name) for name in ("as_tensor", "asarray", "tensor")}

    def leaving_a_node(original: Callable[..., Any]) -> Callable[..., Any]:
        def convert(data: Any, *args: Any, **kwargs: Any) -> Any:
            if isinstance(data, fx.Proxy):
                return data.tracer.create_proxy("call_function", original, (data, *args), kwargs)
            return original(data, *args, **kwargs)

        return convert

    for name, original in originals.items():
        setattr(torch, name, leaving_a_node(original))
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch, name, original)


@contextmanager
def functions_refused() -> Iterator[None]:
    """While torch.export traces, refuses custom autograd functions, of which it would keep only the forward."""

    def refuse(function: Function, call: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        if function.__module__.split(".")[0] != "torch":
            raise TypeError(f"autograd function {function.__qualname__} would lose its backward")
        return call(*args, **kwargs)

    with _applied_by(refuse):
        yield


@contextmanager
def _applied_by(apply: Callable[[Function, Callable[..., Any], Any, Any], Any]) -> Iterator[None]:
    original = torch.autograd.Function.__dict__["apply"]

    def instead(cls: Function, *args: Any, **kwargs: Any) -> Any:
        return apply(cls, original.__get__(None, cls), args, kwargs)

    torch.autograd.Function.apply = classmethod(instead)
    try:
        yield
    finally:
        torch.autograd.Function.apply = original


@cache
def _as_plain_function(function: Function) -> Callable[..., Any]:
    """Makes a plain function with the name of an autograd function, because torch.fx tells functions apart by name."""

    def call(*args: Any, **kwargs: Any) -> Any:
        return function.apply(*args, **kwargs)

    call.__name__, call.__qualname__, call.__module__ = function.__name__, function.__qualname__, function.__module__
    return call


def is_transform(target: Any) -> bool:
    """Whether a function is part of torch.func, which runs code under an interpreter of its own."""
    return "_functorch" in (getattr(target, "__module__", None) or "")


@contextmanager
def transforms_left() -> Iterator[None]:
    """Leaves the interpreters of torch.func that failed code has entered, in which the process would stay otherwise."""
    depth = torch._C._functorch.get_dynamic_layer_stack_depth()
    try:
        yield
    finally:
        torch._C._functorch.pop_dynamic_layer_stack_and_undo_to_depth(depth)
