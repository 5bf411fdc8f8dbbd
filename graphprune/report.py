"""The report of a compilation: requested and achieved shares, a table of groups, and what is frozen and why."""

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
from graphprune.repair.record import Repair
from graphprune.verification.record import Verification


@dataclass(frozen=True)
class Round:
    """What one round did.

    Attributes:
        requested: Share to be removed by the end of the round, by measure, in [0, 1).
        achieved: Share removed by the end of the round, of channels, params, weights and macs, in [0, 1).
        removed: Number of channels removed in the round.
        zeroed: Number of weights of convolutions and matrix products that went in the round, including those of removed
            channels.
        loss: Mean loss of the sensitivity samples before the round; None where the criterion uses no data or the round
            did nothing.
        bound: Groups that a floor or the alignment held back.
        verification: What the proof compared; None where it was switched off or the round removed nothing.
        seconds: Duration of the round, in seconds.
        dead_paths: What is left after the round and does nothing; None where no single weights are dead or the round
            did nothing.
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
        before: Number of channels before pruning.
        after: Number of channels after pruning.
        elasticity: Mean importance of the group's channels in the first round; None where no channels were scored.
    """

    id: str
    name: str
    members: int
    before: int
    after: int
    elasticity: float | None


@dataclass(frozen=True)
class FrozenRow:
    """A weight whose output channels have to stay, some or all of them, and why.

    Attributes:
        name: Name of the weight.
        size: Number of output channels that have to stay.
        of: Number of all output channels.
        reason: What freezes the channels: op, node, source line.
        path: Ties that lead from the weight to the reason, nearest first; then the reason with the dim that it froze.
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
        """The reason, and below it the ties that lead to it, if there are any."""
        ties = self.path[:-1]
        rest = (f"and {len(ties) - _TIES_SHOWN} more ties",) if len(ties) > _TIES_SHOWN else ()
        return "\n  ".join((self.reason, *ties[:_TIES_SHOWN], *rest))


_TIES_SHOWN = 3
"""Number of ties of a path that a table shows; `graphprune inspect --why` shows all."""


@dataclass(frozen=True)
class Report:
    """The whole compilation.

    Attributes:
        model: Class name of the model.
        captured_by: Front end that captured the model, and why it was not the other one.
        costs: ``{measure: (before, after)}`` for channels, params, weights, macs.
        rounds: One entry per round.
        groups: Prunable groups.
        frozen: Weights with output channels that cannot be removed.
        dropped: Parameters that the user's model does not read in evaluation mode; the compact module lacks them.
        evaluating: Submodules that ``train()`` of the user's model leaves in evaluation mode, while ``train()`` of the
            compact module does not.
        criterion: What ranked the channels.
        seconds_by_pass: Time spent in each pass, in seconds.
        timing: Measured latency of the dense and the compact network; None where the budget limits no latency.
        repair: The last repair of the weights that are left; None if there was none.
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
    repair: Repair | None = None

    @property
    def achieved(self) -> dict[Measure, float]:
        """Share removed, by measure, in [0, 1)."""
        return {name: 1 - after / before for name, (before, after) in self.costs.items() if before}

    @property
    def dead_paths(self) -> DeadPaths | None:
        """What is left and does nothing; None where no single weights are dead: channels alone never cut a path."""
        return next((entry.dead_paths for entry in reversed(self.rounds) if entry.dead_paths is not None), None)

    def to_dict(self) -> dict[str, Any]:
        """Plain data, ready for JSON."""
        dead_paths = None if self.dead_paths is None else asdict(self.dead_paths)
        return asdict(self) | {"achieved": self.achieved, "dead_paths": dead_paths}

    def __str__(self) -> str:
        """Formats the report as tables for a terminal of 120 columns."""
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
        if self.repair is not None:
            console.print(self._repair_table(self.repair))
            console.print(str(self.repair))
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

    def _repair_table(self, repair: Repair) -> Table:
        table = Table("repaired layer", "error before", "after")
        for layer in repair.layers:
            table.add_row(layer.name, f"{layer.error_before:.3g}", f"{layer.error_after:.3g}")
        for name, reason in repair.left:
            table.add_row(name, reason, "")
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
    """Builds a report and fills in its tables of groups and of frozen weights.

    Args:
        original: The analysed program of the user's model.
        kept: Kept indices of each dim that shrank.
        importance: Importance of each channel in the first round, shape ``(channels,)``; None before any.
        **rest: The other fields of the report.
    """
    dependencies = original[Dependencies]
    groups = group_rows(dependencies, kept, importance)
    return Report(groups=groups, frozen=frozen_rows(original, dependencies), **rest)


def group_rows(dependencies: Dependencies, kept: Kept, importance: Tensor | None) -> tuple[GroupRow, ...]:
    """Returns a row for each group of the user's model."""
    rows = []
    for group, after in zip(dependencies.groups, KeepSet.of_indices(dependencies, kept).left_of_groups, strict=True):
        score = None if importance is None else float(importance[group.start : group.stop].mean())
        rows.append(GroupRow(group.id, group.name, len(group.members), group.channels, after, score))
    return tuple(rows)


def frozen_rows(program: Program, dependencies: Dependencies) -> tuple[FrozenRow, ...]:
    """Returns a row for each weight of two or more dims whose output channels are frozen, some or all of them."""
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
