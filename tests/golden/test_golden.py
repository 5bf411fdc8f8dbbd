"""Printed programs against committed text.

After a change that is meant: ``GRAPHPRUNE_UPDATE_GOLDEN=1 pytest tests/golden`` writes the files anew; read the diff.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graphprune import Pruner, Runner
from graphprune.research.networks import lenet5
from tests.small_models import Residual, Transformer, images

HERE = Path(__file__).parent
STEPS = ("build-dependencies", "prune-channels")
CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor]]] = {
    "lenet5": (lenet5, lambda: torch.zeros(2, 1, 28, 28)),
    "residual": (Residual, images),
    "transformer": (Transformer, lambda: torch.zeros(2, 5, 4)),
}


def printed(name: str) -> dict[str, str]:
    """The first program printed after each of the steps; the ranking does not depend on a single weight."""
    factory, example = CASES[name]
    texts: list[str] = []
    runner = Runner(print_after=frozenset(STEPS), emit=texts.append)
    pruner = Pruner(factory(), example(), sparsity=0.5, schedule="one-shot", criterion="random", runner=runner)
    pruner.step()
    return dict(zip(STEPS, texts, strict=False))


@pytest.mark.parametrize("name", CASES)
def test_printed_programs(name: str) -> None:
    texts = printed(name)
    assert list(texts) == list(STEPS)
    for step, text in texts.items():
        path = HERE / f"{name}-{step}.txt"
        if os.environ.get("GRAPHPRUNE_UPDATE_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        assert text == path.read_text(encoding="utf-8"), f"{path.name} differs; see the docstring of this file"


def test_printed_programs_hold_no_addresses() -> None:
    for path in HERE.glob("*.txt"):
        assert not re.search(r"0x[0-9a-f]{6,}| at /|<", path.read_text(encoding="utf-8")), path.name


def test_printing_twice_gives_the_same() -> None:
    assert printed("residual") == printed("residual")
