"""Names that users import."""

from __future__ import annotations

import importlib
import subprocess
import sys

import pytest

import graphprune

FORMER = {
    "graphprune.runner:Runner": "graphprune.pass_manager.runner:Runner",
    "graphprune.scores:Scores": "graphprune.criteria.scores:Scores",
    "graphprune.weights.criteria:WEIGHT_CRITERIA": "graphprune.criteria.weights:WEIGHT_CRITERIA",
    "graphprune.weights.criteria:WeightScores": "graphprune.criteria.scores:WeightScores",
}
NAMED = (
    "graphprune.criteria.elasticity:Elasticity",
    "graphprune.criteria:PerCost",
    "graphprune.research.methods:METHODS",
    "graphprune.research.methods:published_loss",
)


def found(name: str) -> object:
    module, _, attribute = name.partition(":")
    return getattr(importlib.import_module(module), attribute)


def test_every_public_name_is_there() -> None:
    assert [name for name in graphprune.__all__ if not hasattr(graphprune, name)] == []


@pytest.mark.parametrize("name", NAMED)
def test_paths_that_the_readme_names(name: str) -> None:
    assert found(name) is not None


@pytest.mark.parametrize("name", FORMER)
def test_paths_from_before_modules_moved(name: str) -> None:
    """In a process of its own, where nothing else was imported."""
    module, _, attribute = name.partition(":")
    new_module, _, _ = FORMER[name].partition(":")
    code = f"from {module} import {attribute} as a\nfrom {new_module} import {attribute} as b\nassert a is b"
    subprocess.run([sys.executable, "-c", code], check=True, timeout=120)
    assert found(name) is found(FORMER[name])
