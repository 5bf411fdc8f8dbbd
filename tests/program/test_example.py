"""Inputs of a model: which of them have the samples, and some of these."""

from __future__ import annotations

import pytest
import torch

from graphprune.criteria.samples import Batch
from graphprune.program.example import Example


def test_rows_of_what_is_batched() -> None:
    x, table = torch.randn(8, 3), torch.randn(8, 1)
    example = Example((x, {"table": table}), {"scale": 2.0, "y": x + 1})
    alike = Example((torch.randn(2, 3), {"table": table}), {"scale": 2.0, "y": torch.randn(2, 3)})
    for like, of_table in ((alike, table), (None, table[2:5])):
        found = example.rows(2, 5, like)
        assert torch.equal(found.args[0], x[2:5]) and torch.equal(found.kwargs["y"], x[2:5] + 1)
        assert torch.equal(found.args[1]["table"], of_table) and found.kwargs["scale"] == 2.0


def test_rows_go_by_the_names_of_arguments() -> None:
    """Also where the example has more of them, or another order."""
    x, table = torch.randn(8, 3), torch.randn(8, 1)
    like = Example((), {"x": torch.randn(2, 3), "mask": torch.ones(2, 3), "table": table})
    for kwargs in ({"x": x}, {"x": x, "table": table}, {"table": table, "x": x}):
        found = Example((), kwargs).rows(2, 5, like).kwargs
        assert torch.equal(found["x"], x[2:5]) and all(found[name] is table for name in found if name == "table")


@pytest.mark.parametrize(("samples", "sizes"), [(16, [16]), (17, [8, 9]), (5, [5]), (40, [13, 13, 14]), (1, [1])])
def test_parts_of_a_batch_are_about_as_large(samples: int, sizes: list[int]) -> None:
    inputs = torch.arange(samples)
    parts = list(Batch(Example.of(inputs), inputs + 1, samples).parts(16))
    assert [part.size for part in parts] == sizes
    assert torch.equal(torch.cat([part.inputs.args[0] for part in parts]), inputs)
    assert torch.equal(torch.cat([part.target for part in parts]), inputs + 1)
