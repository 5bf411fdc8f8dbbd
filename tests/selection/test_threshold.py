"""The so-many-th lowest value, against sorting all."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from graphprune.selection import threshold
from graphprune.selection.threshold import kth_lowest

SIZE = 20_000
COUNTS = (1, 2, SIZE // 10, SIZE // 2, SIZE - 500, SIZE - 1, SIZE)


def many(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    values = torch.rand(SIZE, generator=generator, dtype=torch.float64)
    places = torch.arange(SIZE)
    return {
        "spread": values,
        "sorted": values.sort().values,
        "periodic": (places % 20).double() + 1e-6 * values,  # a sample at every twentieth sees one of twenty
        "few": (values * 3).floor(),
        "one": torch.ones_like(values),
        "gone": torch.where(values < 0.5, float("-inf"), values),
        "stays": torch.where(values > 0.6, float("inf"), values),
    }[kind]


@pytest.mark.parametrize("kind", ["spread", "sorted", "periodic", "few", "one", "gone", "stays"])
def test_is_that_of_sorting(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threshold, "_SAMPLE", 1000)
    monkeypatch.setattr(threshold, "_MARGIN", 100)
    values = many(kind)
    in_order = values.sort().values
    for count in COUNTS:
        assert kth_lowest(values, count) == in_order[count - 1]


def test_few_of_many_values_are_sorted(monkeypatch: pytest.MonkeyPatch) -> None:
    sorted_of: list[int] = []
    kthvalue = Tensor.kthvalue

    def counting(values: Tensor, count: int) -> tuple[Tensor, Tensor]:
        sorted_of.append(len(values))
        return kthvalue(values, count)

    monkeypatch.setattr(Tensor, "kthvalue", counting)
    values = torch.rand(2_000_000, generator=torch.Generator().manual_seed(1))
    assert kth_lowest(values, 1_800_000) == values.sort().values[1_799_999]
    assert len(sorted_of) == 1 and sorted_of[0] < 100_000
