"""Elasticities of all channels and of all weights, sorted: how steeply importance falls."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.capture import capture
from graphprune.costs.pool import live_of, pool_of
from graphprune.criteria.criterion import scores_of
from graphprune.criteria.elasticity import Elasticity
from graphprune.criteria.losses import cross_entropy
from graphprune.criteria.samples import SampleStream
from graphprune.criteria.sensitivity import Accumulate, Sensitivity, check_accumulate
from graphprune.criteria.weights import weight_scores_of
from graphprune.criteria.weights.elasticity import elasticity
from graphprune.errors import OptionError
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.program.example import Example
from graphprune.program.program import Program

POINTS = 1000
"""Points of a curve: more than a figure is wide, yet few enough for a line of JSON."""


@dataclass(frozen=True)
class Curve:
    """Values in descending order, at ranks that are equally far apart on a logarithmic scale.

    Attributes:
        ranks: From 1, ascending; the first and the last value are among them.
        values: Values at these ranks.
        count: Count of all values.
        zeros: How many are 0, which a logarithmic scale does not show.
    """

    ranks: tuple[int, ...]
    values: tuple[float, ...]
    count: int
    zeros: int

    @classmethod
    def of(cls, values: Tensor, points: int = POINTS) -> Curve:
        """Returns the curve of values of any shape.

        Raises:
            OptionError: `points` is below 2.
        """
        if points < 2:
            raise OptionError(f"points must be 2 or more, got {points}")
        ordered = values.detach().double().cpu().flatten().sort(descending=True).values
        if not len(ordered):
            return cls((), (), 0, 0)
        ranks = torch.logspace(0, torch.tensor(float(len(ordered))).log10().item(), points, dtype=torch.float64)
        ranks = ranks.round().long().clamp(1, len(ordered)).unique()
        return cls(tuple(ranks.tolist()), tuple(ordered[ranks - 1].tolist()), len(ordered), int((ordered == 0).sum()))


@dataclass(frozen=True)
class ElasticityCurves:
    """Returns the elasticities of the network as it is.

    Attributes:
        channels: Elasticities of channels that can go.
        weights: Elasticities of live weights of convolutions and linear layers.
        loss: Mean loss over the samples, which elasticities are relative to.
        samples: Number of samples.
    """

    channels: Curve
    weights: Curve
    loss: float
    samples: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, ready for JSON."""
        return asdict(self)


def elasticity_curves(
    model: nn.Module, example_input: Any, data: Iterable[Any], *, loss: Callable[[Any, Any], Any] | None = None,
    samples: int = 2560, accumulate: Accumulate = "signed", seed: int = 0,
) -> ElasticityCurves:  # fmt: skip
    """Scores the channels and the weights of a network, and sorts the scores.

    Args:
        model: The network; it is not changed.
        example_input: See `graphprune.compile`.
        data: Batches ``(inputs, target)``, to be iterated several times.
        loss: ``loss(output, target)``; cross-entropy by default.
        samples: Samples to score with.
        accumulate: ``"signed"`` is the paper's.
        seed: Seed of random numbers in the network.

    Raises:
        InputError: the data does not fit the model.
        LossError: the loss or its gradient is not finite, or the loss is 0.
    """
    program = Runner().run(pipelines.analysis(), capture(model, example_input))
    stream = SampleStream(data, Example.of(example_input))
    return curves_of(program, Sensitivity(stream, loss or cross_entropy, samples, check_accumulate(accumulate), seed))


def curves_of(program: Program, sensitivity: Sensitivity, points: int = POINTS) -> ElasticityCurves:
    """Returns the elasticities of an analysed program, without those of dead weights.

    Channels are scored first, then weights, on consecutive samples of the stream.
    """
    channels = scores_of(Elasticity(), program, sensitivity)
    weights = weight_scores_of(elasticity, program, sensitivity)
    live = [weights.importance[name][live_of(program, name, weight)] for name, weight in pool_of(program).items()]
    assert weights.loss is not None
    curve = Curve.of(torch.cat(live) if live else torch.empty(0), points)
    return ElasticityCurves(Curve.of(channels.importance, points), curve, weights.loss, weights.samples)
