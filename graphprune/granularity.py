"""What goes: whole channels, single weights, or both."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, get_args

from graphprune.budget import Measure
from graphprune.criteria import CRITERIA, Accumulate, Given, criterion_of
from graphprune.criteria.criterion import check_accumulate
from graphprune.errors import OptionError
from graphprune.names import check_name
from graphprune.registry import Registry
from graphprune.rounds import ByRank
from graphprune.selection import Limits
from graphprune.weights.criteria import WEIGHT_CRITERIA, WeightCriterion
from graphprune.weights.rounds import ByWeights, Jointly

Granularity = Literal["channel", "weight", "mixed"]

DeadPathsAre = Literal["keep", "remove"]
"""What becomes of weights and channels that are left but lie on no path from input to output."""


def granularity_of(given: str) -> Granularity:
    """What goes, by name.

    Raises:
        OptionError: the name is unknown.
    """
    check_name("granularity", given, get_args(Granularity))
    return given  # type: ignore[return-value]


def counted_by(granularity: Granularity) -> Measure:
    """What ``sparsity=`` is a share of."""
    return "channels" if granularity == "channel" else "weights"


def accumulate_of(given: str | None, granularity: Granularity) -> Accumulate:
    """How samples add up; by default what suits the granularity.

    Channels and weights under one threshold have to be measured alike, and weights take a backward pass for each value
    that adds up, so there the default is the paper's.

    Raises:
        OptionError: the name is unknown.
    """
    if given is None:
        return "signed" if granularity == "mixed" else "absolute"
    return check_accumulate(given)


def samples_together(granularity: Granularity) -> int:
    """Samples whose mean gradient in the weights adds up as one.

    A backward pass for each sample takes ten times as long as one for batches. Of sixteen samples of a batch, or all of
    a smaller one, the mean gradient is as good (`docs/decisions/0018-weights-in-small-batches.md`), except where they
    are compared with channels, whose gates see every sample.
    """
    return 16 if granularity == "weight" else 1


def rounds_of(
    granularity: Granularity, criterion: Given | WeightCriterion, original: Mapping[Measure, int], limits: Limits, *,
    resurrect: bool, dead_paths: str, verify: bool,
) -> ByRank | ByWeights | Jointly:  # fmt: skip
    """How rounds go that take what is to go.

    Raises:
        OptionError: the criterion does not rank that, or an option means nothing there.
    """
    check_name("dead_paths", dead_paths, get_args(DeadPathsAre))
    on_paths = dead_paths == "remove"
    if granularity == "channel":
        if on_paths:
            raise OptionError(
                "dead_paths='remove': a channel that is left is on a path, for all of its weights are; dead paths come "
                "with granularity='weight' or 'mixed'"
            )
        if resurrect:
            raise OptionError("resurrect=True: channels are removed for real and cannot come back; weights can")
        if isinstance(criterion, str):
            _check_criterion(criterion, granularity, CRITERIA, WEIGHT_CRITERIA)
        return ByRank(criterion_of(criterion), original, limits, verify)
    if isinstance(criterion, str):
        _check_criterion(criterion, granularity, WEIGHT_CRITERIA, CRITERIA)
    by_weights = ByWeights(_weight_criterion_of(criterion), original, resurrect, on_paths, verify)
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


def _check_criterion(name: str, granularity: Granularity, known: Registry[Any], others: Registry[Any]) -> None:
    """Says that a criterion ranks something else rather than that it is unknown."""
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
