"""A program as text: one node per line, groups after the nodes; deterministic."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from graphprune.coupling.interpret import interpret, meta_tensors
from graphprune.coupling.labelled import ShapeRun
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.labels import LabelSpace
from graphprune.labels.operand import Operand
from graphprune.labels.planes import channel_planes, squash
from graphprune.program.program import Program, device_of

_DTYPES = {
    torch.float32: "f32", torch.float64: "f64", torch.float16: "f16", torch.bfloat16: "bf16",
    torch.int64: "i64", torch.int32: "i32", torch.bool: "bool",
}  # fmt: skip


def print_program(program: Program) -> str:
    """The textual form of a program, or of the module that a fact shows in its place (with gates)."""
    shown = next((fact.shown for fact in program.facts.values() if fact.shown is not None), program.module)
    groups, printed = _groups_by_node(program), replace(program, module=shown)
    types = _types(printed)
    lines = [f"program {type(program.module).__name__} captured by {program.captured_by.route}"]
    for node in shown.graph.nodes:
        lines.append(_node_line(printed, node, types.get(node.name, ""), groups.get(node.name, ())))
    lines += _group_lines(program)
    return "\n".join(lines) + "\n"


def _node_line(program: Program, node: fx.Node, kind: str, groups: tuple[str, ...]) -> str:
    if node.op == "output":
        return f"return {_value(node.args[0])}"
    annotation = f" : {kind}" if kind else ""
    marks = f" {{group={','.join(groups)}}}" if groups else ""
    return f"%{node.name}{annotation} = {_right_side(program, node)}{marks}"


def _right_side(program: Program, node: fx.Node) -> str:
    if node.op == "placeholder":
        return "input"
    if node.op == "get_attr":
        return f"@{node.target}"
    arguments = [_value(argument) for argument in node.args]
    arguments += [f"{name}={_value(argument)}" for name, argument in node.kwargs.items()]
    if node.op == "call_module":
        leaf = program.module.get_submodule(str(node.target))
        own = [f"@{node.target}.{name}" for name, _ in leaf.named_parameters()]
        return f"{type(leaf).__name__.lower()}({', '.join(arguments + own)})"
    return f"{_target(node)}({', '.join(arguments)})"


def _target(node: fx.Node) -> str:
    if isinstance(node.target, str):
        return node.target
    if isinstance(node.target, torch._ops.OpOverload):
        return str(node.target).removesuffix(".default")
    return getattr(node.target, "__name__", str(node.target))


def _value(argument: Any) -> str:
    if isinstance(argument, fx.Node):
        return f"%{argument.name}"
    if isinstance(argument, (tuple, list)):
        inner = ", ".join(map(_value, argument))
        return f"[{inner}]" if isinstance(argument, list) else f"({inner})"
    if isinstance(argument, dict):
        return "{" + ", ".join(f"{key}: {_value(value)}" for key, value in argument.items()) + "}"
    if isinstance(argument, slice):
        return ":".join("" if part is None else _value(part) for part in (argument.start, argument.stop, argument.step))
    return repr(argument)


def _types(program: Program) -> dict[str, str]:
    """Types and shapes of the nodes' tensors, found by a run without values, as far as the run succeeds."""
    types: dict[str, str] = {}

    def record(node: fx.Node, result: Any) -> None:
        parts = [_type(leaf) for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]
        types[node.name] = parts[0] if len(parts) == 1 else f"({', '.join(parts)})" if parts else ""

    with suppress(Exception):  # a program that does not run is printed too, to show why
        run = ShapeRun(LabelSpace(), device_of(program))
        interpret(program, run, meta_tensors(program.module), program.example, record)
    return types


def _type(tensor: Tensor) -> str:
    return f"{_DTYPES.get(tensor.dtype, str(tensor.dtype))}[{','.join(map(str, tensor.shape))}]"


def _groups_by_node(program: Program) -> dict[str, tuple[str, ...]]:
    """Ids of the groups that each node's result carries."""
    if (dependencies := program.get(Dependencies)) is None:
        return {}
    starts = torch.tensor([group.start for group in dependencies.groups])
    found = {}
    for name, value in dependencies.values.items():
        if isinstance(value, Operand):
            channels = [_channels(dependencies, plane) for plane in channel_planes(value.planes)]
            if channels and len(all_channels := torch.cat(channels)):
                indices = (torch.bucketize(all_channels, starts, right=True) - 1).unique()
                found[name] = tuple(dependencies.groups[index].id for index in indices.tolist())
    return found


def _channels(dependencies: Dependencies, plane: Tensor) -> Tensor:
    channels: Tensor = dependencies.channel_of[squash(plane)].flatten().unique()
    return channels[channels >= 0]


def _group_lines(program: Program) -> list[str]:
    if (dependencies := program.get(Dependencies)) is None:
        return []
    lines = []
    for group in dependencies.groups:
        members = ", ".join(
            f"@{member.name}[{member.dim}]" + (f"x{member.per_channel}" if member.per_channel > 1 else "")
            for member in group.members
        )
        lines.append(f"{group.id}: {group.channels} channels of {members}")
    return lines
