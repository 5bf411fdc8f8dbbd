"""The ways from a module to a graph, in the order in which they are tried."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import fx, nn

from graphprune.capture.exported import export
from graphprune.capture.sized import trace_with_sizes
from graphprune.capture.symbolic import trace
from graphprune.program.example import Example

Route = Callable[[nn.Module, Example], fx.Graph]
"""Traces a module in evaluation mode, and may leave it in any state; raises whatever tracing raises."""


def exported(root: nn.Module, example: Example) -> fx.Graph:
    """Captures by torch.export, with at least two samples if the model takes them: torch fixes sizes 0 and 1."""
    sample = example.resized(2) if example.batch_size == 1 else example
    with _gradients_required(root):
        try:
            return export(root, sample)
        except Exception:  # tracing runs the user's code, which may raise anything
            if sample is example:
                raise
        return export(root, example)


ROUTES: dict[str, Route] = {"torch.fx": trace, "torch.fx with sizes": trace_with_sizes, "torch.export": exported}
"""Fast routes first; each covers models that the ones before it cannot follow, or follow wrongly."""


@contextmanager
def _gradients_required(root: nn.Module) -> Iterator[None]:
    """Makes all floating-point parameters require gradients for a while, so that no fused inference op is traced."""
    frozen = [p for p in root.parameters() if not p.requires_grad and p.is_floating_point()]
    for parameter in frozen:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in frozen:
            parameter.requires_grad_(False)
