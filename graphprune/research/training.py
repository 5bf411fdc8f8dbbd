"""Training by the paper's recipe.

Source: SNIP-it/SNAP-it, section 4: Adam, clipped gradient norm, cross-entropy, no learning-rate schedule.
"""

from __future__ import annotations

import copy
import logging
import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any, get_args

import torch
from torch import Tensor, nn

from graphprune.errors import OptionError
from graphprune.research.datasets import Batch, Split, mirrored
from graphprune.research.epochs import (
    Precision,
    batch_loss,
    device_of,
    mean_loss,
    mode,
    private_random_state_on,
    trainable_batches,
)

_log = logging.getLogger(__name__)

Penalty = Callable[[nn.Module], Tensor]
"""Function from a network to the scalar that is added to its loss."""


@dataclass(frozen=True)
class Recipe:
    """How to train; the defaults are the paper's, which trains for 80 epochs.

    Attributes:
        epochs: passes over the training split, 0 or more.
        batch_size: samples in a batch; the paper takes 128 on Imagenette.
        learning_rate: Learning rate of Adam, above 0; constant.
        weight_decay: L2 penalty that Adam adds to the gradient of every parameter, 0 or more.
        clip_norm: the gradient of all parameters together is scaled down to this L2 norm, above 0; `math.inf` never
            clips.
        precision: Precision of products and convolutions in a step, see `Precision`; the paper's is float32.

    Raises:
        OptionError: if a field is out of range; the message names all that are.
    """

    epochs: int
    batch_size: int = 512
    learning_rate: float = 2e-3
    weight_decay: float = 5e-5
    clip_norm: float = 10.0
    precision: Precision = "float32"

    def __post_init__(self) -> None:
        bounds = {
            "epochs must be 0 or more": self.epochs >= 0,
            "batch_size must be 1 or more": self.batch_size >= 1,
            "learning_rate must be finite and above 0": 0 < self.learning_rate < math.inf,
            "weight_decay must be finite and 0 or more": 0 <= self.weight_decay < math.inf,
            "clip_norm must be above 0": self.clip_norm > 0,
            f"precision must be one of {', '.join(get_args(Precision))}": self.precision in get_args(Precision),
        }
        wrong = [text for text, holds in bounds.items() if not holds]
        if wrong:
            raise OptionError(f"{'; '.join(wrong)}: {self}")

    def optimizer_of(self, model: nn.Module) -> torch.optim.Adam:
        """Makes the optimizer; it is fused, because otherwise it takes as long as a large linear layer on a CPU."""
        return torch.optim.Adam(model.parameters(), lr=self.learning_rate, weight_decay=self.weight_decay, fused=True)


@dataclass(frozen=True)
class TrainingResult:
    """What a training run cost and how it went.

    Attributes:
        seconds: wall-clock time of the epochs, without `on_epoch`.
        epoch_losses: mean cross-entropy in nats over the samples of each epoch. The loss of a batch is taken in
            training mode, before the step on that batch.
    """

    seconds: float
    epoch_losses: tuple[float, ...]


@dataclass(frozen=True)
class Epoch:
    """One epoch of training.

    Attributes:
        index: Number of the epoch, from 0.
        loss: Mean cross-entropy in nats over the samples. The loss of a batch is taken in training mode, before the
            step on that batch.
        seconds: Wall-clock time of the epoch.
    """

    index: int
    loss: float
    seconds: float


Observer = Callable[[nn.Module, Epoch], None]
"""Function that looks at a network at the end of an epoch; it must not change the network or the random state."""

_OBSERVERS: ContextVar[tuple[Observer, ...]] = ContextVar("observers", default=())


@contextmanager
def observed(observer: Observer) -> Iterator[None]:
    """Makes every `Trainer` call a function after each epoch for as long as the context lasts.

    The time of these calls is not counted. So a method can be measured without a change to the method.
    """
    token = _OBSERVERS.set((*_OBSERVERS.get(), observer))
    try:
        yield
    finally:
        _OBSERVERS.reset(token)


class Trainer:
    """Trains a network in place, an epoch at a time; between epochs it may be pruned.

    Between epochs the network has the modes that it came with, and the global random state is as it was, so several
    networks can be trained in turns. One seed gives one order of samples and one sequence of dropout masks. A last
    batch of one sample is dropped, because BatchNorm1d cannot train on it.

    A step is: loss and penalty, gradients, `on_gradients`, clipping, optimizer, `after_step`. All attributes may be
    changed between epochs. Code that replaces parameters of the network has to replace them in the optimizer too, as
    ``Pruner.step(optimizer=trainer.optimizer)`` does. To go on with another module, call `adopt`.

    Attributes:
        model: Network from inputs ``(B, C, H, W)`` to logits ``(B, classes)``; trained on the device it is on.
        split: Samples to train on, on any device; batches move to the device of the model.
        recipe: How to train. Its number of epochs is ignored: the caller decides how many to run.
        optimizer: Optimizer of the parameters of `model`.
        penalty: Function whose result, a scalar, is added to the loss of every step, or None. Epochs report the loss
            without it.
        flip: Probability that a training image is mirrored left to right, in [0, 1]; see `Dataset.flip`.
        on_gradients: Function that is called once the gradients are computed, before they are clipped; or None.
        after_step: Function that is called after the optimizer's step; or None.
        done: Epochs that were trained so far.
    """

    def __init__(
        self,
        model: nn.Module,
        split: Split,
        recipe: Recipe,
        seed: int,
        *,
        optimizer: torch.optim.Adam | None = None,
        penalty: Penalty | None = None,
        flip: float = 0.0,
    ) -> None:
        """Sets the attributes, and makes the recipe's optimizer where none is given.

        The seed decides the shuffling and every random number of the steps. The weights are not drawn here.

        Raises:
            OptionError: the probability of mirroring is out of range.
        """
        if not 0 <= flip <= 1:
            raise OptionError(f"flip must be a probability in [0, 1], got {flip}")
        self.model, self.split, self.recipe, self.penalty, self.flip = model, split, recipe, penalty, flip
        self.optimizer = optimizer or recipe.optimizer_of(model)
        self.on_gradients: Callable[[], None] | None = None
        self.after_step: Callable[[], None] | None = None
        self.done: list[Epoch] = []
        self._generator = torch.Generator().manual_seed(seed)

    def epoch(self) -> Epoch:
        """Trains for one pass over the samples.

        Raises:
            LossError: a loss of the epoch is not finite; the message names the first such step. It is raised at the end
                of the epoch, because a check in every step would make a CUDA device wait. The model stays as that
                epoch made it.
        """
        start, index = time.perf_counter(), len(self.done)
        dropout_seed = int(torch.randint(2**63 - 1, (), generator=self._generator))
        with mode(self.model, training=True), private_random_state_on(dropout_seed, device_of(self.model)):
            losses, counts = self._steps(trainable_batches(self.split, self.recipe.batch_size, self._generator))
        # The copy waits for the device, so the clock stops after the work.
        loss = mean_loss(losses.cpu(), counts, index)
        epoch = Epoch(index, loss, time.perf_counter() - start)
        self.done.append(epoch)
        _log.debug("epoch %d: loss %.4f, %.2f s", index, loss, epoch.seconds)
        for observer in _OBSERVERS.get():
            observer(self.model, epoch)
        return epoch

    def run(self, count: int) -> None:
        """Trains for `count` epochs."""
        for _ in range(count):
            self.epoch()

    def adopt(self, model: nn.Module) -> None:
        """Goes on with another module whose parameters have the same names and shapes.

        A new optimizer holds the parameters of that module, with the groups, the options and the state of the old
        one. Parameters that the module lacks are left out.
        """
        names = {id(parameter): name for name, parameter in self.model.named_parameters()}
        after = dict(model.named_parameters())
        groups: list[dict[str, Any]] = []
        state: dict[Tensor, Any] = {}
        for group in self.optimizer.param_groups:
            kept = [p for p in group["params"] if names.get(id(p)) in after]
            groups.append({**group, "params": [after[names[id(p)]] for p in kept]})
            state |= {after[names[id(p)]]: copy.deepcopy(self.optimizer.state[p]) for p in kept}
        self.optimizer = torch.optim.Adam(groups)
        self.optimizer.state.update({parameter: of_one for parameter, of_one in state.items() if of_one})
        self.model = model

    def _steps(self, epoch_batches: Iterator[Batch]) -> tuple[Tensor, list[int]]:
        """Takes one step per batch; returns each step's mean loss ``(steps,)``, on the device, and its sample count."""
        device = device_of(self.model)
        losses, counts = [], []
        for inputs, targets in epoch_batches:
            self.optimizer.zero_grad(set_to_none=True)
            images = mirrored(inputs.to(device), self.flip, self._generator)
            loss = batch_loss(self.model, (images, targets.to(device)), self.recipe.precision)
            (loss if self.penalty is None else loss + self.penalty(self.model)).backward()
            if self.on_gradients is not None:
                self.on_gradients()
            nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.clip_norm)
            self.optimizer.step()
            if self.after_step is not None:
                self.after_step()
            losses.append(loss.detach())
            counts.append(len(targets))
        return torch.stack(losses), counts


def epochs(model: nn.Module, split: Split, recipe: Recipe, seed: int) -> Iterator[Epoch]:
    """Train `model` in place, on the device it is on; each item of the iterator trains one epoch.

    Between epochs the model may be evaluated, but no parameter may be replaced, because the optimizer would keep the
    old one. A `Trainer` allows more.

    Args:
        model: network from inputs ``(B, C, H, W)`` to logits ``(B, classes)``.
        split: samples to train on, on any device; batches move to the device of the model.
        recipe: how to train.
        seed: seed of shuffling and dropout; the weights are not drawn here.

    Raises:
        LossError: see `Trainer.epoch`.
    """
    trainer = Trainer(model, split, recipe, seed)
    for _ in range(recipe.epochs):
        yield trainer.epoch()


def train(
    model: nn.Module,
    split: Split,
    recipe: Recipe,
    seed: int,
    on_epoch: Callable[[int, float], None] | None = None,
) -> TrainingResult:
    """Train `model` in place, on the device it is on, for all epochs of the recipe.

    Args:
        model: see `epochs`.
        split: see `epochs`.
        recipe: see `epochs`.
        seed: see `epochs`.
        on_epoch: called after each epoch with its index, from 0, and its mean loss, outside of the time that is
            counted.

    Raises:
        LossError: see `epochs`.
    """
    done = []
    for epoch in epochs(model, split, recipe, seed):
        done.append(epoch)
        if on_epoch is not None:
            on_epoch(epoch.index, epoch.loss)
    return result_of(done)


def result_of(done: Sequence[Epoch]) -> TrainingResult:
    """Returns the time of all epochs together, and their losses."""
    return TrainingResult(sum(epoch.seconds for epoch in done), tuple(epoch.loss for epoch in done))
