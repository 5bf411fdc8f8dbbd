"""First-order Taylor importance of channels, by gates."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from graphprune.criteria.criterion import CRITERIA
from graphprune.criteria.elasticity import mean_gate_gradient
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.gates.insertion import Gating
from graphprune.program.program import Program


@dataclass(frozen=True)
class Taylor:
    """(dL/dc)^2 for a gate c = 1 on the channel, where L is the mean loss over all samples.

    It is the squared change of the loss when the gate closes, to first order. The gradient with respect to the gate is
    sum_s w_s dL/dw_s: on a channel of a linear layer or a convolution over the weights and the bias that make it, after
    a batch norm over its scale and shift.

    Source: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, the first-order importance with
        gates after the batch norms. The paper averages the square over minibatches, which adds a variance of the
        gradient that depends on the batch size; here all samples are one minibatch, so that the batch size does not
        matter. ``accumulate`` has no effect; the ranking is that of "elasticity" with ``accumulate="signed"``.
    """

    __name__: ClassVar[str] = "taylor"

    def gating(self, sensitivity: Sensitivity) -> Gating:
        """One set of gates for all samples."""
        return Gating()

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        """Draws the samples and scores the channels; leaves no trace on the program or the random state.

        Raises:
            InputError: the data is empty or does not fit the model.
            LossError: the loss or its gradient is not finite.
        """
        signed = replace(sensitivity, accumulate="signed")
        mean, loss, count = mean_gate_gradient(program, signed, self.gating(signed))
        return Scores(mean.square(), "taylor", loss, count, is_squared=True)


CRITERIA.register("taylor")(Taylor())
