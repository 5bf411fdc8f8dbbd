"""Pruning one round at a time, inside a training loop."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torch import Tensor, fx, nn
from torch.optim import Optimizer

from graphprune.capture import kept_in_evaluation, unshare, unwrapped
from graphprune.compiled import Compiled
from graphprune.costs.measures import MEASURES, Measure
from graphprune.costs.model import costs_of
from graphprune.coupling.gaps import refuse_gaps
from graphprune.criteria import Given, Sensitivity, name_of
from graphprune.criteria.losses import cross_entropy
from graphprune.criteria.samples import SampleStream
from graphprune.criteria.scores import Scores, WeightScores
from graphprune.criteria.weights import WeightCriterion
from graphprune.errors import NothingToPruneError
from graphprune.labels.dependencies import Dependencies
from graphprune.latency.profiles import Profile
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.paths.dead import DeadPaths, dead_paths_of
from graphprune.plan.plan import Plan
from graphprune.program.example import Example
from graphprune.program.facts import FirstAnalysis
from graphprune.program.module_state import check_has_values
from graphprune.program.program import Origin, Program, device_of
from graphprune.program.tensors import Kept
from graphprune.repair.record import Repair
from graphprune.repair.samples import check_enough
from graphprune.report import Report, Round, build_report, dropped_parameters, left_in_evaluation
from graphprune.request.budget import Budget
from graphprune.request.schedule import Schedule, targets_of
from graphprune.request.settings import Progress, Settings
from graphprune.rounds.choice import accumulate_of, rounds_for, rounds_of, samples_together
from graphprune.selection.record import Selection, costs_under, keep_set_of
from graphprune.training.adoption import adopt
from graphprune.training.masks import settle
from graphprune.training.optimizer import Replaced, followers
from graphprune.verification.record import Verification

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Made:
    """What a round did; the fields are those of `Round`."""

    removed: int = 0
    loss: float | None = None
    bound: tuple[str, ...] = ()
    dead_paths: DeadPaths | None = None


class Pruner:
    """Prunes a model round by round; between rounds it can be trained.

    Attributes:
        rounds: One entry per step, with what it did.
    """

    def __init__(
        self,
        model: nn.Module,
        example_input: Any,
        *,
        sparsity: float | None = None,
        budget: Budget | None = None,
        data: Iterable[Any] | None = None,
        loss: Callable[[Any, Any], Tensor] | None = None,
        samples: int = 2560,
        accumulate: str | None = None,
        granularity: str = "channel",
        resurrect: bool = False,
        dead_paths: str = "keep",
        criterion: Given | WeightCriterion = "elasticity",
        schedule: str | Schedule = "halving",
        protect: Sequence[str] = (),
        attention: str = "heads",
        min_channels: int | str | Callable[[int], int] = 1,
        align: int | str = 1,
        target: Profile | None = None,
        repair: str | None = None,
        verify: bool = True,
        strict: bool = False,
        seed: int = 0,
        progress: Progress | None = None,
        runner: Runner | None = None,
    ) -> None:
        """Captures and analyses the model; see `graphprune.compile` for the arguments.

        Raises:
            UserError: the model, the example or an option cannot work; `BudgetError` where the budget cannot be
                reached, `FrozenError` where ``strict`` finds something frozen because a rule is missing.
        """
        settings = self._settings = Settings.of(locals())
        ways = partial(rounds_of, settings, criterion)
        ways({}, settings.limits)  # refuses options that cannot work, before the analysis
        model = unwrapped(model)
        self.rounds: list[Round] = []
        self._criterion_name = criterion if isinstance(criterion, str) else name_of(criterion)
        self._model_name = type(model).__name__
        self._shares_with: nn.Module | None = model
        self._targets = targets_of(settings.schedule, settings.budget.sparsity)
        self._tell("analyse")
        self._program = self._original = self._analysed(model, example_input)
        self._module: fx.GraphModule = self._original.module
        self._replaced = Replaced()
        stream = SampleStream(data, Example.of(example_input))
        self._sensitivity = Sensitivity(
            stream, loss or cross_entropy, settings.samples, accumulate_of(accumulate, settings.granularity),
            settings.seed, samples_together(settings.granularity),
        )  # fmt: skip
        self._costs_before = self._costs = costs_of(self._program).before()
        self._plan_rounds: list[Kept] = []
        self._first_importance: Tensor | None = None
        way = ways(self._costs_before, settings.limits.at_first(self._original[Dependencies]))
        way.check(self._original, settings.budget)
        self._rounds, self._budget = rounds_for(self._original, settings, way, target, stream.example.batch_size)
        self._targets = targets_of(settings.schedule, self._budget.sparsity)

    def _analysed(self, model: nn.Module, example_input: Any) -> Program:
        settings = self._settings
        original = pipelines.analysed(
            model, example_input, settings.protect, settings.attention, verify=settings.verify, runner=settings.runner
        )
        if settings.strict:
            refuse_gaps(original)
        self._dropped = dropped_parameters(model, original)
        self._evaluating = kept_in_evaluation(model, original.module)
        if self._evaluating:
            log.warning("%s", left_in_evaluation(self._model_name, self._evaluating))
        return original

    @property
    def module(self) -> fx.GraphModule:
        """The present module: dense at first, smaller after each step.

        It stays the same object, so a training loop can keep using it; parameters that shrink are replaced. Averages
        (EMA) and wrappers (DDP) that copy the module or hold its parameters have to be created anew then. Until this
        property is read for the first time, the module shares the weights of the user's model.
        """
        if self._shares_with is not None:
            unshare(self._module, self._shares_with)
            self._shares_with = None
        return self._module

    @property
    def rounds_left(self) -> int:
        """Number of steps until the budget is met."""
        return len(self._targets) - len(self.rounds)

    def step(
        self, data: Iterable[Any] | None = None, optimizer: Optimizer | Sequence[Optimizer] | None = None
    ) -> Round:
        """Runs one round: scores, selects, prunes and verifies.

        Args:
            data: Batches for this round; by default the data that the pruner was created with.
            optimizer: Follows the parameters of `module` as they shrink: its state is sliced, its groups keep their
                options, and its state of dead weights is cleared. Give a sequence if several share the parameters. An
                optimizer that is not given, but holds replaced parameters, is refused at its next step.

        Returns:
            What the round did. A round whose target is met already removes nothing.

        Raises:
            NothingToPruneError: all rounds are done.
            InputError: the model has no values, because it is on the meta device, or inference mode is on.
        """
        self._check_step(data)
        optimizers = followers(optimizer, self._module, self._replaced)
        self._settings.runner.forget()
        sensitivity = self._sensitivity
        if data is not None:
            sensitivity = replace(sensitivity, stream=SampleStream(data, sensitivity.stream.example))
        started = time.perf_counter()
        self._repairs_on = sensitivity
        target = self._budget.scaled(self._targets[len(self.rounds)])
        weights_before, made = self._costs["weights"], _Made()
        if not self._rounds.is_met(target, self._costs):
            made = self._prune(target, sensitivity, optimizers)
        zeroed = weights_before - self._costs["weights"]
        verification = self._program.get(Verification) if (made.removed or zeroed) and self._settings.verify else None
        self.rounds.append(Round(
            target.shares(), self._achieved(), made.removed, zeroed, made.loss, made.bound, verification,
            time.perf_counter() - started, made.dead_paths,
        ))  # fmt: skip
        self._settings.runner.forget()  # between rounds the user may train the module
        self._tell("done")
        return self.rounds[-1]

    def _check_step(self, data: Iterable[Any] | None) -> None:
        if not self.rounds_left:
            raise NothingToPruneError(f"all {len(self._targets)} rounds are done; call finish()")
        check_has_values(self._program, self._model_name)
        if self._settings.repair is not None and data is None and self._sensitivity.stream.source is None:
            check_enough(self._sensitivity.stream.example.batch_size)

    def _prune(self, target: Budget, sensitivity: Sensitivity, optimizers: Sequence[Optimizer]) -> _Made:
        """Scores, selects, prunes and proves."""
        before = self._program
        if Dependencies not in before:
            before = self._run("analyse", pipelines.reanalysis(), before)
        settle(self._module)
        scored = self._rounds.score(self._run, before, sensitivity)
        scores = scored.get(Scores)
        if self._first_importance is None and scores is not None:
            self._first_importance = scores.importance
        loss = (scores or scored[WeightScores]).loss
        selected, pruned = self._rounds.prune(self._run, scored, target, self._settings.seed + len(self.rounds))
        dead_paths = self._checked_paths(selected) if selected[Selection].masks else None
        self._adopt(selected, pruned, optimizers)
        removed = before[FirstAnalysis].channels_left - self._program[FirstAnalysis].channels_left
        return _Made(removed, loss, selected[Selection].bound, dead_paths)

    def _checked_paths(self, selected: Program) -> DeadPaths:
        """Finds what is left and does nothing; warns where an output is newly cut off from every input."""
        found = dead_paths_of(selected)
        found.warn(len(self.rounds) + 1, self._model_name, [entry.dead_paths for entry in self.rounds])
        return found

    def finish(self) -> Compiled:
        """Returns the result of the rounds so far.

        Raises:
            NothingToPruneError: no round has removed anything.
        """
        if not self._program.history.kept and not self._program.history.masks:
            raise NothingToPruneError("nothing was removed; call step() before finish()")
        plan = Plan.of(self._model_name, self._original, self._program.history, tuple(self._plan_rounds))
        settle(self._module)
        batch_size, runner = self._sensitivity.stream.example.batch_size, self._settings.runner
        compiled = Compiled(self.module, plan, self._reporting(), self._original, self._program, batch_size, runner)
        if self._settings.repair is not None and Repair not in self._program:
            self._repair(compiled)
        return compiled

    def _repair(self, compiled: Compiled) -> None:
        """Repairs on the data of the last round, and proves that the structure is what it was."""
        self._tell("repair")
        batches = self._repairs_on.drawn(device_of(self._program)).stream.source or ()
        found = compiled.repair(batches, samples=self._settings.samples, seed=self._settings.seed)
        self._program = self._program.knowing(found)
        if self._settings.verify:
            compiled.verify()

    def report(self) -> Report:
        """Reports what was done so far."""
        return self._reporting()()

    def _reporting(self) -> Callable[[], Report]:
        """Returns a function that builds the report of what was done so far."""
        return partial(
            build_report,
            self._original,
            self._program.history.kept,
            self._first_importance,
            model=self._model_name,
            captured_by=str(self._original.captured_by),
            costs={name: (self._costs_before[name], self._costs[name]) for name in MEASURES},
            rounds=tuple(self.rounds),
            dropped=self._dropped,
            evaluating=self._evaluating,
            timing=self._rounds.timing,
            criterion=self._criterion_name,
            seconds_by_pass=dict(self._settings.runner.seconds),
        )

    def _run(self, stage: str, pipeline: Sequence[Any], program: Program) -> Program:
        self._tell(stage)
        return self._settings.runner.run(pipeline, program)

    def _tell(self, stage: str) -> None:
        self._settings.progress(stage, len(self.rounds), len(self._targets))

    def _adopt(self, before: Program, after: Program, optimizers: Sequence[Optimizer]) -> None:
        """Puts the compact program into the module that the user holds."""
        kept = keep_set_of(before).indices
        self._costs = costs_under(before)  # before the module changes: the dependencies describe it as it is here
        former = adopt(self._module, after.module, kept, after.history.masks, optimizers, self._replaced)
        if self._original.module is self._module:
            if self._shares_with is None:
                unshare(former, self._module)  # training must not change the dense weights
            self._original = replace(self._original, module=former)
        if kept:
            self._plan_rounds.append(kept)
        self._program = replace(after.without(Origin, Scores, WeightScores, Selection), module=self._module)

    def _achieved(self) -> dict[Measure, float]:
        return {name: 1 - self._costs[name] / before for name, before in self._costs_before.items() if before}
