"""Translation validation: the compact program computes what the masked dense program computes.

Masked means that every removed slice of every parameter and buffer is zero, and that ops that mix statistics over
channels (layer norm, a mean or softmax over channels) see the kept channels only.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from graphprune.costs.pool import full_weights
from graphprune.coupling.interpret import interpret
from graphprune.coupling.labelled import Labelled, LabelRun
from graphprune.errors import InputError, VerificationError, is_out_of_memory
from graphprune.labels.keep_set import KeepSet
from graphprune.labels.labels import LabelSpace, ReplayedSpace
from graphprune.labels.planes import gather
from graphprune.process_state import private_random_state
from graphprune.program.example import Example
from graphprune.program.facts import FirstAnalysis
from graphprune.program.module_state import evaluating, keeping_buffers, run_program
from graphprune.program.program import Program, device_of
from graphprune.program.tensors import Kept, stored_tensors
from graphprune.verification.comparison import TOLERANCES, difference, scale_of
from graphprune.verification.in_double import as_double, in_double
from graphprune.verification.record import Verification

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class MaskedProgram:
    """A dense program in which some channels are masked.

    Attributes:
        program: The dense program.
        space: Labels of the program's analysis.
        keep: Labels that are kept, bool, shape ``(labels,)``.
        values: Parameters and buffers of the program by name, zero in every removed slice.
    """

    program: Program
    space: LabelSpace
    keep: Tensor
    values: Mapping[str, Tensor]

    @classmethod
    def of(cls, program: Program, keep: KeepSet, masks: Mapping[str, Tensor] | None = None) -> MaskedProgram:
        """Masks the channels of a program that are not kept, and its dead weights."""
        tensors = stored_tensors(program.module) | (full_weights(program) if program.history.dormant else {})
        for name, mask in (masks or {}).items():
            tensors[name] = torch.where(mask.to(tensors[name].device), tensors[name].detach(), 0)
        values = masked_tensors(tensors, keep.indices)
        return cls(program, keep.dependencies.space, keep.labels, values)

    def run(self, example: Example, record: Callable[[fx.Node, Any], None] = lambda node, result: None) -> Any:
        """Runs the masked program; returns its flat outputs as `Labelled` tensors."""
        parameters = {name for name, _ in self.program.module.named_parameters()}
        values = {name: tensor if name in parameters else tensor.clone() for name, tensor in self.values.items()}
        choices = dict(self.program[FirstAnalysis].choices)
        run = LabelRun(ReplayedSpace(self.space), device_of(self.program), keep=self.keep, choices=choices)
        return interpret(self.program, run, values, example, record)

    def in_double(self) -> MaskedProgram:
        """Returns the masked program in double precision."""
        values = {name: as_double(tensor) for name, tensor in self.values.items()}
        return replace(self, program=in_double(self.program), values=values)


def verify_compact(masked: MaskedProgram, compact: Program, seed: int = 0) -> Verification:
    """Compares a compact program with the masked dense one on fresh inputs, at two batch sizes if the model takes them.

    Deep attention can enlarge roundings until they look like a difference, so a difference counts only if it remains in
    double precision.

    Raises:
        VerificationError: the programs differ; the message names the first node that does.
    """
    try:
        return _compare(masked, compact, seed)
    except VerificationError as error:
        try:
            return _compare(masked.in_double(), in_double(compact), seed)
        except Exception:  # a program may insist on a type of its own; then the first comparison counts
            raise error from None


def _compare(masked: MaskedProgram, compact: Program, seed: int) -> Verification:
    generator = torch.Generator().manual_seed(seed)
    size = compact.example.batch_size
    batch_sizes: list[int] = []
    error, scale, tolerance, undefined = 0.0, 0.0, _tolerance(compact), 0
    for batch_size in (size, size + 1):
        example = compact.example.fresh(batch_size, generator)
        try:
            with private_random_state(seed):
                expected = masked.run(example)
        except InputError:
            if batch_size == size:
                raise
            continue  # the dense model takes the example's batch size only
        batch_sizes.append(batch_size)
        with private_random_state(seed):  # a program may draw random numbers in evaluation mode too
            found = _run_compact(compact, example)
        undefined += sum(int(output.isnan().sum()) for output in _tensors(expected))
        for first, second in zip(_tensors(expected), _tensors(found), strict=True):
            error, scale = max(error, difference(first, second)), max(scale, scale_of(first))
        if error <= tolerance * scale and scale > 0:
            continue
        # an output that is zero everywhere (a head before training) proves nothing, so every node is compared
        where = first_difference(masked, compact, example, tolerance, seed)
        if error > tolerance * scale or where is not None:
            raise VerificationError(
                f"the compact program differs from the masked one: max abs error {error:.3g} at output scale "
                f"{scale:.3g}, tolerance {tolerance:g} of the scale, batch size {batch_size}. "
                f"{where or 'No single node differs.'}"
            )
    if undefined:
        log.warning(
            "the network gives %d values that are not a number on the inputs of the proof, with and without what was "
            "pruned; of them nothing is proved", undefined,
        )  # fmt: skip
    return Verification(error, scale, tolerance, tuple(batch_sizes), len(batch_sizes))


def _run_compact(compact: Program, example: Example) -> Any:
    """Runs the compact program; if it fails where the masked one runs, that is a difference as well."""
    try:
        return run_program(compact, example)
    except (RuntimeError, ValueError, IndexError, AssertionError) as error:
        if is_out_of_memory(error):
            raise
        reason = str(error).partition("\n")[0]
        raise VerificationError(f"the compact program fails where the masked one runs: {reason}") from error


def _tolerance(program: Program) -> float:
    types = {parameter.dtype for parameter in program.module.parameters() if parameter.is_floating_point()}
    return max((TOLERANCES.get(dtype, 1e-5) for dtype in types), default=1e-5)


def masked_tensors(tensors: dict[str, Tensor], kept: Kept) -> dict[str, Tensor]:
    """Returns the tensors with zeros in every removed slice."""
    result = dict(tensors)
    for (name, dim), indices in kept.items():
        tensor = result[name].detach()
        zero = torch.zeros_like(tensor)
        index = indices.to(tensor.device)
        result[name] = zero.index_copy(dim, index, tensor.index_select(dim, index))
    return result


def _tensors(value: Any) -> list[Tensor]:
    return [getattr(leaf, "value", leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def first_difference(
    masked: MaskedProgram, compact: Program, example: Example, tolerance: float, seed: int = 0
) -> str | None:
    """Names the first node whose compact result is not the compact form of the masked result; None if there is none."""
    expected: dict[str, list[Tensor]] = {}

    def record(node: fx.Node, result: Any) -> None:
        leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Labelled)]
        expected[node.name] = [gather(leaf.value, leaf.planes, masked.keep).clone() for leaf in leaves]

    with private_random_state(seed):
        masked.run(example, record)
    watch = _Watch(compact.module, expected, tolerance)
    with evaluating(compact.module), keeping_buffers(compact.module), private_random_state(seed):
        try:
            watch.run(*compact.inputs(example), enable_io_processing=False)
        except Exception as error:  # the compact program may fail in any op
            return f"The compact program fails: {error}"
    return watch.message


class _Watch(fx.Interpreter):
    """Runs a program and compares each node's result with what is expected."""

    def __init__(self, module: fx.GraphModule, expected: dict[str, list[Tensor]], tolerance: float) -> None:
        super().__init__(module)
        self.expected, self.tolerance = expected, tolerance
        self.message: str | None = None
        self.largest = 0.0

    def run_node(self, n: fx.Node) -> Any:
        result = super().run_node(n)
        for first, second in zip(self.expected.pop(n.name, []), _tensors(result), strict=False):
            self.compare(n, first, second)
        return result

    def compare(self, node: fx.Node, expected: Tensor, found: Tensor) -> None:
        """Notes the first node that differs."""
        error, scale = difference(expected, found), scale_of(expected)
        self.largest = max(self.largest, scale)
        # values that cancel keep the roundings of their terms, hence a share of the largest value so far
        allowed = self.tolerance * max(scale, 1e-3 * self.largest)
        if not error <= allowed and self.message is None:
            self.message = (
                f"The first node that differs is %{node.name} ({node.target}): expected shape {tuple(expected.shape)}, "
                f"got {tuple(found.shape)}, max abs error {error:.3g}."
            )
