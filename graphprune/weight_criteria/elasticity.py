"""Elasticity of the loss in each weight."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from graphprune.criteria.criterion import Sensitivity
from graphprune.criteria.elasticity import ACCUMULATE, single_samples
from graphprune.criteria.gradients import gradients_of, private_copy
from graphprune.data import Batch
from graphprune.errors import LossError
from graphprune.program import Program, device_of
from graphprune.randomness import private_random_state
from graphprune.weight_criteria.criterion import WEIGHT_CRITERIA, WeightScores
from graphprune.weight_pool import full_weights


@WEIGHT_CRITERIA.register("elasticity")
def elasticity(program: Program, sensitivity: Sensitivity) -> WeightScores:
    """|w dL/dw| / L, the gradient taken where dead weights are zero.

    Source: formula 3 of the SNIP-it paper for ``accumulate="signed"``. ``"absolute"`` and ``"squared"`` take the
        absolute value or the square of each sample's gradient, with a backward pass for each. Where weights can come
        back, w of a dead one is what it was: FORCE (de Jorge et al. 2021), equation 7.

    Raises:
        InputError: the data is empty or does not fit the model.
        LossError: the loss or its gradient is not finite, or the loss is 0.
    """
    weights = full_weights(program)
    module = private_copy(program.module)
    own = dict(module.named_parameters())
    wanted = [own[name] for name in weights]
    with private_random_state(sensitivity.seed):
        totals, loss, count = _accumulated(module, wanted, program, sensitivity)
    if loss == 0:
        raise LossError("the mean loss of the sensitivity samples is 0; elasticity is relative to the loss")
    means = [total / count for total in totals]
    if sensitivity.accumulate == "squared":
        means = [mean.sqrt() for mean in means]
    importance = {
        name: (weight.double() * mean.double()).abs() / abs(loss)
        for (name, weight), mean in zip(weights.items(), means, strict=True)
    }
    return WeightScores(importance, "elasticity", loss, count)


def _accumulated(
    module: nn.Module, parameters: list[nn.Parameter], program: Program, sensitivity: Sensitivity
) -> tuple[list[Tensor], float, int]:
    """Sums over samples of the accumulated gradients, the mean loss, and the number of samples."""
    accumulate = ACCUMULATE[sensitivity.accumulate]
    batches: Iterable[Batch] = sensitivity.stream.draw(sensitivity.samples, device_of(program))
    # in half precision thousands of small terms would not add up
    totals = [torch.zeros_like(each, dtype=torch.promote_types(each.dtype, torch.float32)) for each in parameters]
    loss_sum, count = 0.0, 0
    for batch in batches if sensitivity.accumulate == "signed" else single_samples(batches):
        gradients, loss = gradients_of(module, parameters, batch, sensitivity.loss)
        for total, gradient in zip(totals, gradients, strict=True):
            if gradient is not None:
                total += accumulate(gradient.to(total)) * batch.size
        loss_sum += loss * batch.size
        count += batch.size
    return totals, loss_sum / count, count
