"""Curves go through what was measured, and find the steps of a target."""

from __future__ import annotations

import numpy as np
import pytest

from graphprune.labels.contractions import Window
from graphprune.latency.curves import Curve, Family, curve_of
from tests.latency.stepped import HERE, Stepped

WINDOW = Window((8, 8), (3, 3), (1, 1), (1, 1), (1, 1), transposed=False)
CONVOLUTION = Family("Conv", (1, 1, None, None), WINDOW)


@pytest.mark.parametrize("step", [1, 8, 16, 32])
def test_the_step_of_a_target_is_found(step: int) -> None:
    curve = Curve(CONVOLUTION, (256, 192), Stepped(HERE, step=step))
    assert curve.steps == (step, step)


def test_narrow_widths_have_steps_that_fit() -> None:
    assert Curve(CONVOLUTION, (6, 3), Stepped(HERE, step=1)).steps == (1, 1)
    assert all(step <= 4 for step in Curve(CONVOLUTION, (8, 8), Stepped(HERE, step=8)).steps)


def test_heads_have_no_step() -> None:
    family = Family("MatMul", (None, 16, 16, 32))
    assert Curve(family, (64,), Stepped(HERE, step=8)).steps == (1,)


def test_aligned_widths_are_exact_where_latency_is_a_product() -> None:
    curve = Curve(CONVOLUTION, (256, 192), Stepped(HERE, step=16))
    sizes = np.array([[256, 192], [128, 192], [144, 80], [16, 176], [208, 16]])
    expected = [curve.profile.ms([CONVOLUTION.kernel(each)])[0] for each in sizes.tolist()]
    np.testing.assert_allclose(curve.ms(sizes), expected, rtol=1e-9)


def test_one_size_alone() -> None:
    curve = Curve(Family("Conv", (1, None, 1, 1), WINDOW), (1,), Stepped(HERE, step=1))
    assert curve.ms(np.array([[1]])).shape == (1,)


def test_a_narrower_program_needs_no_new_measurements() -> None:
    profile = Stepped(HERE, step=8)
    wide = curve_of(CONVOLUTION, (256, 192), profile)
    assert curve_of(CONVOLUTION, (64, 192), profile) is wide
    assert curve_of(CONVOLUTION, (64, 193), profile).largest == (64, 193)
    assert curve_of(CONVOLUTION, (64, 64), Stepped(HERE, step=8)).largest == (64, 64)
