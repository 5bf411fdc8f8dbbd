"""The one program that every pass transforms."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, fx, nn
from torch.fx.graph import _PyTreeCodeGen
from torch.utils._pytree import tree_leaves

from graphprune.example import Example

if TYPE_CHECKING:
    from graphprune.coupling.dependencies import Dependencies
    from graphprune.equivalence import Verification
    from graphprune.scores import Scores
    from graphprune.selection import Selection
    from graphprune.weights.criteria.criterion import WeightScores

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


@dataclass(frozen=True)
class Program:
    """A captured model together with what the passes found out about it.

    Attributes:
        module: The program; parameters under the names of the user's model.
        example: Example inputs at the analysed batch size.
        captured_by: Front end of the graph.
        protect: Name patterns of parameters or modules that must stay as they are.
        attention: What goes of attention.
        kept: What is left of the user's model, under its names; empty before the first prune.
        masks: Live weights of the parameters of `module` that have dead ones, bool, of their shapes.
        dormant: Weights as they were when they died, where they can come back; empty where they cannot.
        dependencies: Channels and groups of `module`; None until they are built or after it changed shape.
        scores: Importance of each channel; None until scored.
        weight_scores: Importance of each weight; None until scored.
        selection: Channels to keep in the next prune; None until selected.
        shapes: Shapes of each node's result as they were recorded or, after a prune, foretold.
        pins: Nodes whose sizes cannot be rewritten, with the reason; None until they were looked for.
        classes: For each stored dim the channel of the user's model that each index left belongs to, -1 where it is
            frozen; None before the first analysis. What went together at first goes together in every later round.
        choices: What op rules decided in the first analysis, by node, and keep to in later ones.
        channels_left: Prunable channels of the user's model that are left; None before the first analysis.
        origin: The program before the last prune, with its selection; None once that prune was verified.
        verification: What the last proof compared; None before the first.
    """

    module: fx.GraphModule
    example: Example
    captured_by: CapturedBy
    protect: tuple[str, ...] = ()
    attention: Attention = "heads"
    kept: Kept = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    dormant: dict[str, Tensor] = field(default_factory=dict)
    dependencies: Dependencies | None = None
    scores: Scores | None = None
    weight_scores: WeightScores | None = None
    selection: Selection | None = None
    shapes: dict[str, Any] | None = None
    pins: tuple[tuple[str, str], ...] | None = None
    classes: Kept | None = None
    choices: dict[str, bool] = field(default_factory=dict)
    channels_left: int | None = None
    origin: Program | None = None
    verification: Verification | None = None

    def inputs(self, example: Example | None = None) -> list[Any]:
        """Arguments in the order of the graph's placeholders."""
        example = example or self.example
        placeholders = [node for node in self.module.graph.nodes if node.op == "placeholder"]
        if isinstance(self.module.graph._codegen, _PyTreeCodeGen):
            return tree_leaves((example.args, example.kwargs))
        names = [str(node.target).lstrip("*") for node in placeholders]
        return [*example.args, *(example.kwargs[name] for name in names[len(example.args) :])]

    def with_module(self, module: fx.GraphModule, **changes: Any) -> Program:
        """The program with another module, without the analyses of the old one."""
        analyses = ("dependencies", "scores", "weight_scores", "selection", "shapes")
        fresh: dict[str, Any] = dict.fromkeys(analyses)
        return replace(self, module=module, **(fresh | changes))

    def pruned(self, module: fx.GraphModule, kept: Kept, **changes: Any) -> Program:
        """The program after a prune to ``module``, in which ``kept`` of each dim is left."""
        classes = self.classes
        if classes is not None:
            classes = classes | _selected({key: classes[key] for key in kept}, kept)
        cuts = cuts_of(kept)
        masks = {name: take(mask, cuts.get(name, ())) for name, mask in self.masks.items()}
        dormant = {name: take(weight, cuts.get(name, ())) for name, weight in self.dormant.items()}
        kept = compose_kept(self.kept, kept)
        return self.with_module(module, kept=kept, classes=classes, masks=masks, dormant=dormant, **changes)


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
