"""Networks of torchvision, pruned at random: what is left computes what the user's zeroed network computes.

None of them takes statistics over channels, so zeros in the removed slices are an oracle that knows nothing of labels.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn
from torchvision import models

from tests.regressions.pruning import assert_prunes_right

NETWORKS: tuple[Callable[..., nn.Module], ...] = (
    models.resnet18, models.mobilenet_v3_small, models.shufflenet_v2_x0_5, models.densenet121, models.regnet_y_400mf,
    models.squeezenet1_1,
)  # fmt: skip


@pytest.mark.parametrize("network", NETWORKS, ids=lambda network: network.__name__)
def test_pruned_equals_zeroed(network: Any) -> None:
    assert_prunes_right(network(weights=None), torch.randn(2, 3, 64, 64))
