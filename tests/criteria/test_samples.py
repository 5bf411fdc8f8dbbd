"""Sensitivity samples: as many as asked for, from where the last round stopped; nothing is skipped."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterable, Iterator
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.utils.data import DataLoader, TensorDataset

from graphprune.criteria.samples import Batch, SampleStream, batch_of
from graphprune.errors import InputError
from graphprune.program.example import Example

CPU, META = torch.device("cpu"), torch.device("meta")

EXAMPLE = Example.of(torch.zeros(2, 1))

SIZES = st.lists(st.integers(1, 6), min_size=1, max_size=6)


def batches(sizes: Iterable[int]) -> list[tuple[Tensor, Tensor]]:
    """Inputs are the numbers of the batches, targets those of all samples."""
    sizes = list(sizes)
    targets = torch.arange(sum(sizes)).split(sizes)
    return [
        (torch.full((size, 1), float(n)), target) for n, (size, target) in enumerate(zip(sizes, targets, strict=True))
    ]


def targets_of(drawn: Iterable[Batch]) -> list[list[int]]:
    return [batch.target.tolist() for batch in drawn]


def from_here(sizes: list[int], place: int, samples: int) -> tuple[list[list[int]], int]:
    """The oracle: batch after batch, round and round, the last one cut; and the batch that is next."""
    rows, drawn = torch.arange(sum(sizes)).split(sizes), list[list[int]]()
    while samples > 0:
        drawn.append(rows[place % len(sizes)][:samples].tolist())
        samples -= len(drawn[-1])
        place += 1
    return drawn, place


@given(SIZES, st.data())
def test_rounds_get_as_many_samples_as_they_ask_for_and_go_on_where_the_last_one_stopped(
    sizes: list[int], data: st.DataObject
) -> None:
    stream, place = SampleStream(batches(sizes), EXAMPLE), 0
    for samples in data.draw(st.lists(st.integers(1, sum(sizes)), max_size=6)):
        expected, place = from_here(sizes, place, samples)
        drawn = list(stream.draw(samples, CPU))
        assert targets_of(drawn) == expected
        assert sum(batch.size for batch in drawn) == samples


@given(SIZES, st.integers(1, 20))
def test_data_with_fewer_samples_is_used_once(sizes: list[int], more: int) -> None:
    stream = SampleStream(batches(sizes), EXAMPLE)
    for _ in range(2):
        drawn = targets_of(stream.draw(sum(sizes) + more, CPU))
        assert drawn == [target.tolist() for _, target in batches(sizes)]


def test_a_round_that_ends_with_the_data_is_followed_by_one_from_the_start() -> None:
    stream = SampleStream(batches([2, 3]), EXAMPLE)
    assert targets_of(stream.draw(5, CPU)) == targets_of(stream.draw(5, CPU)) == [[0, 1], [2, 3, 4]]
    assert targets_of(stream.draw(100, CPU)) == [[0, 1], [2, 3, 4]]


def test_batches_are_taken_from_the_data_only_when_they_are_needed() -> None:
    taken: list[int] = []

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            taken.append(len(taken))
            yield batches([4])[0]

    stream = SampleStream(endless(), EXAMPLE)
    drawing = stream.draw(9, CPU)
    assert taken == []
    next(drawing)
    assert taken == [0]
    assert [batch.size for batch in drawing] == [4, 1] and taken == [0, 1, 2]


def test_a_round_that_is_given_up_loses_only_what_it_has_taken() -> None:
    stream = SampleStream(batches([1, 2, 3]), EXAMPLE)
    next(stream.draw(6, CPU))
    assert targets_of(stream.draw(5, CPU)) == [[1, 2], [3, 4, 5]]


@pytest.mark.parametrize("empty", [[], (), iter(()), DataLoader(TensorDataset(torch.zeros(0, 1), torch.zeros(0)))])
def test_data_without_batches(empty: Any) -> None:
    with pytest.raises(InputError, match="data gives no batches: it is empty, or a generator that is used up"):
        list(SampleStream(empty, EXAMPLE).draw(1, CPU))


def test_a_generator_is_used_up() -> None:
    stream = SampleStream(iter(batches([2, 2])), EXAMPLE)
    assert targets_of(stream.draw(3, CPU)) == [[0, 1], [2]]
    for _ in range(2):
        with pytest.raises(InputError, match="used up"):
            list(stream.draw(3, CPU))


@pytest.mark.parametrize(("data", "kind"), [(7, "int"), (object(), "object"), (torch.tensor(3.0), "Tensor")])
def test_data_that_cannot_be_iterated(data: Any, kind: str) -> None:
    with pytest.raises(InputError, match=rf"^data: expected an iterable of batches \(inputs, target\), got {kind}$"):
        next(SampleStream(data, EXAMPLE).draw(1, CPU))


@pytest.mark.parametrize("samples", [1, 2, 100])
def test_without_data_the_example_is_there_once(samples: int) -> None:
    example = Example((torch.randn(3, 2), torch.ones(())), {"y": torch.randn(3)})
    (batch,) = SampleStream(None, example).draw(samples, CPU)
    assert batch.target is None and batch.size == 3
    assert all(torch.equal(one, other) for one, other in zip(batch.inputs.tensors(), example.tensors(), strict=True))


@pytest.mark.parametrize("source", [None, [({"x": torch.zeros(2, 1), "n": 3}, {"y": torch.zeros(2), "z": [None]})]])
def test_inputs_and_targets_come_on_the_device(source: Any) -> None:
    (batch,) = SampleStream(source, EXAMPLE).draw(2, META)
    assert [tensor.device for tensor in batch.inputs.tensors()] == [META]
    if source is not None:
        assert batch.inputs.kwargs["n"] == 3
        assert batch.target["y"].device == META and batch.target["z"] == [None]


def test_what_is_not_batched_in_the_example_is_not_cut() -> None:
    """A table that happens to have as many rows as the batch has samples."""
    table = torch.randn(4, 2)
    example = Example((torch.randn(2, 3), table), {})
    stream = SampleStream([((torch.randn(4, 3), table), torch.arange(4))], example)
    (batch,) = stream.draw(3, CPU)
    assert batch.inputs.args[0].shape == (3, 3) and batch.inputs.args[1] is table and batch.target.tolist() == [0, 1, 2]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda stream: pickle.loads(pickle.dumps(stream))])
def test_copies_start_over(copied: Any) -> None:
    stream = SampleStream(batches([2, 2, 2]), EXAMPLE)
    list(stream.draw(2, CPU))
    assert targets_of(copied(stream).draw(2, CPU)) == [[0, 1]]
    assert targets_of(stream.draw(2, CPU)) == [[2, 3]], "and the stream itself goes on"


# --- batches ----------------------------------------------------------------------------------------------------------


@given(st.integers(1, 60), st.integers(1, 20))
def test_parts_are_few_and_about_as_large(samples: int, size: int) -> None:
    rows = torch.arange(samples)
    parts = list(Batch(Example.of(rows), {"rows": rows}, samples).parts(size))
    sizes = [part.size for part in parts]
    assert max(sizes) <= size and max(sizes) - min(sizes) <= 1
    assert (len(parts) - 1) * size < samples, "no fewer would do"
    for found in ([part.inputs.args[0] for part in parts], [part.target["rows"] for part in parts]):
        assert [len(part) for part in found] == sizes and torch.equal(torch.cat(found), rows)


@given(st.integers(1, 10), st.data())
def test_rows_of_inputs_and_target(samples: int, data: st.DataObject) -> None:
    start = data.draw(st.integers(0, samples - 1))
    stop = data.draw(st.integers(start + 1, samples))
    x, y, scale = torch.randn(samples, 2), torch.randn(samples), torch.randn(())
    other = torch.randn(samples + 1)
    batch = Batch(Example((x, scale, other), {}), [y, {"scale": scale, "name": "a", "other": other}], samples)
    rows = batch.rows(start, stop)
    assert rows.size == stop - start
    assert torch.equal(rows.inputs.args[0], x[start:stop]) and torch.equal(rows.target[0], y[start:stop])
    assert rows.inputs.args[1] is rows.target[1]["scale"] is scale and rows.target[1]["name"] == "a"
    assert rows.inputs.args[2] is rows.target[1]["other"] is other, "of another size, hence not of the samples"


def test_rows_of_rows() -> None:
    batch = Batch(EXAMPLE.of(torch.arange(9)), torch.arange(9), 9, Example.of(torch.arange(2)))
    again = batch.rows(2, 8).rows(1, 4)
    assert again.target.tolist() == again.inputs.args[0].tolist() == [3, 4, 5] and again.like is batch.like


def test_a_batch_without_a_target_stays_without() -> None:
    assert Batch(Example.of(torch.arange(3)), None, 3).rows(0, 2).target is None


@pytest.mark.parametrize(
    ("item", "message"),
    [
        (torch.zeros(4, 1), r"data: expected batches \(inputs, target\), got Tensor; .* data=\[\(inputs, target\)\]$"),
        ((torch.zeros(4, 1),), "got tuple of 1;"),
        ([1, 2, 3], "got list of 3;"),
        ({"x": torch.zeros(4, 1)}, "got dict;"),
        (None, "got NoneType;"),
        (("text", torch.zeros(4)), "data: a batch has no tensor among its inputs"),
        (({}, torch.zeros(4)), "data: a batch has no tensor among its inputs"),
        ((torch.zeros(0, 1), torch.zeros(0)), r"data: a batch holds no samples \(its dim 0 is 0\)"),
    ],
)
def test_what_is_no_batch(item: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        batch_of(item, CPU)
    with pytest.raises(InputError, match=message):
        list(SampleStream([item], EXAMPLE).draw(1, CPU))


def test_what_is_no_batch_is_named_after_the_argument_that_it_is_given_as() -> None:
    with pytest.raises(InputError, match=r"^calibration: expected .+ given as calibration=\[\(inputs, target\)\]$"):
        batch_of(3, CPU, "calibration")


@pytest.mark.parametrize(
    ("inputs", "size"),
    [
        (torch.zeros(3, 1), 3),
        ((torch.zeros(()), torch.zeros(5, 1)), 5),
        ({"x": torch.zeros(4), "mask": None}, 4),
        (torch.zeros(()), 1),
    ],
)
@pytest.mark.parametrize("kind", [tuple, list])
def test_a_batch_has_as_many_samples_as_its_inputs(inputs: Any, size: int, kind: Any) -> None:
    batch = batch_of(kind((inputs, "target")), CPU)
    assert batch.size == size and batch.target == "target"
