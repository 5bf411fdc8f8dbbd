"""The table of ops and patterns, in one file per family."""

from __future__ import annotations

from tests.ops import (
    cases_attention,
    cases_capture,
    cases_choices,
    cases_contraction,
    cases_indexing,
    cases_mixing,
    cases_movement,
    cases_recurrent,
    cases_windows,
)
from tests.ops.case import Case

CASES: tuple[Case, ...] = (
    *cases_contraction.ROWS,
    *cases_mixing.ROWS,
    *cases_movement.ROWS,
    *cases_indexing.ROWS,
    *cases_windows.ROWS,
    *cases_attention.ROWS,
    *cases_recurrent.ROWS,
    *cases_capture.ROWS,
    *cases_choices.ROWS,
)

assert len({case.name for case in CASES}) == len(CASES), "two rows have one name"
