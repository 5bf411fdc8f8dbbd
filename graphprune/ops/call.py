"""One call of an ATen op on labelled tensors, and the few primitives that op rules are written in.

`join` ties operands that broadcast against each other, `contract` ties what a contraction sums over, `collapse` makes a
plane constant along dims that cannot shrink, `freeze` pins labels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from itertools import permutations
from typing import Any

from torch import Tensor

from graphprune.labels.contractions import Contraction, Window, loops_of
from graphprune.labels.labels import Origin
from graphprune.labels.notes import RunNotes
from graphprune.labels.operand import Operand, operand_of, tensors_in
from graphprune.labels.planes import (
    Planes,
    along,
    channel_planes,
    constant_along,
    drop,
    is_sample,
    labels_along,
    same,
    squash,
    thin,
    varying,
)
from graphprune.ops.schema import bind

Arguments = dict[str, Any]


@dataclass(slots=True)
class OpCall:
    """One call of an ATen op.

    Attributes:
        run: The notes of the run that the call belongs to.
        func: The ATen overload.
        arguments: All arguments by the names of the schema, defaults filled in.
        outputs: Output values, set before the rule runs.
        mixes: Set by `mix` when the op mixes statistics over channels.
        sums: Set by `sum_over_kept` when the op sums products over channels.
        contracts: Set by `count` when the op is a contraction.
        summed: Planes of the channels that the op sums over: each of them affects the whole result.
    """

    run: RunNotes
    func: Any
    arguments: Arguments
    outputs: tuple[Tensor, ...] = ()
    mixes: Callable[[Arguments], Arguments] | None = None
    sums: bool = False
    contracts: bool = False
    summed: list[Tensor] = field(default_factory=list)

    @classmethod
    def bind(cls, run: RunNotes, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> OpCall:
        """Binds positional and keyword arguments to the names of the op's schema."""
        return cls(run, func, bind(func, args, kwargs))

    # What a rule reads

    def __getitem__(self, name: str) -> Any:
        """The argument with a given name."""
        return self.arguments[name]

    def operand(self, name: str) -> Operand | None:
        """A tensor argument by name; None where it is absent."""
        tensor = self.arguments.get(name)
        return operand_of(tensor) if isinstance(tensor, Tensor) else None

    def operands(self) -> list[Operand]:
        """All tensor arguments, in the order of the schema."""
        return [operand_of(leaf) for argument in self.arguments.values() for leaf in tensors_in(argument)]

    def value(self, name: str) -> Tensor | None:
        """The value of a tensor argument; None where the analysis does not know it (parameters and inputs)."""
        tensor = self.arguments[name]
        value = getattr(tensor, "value", tensor)
        return None if not isinstance(value, Tensor) or value.is_meta else value

    def is_computed(self, name: str) -> bool:
        """Whether a tensor argument is neither a parameter nor a buffer, so that its removed elements need not be 0."""
        return not getattr(self.arguments[name], "stored", False)

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the first output."""
        return tuple(self.outputs[0].shape)

    # What a rule does

    def union(self, first: Tensor, second: Tensor, reason: str) -> None:
        """Ties two planes elementwise; they broadcast against each other."""
        if not same(first, second):
            self.run.space.union(first, second, self.run.cause(self.func, reason))

    def freeze(self, plane: Tensor, reason: str, origin: Origin = "program") -> None:
        """Pins every label of a plane; a plane of samples is left alone."""
        if is_sample(plane):
            return
        self.run.space.pin(squash(plane), self.run.cause(self.func, reason, origin))

    def freeze_all(self, reason: str, origin: Origin = "program") -> list[Planes]:
        """Pins every label of every argument; the outputs keep only the plane of the samples.

        Args:
            reason: Why the labels are frozen.
            origin: The kind of reason; ``"gap"`` where a better rule need not freeze them.
        """
        for operand in self.operands():
            for plane in operand.planes:
                self.freeze(plane, reason, origin)
        return [self._samples_of(output) for output in self.outputs]

    def _samples_of(self, output: Tensor) -> Planes:
        """The plane of the samples along dim 0 of an output, if an argument has as many samples there."""
        for operand in self.operands():
            for plane in operand.planes:
                if is_sample(plane) and varying(plane) == {0} and output.shape[:1] == plane.shape[:1]:
                    return (along(labels_along(plane, 0), output.shape, 0),)
        return ()

    def mix(self, change: Callable[[Arguments], Arguments] = lambda arguments: arguments) -> None:
        """Says that the op mixes statistics over channels; the masked program evaluates it over the kept ones.

        Args:
            change: Function that adapts literal sizes among the (compact) arguments.
        """
        self.mixes = change

    def sum_over_kept(self) -> None:
        """Says that the op sums products of data over channels.

        The masked program puts zeros in removed channels: after a sigmoid, say, neither factor would be zero there.
        """
        self.sums = True

    def count(
        self, loops: Sequence[int], planes: Planes, summed: frozenset[int],
        operands: Iterable[frozenset[int]], window: Window | None = None,
    ) -> None:  # fmt: skip
        """Notes a contraction; see `Contraction` for the arguments."""
        self.contracts = True
        self.summed += [plane for plane in channel_planes(planes) if varying(plane) <= summed]
        if self.run.keep is None:
            found = Contraction(self.run.node, tuple(loops), planes, summed, tuple(operands), window)
            self.run.contractions.append(found)

    def positional(self, operand: Operand, dims: Iterable[int], why: str = "addresses channels by position") -> None:
        """Says that the graph must be rewritten here if anything is removed along ``dims``; ``why`` is the reason."""
        cause = self.run.cause(self.func, f"{why}, and no rewriting rule knows this node", "gap")
        for plane in channel_planes(operand.planes):
            if varying(plane) & frozenset(dims):
                self.run.positional.append((self.run.node, plane, cause))

    def fresh(self, shape: Sequence[int], dims: Iterable[int] | None = None) -> Planes:
        """New planes of a tensor that is constant along ``dims`` (all dims by default), so that it can shrink there.

        If the size is a literal that no rule rewrites, the trial prune finds that out.
        """
        name = f"%{self.run.node}"
        return tuple(
            along(self.run.space.allocate(name, dim, shape[dim], stored=False), shape, dim)
            for dim in (range(len(shape)) if dims is None else dims)
            if shape[dim] > 1
        )

    def is_made_here(self, plane: Tensor) -> bool:
        """Whether all labels of a plane belong to tensors that the program makes (copies, zeros), not to parameters."""
        return not is_sample(plane) and int(squash(plane).min()) >= self.run.space.stored_size

    def collapse(self, plane: Tensor, dims: Iterable[int], reason: str, origin: Origin = "program") -> Tensor | None:
        """Ties the labels along ``dims``, so that the plane varies along other dims only.

        Returns:
            The plane, constant along ``dims``; None if it varied along no other dim, and its labels are frozen.
        """
        shared = varying(plane) & frozenset(dims)
        if not shared:
            return plane
        if shared == varying(plane) or is_sample(plane):
            self.freeze(plane, reason, origin)
            return None
        small = squash(plane)
        self.union(small, thin(small, shared), reason)
        return constant_along(plane, shared)

    def collapsed(self, operand: Operand, dims: Iterable[int], reason: str) -> Operand:
        """The operand with every plane collapsed along ``dims``."""
        dims = frozenset(dims)
        planes = (self.collapse(plane, dims, reason) for plane in operand.planes)
        return Operand(operand.shape, tuple(plane for plane in planes if plane is not None))

    def merge(self, planes: Iterable[Tensor], reason: str) -> Planes:
        """Ties planes that vary along a common dim, so that no two of the resulting planes do.

        A dim along which only one of two tied planes varies cannot shrink any more, not by a third plane either.
        """
        planes = list(planes)
        merged: list[Tensor] = []
        rigid: frozenset[int] = frozenset()
        for plane in channel_planes(tuple(planes)):
            while (index := _overlapping(plane, merged)) is not None:
                other = merged.pop(index)
                live = varying(plane) | varying(other)
                dead = [dim for dim in range(plane.dim()) if dim not in live]
                self.union(thin(other, dead), thin(plane, dead), reason)
                tied = live - (varying(plane) & varying(other))
                plane, rigid = constant_along(other, tied), rigid | tied
            merged.append(plane)
        loose = (self.collapse(plane, rigid, f"{reason}: other channels go as a whole here") for plane in merged)
        samples = {varying(plane): plane for plane in planes if is_sample(plane) and varying(plane)}
        return (*(plane for plane in loose if plane is not None), *samples.values())

    def join(self, shape: Sequence[int], operands: Sequence[Operand], reason: str) -> Planes:
        """Ties operands that broadcast to ``shape``, dim by dim.

        If an operand has a size above 1 along a dim and cannot shrink there, no operand can shrink along that dim.
        """
        stiff = frozenset(dim for operand in operands for dim in operand.stiff_dims(len(shape)))
        planes: list[Tensor] = []
        for operand in operands:
            for plane in operand.planes:
                dims = frozenset() if is_sample(plane) else stiff
                why = f"{reason}: other operand cannot shrink"
                loose = self.collapse(plane.expand(tuple(shape)), dims, why, "operand")
                if loose is not None:
                    planes.append(loose)
        return self.merge(self._broadcast(planes), reason)

    def _broadcast(self, planes: list[Tensor]) -> list[Tensor]:
        """Planes of operands, one of which may vary along only some dims of another (a scale that all heads share).

        Either the shared dims can shrink, with labels tied across the other dims, or they keep their sizes. The choice
        is which dim can shrink: the outer one (heads) or the inner one (the width of each head).
        """
        for low, high in permutations(channel_planes(tuple(planes)), 2):
            shared = varying(low)
            if not shared or not shared < varying(high):
                continue
            outer = self.run.choose("outer of what is broadcast", self.run.attention == "heads", high)
            if outer == (min(varying(high)) in shared):
                continue
            why = "is the same for several groups of channels"
            rest = [plane if is_sample(plane) else self.collapse(plane, shared, why) for plane in planes]
            return self._broadcast([plane for plane in rest if plane is not None])
        return planes

    def contract(
        self, loops: Sequence[int], operands: Sequence[Operand], summed: Iterable[int], window: Window | None = None
    ) -> Planes:
        """Ties the operands of a contraction, written in the space of all its loops.

        Args:
            loops: Size of each loop.
            operands: Operands, each with one dim per loop, of size 1 where it does not have the loop.
            summed: The loops that are summed over.
            window: Window of a convolution.

        Returns:
            Planes of the result, which has the loops that are not summed, in order.
        """
        summed = frozenset(summed)
        joined = self.join(loops, operands, "contraction")
        self.count(loops, joined, summed, (loops_of(operand.shape) for operand in operands), window)
        planes = []
        for plane in joined:
            if varying(plane) <= summed:
                continue
            rest = self._within_entries(plane, summed)
            if rest is not None:
                planes.append(drop(rest, summed))
            elif not is_sample(plane):
                self.summed.append(plane)
        return tuple(planes)

    def _within_entries(self, plane: Tensor, summed: frozenset[int]) -> Tensor | None:
        """Ties labels that are summed over within each entry of another loop: the widths of heads, or of experts.

        Either an entry (a head) is removed as a whole, or all entries stay and each of them loses the same index.
        """
        if is_sample(plane) or not varying(plane) & summed:
            return self.collapse(plane, summed, "summed over within each entry")
        if self.run.choose("whole entries", self.run.attention == "heads", plane):
            return self.collapse(plane, summed, "summed over within each entry")
        self.collapse(plane, varying(plane) - summed, "the same index goes in every entry")
        return None


def _overlapping(plane: Tensor, others: list[Tensor]) -> int | None:
    live = varying(plane)
    return next((index for index, other in enumerate(others) if live & varying(other)), None)
