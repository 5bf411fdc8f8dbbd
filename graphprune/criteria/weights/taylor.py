"""First-order Taylor importance of weights."""

from __future__ import annotations

from graphprune.costs.pool import full_weights
from graphprune.criteria.gradients import differentiate
from graphprune.criteria.scores import WeightScores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.criteria.weights.criterion import WEIGHT_CRITERIA
from graphprune.process_state import private_random_state
from graphprune.program.program import Program


@WEIGHT_CRITERIA.register("taylor")
def taylor(program: Program, sensitivity: Sensitivity) -> WeightScores:
    """(w dL/dw)^2, where L is the mean loss over all samples: the squared change of L without w, to first order.

    Source: Molchanov et al. 2019, Importance Estimation for Neural Network Pruning, the first-order importance of a
        single weight. The paper averages the square over minibatches, which adds a variance of the gradient that
        depends on the batch size; here all samples are one minibatch, so that the batch size does not matter.
        ``accumulate`` has no effect; the ranking is that of "elasticity" with ``accumulate="signed"``.

    Raises:
        InputError: the data is empty or does not fit the model.
        LossError: the loss or its gradient is not finite, or the loss does not depend on the weights.
    """
    with private_random_state(sensitivity.seed):
        run = differentiate(program, sensitivity, squared=False)
    own = dict(run.module.named_parameters())
    importance = {}
    for name, weight in full_weights(program).items():
        gradient = own[name].grad
        assert gradient is not None  # `differentiate` gives each parameter one, of zeros if the loss has none
        importance[name] = (weight.double() * gradient.double()).square()
    return WeightScores(importance, "taylor", run.loss, run.samples)
