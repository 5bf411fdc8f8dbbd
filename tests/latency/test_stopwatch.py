"""A stopwatch times compact modules against the dense one as it was, wherever it is copied to."""

from __future__ import annotations

import copy
import gc
import multiprocessing
import os
import pickle
import tempfile
from collections.abc import Callable
from pathlib import Path

import onnx
import pytest
import torch
from torch import nn

from graphprune.latency.stopwatch import Stopwatch
from graphprune.program.example import Example
from tests.latency.stepped import HERE


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def stopwatch(width: int = 8) -> tuple[nn.Linear, Stopwatch]:
    dense = nn.Linear(4, width)
    return dense, Stopwatch(dense, Example.of(torch.rand(1, 4)), HERE)


def widths_on_disk(folder: Path) -> list[int]:
    models = [onnx.load(str(path)) for path in folder.rglob("dense.onnx")]
    return [model.graph.output[0].type.tensor_type.shape.dim[1].dim_value for model in models]


@pytest.mark.parametrize("again", [copy.deepcopy, lambda watch: pickle.loads(pickle.dumps(watch))])
def test_copies_keep_the_dense_module_as_it_was(again: Callable[[Stopwatch], Stopwatch], folders: Path) -> None:
    dense, watch = stopwatch()
    dense.weight, dense.bias = nn.Parameter(torch.rand(2, 4)), nn.Parameter(torch.rand(2))  # it shrinks
    copied = again(watch)
    assert widths_on_disk(folders) == [8, 8]
    del watch
    gc.collect()
    assert widths_on_disk(folders) == [8]
    assert set(copied.time(dense).latencies) == {"dense", "compact"}
    del copied
    gc.collect()
    assert not list(folders.glob("graphprune-*"))


def test_a_forked_process_leaves_the_files_to_its_parent(folders: Path) -> None:
    _, watch = stopwatch()

    def drop() -> None:
        watch.__dict__.clear()
        gc.collect()
        os._exit(0)

    child = multiprocessing.get_context("fork").Process(target=drop)
    child.start()
    child.join(60)
    assert child.exitcode == 0 and widths_on_disk(folders) == [8]
