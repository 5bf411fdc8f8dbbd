"""What a user asks for, apart from model, data and criterion: checked once, before anything else happens."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from graphprune.costs.measures import Measure
from graphprune.errors import OptionError
from graphprune.pass_manager.runner import Runner
from graphprune.program.program import Attention
from graphprune.registry import check_name
from graphprune.request.budget import Budget, budget_of
from graphprune.request.limits import Limits
from graphprune.request.options import attention_of, check_options, check_switches, limits_of
from graphprune.request.schedule import Schedule, targets_of

Granularity = Literal["channel", "weight", "mixed"]
"""What is removed: whole channels, single weights, or both."""

DeadPathsAre = Literal["keep", "remove"]
"""What happens to the remaining weights and channels that are on no path from input to output."""

RepairedBy = Literal["least-squares"]
"""How the weights that are left are fitted."""

Progress = Callable[[str, int, int], None]
"""Function that is called with the stage, rounds done, and rounds in all."""


@dataclass(frozen=True)
class Settings:
    """The options of `graphprune.compile`, checked and in the form in which they are used.

    Attributes:
        granularity: What is removed.
        budget: How much is removed.
        schedule: How the rounds lead up to the budget.
        limits: Floors and alignment.
        align: Multiple that widths are aligned to, or ``"auto"``.
        protect: Name patterns of what stays.
        attention: What is removed from attention.
        resurrect: Whether dead weights can come back.
        dead_paths: What happens to the weights and channels that are on no path.
        samples: Number of sensitivity samples per round.
        repair: How the weights that are left are fitted after the last round; None to leave them.
        verify: Whether each round is proved.
        strict: Whether what is frozen for want of a rule is refused.
        seed: Seed of everything random.
        progress: Called with what is being done.
        runner: Runs the passes.
    """

    granularity: Granularity
    budget: Budget
    schedule: str | Schedule
    limits: Limits
    align: int | str
    protect: tuple[str, ...]
    attention: Attention
    resurrect: bool
    dead_paths: DeadPathsAre
    samples: int
    repair: RepairedBy | None
    verify: bool
    strict: bool
    seed: int
    progress: Progress
    runner: Runner

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Settings:
        """Checks the options that a user gives, by name; entries that are not settings are ignored.

        Raises:
            OptionError: a value of an option is invalid.
        """
        granularity = granularity_of(given["granularity"])
        budget = budget_of(given["sparsity"], given["budget"], counted_by(granularity))
        limits = limits_of(given["min_channels"], given["align"])
        check_switches(**{name: given[name] for name in ("verify", "strict", "resurrect")})
        check_name("dead_paths", given["dead_paths"], get_args(DeadPathsAre))
        targets_of(given["schedule"], budget.sparsity)  # refuses a schedule that does not lead up to the budget
        check_options(given["samples"], given["protect"], given["seed"], given["progress"], given["runner"])
        return cls(
            granularity=granularity,
            budget=budget,
            schedule=given["schedule"],
            limits=limits,
            align=given["align"],
            protect=tuple(given["protect"]),
            attention=attention_of(given["attention"], granularity),
            resurrect=given["resurrect"],
            dead_paths=given["dead_paths"],
            samples=given["samples"],
            repair=repair_of(given["repair"], granularity),
            verify=given["verify"],
            strict=given["strict"],
            seed=given["seed"],
            progress=given["progress"] or silent,
            runner=Runner() if given["runner"] is None else given["runner"],
        )


def granularity_of(given: str) -> Granularity:
    """Checks the name that says what is removed.

    Raises:
        OptionError: the name is unknown.
    """
    check_name("granularity", given, get_args(Granularity))
    return given  # type: ignore[return-value]


def repair_of(given: str | None, granularity: Granularity) -> RepairedBy | None:
    """Checks the name that says how weights are repaired.

    Raises:
        OptionError: the name is unknown, or nothing could be repaired because single weights are dead.
    """
    if given is None:
        return None
    check_name("repair", given, get_args(RepairedBy))
    if granularity != "channel":
        raise OptionError(
            f"repair='{given}' fits whole matrices, and granularity='{granularity}' leaves zeros in them that have to "
            "stay; leave it out, or remove channels only"
        )
    return given  # type: ignore[return-value]


def counted_by(granularity: Granularity) -> Measure:
    """The measure that ``sparsity=`` is a share of."""
    return "channels" if granularity == "channel" else "weights"


def silent(stage: str, done: int, total: int) -> None:
    """Reports no progress; stands in where the user gives no function."""
