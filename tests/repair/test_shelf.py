"""Values that are put away, in memory and in files."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._pytree import tree_leaves

from graphprune.repair import shelf as shelf_module
from graphprune.repair.shelf import Shelf
from tests.repair.networks import FITTED
from tests.repair.test_refit import data, pruned


@pytest.fixture(params=[0, 100, 10**9], ids=["files", "both", "memory"])
def shelf(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(shelf_module, "LIMIT_BYTES", request.param)
    with Shelf() as found:
        yield found


def files_of(shelf: Shelf) -> list[Path]:
    return [] if shelf._folder is None else sorted(Path(shelf._folder.name).iterdir())


def test_values_come_back_as_they_were(shelf: Shelf) -> None:
    values: dict[str, Any] = {
        "tensor": torch.arange(20.0), "tree": {"a": (torch.ones(3, dtype=torch.bfloat16), 5), "b": [None, "text"]},
        "sizes": torch.Size((2, 3)), "slice": slice(1, None), "positions": torch.arange(4),
    }  # fmt: skip
    for key, value in values.items():
        shelf.put(key, value)
    for key in reversed(values):
        found = shelf.take(key)
        for ours, theirs in zip(tree_leaves(found), tree_leaves(values[key]), strict=True):
            assert torch.equal(ours, theirs) if isinstance(theirs, Tensor) else ours == theirs
    assert files_of(shelf) == []
    with pytest.raises(KeyError):
        shelf.take("tensor")


def test_keys_can_be_used_again(shelf: Shelf) -> None:
    for round_ in range(3):
        for key in range(4):
            shelf.put(key, torch.full((10,), float(key + round_)))
        assert [float(shelf.take(key)[0]) for key in range(4)] == [round_ + key for key in range(4)]


def test_tensors_that_share_memory_still_do(shelf: Shelf) -> None:
    base = torch.arange(12.0)
    shelf.put("both", (base, base.view(3, 4)))
    first, second = shelf.take("both")
    first += 1  # a file is not written to
    assert torch.equal(second.flatten(), torch.arange(12.0) + 1)


def test_what_cannot_be_written_stays_in_memory(shelf: Shelf) -> None:
    lock = threading.Lock()
    shelf.put("lock", (lock, torch.ones(50)))
    assert shelf.take("lock")[0] is lock


def test_the_limit_holds_and_files_go(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shelf_module, "LIMIT_BYTES", 100)
    with Shelf() as shelf:
        for key in range(5):
            shelf.put(key, torch.zeros(10))  # 40 bytes
        assert len(files_of(shelf)) == 3
        folder = files_of(shelf)[0].parent
        shelf.take(0)
        shelf.put(0, torch.zeros(10))
        assert len(files_of(shelf)) == 3
    assert not folder.exists()


@pytest.mark.parametrize("name", ["residual", "attention", "transposed"])
def test_a_repair_is_the_same_from_files(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    results: list[dict[str, Tensor]] = []
    for limit in (10**9, 0):
        monkeypatch.setattr(shelf_module, "LIMIT_BYTES", limit)
        torch.manual_seed(0)
        compiled = pruned(FITTED[name]())
        compiled.repair(data())
        compiled.recalibrate(data())
        results.append(compiled.module.state_dict())
    assert all(torch.equal(results[0][key], results[1][key]) for key in results[0])
