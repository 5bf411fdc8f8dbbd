"""Budgets: ranges, the way to them, and caps on latency as shares."""

from __future__ import annotations

import math
from fractions import Fraction
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from graphprune.costs.measures import MEASURES
from graphprune.errors import OptionError
from graphprune.request.budget import Budget, budget_of, is_share

SHARES = st.floats(0, 1, exclude_max=True)
NAMES = (*MEASURES, "latency")

ROUNDING = 1e-12
"""Of a few operations on numbers of about 1 in double precision."""


def budgets(timed: bool = False) -> st.SearchStrategy[Budget]:
    """Budgets with at least one share; with a cap in milliseconds as well where that is asked for."""
    shares = st.dictionaries(st.sampled_from(NAMES), SHARES, min_size=1)
    return st.builds(
        lambda given_shares, cap: Budget(**given_shares, latency_ms=cap),
        shares,
        st.one_of(st.none(), st.floats(1e-3, 1e3)) if timed else st.none(),
    )


def given_of(budget: Budget) -> dict[str, float]:
    """What was asked for."""
    return {name: value for name in (*NAMES, "latency_ms") if (value := getattr(budget, name)) is not None}


@given(st.sampled_from(NAMES), SHARES)
def test_shares_below_one_are_taken(name: str, share: float) -> None:
    assert given_of(Budget(**{name: share})) == {name: share}


@given(st.sampled_from(NAMES), st.one_of(st.floats(1), st.floats(max_value=0, exclude_max=True), st.just(math.nan)))
def test_other_shares_are_refused(name: str, share: float) -> None:
    with pytest.raises(OptionError) as caught:
        Budget(**{name: share})
    assert str(caught.value) == f"budget {name}={share}: expected the share to remove, in [0, 1)"


@given(st.floats(0, exclude_min=True, allow_infinity=False))
def test_any_time_is_a_cap(cap: float) -> None:
    assert Budget(latency_ms=cap).is_timed


@given(st.one_of(st.floats(max_value=0), st.sampled_from([math.inf, math.nan])))
def test_what_is_no_time_is_refused(cap: float) -> None:
    with pytest.raises(OptionError, match=r"^budget latency_ms=.+: expected milliseconds above 0$"):
        Budget(latency_ms=cap)


@pytest.mark.parametrize("share", [np.float64(0.25), np.float32(0.25), Fraction(1, 4), 0, np.int64(0)])
def test_numbers_of_other_kinds_are_shares(share: Any) -> None:
    assert is_share(share) and Budget(params=share).sparsity == share


@pytest.mark.parametrize("share", ["0.5", None, False, torch.tensor(0.5), [0.5], 0.5j])
def test_what_is_no_number_is_no_share(share: object) -> None:
    assert not is_share(share)


def test_one_wrong_share_is_named_among_right_ones() -> None:
    with pytest.raises(OptionError, match=r"budget macs=1: expected the share to remove, in \[0, 1\)$"):
        Budget(channels=0.5, params=0.5, macs=1, latency=0.5)


@given(budgets(timed=True))
def test_a_budget_shows_what_was_asked_for(budget: Budget) -> None:
    assert eval(repr(budget), {"Budget": Budget}) == budget
    assert "None" not in repr(budget)


@given(budgets(timed=True))
def test_shares_are_those_of_what_is_counted(budget: Budget) -> None:
    asked = given_of(budget)
    assert budget.shares() == {name: asked[name] for name in MEASURES if name in asked}
    assert budget.is_timed == bool(asked.keys() & {"latency", "latency_ms"})
    assert budget.sparsity == max((share for name, share in asked.items() if name != "latency_ms"), default=0.0)


# --- on the way -------------------------------------------------------------------------------------------------------


@given(budgets(timed=True))
def test_the_end_of_the_way_is_the_budget(budget: Budget) -> None:
    """But for the cap in milliseconds, which is a share by then."""
    assume(budget.sparsity > 0)
    asked = {name: share for name, share in given_of(budget).items() if name != "latency_ms"}
    assert given_of(budget.scaled(budget.sparsity)) == asked


@given(budgets(), st.floats(0, 1))
def test_all_shares_of_a_budget_on_the_way_are_as_far(budget: Budget, part: float) -> None:
    sparsity = budget.sparsity * part
    on_the_way = budget.scaled(sparsity)
    assert on_the_way.sparsity == pytest.approx(sparsity, rel=ROUNDING, abs=1e-300)
    assert given_of(on_the_way).keys() == given_of(budget).keys()
    for name, share in given_of(budget).items():
        assert getattr(on_the_way, name) == pytest.approx(share * part, rel=ROUNDING, abs=1e-300)


@given(budgets(), st.lists(st.floats(0, 1), min_size=2, max_size=5))
def test_budgets_on_the_way_grow(budget: Budget, parts: list[float]) -> None:
    ways = [given_of(budget.scaled(budget.sparsity * part)) for part in sorted(parts)]
    for before, after in pairwise(ways):
        assert all(before[name] <= after[name] for name in before)


@pytest.mark.parametrize("budget", [Budget(channels=0.0), Budget(macs=0.0, latency=0.0)])
def test_the_way_to_nothing(budget: Budget) -> None:
    assert budget.scaled(0.0) == budget


# --- latency ----------------------------------------------------------------------------------------------------------


@given(budgets(), st.floats(1e-3, 1e3))
def test_a_budget_without_a_cap_does_not_depend_on_times(budget: Budget, dense_ms: float) -> None:
    assert budget.timed_from(dense_ms) is budget


@given(budgets(timed=True), st.floats(1e-3, 1e3))
def test_a_cap_is_a_share_of_the_dense_latency(budget: Budget, dense_ms: float) -> None:
    assume(budget.latency_ms is not None)
    assert budget.latency_ms is not None
    if budget.latency_ms >= dense_ms:
        with pytest.raises(OptionError, match=r"the dense network takes .+ ms already; ask for less$"):
            budget.timed_from(dense_ms)
        return
    timed = budget.timed_from(dense_ms)
    assert timed.latency is not None
    left = dense_ms * (1 - timed.latency)
    wanted = min(budget.latency_ms, dense_ms * (1 - (budget.latency or 0.0)))
    assert left == pytest.approx(wanted, rel=ROUNDING, abs=ROUNDING * dense_ms), "the stricter one of the two"
    others = {name: share for name, share in given_of(budget).items() if name != "latency"}
    assert {name: share for name, share in given_of(timed).items() if name != "latency"} == others


@pytest.mark.parametrize(("latency", "expected"), [(None, 0.75), (0.5, 0.75), (0.9, 0.9), (0.0, 0.75)])
def test_the_stricter_one_of_a_share_and_a_cap_counts(latency: float | None, expected: float) -> None:
    budget = Budget(latency=latency, latency_ms=2.0, params=0.1)
    assert budget.timed_from(8.0) == Budget(params=0.1, latency=expected, latency_ms=2.0)


def test_a_cap_above_the_dense_latency_tells_both() -> None:
    with pytest.raises(OptionError, match=r"^budget latency_ms=5.0: the dense network takes 4.123 ms already; ask"):
        Budget(latency_ms=5.0).timed_from(4.1234567)


# --- what a user means ------------------------------------------------------------------------------------------------


@given(SHARES, st.sampled_from(MEASURES))
def test_a_sparsity_is_a_share_of_what_is_counted(sparsity: float, counted: Any) -> None:
    assert budget_of(sparsity, None, counted) == Budget(**{counted: sparsity})


@given(budgets(timed=True), st.sampled_from(MEASURES))
def test_a_budget_is_taken_as_it_is(budget: Budget, counted: Any) -> None:
    assert budget_of(None, budget, counted) is budget


@pytest.mark.parametrize("counted", MEASURES)
def test_half_of_what_is_counted_where_nothing_is_said(counted: Any) -> None:
    assert budget_of(None, None, counted) == Budget(**{counted: 0.5})


def test_a_sparsity_out_of_range_names_what_it_counts() -> None:
    with pytest.raises(OptionError, match=r"^sparsity=1.5: expected the share of weights to remove, in \[0, 1\)$"):
        budget_of(1.5, None, "weights")


def test_zero_is_said_and_not_nothing() -> None:
    assert budget_of(0, None) == Budget(channels=0.0)
    with pytest.raises(OptionError, match="give sparsity= or budget=, not both"):
        budget_of(0, Budget(params=0.5))
