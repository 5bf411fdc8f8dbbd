"""The table of ops and patterns, in one file per family."""

from __future__ import annotations

from tests.ops import cases_attention, cases_capture, cases_contraction, cases_mixing, cases_movement
from tests.ops.case import Case

CASES: tuple[Case, ...] = (
    *cases_contraction.ROWS,
    *cases_mixing.ROWS,
    *cases_movement.ROWS,
    *cases_attention.ROWS,
    *cases_capture.ROWS,
)

assert len({case.name for case in CASES}) == len(CASES), "two rows have one name"
