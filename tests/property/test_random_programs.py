"""Random programs, pruned at random: what is left computes what the masked program and the user's model compute.

`make fuzz` runs 10,000 seeds of the same.
"""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from benchmarks.fuzz import ONNX_EVERY, run_block, run_seed
from tests.property.checks import check
from tests.property.ops import OPS
from tests.property.programs import Below, RandomProgram, build

BLOCK = 25


@st.composite
def choices(draw: st.DrawFn) -> Below:
    """Numbers drawn by hypothesis, so that a failing program shrinks."""
    return lambda size: draw(st.integers(0, size - 1)) if size > 1 else 0


@settings(max_examples=125, suppress_health_check=list(HealthCheck))
@given(choices(), st.integers(2, 12), st.integers(1, 3))
@pytest.mark.filterwarnings("ignore")
def test_programs_of_hypothesis(below: Below, length: int, rounds: int) -> None:
    torch.manual_seed(0)  # a program that hypothesis runs again must have the same weights
    model: RandomProgram = build(below, OPS, length)
    note(str(model))
    check(model, below, rounds)


@pytest.mark.parametrize("first_seed", range(2, 177, BLOCK))
def test_programs_of_seeds(first_seed: int) -> None:
    counts = run_block(first_seed, BLOCK, code="")
    assert not counts["mismatches"], counts["mismatches"]
    assert counts["prunable"] > BLOCK // 2 and counts["zeroed"] and counts["removed"]


def test_some_programs_reach_onnxruntime() -> None:
    """The blocks compare a few, but none has to be one that can be pruned and exported."""
    assert any(run_seed(seed).onnx for seed in range(0, 10 * ONNX_EVERY, ONNX_EVERY))
