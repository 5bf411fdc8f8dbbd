"""Parameters, weights and multiply-accumulates of a program under a keep set, without building it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from math import prod

import torch
from torch import Tensor, fx
from torch.nn.utils.stateless import _reparametrize_module
from torch.utils._pytree import tree_map_only
from torch.utils.flop_counter import FlopCounterMode

from graphprune.costs.measures import Measure
from graphprune.costs.pool import pool_of
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.labels.planes import channel_planes, squash
from graphprune.program.facts import FirstAnalysis
from graphprune.program.module_state import evaluating
from graphprune.program.program import Program
from graphprune.program.tensors import cuts_of, stored_parameters, stored_tensors, take


@dataclass(frozen=True)
class CostModel:
    """Costs as functions of the keep set; each cost is a sum of products of sizes that shrink."""

    program: Program
    dependencies: Dependencies

    @cached_property
    def _dims_of_parameters(self) -> dict[str, list[int]]:
        """For each parameter with labels, the places of its dims in ``dependencies.stored``."""
        places: dict[str, list[int]] = {name: [] for name in stored_parameters(self.program.module)}
        for place, owner in enumerate(self.dependencies.stored):
            if owner.name in places:
                places[owner.name].append(place)
        return {name: dims for name, dims in places.items() if dims}

    @cached_property
    def _fixed_parameters(self) -> int:
        """Number of parameters in tensors without labels (those that are not floating-point)."""
        labelled = {owner.name for owner in self.dependencies.stored}
        return sum(p.numel() for name, p in stored_parameters(self.program.module).items() if name not in labelled)

    def channels(self, keep: KeepSet) -> int:
        """Number of channels left of those that were prunable at first.

        A group with one channel left has no labels any more, so removed channels are subtracted rather than kept ones
        counted.
        """
        return self.program[FirstAnalysis].channels_left - keep.removed

    def before(self) -> dict[Measure, int]:
        """All costs with every channel kept."""
        macs = sum(contraction.macs for contraction in self.dependencies.contractions)
        return {
            "channels": self.dependencies.channels,
            "params": count_parameters(self.program.module),
            "weights": sum(weight.numel() for weight in self._pool.values()),
            "macs": macs // self.program.example.batch_size,
        }

    def params(self, keep: KeepSet) -> int:
        """Number of parameters left."""
        sizes: list[int] = keep.sizes.tolist()
        return self._fixed_parameters + sum(
            prod([sizes[place] for place in dims]) for dims in self._dims_of_parameters.values()
        )

    @cached_property
    def _pool(self) -> dict[str, torch.nn.Parameter]:
        return pool_of(self.program)

    def weights(self, keep: KeepSet) -> int:
        """Number of weights of the pool that are left and live."""
        sizes: list[int] = keep.sizes.tolist()
        cuts = cuts_of(keep.indices) if self.program.history.masks else {}
        total = 0
        for name in self._pool:
            mask = self.program.history.masks.get(name)
            if mask is None:
                total += prod([sizes[place] for place in self._dims_of_parameters.get(name, ())])  # () of 1x1
            else:
                total += int(take(mask, cuts.get(name, ())).count_nonzero())
        return total

    def macs(self, keep: KeepSet) -> int:
        """Multiply-accumulates per sample of convolutions, linear layers and other matrix products."""
        labels, ends = self._labels_of_loops
        kept = keep.labels.index_select(0, labels).cumsum(0)
        left = iter(kept.index_select(0, ends - 1).diff(prepend=torch.zeros(1, dtype=torch.long)).tolist())
        total = 0
        for macs, sizes in self._loops:
            for size in sizes:  # exact: the size of a plane is the product of the loops along which it varies
                macs = macs * next(left) // size
            total += macs
        return total // self.program.example.batch_size

    @cached_property
    def _loops(self) -> list[tuple[int, list[int]]]:
        """Multiply-accumulates of each contraction, and the number of labels of each of its planes."""
        return [
            (contraction.macs, [squash(plane).numel() for plane in channel_planes(contraction.planes)])
            for contraction in self.dependencies.contractions
        ]

    @cached_property
    def _labels_of_loops(self) -> tuple[Tensor, Tensor]:
        """The labels of all planes of `_loops` in one row, and the place in it where each plane ends."""
        planes = [
            squash(plane).reshape(-1)
            for contraction in self.dependencies.contractions
            for plane in channel_planes(contraction.planes)
        ]
        ends = torch.tensor([len(plane) for plane in planes], dtype=torch.long).cumsum(0)
        return torch.cat([torch.empty(0, dtype=torch.long), *planes]), ends


def costs_of(program: Program) -> CostModel:
    """Returns the cost model of an analysed program; the same object as long as the program's module is the same."""
    remembered = vars(program[Dependencies])
    known: CostModel | None = remembered.get("_costs")
    if known is None or known.program.module is not program.module:
        # the cost model lives as long as the dependencies, so it must not hold the scores of weights, which are large
        alone = program.with_module(program.module).knowing(program[Dependencies], program[FirstAnalysis])
        alone = replace(alone, history=replace(alone.history, dormant={}))
        known = remembered["_costs"] = CostModel(alone, program[Dependencies])
    return known


def count_parameters(module: torch.nn.Module) -> int:
    """Number of parameters of a module; tied ones count once."""
    return sum(parameter.numel() for parameter in stored_parameters(module).values())


def count_macs(module: fx.GraphModule, inputs: list[object], batch_size: int) -> int:
    """Multiply-accumulates per sample as torch's own flop counter finds them in a run on the meta device."""
    meta = {name: tensor.detach().to("meta") for name, tensor in stored_tensors(module).items()}
    inputs = tree_map_only(Tensor, lambda tensor: tensor.to("meta"), inputs)
    counter = FlopCounterMode(display=False)
    with evaluating(module), _reparametrize_module(module, meta, tie_weights=True), counter:
        fx.Interpreter(module).run(*inputs, enable_io_processing=False)
    return int(counter.get_total_flops()) // 2 // batch_size
