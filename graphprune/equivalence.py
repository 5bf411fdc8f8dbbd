"""Translation validation: the compact program computes what the masked dense program computes.

Masked means: every removed slice of every parameter and buffer is zero, and ops that mix statistics over channels (layer
norm, a mean or softmax over channels) see the kept channels only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from graphprune.dependencies import Dependencies
from graphprune.errors import VerificationError
from graphprune.interpret import evaluating, interpret
from graphprune.labelled import Labelled, LabelRun
from graphprune.labels import ReplayedSpace
from graphprune.planes import gather
from graphprune.program import Example, Kept, Program, device_of, stored_tensors

TOLERANCES = {torch.float64: 1e-10, torch.float32: 1e-5, torch.bfloat16: 3e-2, torch.float16: 5e-3}
"""Largest error as a share of the output's scale: some hundred roundings of each type, summed in another order."""


@dataclass(frozen=True)
class Verification:
    """What was compared.

    Attributes:
        max_abs_error: Largest difference between an output of the compact and of the masked program.
        scale: Largest absolute output of the masked program.
        tolerance: Permitted share of the scale.
        batch_sizes: Batch sizes that were tried.
        inputs_tried: Number of inputs.
    """

    max_abs_error: float
    scale: float
    tolerance: float
    batch_sizes: tuple[int, ...]
    inputs_tried: int

    @property
    def relative_error(self) -> float:
        """Error as a share of the output's scale."""
        return self.max_abs_error / self.scale if self.scale else self.max_abs_error


def verify_compact(
    dense: Program,
    dependencies: Dependencies,
    keep: Tensor,
    compact: Program,
    values: Mapping[str, Tensor] | None = None,
    seed: int = 0,
) -> Verification:
    """Compares a compact program with the masked dense one on fresh inputs, at two batch sizes where the batch is free.

    Args:
        dense: The program before pruning.
        dependencies: Its channels.
        keep: Bool per channel.
        compact: The program after pruning.
        values: Stored tensors of the dense program; its own by default.
        seed: Of the inputs.

    Raises:
        VerificationError: they differ; names the first node that does.
    """
    masked = masked_tensors(dict(values or stored_tensors(dense.module)), dependencies.kept(keep))
    labels = dependencies.keep_labels(keep)
    generator = torch.Generator().manual_seed(seed)
    size = dense.example.batch_size
    batch_sizes = (size, size + 1) if dense.batch_is_free else (size,)
    error, scale = 0.0, 0.0
    tolerance = _tolerance(compact)
    for batch_size in batch_sizes:
        example = dense.example.fresh(batch_size, generator)
        expected = _run_masked(dense, dependencies, labels, masked, example)
        found = run_program(compact, example)
        for first, second in zip(_tensors(expected), _tensors(found), strict=True):
            error = max(error, _difference(first, second))
            scale = max(scale, _scale(first))
        # not "error > tolerance": a NaN must fail too
        if not error <= tolerance * max(scale, torch.finfo(torch.float32).tiny):
            where = first_difference(dense, dependencies, labels, masked, compact, example, tolerance)
            raise VerificationError(
                f"the compact program differs from the masked one: max abs error {error:.3g} at output scale {scale:.3g}, "
                f"tolerance {tolerance:g} of the scale, batch size {batch_size}. {where}"
            )
    return Verification(error, scale, tolerance, batch_sizes, len(batch_sizes))


def _tolerance(program: Program) -> float:
    types = {parameter.dtype for parameter in program.module.parameters() if parameter.is_floating_point()}
    return max(TOLERANCES.get(dtype, 1e-5) for dtype in types)


def masked_tensors(tensors: dict[str, Tensor], kept: Kept) -> dict[str, Tensor]:
    """The tensors with zeros in every removed slice."""
    result = dict(tensors)
    for (name, dim), indices in kept.items():
        tensor = result[name].detach()
        zero = torch.zeros_like(tensor)
        index = indices.to(tensor.device)
        result[name] = zero.index_copy(dim, index, tensor.index_select(dim, index))
    return result


def run_program(program: Program, example: Example) -> Any:
    """The flat outputs of a program in evaluation mode."""
    with evaluating(program.module):
        return fx.Interpreter(program.module).run(*program.inputs(example), enable_io_processing=False)


def _run_masked(
    program: Program,
    dependencies: Dependencies,
    labels: Tensor,
    masked: Mapping[str, Tensor],
    example: Example,
    record: Callable[[fx.Node, Any], None] = lambda node, result: None,
) -> Any:
    run = LabelRun(ReplayedSpace(dependencies.space), device_of(program), keep=labels)
    return interpret(program, run, masked, example, record)


def _tensors(value: Any) -> list[Tensor]:
    return [getattr(leaf, "value", leaf) for leaf in tree_leaves(value) if isinstance(leaf, Tensor)]


def _difference(first: Tensor, second: Tensor) -> float:
    if first.shape != second.shape:
        return float("inf")
    if first.numel() == 0:
        return 0.0
    if not first.is_floating_point():
        return float((first != second).double().max())
    same = (first == second) | (first.isnan() & second.isnan())
    return float(torch.where(same, 0.0, (first.double() - second.double()).abs()).max())


def _scale(tensor: Tensor) -> float:
    finite = tensor[tensor.isfinite()] if tensor.is_floating_point() else tensor
    return float(finite.double().abs().max()) if finite.numel() else 0.0


def first_difference(
    dense: Program,
    dependencies: Dependencies,
    labels: Tensor,
    masked: Mapping[str, Tensor],
    compact: Program,
    example: Example,
    tolerance: float,
) -> str:
    """Names the first node whose compact result is not the compact form of the masked result."""
    expected: dict[str, list[Tensor]] = {}

    def record(node: fx.Node, result: Any) -> None:
        leaves = [leaf for leaf in tree_leaves(result) if isinstance(leaf, Labelled)]
        expected[node.name] = [gather(leaf.value, leaf.planes, labels).clone() for leaf in leaves]

    _run_masked(dense, dependencies, labels, masked, example, record)

    class Watch(fx.Interpreter):
        message = "No single node differs"

        def run_node(self, n: fx.Node) -> Any:
            result = super().run_node(n)
            for first, second in zip(expected.get(n.name, []), _tensors(result), strict=False):
                error = _difference(first, second)
                if not error <= tolerance * max(_scale(first), 1e-30) and self.message.startswith("No"):
                    self.message = (
                        f"The first node that differs is %{n.name} ({n.target}): expected shape {tuple(first.shape)}, got "
                        f"{tuple(second.shape)}, max abs error {error:.3g}"
                    )
            return result

    watch = Watch(compact.module)
    with evaluating(compact.module):
        try:
            watch.run(*compact.inputs(example), enable_io_processing=False)
        except Exception as error:  # the compact program may fail in any op
            return f"The compact program fails: {error}"
    return watch.message
