"""The Fisher information of each channel, by gates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphprune.criteria.criterion import CRITERIA
from graphprune.criteria.elasticity import mean_gate_gradient
from graphprune.criteria.per_cost import PerCost
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.gates.insertion import Gating
from graphprune.program.program import Program


@dataclass(frozen=True)
class Fisher:
    """The mean over samples of (dL_n/dc)^2 for a gate c = 1 on the channel, where L_n is the loss of a sample.

    It is the diagonal of the empirical Fisher matrix of the gates: to second order, twice the loss that removing the
    channel costs a model that is trained to the end. Unlike elasticities it adds up over channels, as costs do.
    ``accumulate`` has no effect.

    Source: Theis et al. 2018, Faster Gaze Prediction With Dense Networks and Fisher Pruning, with gates as in
        `graphprune.criteria.elasticity`.
    """

    __name__: ClassVar[str] = "fisher"

    def gating(self, sensitivity: Sensitivity) -> Gating:
        """A set of gates for each sample."""
        return Gating(per_sample=True)

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        """Draws the samples and scores the channels; leaves no trace on the program or the random state.

        Raises:
            InputError: the data is empty or does not fit the model.
            LossError: the loss or its gradient is not finite.
        """
        squared = replace(sensitivity, accumulate="squared")
        mean, loss, count = mean_gate_gradient(program, squared, self.gating(squared))
        return Scores(mean, "fisher", loss, count, is_squared=True)


CRITERIA.register("fisher")(Fisher())
CRITERIA.register("fisher-per-mac")(PerCost("fisher"))
CRITERIA.register("fisher-per-param")(PerCost("fisher", "params"))
