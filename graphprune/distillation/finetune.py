"""One tested recipe for training a compact network."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.optim import Adam
from torch.optim.lr_scheduler import OneCycleLR
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from graphprune.compiled import Compiled
from graphprune.criteria.losses import cross_entropy, loss_of_output
from graphprune.criteria.samples import Batch, batch_of
from graphprune.distillation.distill import Distillation, distill
from graphprune.errors import InputError, LossError, OptionError, shown
from graphprune.process_state import private_random_state
from graphprune.program.program import device_of
from graphprune.request.options import check_counts, check_positive, check_seed
from graphprune.training.exchange import overwrite
from graphprune.training.masks import settle


@dataclass(frozen=True)
class FineTuning:
    """What a training run cost and how it went.

    Attributes:
        epoch_losses: Mean loss over the batches of each epoch, taken before the step on each batch.
        seconds: Wall-clock time.
    """

    epoch_losses: tuple[float, ...]
    seconds: float


def finetune(
    compiled: Compiled,
    loader: Iterable[Any],
    *,
    epochs: int = 5,
    learning_rate: float = 1e-3,
    temperature: float | None = 3.0,
    features: float = 0.0,
    loss: Callable[[Any, Any], Tensor] | None = cross_entropy,
    seed: int = 0,
    progress: Callable[[str, int, int], None] | None = None,
) -> FineTuning:
    """Trains the compact module of a compilation towards the dense model and, where there are targets, towards these.

    Adam with a learning rate of one cycle; the loss is that of `distill`, plus ``loss`` where a batch has a target. The
    result is the average of the last steps. Without targets batch norms keep their running statistics, so that a
    thousand pictures are enough; with them batch norms train as usual. Dead weights stay zero. The user's model is not
    changed.

    Source: Smith and Topin 2018, Super-Convergence, for the cycle; Hinton et al. 2015 for the distillation.

    Args:
        compiled: The result of a compilation; its module is trained in place, and keeps its mode.
        loader: Batches ``(inputs, target)``, once for each epoch, so not a generator. Augmentation is its own. A target
            of None means that there is none.
        epochs: Number of times that the loader is gone through.
        learning_rate: Highest learning rate of the cycle, above 0.
        temperature: See `distill`; None for outputs that are not logits.
        features: See `distill`.
        loss: ``loss(output, target)``, a mean over the batch; None to leave targets alone.
        seed: Seed of dropout.
        progress: Called as ``progress("finetune", batches_done, batches)``.

    Raises:
        InputError: the loader has no length, cannot be gone through again, or holds something else.
        LossError: the loss cannot be computed, or is not finite.
        OptionError: an option is out of range.
    """
    if not isinstance(compiled, Compiled):
        raise OptionError(f"compiled={shown(compiled)}: give what graphprune.compile returned")
    check_counts(epochs=epochs)
    check_positive(learning_rate=learning_rate)
    check_seed(seed)
    started = time.perf_counter()
    programs = compiled.programs()
    distillation = distill(programs[0].module, compiled, temperature=temperature, features=features)
    steps = epochs * _length(loader)
    training = _Training(compiled.module, distillation, loss, learning_rate, steps, progress or _silent)
    losses = []
    with private_random_state(seed), _modes_kept(compiled.module):
        for _ in range(epochs):
            found = [training.step(batch_of(item, device_of(programs[1]), "loader")) for item in loader]
            if len(found) * epochs != steps:
                raise InputError(f"loader: expected {steps // epochs} batches in each epoch, got {len(found)}")
            losses.append(sum(found) / len(found))
        training.finish()
    settle(compiled.module)
    return FineTuning(tuple(losses), time.perf_counter() - started)


class _Training:
    """The state of a training run."""

    def __init__(
        self,
        module: nn.Module,
        distillation: Distillation,
        loss: Callable[[Any, Any], Tensor] | None,
        learning_rate: float,
        steps: int,
        progress: Callable[[str, int, int], None],
    ) -> None:
        self._module, self._distillation, self._loss = module, distillation, loss
        self._optimizer = Adam([each for each in module.parameters() if each.requires_grad], lr=learning_rate)
        self._schedule = OneCycleLR(self._optimizer, learning_rate, total_steps=max(steps, 2))
        self._average = AveragedModel(
            module, multi_avg_fn=get_ema_multi_avg_fn(max(0.0, 1 - AVERAGED / steps)), use_buffers=True
        )
        self._done, self._steps, self._progress = 0, steps, progress

    def step(self, batch: Batch) -> float:
        """Trains on a batch; returns its loss before the step."""
        has_target = batch.target is not None and self._loss is not None
        self._module.train()
        for norm in self._module.modules():
            if isinstance(norm, _BatchNorm):
                norm.training = has_target and batch.size > 1  # one sample has no variance
        with torch.enable_grad():
            total, output = self._distillation.with_output(batch.inputs)
            if has_target and self._loss is not None:
                total = total + loss_of_output(self._loss, output, batch)
            if not bool(torch.isfinite(total)):
                raise LossError(f"the loss became {float(total.detach())}; check the data, or lower learning_rate")
            self._optimizer.zero_grad()
            total.backward()
        self._optimizer.step()
        self._schedule.step()
        self._average.update_parameters(self._module)
        self._done += 1
        self._progress("finetune", self._done, self._steps)
        return float(total.detach())

    def finish(self) -> None:
        """Puts the averaged weights into the module, and lets the gradients go."""
        self._optimizer.zero_grad()
        overwrite(self._module, self._average.module)


AVERAGED = 20
"""The average forgets within a twentieth of the steps: the end of the cycle, where they are small."""


def _length(loader: Any) -> int:
    try:
        count = len(loader)
    except TypeError as error:
        remedy = "give a list or a DataLoader"
        raise InputError(f"loader: it has no length, which the learning rates depend on; {remedy}") from error
    if not count:
        raise InputError("loader: it is empty; give batches (inputs, target)")
    return count


@contextmanager
def _modes_kept(module: nn.Module) -> Iterator[None]:
    modes = [(submodule, submodule.training) for submodule in module.modules()]
    try:
        yield
    finally:
        for submodule, mode in modes:
            submodule.training = mode


def _silent(stage: str, done: int, total: int) -> None:
    """Reports no progress."""
