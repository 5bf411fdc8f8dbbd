"""What is known about a program, and what happened to it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import ClassVar

from torch import Tensor, fx

from graphprune.program.tensors import Kept, _selected, compose_kept, cuts_of, take


class Fact:
    """Something that a pass found out about a program, and that others look up by its type.

    Class attributes:
        provided_by: Names of the passes that find it out.
    """

    provided_by: ClassVar[tuple[str, ...]] = ()

    @property
    def shown(self) -> fx.GraphModule | None:
        """The module to print in place of the program's own; None to print the program's own."""
        return None


@dataclass(frozen=True)
class History:
    """What earlier rounds have done to the user's model.

    Attributes:
        kept: Kept indices of the user's model, under its names; empty before the first prune.
        masks: Which weights are live, for parameters that have dead ones: bool, of the parameter's shape, by name.
        dormant: Values of dead weights from before they died, if they can come back; empty if they cannot.
    """

    kept: Kept = field(default_factory=dict)
    masks: dict[str, Tensor] = field(default_factory=dict)
    dormant: dict[str, Tensor] = field(default_factory=dict)

    def pruned(self, kept: Kept) -> History:
        """The history after one more prune, which leaves the indices ``kept`` of each dim."""
        cuts = cuts_of(kept)
        masks = {name: take(mask, cuts.get(name, ())) for name, mask in self.masks.items()}
        dormant = {name: take(weight, cuts.get(name, ())) for name, weight in self.dormant.items()}
        return History(compose_kept(self.kept, kept), masks, dormant)


@dataclass(frozen=True)
class FirstAnalysis(Fact):
    """What the analysis of the user's model found out, and later analyses rely on.

    Attributes:
        pins: Nodes whose sizes cannot be rewritten, each with the reason.
        classes: For each stored dim, the channel of the user's model that each remaining index belongs to, -1 for
            frozen indices. Indices that were tied at first stay tied in every later round.
        choices: Decisions of op rules, by node.
        channels_left: Number of prunable channels of the user's model that are left.
    """

    provided_by: ClassVar[tuple[str, ...]] = ("build-dependencies",)

    pins: tuple[tuple[str, str], ...]
    classes: Kept
    choices: dict[str, bool]
    channels_left: int

    def pruned(self, kept: Kept, removed: int) -> FirstAnalysis:
        """Returns what is true after a prune of ``removed`` channels, in which ``kept`` of each dim is left."""
        classes = self.classes | _selected({key: self.classes[key] for key in kept}, kept)
        return replace(self, classes=classes, channels_left=self.channels_left - removed)
