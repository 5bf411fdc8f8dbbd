"""Turns a plain function of the weights of one group into a criterion."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from graphprune.criteria.criterion import name_of
from graphprune.criteria.group_members import member_indices
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.errors import OptionError, first_line, is_out_of_memory
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import Group
from graphprune.program.program import Program
from graphprune.program.tensors import stored_tensors

Weights = dict[str, Tensor]
"""``{"conv1.weight[0]": ...}``: for each coupled dim, the values of each channel, shape ``(channels, values)``."""


@dataclass(frozen=True)
class ByGroup:
    """Calls a function with the weights of each group.

    Attributes:
        function: Function from the `Weights` of a group to the importance of its channels, shape ``(channels,)``.
    """

    function: Callable[[Weights], Any]

    @property
    def __name__(self) -> str:
        """The function's name."""
        return name_of(self.function)

    def __call__(self, program: Program, sensitivity: Sensitivity) -> Scores:
        """Scores group by group; the program is not changed.

        Raises:
            OptionError: the function fails, or does not return one number per channel.
        """
        dependencies = program[Dependencies]
        tensors = stored_tensors(program.module)
        importance = torch.zeros(dependencies.channels, dtype=torch.float64)
        for group, indices in zip(dependencies.groups, member_indices(dependencies), strict=True):
            weights = {
                f"{name}[{dim}]": _values(tensors[name], dim, of_member) for (name, dim), of_member in indices.items()
            }
            with torch.no_grad():
                found = self._called(weights, group)
            got = f"shape {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            if not isinstance(found, Tensor) or tuple(found.shape) != (group.channels,):
                raise OptionError(
                    f"criterion {self.__name__}: expected a tensor of shape ({group.channels},) for group {group.id} "
                    f"({group.name}), got {got}"
                )
            importance[group.start : group.stop] = found.detach().cpu()
        return Scores(importance, self.__name__)

    def _called(self, weights: Weights, group: Group) -> Any:
        try:
            return self.function(weights)
        except Exception as error:  # the user's code
            if is_out_of_memory(error):
                raise
            shapes = ", ".join(f"'{name}' {tuple(value.shape)}" for name, value in weights.items())
            raise OptionError(
                f"criterion {self.__name__} fails for group {group.id} ({group.name}): {first_line(error)}\n"
                f"It was given the weights {shapes}"
            ) from error


def _values(tensor: Tensor, dim: int, indices: Tensor) -> Tensor:
    """Copies the values at the indices of each channel, shape ``(channels, values)``."""
    rows = tensor.detach().movedim(dim, 0)[indices.to(tensor.device)]
    return rows.flatten(1)
