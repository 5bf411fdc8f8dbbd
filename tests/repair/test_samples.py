"""Samples that are held out."""

from __future__ import annotations

import pytest
import torch

from graphprune.criteria.samples import Batch
from graphprune.errors import InputError
from graphprune.program.example import Example
from graphprune.repair.samples import Split, split


def batches(*sizes: int) -> list[Batch]:
    """Batches whose samples are numbered."""
    numbers = torch.arange(sum(sizes)).split(list(sizes))
    return [Batch(Example.of(each[:, None].float()), None, len(each)) for each in numbers]


def numbers(found: Split) -> tuple[list[int], list[int]]:
    """The samples that are fitted to, and those that are held out."""
    parts = (found.fitted, found.held_out)
    fitted, held_out = ([int(n) for batch in part for n in batch.args[0].flatten()] for part in parts)
    return fitted, held_out


@pytest.mark.parametrize("sizes", [(5,), (10,), (7, 7), (1, 4), (3, 3, 3, 3), (1,) * 10, (64,) * 16, (4, 4, 4, 4, 4)])
def test_one_in_five_is_held_out_and_none_is_used_twice(sizes: tuple[int, ...]) -> None:
    found = split(batches(*sizes))
    fitted, held_out = numbers(found)
    assert sorted(fitted + held_out) == list(range(sum(sizes)))
    assert fitted and held_out
    assert abs(len(held_out) - sum(sizes) / 5) <= max(sizes)
    assert found.sizes == (len(fitted), len(held_out))


def test_enough_batches_stay_whole() -> None:
    """A model may take only the batch size that it was captured with."""
    found = split(batches(*(8,) * 11))
    assert {batch.batch_size for batch in (*found.fitted, *found.held_out)} == {8}
    assert len(found.held_out) == 2


def test_few_samples_are_refused() -> None:
    with pytest.raises(InputError, match="a repair needs at least 5 samples, to fit to and to judge by; got 4"):
        split(batches(2, 2))
