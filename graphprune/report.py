"""What a compilation did: a table by group, requested against achieved, what is frozen and why."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from graphprune.costs.measures import Measure
from graphprune.coupling.explain import described, path_to_cause
from graphprune.coupling.protection import output_dim
from graphprune.deploy import TimingResult
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.paths.dead import DeadPaths
from graphprune.program.program import Program
from graphprune.program.tensors import Kept, stored_parameters
from graphprune.verification.record import Verification


@dataclass(frozen=True)
class Round:
    """One round.

    Attributes:
        requested: Share to be removed by the end of the round, by measure, in [0, 1).
        achieved: Share removed of channels, params, weights and macs.
        removed: Channels removed in the round.
        zeroed: Weights of convolutions and matrix products fewer, those of removed channels among them.
        loss: Mean loss of the sensitivity samples before it; None without data.
        bound: Groups that a floor or the alignment held back.
        verification: What the proof compared; None where it was switched off.
        seconds: Duration.
        dead_paths: What is left after it and does nothing; None where no single weights are dead, or nothing was done.
    """

    requested: dict[Measure, float]
    achieved: dict[Measure, float]
    removed: int
    zeroed: int
    loss: float | None
    bound: tuple[str, ...]
    verification: Verification | None
    seconds: float
    dead_paths: DeadPaths | None = None


@dataclass(frozen=True)
class GroupRow:
    """One group of the user's model.

    Attributes:
        id: The name of the group in the printed program.
        name: First member.
        members: Number of parameter and buffer dims that shrink together.
        before: Channels before.
        after: Channels after.
        elasticity: Mean importance of its channels in the first round; None before any.
    """

    id: str
    name: str
    members: int
    before: int
    after: int
    elasticity: float | None


@dataclass(frozen=True)
class FrozenRow:
    """A weight of which output channels have to stay, and why.

    Attributes:
        name: The weight.
        size: Output channels that have to stay.
        of: All of its output channels.
        reason: What freezes them: op, node, source line.
        path: Ties that lead there, nearest first, and the reason with the dim that it froze.
    """

    name: str
    size: int
    of: int
    reason: str
    path: tuple[str, ...]

    @property
    def channels(self) -> str:
        """How many output channels are frozen."""
        return str(self.size) if self.size == self.of else f"{self.size} of {self.of}"

    @property
    def why(self) -> str:
        """The reason, and below it the ties that lead there, unless it is direct."""
        ties = self.path[:-1]
        rest = (f"and {len(ties) - _TIES_SHOWN} more ties",) if len(ties) > _TIES_SHOWN else ()
        return "\n  ".join((self.reason, *ties[:_TIES_SHOWN], *rest))


_TIES_SHOWN = 3
"""Ties that a table shows of a path; `graphprune inspect --why` shows all."""


@dataclass(frozen=True)
class Report:
    """The whole compilation.

    Attributes:
        model: Class name of the model.
        captured_by: Front end, and why not the other one.
        costs: ``{measure: (before, after)}`` for channels, params, weights, macs.
        rounds: One entry per round.
        groups: Prunable groups.
        frozen: Weights of which output channels cannot be removed.
        dropped: Parameters of the user's model that it does not read in evaluation mode; the compact module lacks them.
        evaluating: Submodules that ``train()`` of the user's model leaves in evaluation mode, and that of the compact
            module does not.
        criterion: What ranked the channels.
        seconds_by_pass: Time spent in each pass.
        timing: Measured latency of the dense and the compact network, where the budget has one.
    """

    model: str
    captured_by: str
    costs: dict[Measure, tuple[int, int]]
    rounds: tuple[Round, ...]
    groups: tuple[GroupRow, ...]
    frozen: tuple[FrozenRow, ...]
    dropped: tuple[str, ...]
    evaluating: tuple[str, ...]
    criterion: str
    seconds_by_pass: dict[str, float]
    timing: TimingResult | None = None

    @property
    def achieved(self) -> dict[Measure, float]:
        """Share removed, by measure, in [0, 1)."""
        return {name: 1 - after / before for name, (before, after) in self.costs.items() if before}

    @property
    def dead_paths(self) -> DeadPaths | None:
        """What is left and does nothing; None where no single weights are dead, for channels alone never cut a path."""
        return next((entry.dead_paths for entry in reversed(self.rounds) if entry.dead_paths is not None), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        dead_paths = None if self.dead_paths is None else asdict(self.dead_paths)
        return asdict(self) | {"achieved": self.achieved, "dead_paths": dead_paths}

    def __str__(self) -> str:
        """Tables for a terminal, 120 columns."""
        console = Console(file=io.StringIO(), width=120, color_system=None, highlight=False, markup=False, emoji=False)
        console.print(f"{self.model}, captured by {self.captured_by}, ranked by {self.criterion}")
        console.print(self._cost_table())
        console.print(self._group_table())
        if self.frozen:
            console.print(self._frozen_table())
        if self.dead_paths is not None:
            console.print(f"paths: {self.dead_paths}")
        if self.timing is not None:
            console.print(str(self.timing))
        for name in self.dropped:
            console.print(f"dropped: {name} is not read in evaluation mode")
        if self.evaluating:
            console.print(left_in_evaluation(self.model, self.evaluating))
        for line in dict.fromkeys(line for entry in self.rounds for line in entry.bound):
            console.print(f"held back: {line}")
        file = console.file
        assert isinstance(file, io.StringIO)
        return "\n".join(line.rstrip() for line in file.getvalue().splitlines())

    def _cost_table(self) -> Table:
        table = Table("", "before", "after", "removed", "requested")
        requested = self.rounds[-1].requested if self.rounds else {}
        for name, (before, after) in self.costs.items():
            wanted = f"{requested[name]:.1%}" if name in requested else ""
            table.add_row(name, f"{before:,}", f"{after:,}", f"{self.achieved.get(name, 0.0):.1%}", wanted)
        return table

    def _group_table(self) -> Table:
        scored = "elasticity" if self.criterion == "elasticity" else "importance"
        table = Table("group", "first member", "dims", "before", "after", scored)
        for row in self.groups:
            score = "" if row.elasticity is None else f"{row.elasticity:.3g}"
            table.add_row(row.id, row.name, str(row.members), str(row.before), str(row.after), score)
        return table

    def _frozen_table(self) -> Table:
        table = Table("frozen weight", "channels", "why")
        for row in self.frozen:
            table.add_row(row.name, row.channels, with_whole_reasons(row.why))
        return table


def with_whole_reasons(why: str) -> str:
    """Breaks long lines behind the place that they name, so that a table breaks neither the place nor the reason."""
    lines = []
    for line in why.splitlines():
        found = _PLACE_AND_REASON.fullmatch(line) if len(line) > _LINE else None
        lines += [f"{found[1]}:", f"    {found[2]}"] if found else [line]
    return "\n".join(lines)


_PLACE_AND_REASON = re.compile(r"(.*? in node %\S+(?: at .*?:\d+)?): (.*)")

_LINE = 72
"""Characters of a reason that a table of 120 columns has room for, beside names of usual lengths."""


def left_in_evaluation(model: str, names: Sequence[str]) -> str:
    """Says that a model's own ``train()`` leaves submodules in evaluation mode."""
    rest = len(names) - _NAMES_SHOWN
    shown = ", ".join(names[:_NAMES_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
    return (
        f"train() of {model} leaves {shown} in evaluation mode, that of the compact module does not: call their eval() "
        "after it"
    )


_NAMES_SHOWN = 4


def build_report(original: Program, kept: Kept, importance: Tensor | None, **rest: Any) -> Report:
    """Fills in the tables of groups and of frozen weights.

    Args:
        original: The analysed program of the user's model.
        kept: What is left of it.
        importance: Importance of each channel in the first round.
        **rest: The other fields of the report.
    """
    dependencies = original[Dependencies]
    groups = group_rows(dependencies, kept, importance)
    return Report(groups=groups, frozen=frozen_rows(original, dependencies), **rest)


def group_rows(dependencies: Dependencies, kept: Kept, importance: Tensor | None) -> tuple[GroupRow, ...]:
    """A row for each group of the user's model."""
    rows = []
    for group, after in zip(dependencies.groups, KeepSet.of_indices(dependencies, kept).left_of_groups, strict=True):
        score = None if importance is None else float(importance[group.start : group.stop].mean())
        rows.append(GroupRow(group.id, group.name, len(group.members), group.channels, after, score))
    return tuple(rows)


def frozen_rows(program: Program, dependencies: Dependencies) -> tuple[FrozenRow, ...]:
    """A row for each weight of two dims or more of which outputs are frozen, all of them or some."""
    weights = {
        (name, output_dim(program.module.get_submodule(name.rpartition(".")[0]), parameter.dim()))
        for name, parameter in program.module.named_parameters()
        if parameter.dim() >= 2
    }
    rows = []
    for owner in dependencies.stored:
        frozen = dependencies.frozen_indices(owner)
        if frozen and (owner.name, owner.dim) in weights:
            steps = path_to_cause(program, owner.name, owner.dim)
            rows.append(FrozenRow(owner.name, frozen, owner.size, str(steps[-1].cause), described(steps)))
    return tuple(rows)


def dropped_parameters(model: nn.Module, program: Program) -> tuple[str, ...]:
    """Parameters of the user's model that its program does not have, for nothing reads them in evaluation mode.

    One that is tied is there as long as the program has it under one of its names.
    """
    left = {name for name, _ in program.module.named_parameters(remove_duplicate=False)}
    known = {id(each) for name, each in model.named_parameters(remove_duplicate=False) if name in left}
    return tuple(name for name, parameter in stored_parameters(model).items() if id(parameter) not in known)
