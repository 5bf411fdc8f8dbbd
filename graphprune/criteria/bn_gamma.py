"""The criterion of network slimming: scales of batch norms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from graphprune.criteria.criterion import CRITERIA
from graphprune.criteria.from_weights import put_last
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.labels.dependencies import Dependencies
from graphprune.program.program import Program
from graphprune.program.tensors import Layers, stored_parameters


@dataclass(frozen=True)
class BatchNormGamma:
    """|gamma| of the batch norm that a channel goes through.

    A channel that goes through several batch norms (a residual stream that each block writes to, a channel that dense
    blocks read again) gets the mean of their |gamma|. Groups that go through none are removed last, with a warning,
    because network slimming leaves such layers alone.

    Source: Liu et al. 2017, Learning Efficient Convolutional Networks through Network Slimming, with a global threshold
        on |gamma|. The paper trains gammas with an L1 penalty; in a new model they are all 1, and their ranking is
        arbitrary.
    """

    __name__: ClassVar[str] = "bn-gamma"

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        """Scores the channels; needs no data, and does not change the program.

        Raises:
            OptionError: no group goes through a batch norm with scales.
        """
        dependencies = program[Dependencies]
        read = {id(gamma) for gamma in _gammas(program)}
        gammas = {name: each for name, each in stored_parameters(program.module).items() if id(each) in read}
        total = torch.zeros(dependencies.channels + 1, dtype=torch.float64)
        count = torch.zeros_like(total)
        for owner in dependencies.stored:
            if owner.name in gammas:
                channels = dependencies.channel_of[owner.start : owner.start + owner.size] % len(total)
                scales = gammas[owner.name].detach().abs().double().cpu()
                total.index_add_(0, channels, scales)
                count.index_add_(0, channels, torch.ones_like(scales))
        importance = (total / count.clamp(min=1))[:-1]
        unrated = [group for group in dependencies.groups if not bool(count[group.start : group.stop].any())]
        why = "they go through no batch norm"
        put_last(importance, unrated, dependencies.groups, self.__name__, why, sensitivity.warned)
        return Scores(importance, self.__name__)


CRITERIA.register("bn-gamma")(BatchNormGamma())


def _gammas(program: Program) -> Iterator[nn.Parameter]:
    """Scales of the batch norms that the graph calls, as layers or as functions."""
    layers = Layers(program.module)
    for node in program.module.graph.nodes:
        if node.op == "call_module" and isinstance(layer := layers.called_by(node), _BatchNorm):
            found: Any = layer.weight
        elif node.op == "call_function" and "batch_norm" in str(getattr(node.target, "__name__", "")):
            found = _given_to(program.module, node)
        else:
            continue
        if isinstance(found, nn.Parameter):
            yield found


def _given_to(module: nn.Module, node: fx.Node) -> Any:
    place = 3 if node.target is functional.batch_norm else 1  # after the statistics, or before them as in ATen
    given = node.kwargs.get("weight", node.args[place] if len(node.args) > place else None)
    if not isinstance(given, fx.Node) or given.op != "get_attr":
        return None
    home, _, name = str(given.target).rpartition(".")
    return getattr(module.get_submodule(home), name)
