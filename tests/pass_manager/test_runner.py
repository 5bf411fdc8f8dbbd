"""The runner: order, contracts, claims, dumps, times."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import pytest
import torch

from graphprune.criteria.scores import Scores
from graphprune.errors import InternalError, InvariantError
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.protocol import Pass, PassResult
from graphprune.pass_manager.runner import Runner
from graphprune.passes.build_dependencies import BuildDependencies
from graphprune.passes.prune_channels import PruneChannels
from graphprune.passes.select_channels import SelectChannels
from graphprune.passes.verify_prune import VerifyPrune
from graphprune.program.facts import Fact
from graphprune.program.program import Program
from graphprune.request.limits import Limits
from graphprune.selection.goal import Goal
from graphprune.selection.record import Selection
from tests.small_models import Chain, analysed, images


@dataclass(frozen=True)
class Custom(Pass):
    """A pass made of a function."""

    act: Callable[[Program], PassResult] = lambda program: PassResult(program, False)
    problems: tuple[str, ...] = ()
    broken: tuple[str, ...] = ()

    def requires(self, program: Program) -> list[str]:
        return list(self.problems)

    def run(self, program: Program) -> PassResult:
        return self.act(program)

    def ensures(self, before: Program, result: PassResult) -> list[str]:
        return list(self.broken)


@dataclass(frozen=True)
class Promises(Custom):
    """Says that it provides scores and drops the dependencies."""

    provides: ClassVar[frozenset[type[Fact]]] = frozenset({Scores})
    drops: ClassVar[frozenset[type[Fact]]] = frozenset({Dependencies})


def program() -> Program:
    return analysed(Chain(), images())[0]


def test_the_name_of_a_pass_is_its_class_name() -> None:
    assert PruneChannels().name == "prune-channels"
    assert BuildDependencies().name == "build-dependencies"


def test_a_wrong_order_is_refused_before_anything_runs() -> None:
    ran: list[str] = []

    def act(given: Program) -> PassResult:
        ran.append("ran")
        return PassResult(given, False)

    pipeline = [Custom(act), PruneChannels(), SelectChannels(Goal({}), Limits()), VerifyPrune()]
    with pytest.raises(InternalError) as caught:
        Runner().run(pipeline, program())
    assert not ran
    message = str(caught.value)
    assert "order of passes" in message
    assert "prune-channels needs Selection, which no earlier pass provides" in message
    assert "select-channels needs Dependencies, Scores, which no earlier pass provides" in message


def test_a_pass_drops_what_it_invalidates() -> None:
    pipeline = [PruneChannels(), PruneChannels()]
    keep = program().knowing(Selection(torch.ones(6, dtype=torch.bool)))
    with pytest.raises(InternalError, match="prune-channels needs Dependencies, Selection"):
        Runner().run(pipeline, keep)


def test_preconditions_and_postconditions_are_named_all_at_once() -> None:
    with pytest.raises(InternalError, match="custom: precondition:\n  first\n  second"):
        Runner().run([Custom(problems=("first", "second"))], program())
    with pytest.raises(InternalError, match="custom: postcondition:\n  third\n  fourth"):
        Runner().run([Custom(broken=("third", "fourth"))], program())


def in_place(given: Program) -> PassResult:
    node = next(node for node in given.module.graph.nodes if node.name == "mean")
    node.args = (node.args[0], (3, 2))
    return PassResult(given, False)


def tensor_in_place(given: Program) -> PassResult:
    given.module.get_submodule("conv").weight = torch.nn.Parameter(torch.zeros(6, 2, 3, 3))
    return PassResult(given, False)


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda given: PassResult(replace(given), False), "says that nothing changed, but returns another program"),
        (lambda given: PassResult(given, True), "says that it changed something, but returns the same program"),
        (in_place, "changes the module of the program that it was given; work on a copy"),
        (tensor_in_place, "changes the module of the program that it was given; work on a copy"),
    ],
)
def test_a_pass_that_lies_about_what_it_changed(act: Callable[[Program], PassResult], message: str) -> None:
    with pytest.raises(InternalError, match=f"custom: claim:\n  {message}"):
        Runner().run([Custom(act)], program())


def test_a_pass_that_lies_about_its_analyses() -> None:
    with pytest.raises(InternalError) as caught:
        Runner().run([Promises(lambda given: PassResult(replace(given), True))], program())
    assert "says that it provides Scores, but does not" in str(caught.value)
    assert "says that it drops Dependencies, but keeps it" in str(caught.value)


def test_the_program_is_verified_after_a_pass_that_changed_it() -> None:
    def break_module(given: Program) -> PassResult:
        module = analysed(Chain(), images())[0].module
        del module._modules["fc"]
        return PassResult(replace(given, module=module), True)

    with pytest.raises(InvariantError, match="after custom:"):
        Runner().run([Custom(break_module)], program())


def test_programs_are_dumped_and_emitted(tmp_path: Path) -> None:
    emitted: list[str] = []
    runner = Runner(dump_dir=tmp_path / "dump", print_after=frozenset({"build-dependencies"}), emit=emitted.append)
    runner.run([Custom(), BuildDependencies()], program())
    assert sorted(path.name for path in (tmp_path / "dump").iterdir()) == ["01-custom.txt", "02-build-dependencies.txt"]
    assert emitted == [(tmp_path / "dump" / "02-build-dependencies.txt").read_text(encoding="utf-8")]
    assert emitted[0].startswith("program Chain captured by torch.fx\n")


def test_times_are_kept_by_pass_and_a_line_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    runner, given = Runner(), program()
    with caplog.at_level(logging.INFO, logger="graphprune"):
        runner.run([BuildDependencies(), BuildDependencies()], given)
    assert runner.seconds.keys() == {"build-dependencies"} and runner.seconds["build-dependencies"] > 0
    lines = [record.getMessage() for record in caplog.records if record.levelno == logging.INFO]
    assert lines == ["build-dependencies: 1 groups, 6 channels"] * 2
