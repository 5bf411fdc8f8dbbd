"""Scales of batch norms, in each place where a channel can meet them."""

from __future__ import annotations

import logging

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import graphprune
from graphprune.criteria import BatchNormGamma
from graphprune.errors import OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.program.program import Program
from tests.scoring import leaving_no_trace, sensitivity
from tests.small_models import CLASSES, Chain, Dense, Inverted, Mlp, Residual, analysed, group_of, images, randomised

NO_DATA = sensitivity(None)


def prepared(model: nn.Module) -> Program:
    """With scales of either sign."""
    program, _ = analysed(randomised(model), images())
    with torch.no_grad():
        for name, parameter in program.module.named_parameters():
            if "norm" in name and name.endswith("weight"):
                parameter[::2] *= -1
    return program


def gamma(program: Program, norm: str) -> Tensor:
    return program.module.get_parameter(f"{norm}.weight").detach().double().abs()


def of_group(program: Program, member: str) -> Tensor:
    group = group_of(program[Dependencies], member)
    return BatchNormGamma()(program, NO_DATA).importance[group.start : group.stop]


def test_one_batch_norm() -> None:
    program = prepared(Chain())
    with leaving_no_trace(program):
        assert torch.equal(of_group(program, "conv.weight"), gamma(program, "norm"))


def test_the_mean_of_those_that_write_a_residual_stream() -> None:
    program = prepared(Residual())
    assert torch.equal(of_group(program, "conv1.weight"), gamma(program, "norm1"))
    expected = (gamma(program, "stem_norm") + gamma(program, "norm2")) / 2
    torch.testing.assert_close(of_group(program, "stem.weight"), expected, rtol=1e-15, atol=0)
    expected = (gamma(program, "norm3") + gamma(program, "short_norm")) / 2
    torch.testing.assert_close(of_group(program, "short.weight"), expected, rtol=1e-15, atol=0)


def test_the_mean_of_those_that_read_concatenated_channels() -> None:
    program = prepared(Dense())
    expected = (gamma(program, "norm1") + gamma(program, "norm2")[:4] + gamma(program, "norm3")[:4]) / 3
    torch.testing.assert_close(of_group(program, "stem.weight"), expected, rtol=1e-15, atol=0)
    expected = (gamma(program, "norm2")[4:] + gamma(program, "norm3")[4:7]) / 2
    torch.testing.assert_close(of_group(program, "conv1.weight"), expected, rtol=1e-15, atol=0)


def test_depthwise_convolutions_and_groups_without_batch_norm(caplog: pytest.LogCaptureFixture) -> None:
    program, criterion = prepared(Inverted()), BatchNormGamma()
    dependencies = program[Dependencies]
    with caplog.at_level(logging.WARNING, logger="graphprune"):
        importance = criterion(program, NO_DATA).importance
        criterion(program, NO_DATA)
    squeeze = group_of(dependencies, "squeeze.weight")
    assert caplog.messages == [
        f"criterion bn-gamma cannot rate 1 of {len(dependencies.groups)} groups; they go last: "
        f"{squeeze.id} (squeeze.weight)"
    ]
    last = importance[squeeze.start : squeeze.stop]
    rest = torch.cat([importance[: squeeze.start], importance[squeeze.stop :]])
    assert float(last.min()) > float(rest.max())
    expected = (gamma(program, "expand_norm") + gamma(program, "depth_norm")) / 2
    torch.testing.assert_close(of_group(program, "depth.weight"), expected, rtol=1e-15, atol=0)


def test_models_without_batch_norm_are_refused() -> None:
    program, _ = analysed(Mlp(), torch.randn(2, 5))
    with pytest.raises(OptionError, match=r"bn-gamma: it rates none of the 2 groups \(g0 \(fc1\.weight\), .*no batch"):
        BatchNormGamma()(program, NO_DATA)


class ByFunction(nn.Module):
    """A batch norm without a layer, and one without scales."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.plain, self.fc = nn.Conv2d(2, 6, 3), nn.BatchNorm2d(6, affine=False), nn.Linear(6, CLASSES)
        self.scale, self.shift = nn.Parameter(torch.rand(6)), nn.Parameter(torch.rand(6))
        self.mean, self.var = nn.Buffer(torch.zeros(6)), nn.Buffer(torch.ones(6))

    def forward(self, x: Tensor) -> Tensor:
        x = functional.batch_norm(self.plain(self.conv(x)), self.mean, self.var, self.scale, bias=self.shift)
        out: Tensor = self.fc(torch.relu(x).mean((2, 3)))
        return out


def test_a_batch_norm_that_is_a_function() -> None:
    program, _ = analysed(ByFunction(), images())
    expected = program.module.get_parameter("scale").detach().double()
    assert torch.equal(of_group(program, "conv.weight"), expected)


def test_the_smallest_scales_go() -> None:
    model = randomised(Chain())
    compiled = graphprune.compile(model, images(), sparsity=0.5, criterion="bn-gamma", schedule="one-shot")
    largest = model.norm.weight.detach().abs().topk(3).indices.sort().values
    assert torch.equal(compiled.plan.kept["conv.weight", 0], largest)
