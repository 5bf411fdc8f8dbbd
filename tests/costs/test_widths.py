"""Widths as functions of the channels of each group are those that pruning gives."""

from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch

from graphprune.costs.model import CostModel
from graphprune.costs.widths import Widths
from graphprune.labels.keep_set import KeepSet
from tests.ops.cases import CASES
from tests.small_models import analysed


@pytest.mark.filterwarnings("ignore:LSTM with projections")
def test_loops_shrink_as_the_cost_model_says() -> None:
    generator = torch.Generator().manual_seed(0)
    seen = 0
    for case in CASES:
        program, dependencies = analysed(case.model(), case.inputs())
        if not dependencies.groups:
            continue
        keep = torch.rand(dependencies.channels, generator=generator) < 0.5
        keep[[group.start for group in dependencies.groups]] = True
        widths = Widths(dependencies)
        places = [widths.places(each.planes, len(each.loops)) for each in dependencies.contractions]
        sizes = widths.sizes(np.array(KeepSet.of(dependencies, keep).left_of_groups))
        macs = sum(
            prod(size if place is None else int(sizes[place]) for size, place in zip(each.loops, of, strict=True))
            for each, of in zip(dependencies.contractions, places, strict=True)
        )
        assert macs // program.example.batch_size == CostModel(program, dependencies).macs(
            KeepSet.of(dependencies, keep)
        ), case.name
        seen += 1
    assert seen > 100
