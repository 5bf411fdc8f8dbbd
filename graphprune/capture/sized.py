"""Capture by torch.fx with known sizes, which can follow Python code that branches on them.

Every node is run on shapes as soon as it is traced, at two batch sizes. A number that is the same at both is a plain
number from then on; one that differs depends on the batch size and stays in the graph. A branch that depends on the
batch size cannot be followed.
"""

from __future__ import annotations

import inspect
import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from operator import attrgetter
from types import NoneType
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.fx._symbolic_trace import _wrapped_fns_to_patch
from torch.fx.proxy import TraceError

from graphprune.capture.in_place import ModelProxy
from graphprune.capture.requirements import require_sizes
from graphprune.capture.symbolic import ModelTracer, is_foreign, trace
from graphprune.coupling.labelled import ShapeRun
from graphprune.coupling.shapes import ShapeInterpreter
from graphprune.labels.labels import LabelSpace
from graphprune.program.example import Example

_BATCH_SIZES = (2, 1021)
"""Far apart, and one of them a large prime, so that few conditions on the batch size have the same result at both."""


def trace_with_sizes(model: nn.Module, example: Example) -> fx.Graph:
    """Traces a model in its present mode.

    Raises:
        Exception: whatever tracing raised; `TraceError` if the code branches on values, or on the size of the batch.
    """
    with _foreign_functions_open(), _proxies_kept_out_of_tensors():
        graph = trace(model, example, _SizedTracer)
    given = _inputs(model, example, example.batch_size)
    require_sizes(graph, [given.get(str(node.target)) for node in graph.find_nodes(op="placeholder")])
    for node in reversed(graph.nodes):  # sizes and items of tuples that nothing uses
        if not node.users and node.target in (getattr, operator.getitem):
            graph.erase_node(node)
    return graph


@contextmanager
def _foreign_functions_open() -> Iterator[None]:
    """Lets the user's functions that were registered with `fx.wrap`, to stay whole, be traced like any other."""
    closed = {key: names for key, names in _wrapped_fns_to_patch.items() if is_foreign(names.get(key[1]))}
    for key in closed:
        del _wrapped_fns_to_patch[key]
    try:
        yield
    finally:
        _wrapped_fns_to_patch.update(closed)


@contextmanager
def _proxies_kept_out_of_tensors() -> Iterator[None]:
    """Makes ``tensor.data = proxy`` raise; torch would take the proxy for a tensor, and the process would die."""
    if "data" in vars(Tensor):  # a trace around this one, or one in another thread, does it already
        yield
        return
    inherited = torch._C.TensorBase.data

    def refuse(tensor: Tensor, value: Any) -> None:
        if issubclass(type(value), fx.Proxy):
            raise TraceError(f"{value} is assigned to the data of a tensor that is no parameter of the model")
        inherited.__set__(tensor, value)  # type: ignore[attr-defined]

    Tensor.data = property(inherited.__get__, refuse)  # type: ignore[assignment, attr-defined]
    try:
        yield
    finally:
        del Tensor.data


class _SizedTracer(ModelTracer):
    """Knows the shape of every proxy, and which numbers depend on the batch size."""

    def __init__(self, model: nn.Module, example: Example) -> None:
        super().__init__(model, example)
        device = next(model.parameters()).device
        self.runs = [
            ShapeInterpreter(model, ShapeRun(LabelSpace(), device), lambda node, result: None) for _ in _BATCH_SIZES
        ]
        self.inputs = [_inputs(model, example, batch_size) for batch_size in _BATCH_SIZES]
        self.values: dict[fx.Node, list[Any]] = {}
        self.running = False

    def proxy(self, node: fx.Node) -> fx.Proxy:
        """Makes a proxy that knows its shape."""
        return _SizedProxy(node, self)

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **options: Any) -> Any:
        """Makes a proxy, or returns the value that it would stand for if that is known."""
        node = super().create_proxy(kind, target, args, kwargs, *rest, **options).node
        self.values[node] = self._run(node)
        return self._known(node)

    def _run(self, node: fx.Node) -> list[Any]:
        """Results of a node at both batch sizes."""
        if node.op == "placeholder":
            return [inputs[str(node.target)] for inputs in self.inputs]
        self.running = True
        try:
            if node.op == "get_attr":  # without values: these can change, so no branch may depend on them
                tensor = attrgetter(str(node.target))(self.root)
                return [torch.empty(tensor.shape, dtype=tensor.dtype, device="meta") for _ in _BATCH_SIZES]
            with torch.no_grad():
                return [run.result(node, *self._arguments(node, place)) for place, run in enumerate(self.runs)]
        finally:
            self.running = False

    def _arguments(self, node: fx.Node, place: int) -> Any:
        return fx.map_arg((node.args, node.kwargs), lambda source: self._values(source)[place])

    def _values(self, node: fx.Node) -> list[Any]:
        if node not in self.values:  # a constant, which torch.fx adds by itself
            self.values[node] = self._run(node)
        return self.values[node]

    def _known(self, node: fx.Node) -> Any:
        """The result of a node as far as it is known, else a proxy; the node is erased if nothing needs it."""
        first, second = self.values[node]
        if isinstance(first, bool) and self._depends_on_batch(node):
            return self.proxy(node)
        if isinstance(first, Tensor):
            return self.proxy(node)
        if type(first) in (tuple, list, torch.Size) and len(first) == len(second):
            found: Any = self._entries(node, first, second)
        elif _agree(first, second):
            found = first
        else:
            return self.proxy(node)
        if found is not None and not node.users and node.op != "placeholder":
            self.graph.erase_node(node)
        return found

    def _depends_on_batch(self, node: fx.Node) -> bool:
        """Whether a comparison may have another result at other batch sizes.

        Two expressions that are equal at both batch sizes are taken to be equal at all.
        """
        compared = any(not isinstance(self.values[source][0], Tensor) for source in node.all_input_nodes)
        always = True if node.target is operator.eq else False if node.target is operator.ne else None
        return compared and not (self.values[node] == [always, always] and len(node.all_input_nodes) > 1)

    def _entries(self, node: fx.Node, first: Any, second: Any) -> Any:
        entries = [
            a if _agree(a, b) else self.entry(node, index)
            for index, (a, b) in enumerate(zip(first, second, strict=True))
        ]
        if isinstance(first, torch.Size) and not all(type(entry) is int for entry in entries):
            return tuple(entries)
        return type(first)(entries)

    def entry(self, node: fx.Node, index: int) -> Any:
        """Returns one item of a node's result."""
        return self.create_proxy("call_function", operator.getitem, (self.proxy(node), index), {})

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: dict[str, fx.Proxy]) -> Any:
        """Gives a layer that runs on shapes its tensors, not proxies."""
        return attr_val if self.running else super().getattr(attr, attr_val, parameter_proxy_cache)

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        """Lets a layer that runs on shapes call its submodules without leaving nodes."""
        return forward(*args, **kwargs) if self.running else super().call_module(m, forward, args, kwargs)

    def create_arg(self, a: Any) -> Any:
        """Converts proxies first, because these pass for tensors."""
        return a.node if issubclass(type(a), fx.Proxy) else super().create_arg(a)

    def to_bool(self, obj: fx.Proxy) -> bool:
        """Refuses a branch that depends on a proxy.

        Raises:
            TraceError: always.
        """
        what = "the values" if isinstance(self.values[obj.node][0], Tensor) else "the size of the batch"
        raise TraceError(f"a decision depends on {what} of {obj}")


class _SizedProxy(ModelProxy):
    """Passes for what it stands for: a tensor, or a number that depends on the batch size."""

    tracer: _SizedTracer

    @property  # type: ignore[misc]
    def __class__(self) -> Any:
        """The type of what the proxy stands for, because code asks whether something is a tensor or a number."""
        if self.node.op == "get_attr":
            return type(attrgetter(str(self.node.target))(self.tracer.root))
        return type(self._value)

    def __hash__(self) -> int:
        if not isinstance(self._value, Tensor):
            raise TraceError(f"{self} is looked up, and is the size of the batch")
        return super().__hash__()

    @property
    def _value(self) -> Any:
        return self.tracer.values[self.node][0]

    def __getattr__(self, k: str) -> Any:
        attribute = getattr(type(self._value), k) if hasattr(type(self._value), k) else getattr(self._value, k)
        if callable(attribute):
            return lambda *args, **kwargs: self.tracer.create_proxy("call_method", k, (self, *args), kwargs)
        return self.tracer.create_proxy("call_function", getattr, (self, k), {})

    def __len__(self) -> int:
        sizes = {len(value) for value in self.tracer.values[self.node]}
        if len(sizes) > 1:
            raise TraceError(f"the length of {self} is that of the batch")
        return sizes.pop()

    def __iter__(self) -> Iterator[Any]:
        return (self.tracer.entry(self.node, index) for index in range(len(self)))

    def __setitem__(self, key: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, key, value), {})


_PLAIN = (NoneType, bool, int, float, complex, str, torch.dtype, torch.device, torch.layout, torch.memory_format)


def _agree(first: Any, second: Any) -> bool:
    """Whether two values are equal, and are plain: numbers, strings, dtypes and the like."""
    return isinstance(first, _PLAIN) and type(first) is type(second) and first == second


def _inputs(model: nn.Module, example: Example, batch_size: int) -> dict[str, Any]:
    """Arguments by the names of forward's parameters: the example at another batch size, on the meta device."""

    def resized(tensor: Tensor) -> Tensor:
        shape = (batch_size, *tensor.shape[1:]) if example.is_batched(tensor) else tensor.shape
        return torch.empty(shape, dtype=tensor.dtype, device="meta")

    inputs = example.mapped(resized)
    return dict(inspect.signature(model.forward).bind(*inputs.args, **inputs.kwargs).arguments)
