"""Finds what leads from channel to channel, by one more run of the program on its labels."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from graphprune.coupling.interpret import interpret, meta_tensors
from graphprune.coupling.labelled import Labelled, LabelRun
from graphprune.coupling.labels import PINNED, ReplayedSpace, look_up
from graphprune.coupling.planes import Planes, channel_planes, squash
from graphprune.ops.call import OpCall
from graphprune.paths.outputs import Leaving, Outputs, outputs_of, ties_without_pins
from graphprune.paths.steps import Ends, Hub, PerChannel, Step, WeightPath, distinct
from graphprune.paths.weights import WeightFinder, with_frozen
from graphprune.program import Program, device_of, stored_parameters
from graphprune.weights.pool import weights_by_node

Bundles = frozenset[int]


@dataclass(frozen=True)
class Paths:
    """All that leads from channel to channel in a program.

    Attributes:
        steps: In the order of the program.
        channels: Number of channels, with the one of what is frozen and the bundles.
        outputs: What leaves the program.
        whole: Weights that something else reads besides their steps; none of them is dead.
    """

    steps: tuple[Step, ...]
    channels: int
    outputs: Outputs
    whole: frozenset[str]


def paths_of(program: Program) -> Paths:
    """All that leads from channel to channel in an analysed program, in its order."""
    dependencies = program.dependencies
    assert dependencies is not None
    finder = WeightFinder(program, dependencies)
    names = {contraction.node for contraction in dependencies.contractions}
    of_nodes = {node.name: finder.steps(node) for node in program.module.graph.nodes if node.name in names}
    known = {
        name: [step for step in steps if isinstance(step, (WeightPath, PerChannel))]
        for name, steps in of_nodes.items()
        if steps and not any(isinstance(step, Ends) for step in steps)
    }
    run = _PathRun(
        ReplayedSpace(dependencies.space), device_of(program), choices=dict(dependencies.choices),
        attention=program.attention, channel_of=with_frozen(dependencies, dependencies.channel_of),
        root=ties_without_pins(dependencies), frozen=dependencies.channels, known=known,
        found={name: list(steps) for name, steps in of_nodes.items() if name not in known},
    )  # fmt: skip

    def record(node: fx.Node, result: Any) -> None:
        if node.op == "placeholder":
            run.depends(result, None)
        if node.op == "output":
            run.leave(node.name, result)

    interpret(program, run, meta_tensors(program.module), program.example, record)
    order = [node.name for node in program.module.graph.nodes]
    steps = tuple(step for name in order for step in run.found.get(name, ()))
    outputs = outputs_of(dependencies, run.root, steps, run.leaving, distinct(run.otherwise))
    return Paths(steps, finder.channels, outputs, _also_read_otherwise(program, known))


def _also_read_otherwise(program: Program, known: Mapping[str, Sequence[WeightPath | PerChannel]]) -> frozenset[str]:
    """Weights that a node reads of which it is not known what they lead from and to."""
    names = {id(parameter): name for name, parameter in stored_parameters(program.module).items()}
    return frozenset(
        names[id(parameter)]
        for node, parameters in weights_by_node(program)
        for parameter in parameters
        if names[id(parameter)] not in {step.name for step in known.get(node.name, ())}
    )


@dataclass
class _PathRun(LabelRun):
    """A run on known labels that notes where channels depend on each other, by weights and without.

    Bundles have no labels. A tensor that depends on the input through bundles alone is followed by these.

    Attributes:
        channel_of: Of each label; that of what is frozen for others.
        root: Of each label, see `ties_without_pins`.
        frozen: The channel of what is frozen.
        known: Weights of nodes whose contractions are with weights that are known.
        found: What is found, by node.
        leaving: What leaves the program.
        otherwise: Roots of labels whose channels something else than their weights gets into.
    """

    channel_of: Tensor = field(default_factory=lambda: torch.empty(0))
    root: Tensor = field(default_factory=lambda: torch.empty(0))
    frozen: int = 0
    known: dict[str, list[WeightPath | PerChannel]] = field(default_factory=dict)
    found: dict[str, list[Step]] = field(default_factory=dict)
    leaving: list[Leaving] = field(default_factory=list)
    otherwise: list[Tensor] = field(default_factory=list)
    _bundles: dict[int, Bundles | None] = field(default_factory=dict, repr=False)
    """Of the memory of each tensor that depends on the input: the bundles that it depends on, None if on more."""
    _of_result: tuple[bool, Bundles | None] = (False, None)

    def depends(self, tree: Any, bundles: Bundles | None) -> None:
        """Notes tensors that depend on the input."""
        for leaf in tree_leaves(tree):
            if isinstance(leaf, Labelled):
                self._bundles[self.memory_of(leaf)] = bundles

    def leave(self, node: str, tree: Any) -> None:
        """Notes what the output depends on."""
        leaves = [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Labelled)]
        self.leaving = [
            Leaving(_roots(self.root, [leaf.planes]), self._bundles.get(self.memory_of(leaf))) for leaf in leaves
        ]
        self._sink(node, _union(tensor.bundles for tensor in self.leaving))

    def dispatch(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """As in any run; what is made of something that depends on the input does so too."""
        result = super().dispatch(func, args, kwargs)
        computed, bundles = self._of_result
        if computed:
            self.depends(result, bundles)
        return result

    def _planes_of_outputs(self, call: OpCall) -> list[Planes]:
        planes = super()._planes_of_outputs(call)
        leaves = [leaf for leaf in tree_leaves(call.arguments) if isinstance(leaf, Labelled)]
        operands = [leaf for leaf in leaves if self.memory_of(leaf) in self._bundles]
        before, after = self._channels_of([operand.planes for operand in operands]), self._channels_of(planes)
        bundles = [self._bundles[self.memory_of(operand)] for operand in operands]
        if call.contracts and self.node in self.known:
            self._of_result = bool(operands), self._by_weights(bundles, before, after)
            if len(operands) > 1:
                self.otherwise.append(_roots(self.root, planes))
        elif operands:
            self._note(call, before, after)
            if len(operands) > 1 and (call.contracts or _is_broadcast(operands, call.shape)):
                self._cross(operands, planes)
            self._of_result = True, self._together(bundles, after)
        else:
            self._of_result = False, None
        return planes

    def _note(self, call: OpCall, before: Tensor, after: Tensor) -> None:
        """Notes what an op makes of the channels of its operands, other than passing them on."""
        new, gone = after[~torch.isin(after, before)], before[~torch.isin(before, after)]
        lost = gone if call.contracts or (call.mixes and not len(after)) else gone[:0]
        if len(new) or len(lost):
            self._add(Ends(new, lost))
        if call.mixes and len(after):
            self._add(Hub(before, after))

    def _cross(self, operands: Sequence[Labelled], planes: Sequence[Planes]) -> None:
        """Notes that each operand gets into all channels of a result that it does not have itself: outer sums, gates.

        So do those of one dim of the result into those of another, where an operand has them in both.
        """
        after, roots = self._channels_of(planes), _roots(self.root, planes)
        for operand in operands:
            own = self._channels_of([operand.planes])
            others = after[~torch.isin(after, own)]
            if not len(own) and self._bundles[self.memory_of(operand)] is None:
                own = torch.tensor([self.frozen])
            if len(own) and len(others):
                self._add(Hub(own, others))
            self.otherwise.append(roots[~torch.isin(roots, _roots(self.root, [operand.planes]))])
        for of_output in planes:
            dims = [self._channels_of([(plane,)]) for plane in channel_planes(of_output)]
            shared = distinct(one[torch.isin(one, other)] for one, other in combinations(dims, 2))
            if len(shared):
                self._add(Hub(shared, shared))

    def _together(self, operands: Sequence[Bundles | None], after: Tensor) -> Bundles | None:
        """The bundles of what an op without weights makes of its operands.

        Where there is more than bundles they get into all channels of the result; it is useful if one of these is.
        """
        bundles = _union(operands)
        if None not in operands:
            return bundles
        if bundles and len(after):
            self._add(Hub(_tensor(bundles), after))
        elif bundles:
            self._sink(self.node, bundles)
        return None

    def _by_weights(self, operands: Sequence[Bundles | None], before: Tensor, after: Tensor) -> Bundles | None:
        """Notes the weights of a node, what gets into the bundles of their columns, and the bundles of the result."""
        steps, alone = self.known[self.node], len(operands) == 1 and operands[0] is not None
        columns = [step.columns if isinstance(step, WeightPath) else step.channels for step in steps]
        rows = [step.rows if isinstance(step, WeightPath) else step.channels for step in steps]
        into, out_of = (distinct(each for each in dims if self._is_bundle(each)) for dims in (columns, rows))
        bundles = _union(operands)
        if alone and all(map(self._is_bundle, columns)):
            self._add(Hub(_tensor(bundles), into))
        else:  # data may be multiplied with what is made of constants later: all of that counts as reached
            self._add(Ends(into if operands else distinct((*columns, *rows)), _tensor(bundles)))
        for step in steps:
            self._add(step)
        unknown = after[~torch.isin(after, torch.cat([before, *rows, torch.tensor([self.frozen])]))]
        if len(operands) == 1 and all(map(self._is_bundle, rows)) and not len(unknown):
            return frozenset(out_of.tolist())
        self._add(Ends(unknown, out_of))
        return None

    def _is_bundle(self, channels: Tensor) -> bool:
        return bool((channels > self.frozen).all())

    def _sink(self, node: str, bundles: Bundles) -> None:
        if bundles:
            self.found.setdefault(node, []).append(Ends(torch.empty(0, dtype=torch.long), _tensor(bundles)))

    def _add(self, step: Step) -> None:
        self.found.setdefault(self.node, []).append(step)

    def _channels_of(self, tensors: Iterable[Planes]) -> Tensor:
        return _looked_up(self.channel_of, tensors)


def _roots(root: Tensor, tensors: Iterable[Planes]) -> Tensor:
    """The distinct roots of the labels of some tensors, without that of what has no label of its own."""
    found = _looked_up(root, tensors)
    return found[found != PINNED]


def _looked_up(table: Tensor, tensors: Iterable[Planes]) -> Tensor:
    return distinct(
        look_up(table, squash(plane)).reshape(-1) for planes in tensors for plane in channel_planes(tuple(planes))
    )


def _is_broadcast(operands: Sequence[Labelled], shape: Sequence[int]) -> bool:
    """Whether a result has the shape that its operands broadcast to, other than that of a concatenation."""
    rank = max(operand.dim() for operand in operands)
    padded = [(*[1] * (rank - operand.dim()), *operand.shape) for operand in operands]
    return rank == len(shape) and all(
        size in sizes and set(sizes) <= {1, size} for sizes, size in zip(zip(*padded, strict=True), shape, strict=True)
    )


def _union(bundles: Iterable[Bundles | None]) -> Bundles:
    return frozenset[int]().union(*(each for each in bundles if each is not None))


def _tensor(bundles: Bundles) -> Tensor:
    return torch.tensor(sorted(bundles), dtype=torch.long)
