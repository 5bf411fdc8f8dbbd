"""Capture by torch.export, which is slower but covers dynamic Python; the graph is raised to the form of torch.fx."""

from __future__ import annotations

import inspect
import io
import warnings
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from typing import Any

import torch
from torch import fx, nn
from torch.export import Dim
from torch.fx.proxy import TraceError
from torch.nn.modules.rnn import RNNBase, RNNCellBase
from torch.utils._pytree import tree_leaves, tree_map

from graphprune.capture.functions import functions_refused
from graphprune.capture.recurrent import raise_recurrent
from graphprune.capture.regions import inline_regions
from graphprune.capture.requirements import require_at_most, require_sizes
from graphprune.capture.symbolic import is_leaf, switches_with_mode
from graphprune.process_state import only_errors
from graphprune.program.example import Example
from graphprune.program.source import source_of


def export(model: nn.Module, example: Example) -> fx.Graph:
    """Exports a model in evaluation mode with a free batch size, and raises its leaf modules again.

    Raises:
        Exception: whatever torch.export raised.
    """

    def dynamic(leaf: Any) -> Any:
        batched = isinstance(leaf, torch.Tensor) and example.is_batched(leaf) and leaf.shape[0] > 1
        return {0: Dim.AUTO} if batched else None

    shapes = Example(*tree_map(dynamic, (example.args, example.kwargs)))
    # torch.export would treat a tensor that is given in two places as one input
    example = example.mapped(torch.clone)
    with _visible_switches(model), functions_refused(), warnings.catch_warnings(), _silent():
        # torch warns about deprecated calls in its own code while it exports; a user can do nothing about them
        warnings.simplefilter("ignore")
        exported = torch.export.export(
            model,
            example.args,
            example.kwargs,
            dynamic_shapes=_by_parameter(model, shapes),
            strict=False,
        )
        module = exported.module()
    graph: fx.Graph = module.graph
    inline_regions(graph, module)
    _refuse_replaced_data(graph)
    _strip_guards(graph)
    raise_modules(graph, model)
    _adopt_constants(graph, module, model)
    require_sizes(graph, tree_leaves((example.args, example.kwargs)))
    if (largest := _largest_batch(graph, exported)) is not None:
        require_at_most(graph, largest)
    for node in graph.nodes:
        node.meta = {"source": _user_line(node.meta.get("stack_trace") or "")}
    return graph


def _refuse_replaced_data(graph: fx.Graph) -> None:
    """Refuses ``tensor.data = other``: older torch releases record only the check before it, not the replacement."""
    for node in graph.find_nodes(op="call_function", target=torch.ops.aten._has_compatible_shallow_copy_type.default):
        raise TraceError(f"%{node.args[0]}.data is replaced, which a graph does not show")


@contextmanager
def _silent() -> Iterator[None]:
    """Silences torch, which prints the whole graph of a failed export besides raising the reason."""
    with only_errors("torch.fx.experimental"), redirect_stderr(io.StringIO()):
        yield


def _largest_batch(graph: fx.Graph, exported: torch.export.ExportedProgram) -> int | None:
    """The largest batch size at which, as torch.export found, the code takes the same path; None without a limit."""
    first = next(iter(graph.find_nodes(op="placeholder"))).meta.get("val")
    size: Any = first.shape[0] if isinstance(first, torch.Tensor) and first.dim() > 0 else None
    bounds = exported.range_constraints.get(size.node.expr) if isinstance(size, torch.SymInt) else None
    return int(bounds.upper) if bounds is not None and bounds.upper.is_Integer else None


def _user_line(trace: str) -> str:
    """``file:line`` of the innermost frame outside of torch in a printed stack trace."""
    frames = [line.strip() for line in trace.splitlines() if line.strip().startswith("File ")]
    own = [frame for frame in frames if "/torch/" not in frame] or frames
    if not own:
        return ""
    file, number = own[-1].removeprefix("File ").split(", ")[:2]
    return source_of(file.strip('"'), number.removeprefix("line "))


def _adopt_constants(graph: fx.Graph, exported: nn.Module, model: nn.Module) -> None:
    """Gives the model the constants that torch.export lifted out of its code, as buffers outside of the state dict."""
    for node in graph.find_nodes(op="get_attr"):
        prefix, _, name = node.target.rpartition(".")
        home = model.get_submodule(prefix)
        if not hasattr(home, name):
            home.register_buffer(name, getattr(exported.get_submodule(prefix), name), persistent=False)


@contextmanager
def _visible_switches(model: nn.Module) -> Iterator[None]:
    """Lets modules that do nothing in evaluation mode (DropPath) leave a node, so that the call can be raised."""
    switches = [module for module in model.modules() if switches_with_mode(module) and is_leaf(module)]
    hidden = [module for module in switches if not type(module).__module__.startswith("torch.nn")]
    for module in hidden:
        module.forward = lambda tensor: tensor.clone()
    try:
        yield
    finally:
        for module in hidden:
            del module.forward


def _by_parameter(model: nn.Module, shapes: Example) -> dict[str, Any]:
    """Maps the names of forward's parameters to their arguments; those of ``*args`` are one tuple."""
    signature = inspect.signature(model.forward)
    bound: dict[str, Any] = dict(signature.bind(*shapes.args, **shapes.kwargs).arguments)
    for name in list(bound):
        if signature.parameters[name].kind is inspect.Parameter.VAR_KEYWORD:
            bound.update(bound.pop(name))
    return bound


def _strip_guards(graph: fx.Graph) -> None:
    """Drops the input checks that torch.export adds; they would fix the batch size that the example happens to have.

    What the graph relies on is checked by `graphprune.capture.requirements` and by comparison with the model.
    """
    for node in list(graph.nodes):
        if node.op == "call_module" and node.target == "_guards_fn" and not node.users:
            graph.erase_node(node)
    checks = {torch.ops.aten._assert_tensor_metadata.default, torch.ops.aten._assert_scalar.default}
    for node in reversed(list(graph.nodes)):
        if node.op == "call_function" and node.target in checks and not node.users:
            graph.erase_node(node)


def raise_modules(graph: fx.Graph, model: nn.Module) -> None:
    """Turns the nodes of each call of a leaf module back into one call of that module.

    A call with more than one input or output stays as functional ops.
    """
    leaves = {name for name, module in model.named_modules(remove_duplicate=False) if name and is_leaf(module)}
    calls: dict[str, list[fx.Node]] = defaultdict(list)
    paths: dict[str, str] = {}
    for node in graph.nodes:
        for key, (path, _) in (node.meta.get("nn_module_stack") or {}).items():
            if path in leaves and node.op == "call_function":
                calls[key].append(node)
                paths[key] = path
                break
    for key, nodes in calls.items():
        leaf = model.get_submodule(paths[key])
        if isinstance(leaf, (RNNBase, RNNCellBase)):
            raise_recurrent(graph, paths[key], nodes)
        elif _takes_one_input(leaf):
            _raise_call(graph, paths[key], nodes)
    for node in reversed(list(graph.nodes)):
        if node.op == "get_attr" and not node.users:
            graph.erase_node(node)


def _takes_one_input(leaf: nn.Module) -> bool:
    """Whether forward needs just one argument; the graph cannot tell, as a bilinear layer may get one tensor twice."""
    parameters = inspect.signature(leaf.forward).parameters.values()
    return sum(parameter.default is inspect.Parameter.empty for parameter in parameters) == 1


def _raise_call(graph: fx.Graph, path: str, nodes: list[fx.Node]) -> None:
    inside = set(nodes)
    inputs = list(
        dict.fromkeys(
            source
            for node in nodes
            for source in node.all_input_nodes
            if source not in inside and source.op != "get_attr"
        )
    )
    outputs = [node for node in nodes if any(user not in inside for user in node.users)]
    if len(inputs) != 1 or len(outputs) != 1:
        return
    with graph.inserting_after(nodes[-1]):
        call = graph.create_node("call_module", path, (inputs[0],))
    call.meta.update(outputs[0].meta)
    outputs[0].replace_all_uses_with(call)
    for node in reversed(nodes):
        graph.erase_node(node)
