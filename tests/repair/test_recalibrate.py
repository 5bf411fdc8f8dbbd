"""Statistics of batch norms, against those that torch takes in training mode."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

import graphprune
from tests.ops.case import net
from tests.repair.networks import FITTED, IMAGE
from tests.repair.test_refit import data, pruned
from tests.small_models import ModelT


def at_once(model: ModelT) -> ModelT:
    """Has batch norms take the statistics of a single batch in training mode."""
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            norm.momentum = 1.0
    return model


def test_statistics_are_those_of_training_mode() -> None:
    torch.manual_seed(0)
    batches, model = data(), at_once(FITTED["residual"]())
    with torch.no_grad():
        model(torch.cat([inputs for inputs, _ in batches]))
    compiled = graphprune.compile(
        model.eval(), torch.randn(2, *IMAGE), sparsity=0.4, criterion="random", schedule="one-shot"
    )
    found = compiled.recalibrate(batches)
    assert found.accepted and found.method == "recalibrate"
    trained = at_once(copy.deepcopy(compiled.module).train())
    with torch.no_grad():
        trained(torch.cat([inputs for place, (inputs, _) in enumerate(batches) if place % 5 != 4]))
    for name, buffer in trained.named_buffers():
        if "running" in name:  # sums over some ten thousand values in another order
            torch.testing.assert_close(compiled.module.get_buffer(name), buffer, rtol=1e-5, atol=1e-5)
    assert all(layer.error_after < layer.error_before for layer in found.layers)
    compiled.verify()


@pytest.mark.parametrize("name", ["depthwise", "residual", "functions"])
def test_every_batch_norm_is_found(name: str) -> None:
    torch.manual_seed(0)
    compiled = pruned(FITTED[name]())
    found = compiled.recalibrate(data())
    norms = [key for key, _ in compiled.module.named_buffers() if key.endswith("running_mean")]
    assert [f"{layer.name}.running_mean" for layer in found.layers] == norms


def test_weights_stay() -> None:
    torch.manual_seed(0)
    compiled = pruned(FITTED["residual"]())
    before = {name: parameter.clone() for name, parameter in compiled.module.named_parameters()}
    compiled.recalibrate(data())
    assert all(torch.equal(parameter, before[name]) for name, parameter in compiled.module.named_parameters())


def test_without_batch_norms_nothing_is_done() -> None:
    model = net(lambda self, x: self.b(self.a(x)), a=nn.Conv2d(4, 8, 1), b=nn.Conv2d(8, 3, 1))
    compiled = graphprune.compile(model, torch.randn(2, *IMAGE), sparsity=0.5, criterion="random")
    found = compiled.recalibrate(data())
    assert found.layers == () and not found.accepted
