"""Settings: from what `compile` takes to what is used, each option checked."""

from __future__ import annotations

import inspect
from dataclasses import fields
from typing import Any

import pytest

import graphprune
from graphprune.errors import OptionError
from graphprune.pass_manager.runner import Runner
from graphprune.request.budget import Budget
from graphprune.request.limits import Limits
from graphprune.request.options import safe_floor
from graphprune.request.settings import Settings, counted_by, granularity_of, silent


def defaults() -> dict[str, Any]:
    """What `compile` is given where only a model and an example are given."""
    parameters = inspect.signature(graphprune.compile).parameters
    return {name: None if each.default is each.empty else each.default for name, each in parameters.items()}


def settings(**options: Any) -> Settings:
    return Settings.of(defaults() | options)


def test_defaults() -> None:
    found = settings()
    assert vars(found) == {
        "granularity": "channel", "budget": Budget(channels=0.5), "schedule": "halving", "limits": Limits(1, 1),
        "align": 1, "protect": (), "attention": "heads", "resurrect": False, "dead_paths": "keep", "samples": 2560,
        "repair": None, "verify": True, "strict": False, "seed": 0, "progress": silent, "runner": found.runner,
    }  # fmt: skip


def one_shot(sparsity: float) -> list[float]:
    return [sparsity]


def tell(stage: str, done: int, total: int) -> None: ...


RUNNER = Runner()

GIVEN: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"sparsity": 0.25}, {"budget": Budget(channels=0.25)}),
    ({"sparsity": 0.25, "granularity": "weight"}, {"budget": Budget(weights=0.25), "granularity": "weight"}),
    ({"granularity": "mixed"}, {"budget": Budget(weights=0.5), "granularity": "mixed"}),
    ({"budget": Budget(macs=0.3, latency_ms=2.0)}, {"budget": Budget(macs=0.3, latency_ms=2.0)}),
    ({"budget": Budget(params=0.3), "granularity": "weight"}, {"budget": Budget(params=0.3), "granularity": "weight"}),
    ({"schedule": one_shot}, {"schedule": one_shot}),
    ({"align": 8, "min_channels": 4}, {"align": 8, "limits": Limits(4, 8)}),
    ({"align": "auto", "min_channels": "safe"}, {"align": "auto", "limits": Limits(safe_floor, 1)}),
    ({"protect": ["head", "stem.*"]}, {"protect": ("head", "stem.*")}),
    ({"attention": "head_dim"}, {"attention": "head_dim"}),
    ({"resurrect": True, "dead_paths": "remove"}, {"resurrect": True, "dead_paths": "remove"}),
    ({"samples": 7, "verify": False, "strict": True}, {"samples": 7, "verify": False, "strict": True}),
    ({"seed": 11, "progress": tell, "runner": RUNNER}, {"seed": 11, "progress": tell, "runner": RUNNER}),
]


@pytest.mark.parametrize(("given", "expected"), GIVEN)
def test_what_is_given_is_what_is_used(given: dict[str, Any], expected: dict[str, Any]) -> None:
    found, default = settings(**given), settings()
    assert {name: getattr(found, name) for name in expected} == expected
    others = {each.name for each in fields(Settings)} - expected.keys() - {"runner"}
    assert {name: getattr(found, name) for name in others} == {name: getattr(default, name) for name in others}


def test_each_request_has_a_runner_of_its_own() -> None:
    assert isinstance(settings().runner, Runner) and settings().runner is not settings().runner
    assert settings(runner=RUNNER).runner is RUNNER


def test_every_setting_is_an_option_of_compile() -> None:
    assert {each.name for each in fields(Settings)} - defaults().keys() == {"limits"}


def test_options_of_other_parts_are_passed_over() -> None:
    given = {"model": 3, "data": 4, "loss": "no", "criterion": object(), "target": "none", "self": None, "other": 5}
    assert {**vars(settings(**given)), "runner": None} == {**vars(settings()), "runner": None}


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"granularity": "weights"}, "granularity='weights' is unknown; known are channel, weight, mixed"),
    ({"granularity": None}, "granularity='None' is unknown"),
    ({"sparsity": 1}, "sparsity=1: expected the share of channels to remove"),
    ({"sparsity": 1, "granularity": "mixed"}, "sparsity=1: expected the share of weights to remove"),
    ({"sparsity": 0.5, "budget": Budget(macs=0.5)}, "give sparsity= or budget=, not both"),
    ({"budget": {"macs": 0.5}}, r"budget=\{'macs': 0.5\}: expected a graphprune.Budget"),
    ({"min_channels": 1.5}, "min_channels=1.5: expected a whole number"),
    ({"align": "8"}, "align='8': expected a whole number of at least 1, or 'auto'"),
    ({"verify": None}, "verify=None: expected True or False"),
    ({"strict": 1}, "strict=1: expected True or False"),
    ({"resurrect": 0}, "resurrect=0: expected True or False"),
    ({"dead_paths": "drop"}, "dead_paths='drop' is unknown; known are keep, remove"),
    ({"dead_paths": True}, "dead_paths='True' is unknown; known are keep, remove"),
    ({"schedule": "halve"}, "schedule 'halve' is unknown"),
    ({"schedule": 7}, "schedule: expected a name or a function, got int"),
    ({"schedule": lambda sparsity: [sparsity / 2]}, "schedule: expected ascending sparsities that end at 0.5"),
    ({"samples": -1}, "samples=-1: expected a whole number"),
    ({"protect": 3}, "protect=3: expected a sequence of patterns"),
    ({"seed": "0"}, "seed='0': expected a whole number from 0"),
    ({"progress": "bar"}, "progress: expected a function .* got str"),
    ({"runner": "here"}, "runner: expected a graphprune.runner.Runner, got str"),
    ({"attention": "tokens"}, "attention='tokens' is unknown; known are heads, head_dim"),
    ({"attention": "head_dim", "granularity": "weight"}, "attention='head_dim' is about channels"),
]


@pytest.mark.parametrize(("given", "message"), REFUSED)
def test_what_is_refused(given: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError, match=f"^{message}"):
        settings(**given)


@pytest.mark.parametrize(
    ("budget", "asked"),
    [(Budget(channels=0.6, macs=0.2), 0.6), (Budget(latency=0.3, params=0.1), 0.3), (Budget(latency_ms=3.0), 0.0)],
)
def test_the_schedule_is_tried_with_the_largest_share(budget: Budget, asked: float) -> None:
    tried: list[float] = []

    def schedule(sparsity: float) -> list[float]:
        tried.append(sparsity)
        return [sparsity]

    settings(budget=budget, schedule=schedule)
    assert tried == [asked]


def test_granularities_and_what_they_count() -> None:
    assert [counted_by(granularity_of(name)) for name in ("channel", "weight", "mixed")] == [
        "channels", "weights", "weights",
    ]  # fmt: skip


def test_how_weights_are_repaired() -> None:
    assert settings(repair="least-squares").repair == "least-squares"
    with pytest.raises(OptionError, match="repair='ridge' is unknown; known are least-squares"):
        settings(repair="ridge")
    for granularity in ("weight", "mixed"):
        with pytest.raises(OptionError, match=f"granularity='{granularity}' leaves zeros in them that have to stay"):
            settings(repair="least-squares", granularity=granularity)
