"""SynFlow of channels: the part of the flow from inputs to outputs that goes through them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.criteria.criterion import CRITERIA
from graphprune.criteria.from_weights import channel_scores
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.criteria.weights.synflow import synflow
from graphprune.program.program import Program


@dataclass(frozen=True)
class SynflowOfChannels:
    """Sum of |w| dR/d|w| over the weights that make a channel, see `graphprune.criteria.weights.synflow`.

    Without skip connections that is the flow through the channel. A channel of several layers (a residual stream, a
    depthwise convolution) has the sum over all of them. A channel that no weight makes is removed last.

    Source: Tanaka et al. 2020; the sum over a neuron's incoming weights is what its theorem on neurons conserves.
    """

    __name__: ClassVar[str] = "synflow"

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        """Scores the channels; needs no data, and leaves no trace on the program or the random state.

        Raises:
            InputError: the model cannot be run on inputs of ones in float64.
            LossError: the flow is not finite, or does not depend on the weights.
            OptionError: no weight makes a channel.
        """
        of_weights = synflow(program, sensitivity).importance
        return Scores(channel_scores(program, of_weights, self.__name__, sensitivity.warned), self.__name__)


CRITERIA.register("synflow")(SynflowOfChannels())
