"""Values inside of a compact program, and those of the dense program at the channels that are left."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.program.example import Example
from graphprune.program.module_state import evaluating
from graphprune.program.program import Program
from graphprune.repair.sites import sites_of
from graphprune.training.masks import settle


@dataclass(frozen=True)
class Features:
    """Where two programs are compared inside.

    Attributes:
        dense: The dense program; it is run in evaluation mode, without gradients.
        compact: The compact program; it is run in the mode of its module.
        channels: By node, the dim of the channels and the indices of the dense ones that are left.
    """

    dense: Program
    compact: Program
    channels: Mapping[str, tuple[int, Tensor]]

    @classmethod
    def of(cls, dense: Program, compact: Program) -> Features:
        """The residual sums of a program, or, if it has none, what its convolutions and linear layers compute."""
        keep = KeepSet.of_indices(dense[Dependencies], compact.history.kept)
        sites = sites_of(dense, compact, keep).sites
        chosen = [site for site in sites if site.sum is not None] or sites
        return cls(dense, compact, {site.target: (site.affine.geometry.channel_dim, site.channels) for site in chosen})

    def run(self, inputs: Example) -> tuple[Any, Any, Tensor]:
        """Outputs of the compact and of the dense program, and the mean distance of the values inside.

        A distance is squared, and a share of the mean square of the dense values.
        """
        theirs = _Watched(self.dense.module, self.channels)
        with evaluating(self.dense.module):
            wanted = theirs.run(*self.dense.inputs(inputs))
        settle(self.compact.module)  # the interpreter runs no hooks of the module, such as the one that holds masks
        ours = _Watched(self.compact.module, self.channels)
        found = ours.run(*self.compact.inputs(inputs))
        distances = []
        for name, (dim, channels) in self.channels.items():
            target = theirs.seen[name].index_select(dim, channels.to(theirs.seen[name].device))
            distances.append((ours.seen[name] - target).square().mean() / target.square().mean().clamp_min(1e-12))
        total = torch.stack(distances).mean() if distances else torch.zeros(())
        return found, wanted, total


class _Watched(fx.Interpreter):
    """Keeps the values of some nodes."""

    def __init__(self, module: fx.GraphModule, names: Mapping[str, object]) -> None:
        super().__init__(module)
        self._names, self.seen = names, dict[str, Tensor]()

    def run_node(self, n: fx.Node) -> Any:
        value = super().run_node(n)
        if n.name in self._names:
            self.seen[n.name] = value
        return value
