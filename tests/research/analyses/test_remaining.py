"""What is left of each layer."""

from __future__ import annotations

import copy
import json

import torch

from graphprune.research.analyses import remaining
from tests.small_models import Mlp


def test_by_layer() -> None:
    dense = Mlp()
    model = copy.deepcopy(dense)
    with torch.no_grad():
        model.fc1.weight[0] = 0
        model.fc2.weight[:, 1] = 0
    found = remaining(model, dense)
    assert [(layer.name, layer.before, layer.left) for layer in found.weights] == [
        ("fc1", 40, 35),
        ("fc2", 48, 42),
        ("head", 18, 18),
    ]
    assert [(layer.name, layer.before, layer.left) for layer in found.nodes] == [("fc1", 8, 7), ("fc2", 6, 6)]
    assert json.loads(json.dumps(found.to_dict()))["weights"][0] == {"name": "fc1", "before": 40, "left": 35}
    assert found.nodes[0].removed == 1 / 8
