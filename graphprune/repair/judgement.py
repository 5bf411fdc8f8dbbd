"""How far the outputs of a program are from those of the dense one."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from graphprune.program.example import Example
from graphprune.program.module_state import run_program
from graphprune.program.program import Program
from graphprune.repair.targets import real_outputs


def distance(program: Program, batches: Sequence[Example], wanted: Sequence[tuple[Tensor, ...]]) -> float:
    """Squared distance of the outputs from what is wanted, as a share of the squared norm of the latter.

    Args:
        program: The program.
        batches: Inputs.
        wanted: For each batch, the outputs that are real numbers, flat.
    """
    apart, norm = 0.0, 0.0
    for batch, outputs in zip(batches, wanted, strict=True):
        for found, dense in zip(real_outputs(run_program(program, batch)), outputs, strict=True):
            apart += float((found - dense).square().sum())
            norm += float(dense.square().sum())
    return apart / norm if norm else apart
