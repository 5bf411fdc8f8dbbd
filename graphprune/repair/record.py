"""What a repair did."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from graphprune.program.facts import Fact
from graphprune.program.module_state import is_same
from graphprune.program.program import Program
from graphprune.program.tensors import stored_tensors


@dataclass(frozen=True)
class RepairedLayer:
    """A layer whose weights or statistics were fitted.

    Attributes:
        name: Path of the layer in the user's model, or the name of its weight where a function reads it.
        error_before: Squared distance from the dense model's values on held-out samples, as a share of their variance.
        error_after: The same after the fit.
        ridge: Strength with which the weights were pulled towards the old ones, as a share of the mean variance of the
            inputs; None where nothing was pulled: statistics were taken, or no fit was better than the old weights.
        tensors: Names of the parameters and buffers that have changed.
    """

    name: str
    error_before: float
    error_after: float
    ridge: float | None = None
    tensors: tuple[str, ...] = field(default=(), repr=False)


@dataclass(frozen=True)
class Repair(Fact):
    """A repair of a compact program.

    Attributes:
        method: What was done: ``"least-squares"`` or ``"recalibrate"``.
        samples: Number of samples that were fitted to.
        held_out: Number of further samples, on which errors and losses were measured.
        loss_before: Squared distance of the outputs from those of the dense model on held-out samples, as a share of
            the squared norm of the latter.
        loss_after: The same after the repair.
        accepted: Whether the repaired weights were taken; they were not if the loss had grown.
        layers: What was fitted, in the order of the graph.
        left: What was not fitted, by name, each with the reason.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("refit-layers", "recalibrate-norms")

    method: str
    samples: int
    held_out: int
    loss_before: float
    loss_after: float
    accepted: bool
    layers: tuple[RepairedLayer, ...]
    left: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        """One line: how far the outputs are from those of the dense model, before and after."""
        done = f"{len(self.layers)} layers fitted to {self.samples} samples"
        outcome = "" if self.accepted else "; that is no better, so everything stays as it was"
        return (
            f"{self.method}: {done}; distance from the dense model on {self.held_out} others "
            f"{self.loss_before:.3g} -> {self.loss_after:.3g}{outcome}"
        )


def changes_elsewhere(before: Program, after: Program) -> list[str]:
    """Messages about shapes that a repair has changed, and about values that it has changed and does not name."""
    named = {name for layer in after[Repair].layers for name in layer.tensors}
    old, new = stored_tensors(before.module), stored_tensors(after.module)
    problems = [f"{name} is there only before or after" for name in old.keys() ^ new.keys()]
    for name in old.keys() & new.keys():
        if old[name].shape != new[name].shape:
            problems.append(f"{name} has the shape {tuple(new[name].shape)}, had {tuple(old[name].shape)}")
        elif name not in named and not is_same(old[name].detach(), new[name].detach()):
            problems.append(f"{name} has changed, though no fitted layer has it")
    return problems
