"""A loss for training loops: how far a compact network is from the dense one."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from graphprune.compiled import Compiled
from graphprune.criteria.losses import run_batch
from graphprune.criteria.samples import Batch
from graphprune.distillation.features import Features
from graphprune.distillation.soft_targets import divergence
from graphprune.errors import OptionError, shown
from graphprune.program.example import Example
from graphprune.program.module_state import evaluating, is_same
from graphprune.program.tensors import stored_parameters
from graphprune.request.options import check_positive


class Distillation:
    """A loss ``distillation(inputs)``: it runs both networks, and needs no targets.

    Attributes:
        dense: The network to come near to; it is run in evaluation mode, without gradients.
        compact: The network that is trained; it is run in its own mode.
    """

    def __init__(
        self, dense: nn.Module, compact: nn.Module, temperature: float | None, features: Features | None, weight: float
    ) -> None:
        self.dense, self.compact = dense, compact
        self._temperature, self._features, self._weight = temperature, features, weight

    def __call__(self, inputs: Any) -> Tensor:
        """The loss of a batch, a scalar with gradients in the parameters of the compact network.

        Args:
            inputs: A tensor, a tuple of arguments, or a dict of keyword arguments.

        Raises:
            InputError: a network cannot take the inputs.
            LossError: the outputs of the two networks cannot be compared.
        """
        return self.with_output(Example.of(inputs))[0]

    def with_output(self, inputs: Example) -> tuple[Tensor, Any]:
        """The loss of a batch, and the compact network's output, for losses of its own."""
        if self._features is not None:
            found, wanted, inside = self._features.run(inputs)
            return divergence(found, wanted, self._temperature) + self._weight * inside, found
        batch = Batch(inputs, None, inputs.batch_size)
        with evaluating(self.dense):
            wanted = run_batch(self.dense, batch)
        found = run_batch(self.compact, batch)
        return divergence(found, wanted, self._temperature), found


def distill(
    dense: nn.Module, compact: Compiled | nn.Module, *, temperature: float | None = 3.0, features: float = 0.0
) -> Distillation:
    """Makes a loss that is small where a compact network computes what the dense one computes.

    It needs no targets: ``loss = distillation(inputs)``. Where there are targets, other losses can be added.

    Source: Hinton et al. 2015, Distilling the Knowledge in a Neural Network, for the outputs; Romero et al. 2015,
        FitNets, for values inside, here at the channels that are left, without layers of their own in between.

    Args:
        dense: The network to come near to. It is run in evaluation mode.
        compact: The result of a compilation, or any other network that takes the same inputs.
        temperature: Above 0, for outputs that are logits ``(N, classes, ...)``: the loss is the divergence of the
            softened predictions, times the temperature squared. With None the outputs themselves are compared, as a
            share of their mean square; that suits regressions and embeddings.
        features: Weight of the values inside: residual sums, or in a network without them the results of convolutions
            and linear layers. It needs the result of a compilation, which says which dense channels are left.

    Raises:
        OptionError: an option is out of range, or ``features`` cannot work because ``compact`` is not the result of a
            compilation of ``dense``.
    """
    if not isinstance(dense, nn.Module):
        raise OptionError(f"dense={shown(dense)}: give the model that was pruned, or another teacher")
    module = compact.module if isinstance(compact, Compiled) else compact
    if not isinstance(module, nn.Module):
        raise OptionError(f"compact={shown(compact)}: give what graphprune.compile returned, or a module")
    if temperature is not None:
        check_positive(temperature=temperature)
    if features:
        check_positive(features=features)
    else:
        return Distillation(dense, module, temperature, None, 0.0)
    if not isinstance(compact, Compiled):
        raise OptionError("features= needs the result of graphprune.compile, which says which channels are left")
    programs = compact.programs()
    _check_same_weights(dense, programs[0].module)
    return Distillation(dense, module, temperature, Features.of(*programs), float(features))


def _check_same_weights(dense: nn.Module, captured: nn.Module) -> None:
    theirs = dict(dense.named_parameters(remove_duplicate=False))
    for name, parameter in stored_parameters(captured).items():
        if name not in theirs or not is_same(theirs[name].detach().to(parameter.device), parameter.detach()):
            raise OptionError(
                f"features= compares with the model that was pruned, and dense has another {name}; give that model, or "
                "leave features out"
            )
