"""GraSP of channels: the contribution of their weights to the gradient flow."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from graphprune.criteria.criterion import CRITERIA
from graphprune.criteria.from_weights import channel_scores
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.criteria.weights.grasp import Grasp
from graphprune.program.program import Program


@dataclass(frozen=True)
class GraspOfChannels:
    """Sum of w * (H g) over the weights that make a channel, see `graphprune.criteria.weights.grasp.Grasp`.

    The sum is half of what the gradient flow |g|^2 loses, to first order, if all of these weights are removed at once.
    It may be negative: such a channel hinders the gradient flow, and is removed first. A channel that no weight makes
    is removed last.

    Source: Wang et al. 2020, with the change -w of all weights of a channel.

    Attributes:
        temperature: T, greater than 0, which logits are divided by; 1 for outputs that are not a tensor of logits.

    Raises:
        OptionError: the temperature is not a number greater than 0.
    """

    temperature: float = 200.0
    __name__: ClassVar[str] = "grasp"

    def __post_init__(self) -> None:
        Grasp(self.temperature)

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        """Scores the channels, in two passes over the samples; leaves no trace on the program or the random state.

        Raises:
            InputError: the data is empty or does not fit the model.
            LossError: the loss or a derivative is not finite, or an op has no second derivative.
            OptionError: no weight makes a channel.
        """
        found = Grasp(self.temperature)(program, sensitivity)
        importance = channel_scores(program, found.importance, self.__name__, sensitivity.warned)
        return Scores(importance, self.__name__, found.loss, found.samples)


CRITERIA.register("grasp")(GraspOfChannels())
