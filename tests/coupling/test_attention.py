"""What goes of attention: whole heads, or as many indices of every head."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import graphprune
from graphprune.capture import capture
from graphprune.deploy.attention import plain_attention
from graphprune.errors import OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.plan.plan import Plan
from graphprune.program.program import Attention
from tests.ops.case import net
from tests.ops.cases_choices import rotary
from tests.small_models import group_of


def fused() -> nn.Module:
    return net(
        lambda self, x: self.head(self.attention(*[self.inside(x)] * 3, need_weights=False)[0]),
        inside=nn.Linear(6, 12),
        attention=nn.MultiheadAttention(12, 3, batch_first=True),
        head=nn.Linear(12, 4),
    )


def windowed() -> nn.Module:
    """Windows of four tokens in the batch dim, and a bias for each head."""

    def forward(self: Any, x: Tensor) -> Tensor:
        samples = x.shape[0]
        windows = x.view(samples * 2, 4, 6)
        q, k, v = self.qkv(windows).view(samples * 2, 4, 3, 3, 4).permute(2, 0, 3, 1, 4).unbind(0)
        weights = (q @ k.transpose(-2, -1) * 0.5 + self.bias[:, None, None]).softmax(-1)
        out: Tensor = self.head((weights @ v).transpose(1, 2).reshape(samples, 8, 12))
        return out

    return net(forward, qkv=nn.Linear(6, 36), bias=nn.Parameter(torch.randn(3)), head=nn.Linear(12, 4))


MODELS = {"fused": (fused, (2, 7, 6)), "windowed": (windowed, (2, 8, 6)), "rotary": (rotary, (2, 7, 6))}
CHANNELS: dict[tuple[str, Attention], int] = {
    ("fused", "heads"): 3,
    ("fused", "head_dim"): 4,
    ("windowed", "heads"): 3,
    ("windowed", "head_dim"): 4,
    # two key heads, each with its two query heads; three frequencies, each of two indices of every head
    ("rotary", "heads"): 2,
    ("rotary", "head_dim"): 3,
}
QUERIES = {"fused": "attention.in_proj_weight", "windowed": "qkv.weight", "rotary": "q.weight"}


@pytest.mark.parametrize(("name", "attention"), CHANNELS)
def test_what_goes_together(name: str, attention: Attention) -> None:
    make, shape = MODELS[name]
    program = Runner().run(pipelines.analysis(), capture(make(), torch.randn(shape), attention=attention))
    queries = [
        group
        for group in program[Dependencies].groups
        if (QUERIES[name], 0) in {(member.name, member.dim) for member in group.members}
    ]
    # by index the values may be a group of their own, unless a block of queries, keys and values has to stay one
    assert len(queries) == (2 if (name, attention) == ("fused", "head_dim") else 1)
    assert {group.channels for group in queries} == {CHANNELS[name, attention]}


@pytest.mark.parametrize(("name", "attention"), CHANNELS)
def test_compact_equals_masked_and_the_plan_replays(name: str, attention: Attention) -> None:
    make, shape = MODELS[name]
    torch.manual_seed(0)
    model, example = make(), torch.randn(shape)
    compiled = graphprune.compile(
        model, example, sparsity=0.4, attention=attention, loss=lambda output, target: output.square().mean()
    )
    # float32; the masked program adds zeros where the compact one adds nothing
    assert compiled.verify().relative_error <= 1e-5
    replayed = Plan.from_json(compiled.plan.to_json()).apply(model).eval()
    assert torch.allclose(replayed(example), compiled.module.eval()(example), rtol=0, atol=1e-6)


def test_rotary_heads_by_index_take_their_frequencies_along() -> None:
    program = Runner().run(pipelines.analysis(), capture(rotary(), torch.randn(2, 7, 6), attention="head_dim"))
    group = group_of(program[Dependencies], "frequencies")
    assert {(member.name, member.dim): member.per_channel for member in group.members} == {
        ("q.weight", 0): 8, ("q.bias", 0): 8, ("k.weight", 0): 4, ("k.bias", 0): 4, ("frequencies", 0): 1,
    }  # fmt: skip


def test_an_unknown_choice_is_refused() -> None:
    with pytest.raises(OptionError, match="attention='rows' is unknown; known are heads, head_dim"):
        graphprune.compile(fused(), torch.randn(2, 7, 6), attention="rows")


class Windowed(nn.Module):
    """Attention within windows, whose dim comes before that of the heads."""

    def __init__(self) -> None:
        super().__init__()
        self.qkv, self.out, self.head = nn.Linear(16, 48), nn.Linear(16, 16), nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Any:
        samples, windows, length, _ = x.shape
        query, key, value = self.qkv(x).view(samples, windows, length, 3, 4, 4).permute(3, 0, 1, 4, 2, 5)
        y = functional.scaled_dot_product_attention(query, key, value)
        return self.head(self.out(y.transpose(2, 3).flatten(3)))


def test_attention_with_several_batch_dims_is_exported(tmp_path: Path) -> None:
    compiled = graphprune.compile(
        Windowed(), torch.randn(2, 3, 5, 16), sparsity=0.5, criterion="l2-norm", schedule="one-shot"
    )
    assert compiled.export_onnx(tmp_path / "windowed.onnx").max_rel_error < 1e-4


@pytest.mark.parametrize("shape", [(6, 5, 4), (2, 3, 5, 4), (2, 2, 3, 5, 4)], ids=str)
@pytest.mark.parametrize("masked", [False, True])
def test_plain_attention_is_attention(shape: tuple[int, ...], masked: bool) -> None:
    query, key, value = torch.randn(3, *shape).unbind(0)
    mask = torch.randn(*shape[:-1], shape[-2]) if masked else None
    expected = functional.scaled_dot_product_attention(query, key, value, mask)
    torch.testing.assert_close(plain_attention(query, key, value, mask), expected)
