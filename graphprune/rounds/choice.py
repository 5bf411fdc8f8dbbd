"""The choice of rounds: for whole channels, single weights or both, and for latency."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from graphprune.costs.measures import Measure
from graphprune.criteria import CRITERIA, Accumulate, Given, criterion_of
from graphprune.criteria.sensitivity import check_accumulate
from graphprune.criteria.weights import WEIGHT_CRITERIA, WeightCriterion
from graphprune.errors import OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.latency.model import Calibration, LatencyModel
from graphprune.latency.profiles import Profile
from graphprune.latency.stopwatch import Stopwatch
from graphprune.program.program import Program
from graphprune.registry import Registry
from graphprune.request.budget import Budget
from graphprune.request.limits import Limits
from graphprune.request.settings import Granularity, Settings
from graphprune.rounds.by_latency import ByLatency
from graphprune.rounds.by_rank import ByRank
from graphprune.rounds.by_weights import ByWeights, Jointly
from graphprune.rounds.by_widths import ByWidths
from graphprune.rounds.protocol import Rounds


def accumulate_of(given: str | None, granularity: Granularity) -> Accumulate:
    """Returns how samples add up; the default depends on the granularity.

    Channels and weights under one threshold have to be measured alike. For weights, each value that is added up takes a
    backward pass of its own, so the default there is that of the paper, ``"signed"``.

    Raises:
        OptionError: the name is unknown.
    """
    if given is None:
        return "signed" if granularity == "mixed" else "absolute"
    return check_accumulate(given)


def samples_together(granularity: Granularity) -> int:
    """Number of samples whose mean gradient in the weights counts as that of one sample.

    Backward passes for single samples take ten times as long as passes for batches. The mean gradient of sixteen
    samples of a batch, or of all samples of a smaller batch, serves as well
    (`docs/decisions/0018-weights-in-small-batches.md`), except where weights are compared with channels, whose gates
    see every sample.
    """
    return 16 if granularity == "weight" else 1


def rounds_of(
    settings: Settings, criterion: Given | WeightCriterion, original: Mapping[Measure, int], limits: Limits
) -> Rounds:
    """Returns the rounds for what is to be removed, without regard to latency.

    Args:
        settings: What the user asks for.
        criterion: Ranks what may be removed.
        original: Costs of the dense program.
        limits: Limits as in the settings, or with what is known of the program's groups.

    Raises:
        OptionError: the criterion does not rank what is to be removed, or an option does not apply to it.
    """
    granularity, verify = settings.granularity, settings.verify
    on_paths = settings.dead_paths == "remove"
    if granularity == "channel":
        _refuse_options_of_weights(settings)
        if isinstance(criterion, str):
            _check_criterion(criterion, granularity, CRITERIA, WEIGHT_CRITERIA)
        return ByRank(criterion_of(criterion), original, limits, verify)
    if isinstance(criterion, str):
        _check_criterion(criterion, granularity, WEIGHT_CRITERIA, CRITERIA)
    by_weights = ByWeights(_weight_criterion_of(criterion), original, settings.resurrect, on_paths, verify)
    if granularity == "weight":
        if limits.min_channels != 1 or limits.align != 1:
            raise OptionError("min_channels and align are about channels; granularity='weight' removes none")
        return by_weights
    if not isinstance(criterion, str) or criterion not in CRITERIA.names():
        both = sorted(set(CRITERIA.names()) & set(WEIGHT_CRITERIA.names()))
        raise OptionError(
            f"criterion={criterion!r}: granularity='mixed' needs one that ranks channels and weights alike; known are "
            f"{', '.join(both)}"
        )
    return Jointly(ByRank(criterion_of(criterion), original, limits, verify), by_weights)


def _refuse_options_of_weights(settings: Settings) -> None:
    if settings.dead_paths == "remove":
        raise OptionError(
            "dead_paths='remove': a channel that is left is on a path, for all of its weights are; dead paths come "
            "with granularity='weight' or 'mixed'"
        )
    if settings.resurrect:
        raise OptionError("resurrect=True: channels are removed for real and cannot come back; weights can")


def _check_criterion(name: str, granularity: Granularity, known: Registry[Any], others: Registry[Any]) -> None:
    """Refuses a criterion that ranks something else; without this check it would be called unknown."""
    if name not in known.names() and name in others.names():
        raise OptionError(
            f"criterion='{name}': it does not rank what granularity='{granularity}' removes; criteria that do are "
            f"{', '.join(known.names())}"
        )


def _weight_criterion_of(given: object) -> WeightCriterion:
    if isinstance(given, str):
        return WEIGHT_CRITERIA[given]
    if isinstance(given, type) or not isinstance(given, WeightCriterion):
        raise OptionError(
            f"criterion={given!r}: expected a name or a function (program, sensitivity) -> WeightScores; known are "
            f"{', '.join(WEIGHT_CRITERIA.names())}"
        )
    return given


def rounds_for(
    program: Program, settings: Settings, how: Rounds, target: Profile | None, batch_size: int
) -> tuple[Rounds, Budget]:
    """Returns the rounds that meet a budget, and the budget with its latency as a share.

    Args:
        program: The analysed dense program.
        settings: The settings, with the budget that has to be met, and the alignment.
        how: For what can be counted.
        target: Where latency is measured; this machine on one thread by default.
        batch_size: Batch size of the measurement, where there is no target.

    Raises:
        OptionError: the target is not a profile, the dense program meets the latency cap already, or latency or
            ``align="auto"`` is given where weights go.
        ExportError: the dense program cannot be exported to be measured.
    """
    if target is not None and not isinstance(target, Profile):
        raise OptionError(f"target={target!r}: expected what graphprune.profile() gives")
    budget = settings.budget
    if not budget.is_timed and settings.align != "auto":
        return how, budget
    if not isinstance(how, ByRank):
        raise OptionError("latency and align='auto' are about widths: they go with granularity='channel'")
    profile = target or Profile.here(batch_size=batch_size)
    if not budget.is_timed:
        return ByWidths(_with_steps(how, program, LatencyModel(program, profile)), budget, profile), budget
    stopwatch = Stopwatch(program.module, program.example, profile.target)
    dense_ms = stopwatch.time().latencies["dense"].median_ms
    by_profile = partial(_by_profile, how, program, dense_ms)
    rank, calibration = by_profile(profile)
    budget = budget.timed_from(dense_ms)
    return ByLatency(rank, budget, profile, stopwatch, calibration, dense_ms, by_profile), budget


def _with_steps(how: ByRank, program: Program, model: LatencyModel) -> ByRank:
    return replace(how, limits=how.limits.with_steps(program[Dependencies], model.steps()))


def _by_profile(how: ByRank, program: Program, dense_ms: float, profile: Profile) -> tuple[ByRank, Calibration]:
    """The rounds and the calibration that a profile gives for a dense program of known latency."""
    model = LatencyModel(program, profile)
    return _with_steps(how, program, model), model.calibrated(dense_ms)
