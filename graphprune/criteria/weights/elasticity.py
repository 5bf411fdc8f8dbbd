"""Elasticity of the loss with respect to each weight."""

from __future__ import annotations

from graphprune.costs.pool import full_weights
from graphprune.criteria.gradients import mean_gradients, private_copy
from graphprune.criteria.scores import WeightScores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.criteria.weights.criterion import WEIGHT_CRITERIA
from graphprune.errors import LossError
from graphprune.process_state import private_random_state
from graphprune.program.program import Program


@WEIGHT_CRITERIA.register("elasticity")
def elasticity(program: Program, sensitivity: Sensitivity) -> WeightScores:
    """|w dL/dw| / L, with the gradient of the network whose dead weights are zero.

    Source: formula 3 of the SNIP-it paper for ``accumulate="signed"``. ``"absolute"`` and ``"squared"`` take the
        absolute value or the square of the mean gradient of each few samples (`Sensitivity.together`). If weights can
        come back, w of a dead weight is its former value, as in equation 7 of FORCE (de Jorge et al. 2021).

    Raises:
        InputError: the data is empty or does not fit the model.
        LossError: the loss or its gradient is not finite, or the loss is 0.
    """
    weights = full_weights(program)
    module = private_copy(program.module)
    own = dict(module.named_parameters())
    wanted = [own[name] for name in weights]
    with private_random_state(sensitivity.seed):
        means, loss, count = mean_gradients(module, wanted, sensitivity)
    if loss == 0:
        raise LossError("the mean loss of the sensitivity samples is 0; elasticity is relative to the loss")
    if sensitivity.accumulate == "squared":
        means = [mean.sqrt() for mean in means]
    importance = {
        name: (weight.double() * mean.double()).abs() / abs(loss)
        for (name, weight), mean in zip(weights.items(), means, strict=True)
    }
    return WeightScores(importance, "elasticity", loss, count)
