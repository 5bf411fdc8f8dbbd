"""A difference that may be rounding is looked at again in double precision; a mistake is seen in both."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from graphprune.errors import VerificationError
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.program.program import Program
from graphprune.rewrite.compact import compact_module
from graphprune.verification import comparison
from graphprune.verification.equivalence import MaskedProgram, verify_compact
from graphprune.verification.in_double import in_double
from tests.ops.case import net
from tests.small_models import analysed


def casting() -> nn.Module:
    return net(
        lambda self, x: self.head(torch.relu(self.hidden(x).to(torch.float32))),
        hidden=nn.Linear(5, 64),
        head=nn.Linear(64, 3),
    )


def pruned() -> tuple[MaskedProgram, Program]:
    program, dependencies = analysed(casting(), torch.randn(2, 5))
    keep = torch.arange(dependencies.channels) % 3 > 0
    compact = replace(program, module=compact_module(program, KeepSet.of(dependencies, keep))).without(Dependencies)
    return MaskedProgram.of(program, KeepSet.of(dependencies, keep)), compact


def test_rounding_is_no_difference(monkeypatch: pytest.MonkeyPatch) -> None:
    masked, compact = pruned()
    monkeypatch.setitem(comparison.TOLERANCES, torch.float32, 0.0)
    verification = verify_compact(masked, compact)
    assert verification.tolerance == comparison.TOLERANCES[torch.float64]
    assert verification.relative_error <= 1e-14


def test_a_mistake_is_one_in_both() -> None:
    masked, compact = pruned()
    with torch.no_grad():
        compact.module.get_parameter("head.weight")[0, 0] += 1e-3
    with pytest.raises(VerificationError, match="differs from the masked one"):
        verify_compact(masked, compact)


def test_the_program_itself_keeps_its_type() -> None:
    _, compact = pruned()
    double = in_double(compact)
    assert {parameter.dtype for parameter in double.module.parameters()} == {torch.float64}
    assert {parameter.dtype for parameter in compact.module.parameters()} == {torch.float32}
    assert compact.module(*compact.inputs()).dtype == torch.float32
    assert double.module(*double.inputs()).dtype == torch.float64
