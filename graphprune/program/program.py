"""The one program that every pass transforms."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, TypeVar

import torch
from torch import Tensor, fx
from torch.fx.graph import _PyTreeCodeGen
from torch.utils._pytree import tree_leaves

from graphprune.errors import InternalError
from graphprune.program.example import Example
from graphprune.program.facts import Fact, FirstAnalysis, History
from graphprune.program.tensors import Kept


@dataclass(frozen=True)
class CapturedBy:
    """The front end that made the graph, and why the ones before it could not (empty for the first)."""

    route: str
    reason: str = ""

    def __str__(self) -> str:
        """The front end, and in brackets why it was not an earlier one."""
        return f"{self.route} ({self.reason})" if self.reason else self.route


Attention = Literal["heads", "head_dim"]
"""What is removed from attention: whole heads, or the same indices of every head."""


FactT = TypeVar("FactT", bound=Fact)


@dataclass(frozen=True)
class Program:
    """A captured model together with what the passes found out about it.

    Attributes:
        module: The captured graph; parameters keep their names in the user's model.
        example: Example inputs at the analysed batch size.
        captured_by: The front end that made the graph.
        protect: Name patterns of parameters or modules that must stay as they are.
        attention: What is removed from attention.
        history: What earlier rounds have done to the user's model.
        facts: What is known about the program in its present state, by type: ``program[Dependencies]``.
    """

    module: fx.GraphModule
    example: Example
    captured_by: CapturedBy
    protect: tuple[str, ...] = ()
    attention: Attention = "heads"
    history: History = field(default_factory=History)
    facts: Mapping[type[Fact], Fact] = field(default_factory=dict, repr=False)

    def __getitem__(self, kind: type[FactT]) -> FactT:
        """The fact of a given type.

        Raises:
            InternalError: the fact is not known; the message names the passes that find it out.
        """
        found = self.get(kind)
        if found is None:
            passes = " or ".join(kind.provided_by)
            raise InternalError(f"the program has no {kind.__name__}; run the pass {passes} before")
        return found

    def get(self, kind: type[FactT]) -> FactT | None:
        """The fact of a given type; None if it is not known."""
        found = self.facts.get(kind)
        return found if isinstance(found, kind) else None

    def __contains__(self, kind: type[Fact]) -> bool:
        """Whether the fact of a given type is known."""
        return kind in self.facts

    @property
    def dependencies(self) -> Any:
        """The channels and groups, for criteria that users write; the same as ``program[Dependencies]``.

        Raises:
            InternalError: the dependencies are not known yet.
        """
        known = {kind.__name__: kind for kind in self.facts}
        if "Dependencies" not in known:
            raise InternalError("the program has no Dependencies; run the pass build-dependencies before")
        return self[known["Dependencies"]]

    def knowing(self, *facts: Fact) -> Program:
        """The program with further facts, each of which replaces an earlier fact of its type."""
        return replace(self, facts={**self.facts, **{type(fact): fact for fact in facts}})

    def without(self, *kinds: type[Fact]) -> Program:
        """The program without the facts of some types."""
        return replace(self, facts={kind: fact for kind, fact in self.facts.items() if kind not in kinds})

    def with_module(self, module: fx.GraphModule) -> Program:
        """The program with another module and without facts, because those are about the old module."""
        return replace(self, module=module, facts={})

    def masked(self, masks: Mapping[str, Tensor]) -> Program:
        """The program with other masks of live weights; the module and its values stay as they are."""
        return replace(self, history=replace(self.history, masks=dict(masks)))

    def pruned(self, module: fx.GraphModule, kept: Kept, removed: int) -> Program:
        """The program after a prune to ``module``.

        Args:
            module: The compact module.
            kept: Kept indices of each dim that shrank.
            removed: Number of channels that were removed.
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


def device_of(program: Program) -> torch.device:
    """The device of the program's parameters."""
    return next(program.module.parameters()).device
