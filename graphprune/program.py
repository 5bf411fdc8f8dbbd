"""The one program that every pass transforms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen
from torch.utils._pytree import tree_leaves

from graphprune.errors import InternalError
from graphprune.example import Example

Kept = dict[tuple[str, int], Tensor]
"""Kept indices of each (parameter or buffer name, dim) that shrank; int64, ascending, shape ``(kept,)``."""

Cut = tuple[int, Tensor]
"""A dim, and the indices of it that are kept."""


@dataclass(frozen=True)
class CapturedBy:
    """Which front end made the graph, and why those before it could not (empty for the first)."""

    route: str
    reason: str = ""


Attention = Literal["heads", "head_dim"]
"""What goes of attention: whole heads, or the same indices of every head."""


class Fact:
    """Something that a pass found out about a program, and that others look up by its type.

    Class attributes:
        provided_by: Names of the passes that find it out.
    """

    provided_by: ClassVar[tuple[str, ...]] = ()


FactT = TypeVar("FactT", bound=Fact)


@dataclass(frozen=True)
class History:
    """What earlier rounds have done to the user's model.

    Attributes:
        kept: What is left of the user's model, under its names; empty before the first prune.
        masks: Live weights of the program's parameters that have dead ones, bool, of their shapes.
        dormant: Weights as they were when they died, where they can come back; empty where they cannot.
    """

    kept: Kept = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    dormant: dict[str, Tensor] = field(default_factory=dict)

    def pruned(self, kept: Kept) -> History:
        """The history with one more prune, in which ``kept`` of each dim is left."""
        cuts = cuts_of(kept)
        masks = {name: take(mask, cuts.get(name, ())) for name, mask in self.masks.items()}
        dormant = {name: take(weight, cuts.get(name, ())) for name, weight in self.dormant.items()}
        return History(compose_kept(self.kept, kept), masks, dormant)


@dataclass(frozen=True)
class FirstAnalysis(Fact):
    """What the analysis of the user's model found out and later ones go by.

    Attributes:
        pins: Nodes whose sizes cannot be rewritten, each with the reason.
        classes: For each stored dim the channel of the user's model that each index left belongs to, -1 where it is
            frozen. What went together at first goes together in every later round.
        choices: What op rules decided, by node.
        channels_left: Prunable channels of the user's model that are left.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("build-dependencies",)

    pins: tuple[tuple[str, str], ...]
    classes: Kept
    choices: dict[str, bool]
    channels_left: int

    def pruned(self, kept: Kept, removed: int) -> FirstAnalysis:
        """The same after a prune of ``removed`` channels, in which ``kept`` of each dim is left."""
        classes = self.classes | _selected({key: self.classes[key] for key in kept}, kept)
        return replace(self, classes=classes, channels_left=self.channels_left - removed)


@dataclass(frozen=True)
class Program:
    """A captured model together with what the passes found out about it.

    Attributes:
        module: The program; parameters under the names of the user's model.
        example: Example inputs at the analysed batch size.
        captured_by: Front end of the graph.
        protect: Name patterns of parameters or modules that must stay as they are.
        attention: What goes of attention.
        history: What earlier rounds have done.
        facts: What is known of the program as it is now, by type: ``program[Dependencies]``.
    """

    module: fx.GraphModule
    example: Example
    captured_by: CapturedBy
    protect: tuple[str, ...] = ()
    attention: Attention = "heads"
    history: History = field(default_factory=History)
    facts: Mapping[type[Fact], Fact] = field(default_factory=dict, repr=False)

    def __getitem__(self, kind: type[FactT]) -> FactT:
        """The fact of a type.

        Raises:
            InternalError: it is not known; the message names the passes that find it out.
        """
        found = self.get(kind)
        if found is None:
            passes = " or ".join(kind.provided_by)
            raise InternalError(f"the program has no {kind.__name__}; run the pass {passes} before")
        return found

    def get(self, kind: type[FactT]) -> FactT | None:
        """The fact of a type; None where it is not known."""
        found = self.facts.get(kind)
        return found if isinstance(found, kind) else None

    def __contains__(self, kind: type[Fact]) -> bool:
        """Whether the fact of a type is known."""
        return kind in self.facts

    @property
    def dependencies(self) -> Any:
        """The channels and groups, for criteria that users write; the same as ``program[Dependencies]``.

        Raises:
            InternalError: they are not known yet.
        """
        known = {kind.__name__: kind for kind in self.facts}
        if "Dependencies" not in known:
            raise InternalError("the program has no Dependencies; run the pass build-dependencies before")
        return self[known["Dependencies"]]

    def knowing(self, *facts: Fact) -> Program:
        """The program with further facts, each in the place of an earlier one of its type."""
        return replace(self, facts={**self.facts, **{type(fact): fact for fact in facts}})

    def without(self, *kinds: type[Fact]) -> Program:
        """The program without the facts of some types."""
        return replace(self, facts={kind: fact for kind, fact in self.facts.items() if kind not in kinds})

    def with_module(self, module: fx.GraphModule) -> Program:
        """The program with another module; no fact about the old one is known of it."""
        return replace(self, module=module, facts={})

    def masked(self, masks: Mapping[str, Tensor]) -> Program:
        """The program with other live weights; the module stays, whatever zeros it has."""
        return replace(self, history=replace(self.history, masks=dict(masks)))

    def pruned(self, module: fx.GraphModule, kept: Kept, removed: int) -> Program:
        """The program after a prune to ``module``.

        Args:
            module: The compact module.
            kept: What is left of each dim that shrank.
            removed: How many channels went.
        """
        history, first = self.history.pruned(kept), self[FirstAnalysis].pruned(kept, removed)
        return replace(self.with_module(module), history=history).knowing(first)

    def inputs(self, example: Example | None = None) -> list[Any]:
        """Arguments in the order of the graph's placeholders."""
        example = example or self.example
        placeholders = [node for node in self.module.graph.nodes if node.op == "placeholder"]
        if isinstance(self.module.graph._codegen, _PyTreeCodeGen):
            return tree_leaves((example.args, example.kwargs))
        names = [str(node.target).lstrip("*") for node in placeholders]
        return [*example.args, *(example.kwargs[name] for name in names[len(example.args) :])]


@dataclass(frozen=True)
class Origin(Fact):
    """The program before the last prune, with its selection; known until that prune is verified."""

    provided_by: ClassVar[tuple[str, ...]] = ("prune-channels", "mask-weights")

    program: Program


def cuts_of(kept: Kept) -> dict[str, list[Cut]]:
    """Kept indices by the name of their tensor."""
    cuts: dict[str, list[Cut]] = {}
    for (name, dim), indices in kept.items():
        cuts.setdefault(name, []).append((dim, indices))
    return cuts


def kept_of(tensor: Tensor, dim: int, indices: Tensor) -> Tensor:
    """What is left of a tensor along a dim, in its memory format: users choose ``channels_last`` to be fast."""
    kept = tensor.index_select(dim, indices.to(tensor.device))
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(tensor.dim())
    if last is not None and tensor.is_contiguous(memory_format=last) and not tensor.is_contiguous():
        return kept.contiguous(memory_format=last)
    return kept


def take(tensor: Tensor, cuts: Iterable[Cut]) -> Tensor:
    """What is left of a tensor at the kept indices of some of its dims."""
    for dim, indices in cuts:
        tensor = kept_of(tensor, dim, indices)
    return tensor


def _selected(tables: Kept, indices: Kept) -> Kept:
    """Entries of each table at its indices; all at once, for there are thousands."""
    if not tables:
        return {}
    sizes = torch.tensor([len(table) for table in tables.values()])
    counts = torch.tensor([len(indices[key]) for key in tables])
    starts = (sizes.cumsum(0) - sizes).repeat_interleave(counts)
    places = torch.cat([indices[key] for key in tables]) + starts
    entries = torch.cat(list(tables.values())).index_select(0, places).split(counts.tolist())
    return dict(zip(tables, entries, strict=True))


def submodules(module: nn.Module) -> dict[str, nn.Module]:
    """The module and all modules inside, by path, each once."""
    found, seen = {"": module}, {id(module)}

    def visit(parent: nn.Module, start: str) -> None:
        for name, child in parent._modules.items():
            if child is not None and id(child) not in seen:
                seen.add(id(child))
                found[start + name] = child
                if child._modules:
                    visit(child, f"{start}{name}.")

    visit(module, "")
    return found


class Layers:
    """The modules inside of a module by path, for `nn.Module.get_submodule` is slow."""

    def __init__(self, module: nn.Module) -> None:
        self.module, self.by_path = module, submodules(module)

    def called_by(self, node: fx.Node) -> nn.Module:
        """The layer that a node calls."""
        path = str(node.target)
        known = self.by_path.get(path)
        return self.module.get_submodule(path) if known is None else known  # a shared one has several paths


def stored_tensors(module: nn.Module) -> dict[str, Tensor]:
    """Parameters, then buffers, by name; each tensor once, in the order of the modules."""
    found, seen = submodules(module), set[int]()
    return _entries(found, "_parameters", seen) | _entries(found, "_buffers", seen)


def stored_parameters(module: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters among the stored tensors."""
    return _entries(submodules(module), "_parameters", set())


def _entries(modules: Mapping[str, nn.Module], table: str, seen: set[int]) -> dict[str, Any]:
    """The entries of one of the modules' tables that are not in ``seen`` yet, under their full names."""
    found: dict[str, Any] = {}
    for path, module in modules.items():
        entries = vars(module)[table]
        if not entries:
            continue
        start = f"{path}." if path else ""
        for name, tensor in entries.items():
            if tensor is not None and id(tensor) not in seen:
                seen.add(id(tensor))
                found[start + name] = tensor
    return found


def compose_kept(before: Kept, now: Kept) -> Kept:
    """What is left of the original after another prune: ``now`` indexes what ``before`` had left."""
    return before | {key: before[key][indices] if key in before else indices for key, indices in now.items()}


def device_of(program: Program) -> torch.device:
    """The device of the program's parameters."""
    return next(program.module.parameters()).device


def source_line(node: fx.Node) -> str:
    """``file:line`` of the user's code that made the node; empty where it is not known."""
    source: str = node.meta.get("source", "")
    return source
