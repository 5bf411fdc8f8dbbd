"""Each family of rules broken on purpose: verification has to see it.

A rule, a rewriting rule or the slicing of tensors is replaced by one with a typical mistake. The analysis, the prune or
the proof then has to end in an internal error; a silent pass would mean that the proof proves nothing.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import graphprune.ops
import graphprune.rewrite
from graphprune.capture import capture
from graphprune.coupling.shapes import RecordedShapes
from graphprune.errors import InvariantError, VerificationError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.ops.registry import RULES
from graphprune.pass_manager.runner import Runner, check
from graphprune.passes import pipelines
from graphprune.program.facts import FirstAnalysis
from graphprune.rewrite import compact
from graphprune.rewrite.literals import RESIZERS
from graphprune.verification.equivalence import MaskedProgram, verify_compact
from tests.ops.case import net, randomised
from tests.verification.broken_rewriting import BROKEN_REWRITING, BrokenRewriting, nothing
from tests.verification.broken_rules import BROKEN_RULES, IMAGE, BrokenRule

NOT_REWRITING = {"__init__", "sizes"}
"""Files of `graphprune.rewrite` that only look sizes up."""


def prune_and_verify(model: nn.Module, example: Tensor) -> None:
    """Analyses, removes about half of each group, checks the invariants and verifies."""
    torch.manual_seed(0)
    program = Runner().run(pipelines.analysis(), capture(randomised(model), example))
    dependencies: Dependencies = program[Dependencies]
    generator = torch.Generator().manual_seed(0)
    keep = torch.rand(dependencies.channels, generator=generator) < 0.5
    for group in dependencies.groups:
        keep[group.start + 1 : group.start + 2] = True
        keep[group.start] = group.channels == 1
    kept = KeepSet.of(dependencies, keep)
    module = compact.compact_module(program, kept)
    shapes = RecordedShapes(compact.foretold_shapes(kept))
    smaller = program.pruned(module, kept.indices, kept.removed).knowing(shapes)
    check(smaller, "after a prune")
    verify_compact(MaskedProgram.of(program, kept), smaller)
    assert not bool(keep.all()), "nothing was removed, so nothing was proved"


@pytest.mark.parametrize("row", BROKEN_RULES, ids=lambda row: row.name)
def test_a_broken_coupling_rule_is_seen(row: BrokenRule, monkeypatch: pytest.MonkeyPatch) -> None:
    if not row.frozen:
        prune_and_verify(row.model, row.example)
    monkeypatch.setitem(RULES, row.target, row.broken)
    with pytest.raises((VerificationError, InvariantError)):
        prune_and_verify(row.model, row.example)


@pytest.mark.parametrize("row", BROKEN_REWRITING, ids=lambda row: row.name)
def test_broken_rewriting_is_seen(row: BrokenRewriting, monkeypatch: pytest.MonkeyPatch) -> None:
    prune_and_verify(row.model, row.example)
    row.breaks(monkeypatch)
    with pytest.raises((VerificationError, InvariantError)):
        prune_and_verify(row.model, row.example)


def test_every_family_of_coupling_rules_is_broken_by_a_test() -> None:
    families = {rule.__module__ for rule in RULES.values()}
    assert all(family.startswith(graphprune.ops.__name__) for family in families)
    missing = families - {RULES[row.target].__module__ for row in BROKEN_RULES}
    assert not missing, f"add a row to tests/broken_rules.py for {sorted(missing)}"


def test_every_file_that_rewrites_is_broken_by_a_test() -> None:
    folder = Path(graphprune.rewrite.__file__).parent
    files = {path.stem for path in folder.glob("*.py")} - NOT_REWRITING
    missing = files - {row.file for row in BROKEN_REWRITING}
    assert not missing, f"add a row to tests/broken_rewriting.py for {sorted(missing)}"


def test_a_size_that_no_rule_rewrites_freezes_instead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(RESIZERS, "view", nothing)
    model = net(lambda self, x: self.head(self.a(x).view(-1, 128)), a=nn.Conv2d(3, 8, 3), head=nn.Linear(128, 4))
    program = Runner().run(pipelines.analysis(), capture(model, IMAGE))
    assert not program[Dependencies].groups
    assert program[FirstAnalysis].pins and "view" in program[FirstAnalysis].pins[0][0]
