"""Pipelines: every order works, every pass is in one, and what passes say of facts is what facts say of passes."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch

from graphprune.criteria import criterion_of
from graphprune.criteria.weights import WEIGHT_CRITERIA
from graphprune.errors import InternalError
from graphprune.latency.model import LatencyModel
from graphprune.pass_manager.protocol import FrontEnd, Pass
from graphprune.pass_manager.runner import Runner, check_order
from graphprune.passes import pipelines
from graphprune.program.facts import Fact
from graphprune.program.program import Program
from graphprune.repair.samples import Split
from graphprune.request.limits import Limits
from graphprune.selection.goal import Goal
from tests.latency.stepped import HERE, Stepped
from tests.scoring import sensitivity
from tests.small_models import Mlp, analysed
from tests.source_files import PACKAGE

BARE = analysed(Mlp(), torch.randn(2, 5))[0]
DATA, GOAL, LIMITS, NOWHERE = sensitivity(None), Goal({}), Limits(), Path("nowhere.onnx")

PIPELINES: dict[str, list[Sequence[Pass]]] = {
    "analysis": [pipelines.analysis(), pipelines.analysis({"node": True})],
    "reanalysis": [pipelines.reanalysis()],
    "gating": [pipelines.gating()],
    "scoring": [pipelines.scoring(criterion_of(name), DATA) for name in ("elasticity", "l1-norm")],
    "scoring_weights": [pipelines.scoring_weights(WEIGHT_CRITERIA["magnitude"], DATA)],
    "selecting": [pipelines.selecting(GOAL, LIMITS)],
    "selecting_weights": [
        pipelines.selecting_weights(9, on_paths=on_paths, verify=True, seed=0) for on_paths in (False, True)
    ],
    "selecting_jointly": [
        pipelines.selecting_jointly(9, LIMITS, on_paths=on_paths, verify=True, seed=0) for on_paths in (False, True)
    ],
    "selecting_widths": [
        pipelines.selecting_widths(GOAL, LIMITS, LatencyModel(BARE, Stepped(HERE)), 1.0, at_least=at_least)
        for at_least in (False, True)
    ],
    "masking": [pipelines.masking(resurrect=True, verify=verify, seed=0) for verify in (False, True)],
    "pruning": [pipelines.pruning(verify=verify, seed=0) for verify in (False, True)],
    "pruning_jointly": [pipelines.pruning_jointly(resurrect=False, verify=verify, seed=0) for verify in (False, True)],
    "refitting": [pipelines.refitting(BARE, Split((), ()), 0)],
    "recalibrating": [pipelines.recalibrating(BARE, Split((), ()))],
    "exporting": [pipelines.exporting(NOWHERE)],
    "timing": [pipelines.timing(NOWHERE, 1, "cpu", 1, 3)],
}
EACH = [(name, pipeline) for name, several in PIPELINES.items() for pipeline in several]
ROUNDS = {
    "channels": ("scoring", "selecting", "pruning", "reanalysis"),
    "weights": ("scoring_weights", "selecting_weights", "masking"),
    "both": ("scoring", "scoring_weights", "selecting_jointly", "pruning_jointly", "reanalysis"),
    "latency": ("scoring", "selecting_widths", "pruning", "reanalysis"),
}


def knowing(*kinds: type[Fact]) -> Program:
    """A program that knows facts of some types; which facts does not matter for an order."""
    return Program(BARE.module, BARE.example, BARE.captured_by, facts={kind: Fact() for kind in kinds})


def pass_classes() -> list[type[Any]]:
    """What is defined in the files of passes/."""
    files = sorted(
        path.stem for path in (PACKAGE / "passes").glob("*.py") if path.stem not in ("__init__", "pipelines")
    )
    modules = [import_module(f"graphprune.passes.{name}") for name in files]
    return [
        entry
        for module in modules
        for entry in vars(module).values()
        if isinstance(entry, type) and issubclass(entry, (Pass, FrontEnd)) and entry.__module__ == module.__name__
    ]


def test_all_pipelines_are_here() -> None:
    found = {
        name
        for name, function in inspect.getmembers(pipelines, inspect.isfunction)
        if function.__module__ == pipelines.__name__
        and not name.startswith("_")
        and get_type_hints(function)["return"] == Sequence[Pass]
    }
    assert found == PIPELINES.keys()


@pytest.mark.parametrize(("name", "pipeline"), EACH, ids=[name for name, _ in EACH])
def test_what_the_first_pass_needs_is_enough(name: str, pipeline: Sequence[Pass]) -> None:
    check_order(pipeline, knowing(*pipeline[0].needs))
    for kind in pipeline[0].needs:
        with pytest.raises(InternalError, match=f"{pipeline[0].name} needs .*{kind.__name__}"):
            check_order(pipeline, knowing(*(pipeline[0].needs - {kind})))


@pytest.mark.parametrize("names", ROUNDS.values(), ids=ROUNDS)
def test_pipelines_of_a_round_follow_each_other(names: tuple[str, ...]) -> None:
    """Three rounds on a program about which nothing is known."""
    passes = [each for name in names for each in PIPELINES[name][-1]]
    check_order([*pipelines.analysis(), *passes, *passes, *passes], knowing())
    with pytest.raises(InternalError, match="needs Dependencies"):
        check_order(passes, knowing())


def test_a_proof_is_the_last_step_where_one_is_wanted() -> None:
    for name in ("masking", "pruning", "pruning_jointly"):
        without, proved = PIPELINES[name]
        assert [each.name for each in proved] == [*(each.name for each in without), "verify-prune"]


def test_every_pass_is_in_a_pipeline() -> None:
    used = {type(each) for _, pipeline in EACH for each in pipeline}
    assert {entry for entry in pass_classes() if issubclass(entry, Pass)} == used
    assert [entry.__name__ for entry in pass_classes() if issubclass(entry, FrontEnd)] == ["Trace"]


def test_every_file_has_one_pass_of_its_name_and_one_test_file() -> None:
    for entry in pass_classes():
        stem = entry.__module__.rpartition(".")[2]
        assert object.__new__(entry).name == stem.replace("_", "-")
        assert (Path(__file__).parent / f"test_{stem}.py").is_file(), stem
    assert len({entry.__module__ for entry in pass_classes()}) == len(pass_classes())


def test_facts_name_the_passes_that_find_them_out() -> None:
    provided: dict[type[Fact], set[str]] = {}
    for entry in pass_classes():
        for kind in getattr(entry, "provides", ()):
            provided.setdefault(kind, set()).add(object.__new__(entry).name)
    assert {kind: set(kind.provided_by) for kind in provided} == provided
    needed = {kind for entry in pass_classes() for kind in getattr(entry, "needs", ())}
    assert needed <= provided.keys()


def test_a_model_is_traced_and_analysed() -> None:
    runner = Runner()
    pipelines.analysed(Mlp(), torch.randn(2, 5), runner=runner)
    assert list(runner.seconds) == ["trace", "drop-dead-nodes", "build-dependencies", "fix-channel-sizes"]
