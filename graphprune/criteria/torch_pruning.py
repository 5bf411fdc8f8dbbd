"""Importances of torch-pruning as criteria.

torch-pruning is imported only when one of its importances is used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphprune.criteria.from_weights import put_last
from graphprune.criteria.gradients import Differentiated, differentiate, private_copy
from graphprune.criteria.group_members import member_indices
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.criteria.torch_pruning_groups import RatedGroup, homes_of, rated_group
from graphprune.errors import OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import Group
from graphprune.process_state import private_random_state
from graphprune.program.program import Program

_WITHOUT_DATA = {
    "MagnitudeImportance", "GroupMagnitudeImportance", "BNScaleImportance", "LAMPImportance", "FPGMImportance",
    "RandomImportance",
}  # fmt: skip
_WITH_HOOKS = {"OBDCImportance", "ActivationImportance"}


@dataclass(frozen=True)
class TorchPruning:
    """Rates each group by an importance of torch-pruning (``torch_pruning.importance.Importance``).

    The importance sees layers of a private copy of the program. Unless it reads weights alone, these have gradients of
    the loss over the sensitivity samples: ``.grad`` is the gradient of the mean loss, or for Hessian importances the
    mean of the squared gradients of single samples. A channel that consists of several indices (a head, a channel of
    every group of a convolution) gets the mean of their importances, as in torch-pruning's own pruners.

    A group that the importance cannot rate (by BatchNorm scales if it has no BatchNorm) is removed last, with a
    warning.

    Attributes:
        importance: The importance object, with its options.
    """

    importance: Any

    @property
    def __name__(self) -> str:
        """The name of the importance's class."""
        return type(self.importance).__name__

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        """Scores group by group; leaves no trace on the program or the random state.

        Raises:
            OptionError: the importance collects statistics through hooks, fails, rates no group, or does not return one
                finite number per index.
            LossError: the importance needs gradients, and the loss or its gradient is not finite.
        """
        if self.__name__ in _WITH_HOOKS:
            raise OptionError(
                f"criterion {self.__name__}: it collects statistics through hooks of torch-pruning's own pruners; give "
                "another importance, such as TaylorImportance or HessianImportance"
            )
        dependencies = program[Dependencies]
        with private_random_state(sensitivity.seed + dependencies.channels):
            run = self._differentiated(program, sensitivity)
            rated = self._rate(run, program)
        importance = torch.zeros(dependencies.channels, dtype=torch.float64)
        for group, scores in zip(dependencies.groups, rated, strict=True):
            if scores is not None:
                importance[group.start : group.stop] = scores
        unrated = [group for group, scores in zip(dependencies.groups, rated, strict=True) if scores is None]
        put_last(
            importance, unrated, dependencies.groups, self.__name__, "they have no layer of a type that it knows",
            sensitivity.warned,
        )  # fmt: skip
        return Scores(importance, self.__name__, run.loss, run.samples)

    def _differentiated(self, program: Program, sensitivity: Sensitivity) -> Differentiated:
        from torch_pruning.pruner.importance import GroupHessianImportance

        if self.__name__ in _WITHOUT_DATA and type(self.importance).__module__.startswith("torch_pruning."):
            return Differentiated(private_copy(program.module))
        return differentiate(program, sensitivity, squared=isinstance(self.importance, GroupHessianImportance))

    def _rate(self, run: Differentiated, program: Program) -> list[Tensor | None]:
        """Importances of the channels of each group, float64, shape ``(channels,)``; None for a group without any."""
        homes, types = homes_of(run.module), tuple(getattr(self.importance, "target_types", ())) or (object,)
        found: list[Tensor | None] = []
        for group, indices in zip(program[Dependencies].groups, member_indices(program[Dependencies]), strict=True):
            rated = rated_group(indices, homes, types)
            scores = None if rated is None else self._called(rated, group)
            if rated is not None and scores is not None:
                scores = scores.detach().cpu().double()[rated.positions].mean(1)
            found.append(scores)
        return found

    def _called(self, rated: RatedGroup, group: Group) -> Tensor | None:
        where = f"group {group.id} ({group.name})"
        try:
            scores = self.importance(rated.group)
        except Exception as error:  # it may not know some layers, and may be the user's own class
            raise OptionError(
                f"criterion {self.__name__}: it failed on {where}: {type(error).__name__}: {error}"
            ) from error
        expected = (rated.positions.numel(),)
        got = f"shape {tuple(scores.shape)}" if isinstance(scores, Tensor) else type(scores).__name__
        if scores is not None and (not isinstance(scores, Tensor) or tuple(scores.shape) != expected):
            raise OptionError(
                f"criterion {self.__name__}: expected a tensor of shape {expected}, one for each index of the first "
                f"layer of {where}, got {got}"
            )
        if scores is not None and not bool(torch.isfinite(scores).all()):
            raise OptionError(
                f"criterion {self.__name__}: its importances for {where} are not finite. Where all of them are 0, a "
                "normalizer divides 0 by 0; give normalizer=None, or other data"
            )
        return scores
