"""Random programs, pruned at random: what is left computes what the masked program computes."""

from __future__ import annotations

from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from tests.property.program_ops import OPS
from tests.property.programs import Below, RandomProgram, build, check


@st.composite
def choices(draw: st.DrawFn) -> Below:
    """Numbers drawn by hypothesis, so that a failing program shrinks."""
    return lambda size: draw(st.integers(0, size - 1)) if size > 1 else 0


@settings(max_examples=80, suppress_health_check=list(HealthCheck))
@given(choices(), st.integers(2, 12), st.integers(1, 3))
def test_masked_equals_compact_equals_replayed(below: Below, length: int, rounds: int) -> None:
    model: RandomProgram = build(below, OPS, length)
    note(str(model))
    check(model, below, rounds)
