"""Options that are checked before anything else: what passes, and what the message says."""

from __future__ import annotations

from fractions import Fraction
from math import ceil
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from graphprune.errors import OptionError
from graphprune.pass_manager.runner import Runner
from graphprune.request.limits import Limits
from graphprune.request.options import (
    attention_of,
    check_counts,
    check_options,
    check_switches,
    is_count,
    limits_of,
    safe_floor,
)

NO_COUNTS = [0, -1, 1.0, 2.5, True, False, "2", None, [1], np.float64(2)]


@given(st.integers(1, 10**6))
def test_the_safe_floor_is_two_channels_or_two_percent(channels: int) -> None:
    assert safe_floor(channels) == max(2, ceil(Fraction(2, 100) * channels))


@given(st.integers())
def test_counts_are_whole_numbers_from_one_on(value: int) -> None:
    assert is_count(value) == (value >= 1)


@pytest.mark.parametrize("value", NO_COUNTS)
def test_what_is_no_count_is_named_with_its_option(value: object) -> None:
    assert not is_count(value)
    with pytest.raises(OptionError) as caught:
        check_counts(samples=1, repeats=value)
    assert str(caught.value) == f"repeats={value!r}: expected a whole number of at least 1"


@pytest.mark.parametrize("value", [0, 1, None, "True", np.True_, []])
def test_what_is_no_switch_is_named_with_its_option(value: object) -> None:
    check_switches(verify=True, strict=False)
    with pytest.raises(OptionError) as caught:
        check_switches(verify=True, strict=value)
    assert str(caught.value) == f"strict={value!r}: expected True or False"


# --- limits -----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 100), st.integers(1, 100))
def test_limits_are_taken_as_they_are(floor: int, align: int) -> None:
    assert limits_of(floor, align) == Limits(floor, align)


def test_limits_by_name() -> None:
    assert limits_of("safe", "auto") == Limits(safe_floor, 1)


def test_a_floor_can_be_a_function() -> None:
    def half(size: int) -> int:
        return size // 2

    assert limits_of(half, 8) == Limits(half, 8)


@pytest.mark.parametrize("value", [value for value in NO_COUNTS if value != "2"])
def test_a_floor_that_is_no_count(value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        limits_of(value, 1)
    assert str(caught.value) == f"min_channels={value!r}: expected a whole number of at least 1"


@pytest.mark.parametrize("value", [*NO_COUNTS, "safe", "Auto"])
def test_an_alignment_that_is_no_count(value: Any) -> None:
    with pytest.raises(OptionError) as caught:
        limits_of(1, value)
    assert str(caught.value) == f"align={value!r}: expected a whole number of at least 1, or 'auto'"


@pytest.mark.parametrize("name", ["auto", "Safe", "", "2"])
def test_a_floor_by_a_name_that_there_is_not(name: str) -> None:
    with pytest.raises(OptionError) as caught:
        limits_of(name, 1)
    assert str(caught.value) == f"min_channels='{name}': expected a number, a function, or 'safe'"


# --- attention --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("granularity", ["channel", "mixed"])
@pytest.mark.parametrize("name", ["heads", "head_dim"])
def test_what_goes_of_attention(name: str, granularity: str) -> None:
    assert attention_of(name, granularity) == attention_of(name) == name


def test_attention_where_only_weights_go() -> None:
    assert attention_of("heads", "weight") == "heads", "the default says nothing"
    with pytest.raises(OptionError, match="attention='head_dim' is about channels; granularity='weight' removes none"):
        attention_of("head_dim", "weight")


@pytest.mark.parametrize("name", ["head", "", None, 2])
def test_an_unknown_name_for_attention(name: Any) -> None:
    with pytest.raises(OptionError, match=f"attention='{name}' is unknown; known are heads, head_dim"):
        attention_of(name)


# --- the rest ---------------------------------------------------------------------------------------------------------

FITTING: dict[str, Any] = {"samples": 1, "protect": (), "seed": 0, "progress": None, "runner": None}

ALSO_FITTING: list[tuple[str, Any]] = [
    ("samples", 10**9),
    ("protect", ["head", "layer1.*"]),
    ("protect", ("head",)),
    ("seed", 2**63 - 1),
    ("progress", lambda stage, done, total: None),
    ("progress", print),
    ("runner", Runner()),
]


@pytest.mark.parametrize(("name", "value"), ALSO_FITTING)
def test_options_that_fit(name: str, value: Any) -> None:
    check_options(**(FITTING | {name: value}))


PATTERNS = r"expected a sequence of patterns, e\.g\. protect="

REFUSED: list[tuple[str, Any, str]] = [
    ("samples", 0, "samples=0: expected a whole number of at least 1"),
    ("protect", "head", rf"protect='head': {PATTERNS}\('head',\)"),
    ("protect", ["head", 3], rf"protect=\['head', 3\]: {PATTERNS}\('head', 'layer1\.\*'\)"),
    ("protect", {"head"}, rf"protect=\{{'head'\}}: {PATTERNS}"),
    ("protect", None, f"protect=None: {PATTERNS}"),
    ("protect", b"head", f"protect=b'head': {PATTERNS}"),
    ("seed", -1, r"seed=-1: expected a whole number from 0 to 2\*\*63 - 1"),
    ("seed", 2**63, f"seed={2**63}: expected a whole number"),
    ("seed", 1.0, "seed=1.0: expected a whole number"),
    ("seed", True, "seed=True: expected a whole number"),
    ("seed", None, "seed=None: expected a whole number"),
    ("progress", True, r"progress: expected a function \(stage, done, total\), got bool"),
    ("runner", Runner, r"runner: expected a graphprune\.runner\.Runner, got type"),
]


@pytest.mark.parametrize(("name", "value", "message"), REFUSED)
def test_options_that_do_not(name: str, value: Any, message: str) -> None:
    with pytest.raises(OptionError, match=f"^{message}"):
        check_options(**(FITTING | {name: value}))
