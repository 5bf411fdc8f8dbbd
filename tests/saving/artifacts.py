"""Artifacts of small trained networks, made once for all tests and unpacked where a test wants them."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import graphprune
from graphprune.compiled import Compiled
from graphprune.program.example import Example
from graphprune.research.networks import lenet5
from graphprune.saving import manifest

FILES = {"manifest.json", "model.onnx", "plan.json", "report.json", "report.txt", "weights.safetensors"}


class Tied(nn.Module):
    """The embedding is the head, and one block is used twice under two names."""

    def __init__(self, tie: bool = True) -> None:
        super().__init__()
        self.embedding = nn.Embedding(11, 8)
        self.first = nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, 8))
        self.second = self.first
        self.register_buffer("scale", torch.rand(8), persistent=False)
        self.scale: Tensor
        self.head = nn.Linear(8, 11, bias=False)
        if tie:
            self.head.weight = self.embedding.weight

    def forward(self, ids: Tensor) -> Tensor:
        x = self.embedding(ids).mean(1)
        x = x + self.second(self.first(x)) * self.scale
        out: Tensor = self.head(x)
        return out


class Attention(nn.Module):
    """Keyword inputs, constants, and nested outputs."""

    def __init__(self, activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(16, 4, batch_first=True)
        self.norm = nn.LayerNorm(16)
        self.hidden, self.out = nn.Linear(16, 24), nn.Linear(24, 5)
        self.activation = activation

    def forward(self, x: Tensor, mask: Tensor, *, gain: float = 1.0, flag: bool = False) -> dict[str, Any]:
        attended, _ = self.attention(x, x, x, need_weights=False)
        hidden = self.activation(self.hidden(self.norm(x + attended))) * mask * gain
        scores = self.out(hidden).mean(1)
        return {"scores": scores, "rest": (x[:, 0], [scores.argmax(-1), None])}


def attention_inputs(batch: int) -> dict[str, Any]:
    """Keyword arguments of `Attention`."""
    return {"x": torch.randn(batch, 6, 16), "mask": torch.rand(batch, 6, 1) > 0.5, "gain": 2.0, "flag": True}


@dataclass(frozen=True)
class Saved:
    """A compilation and the files that it was saved as."""

    compiled: Compiled
    files: dict[str, bytes]

    def unpack(self, directory: Path) -> Path:
        """Writes the files into a new directory, which is returned."""
        directory.mkdir(parents=True)
        for name, data in self.files.items():
            (directory / name).write_bytes(data)
        return directory


@cache
def saved_lenet() -> Saved:
    """LeNet5, pruned in one round."""
    return _saved(lenet5, lambda: torch.randn(4, 1, 28, 28), schedule="one-shot")


@cache
def saved_tied() -> Saved:
    """`Tied`, pruned in seven rounds."""
    return _saved(Tied, lambda: torch.randint(0, 11, (4, 6)))


@cache
def saved_attention() -> Saved:
    """`Attention`, pruned in one round."""
    return _saved(Attention, lambda: attention_inputs(3), loss=lambda out, _: _mean(out), schedule="one-shot")


@cache
def saved_tiny() -> Saved:
    """Two linear layers, which are saved in no time."""
    build = lambda: nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 3))  # noqa: E731
    return _saved(build, lambda: torch.randn(4, 4), schedule="one-shot")


def _saved(build: Callable[[], nn.Module], example: Callable[[], Any], **options: Any) -> Saved:
    """Takes one step of training after pruning, so that the weights are no longer those of the model."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        inputs = example()
        compiled = graphprune.compile(build(), inputs, sparsity=0.5, **options)
        module, given = compiled.module.train(), Example.of(inputs)
        optimizer = torch.optim.SGD(module.parameters(), lr=0.05)
        _mean(module(*given.args, **given.kwargs)).backward()
        optimizer.step()
        with tempfile.TemporaryDirectory() as home:
            path = compiled.save(Path(home) / "saved")
            return Saved(compiled, {file.name: file.read_bytes() for file in path.iterdir()})


def _mean(outputs: Any) -> Tensor:
    return (outputs if isinstance(outputs, Tensor) else outputs["scores"]).square().mean()


def assert_same_outputs(first: Any, second: Any, tolerance: float = 1e-4) -> None:
    """Equal structure and types; tensors equal within the tolerance, absolute and as a share."""
    assert type(first) is type(second)
    if isinstance(first, Tensor):
        assert first.dtype == second.dtype
        torch.testing.assert_close(first, second, rtol=tolerance, atol=tolerance)
    elif isinstance(first, dict):
        assert list(first) == list(second)
        for key in first:
            assert_same_outputs(first[key], second[key], tolerance)
    elif isinstance(first, (list, tuple)):
        for one, other in zip(first, second, strict=True):
            assert_same_outputs(one, other, tolerance)
    else:
        assert first is None


def edit_manifest(path: Path, change: Callable[[dict[str, Any]], object], seal: bool = True) -> None:
    """Edits the manifest; ``seal`` also updates its checksums, as only someone who means to can."""
    content = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
    if seal:
        for name in FILES & set(content["files"]):
            stored = manifest.StoredFile.of(path / name)
            content["files"][name] = {"sha256": stored.sha256, "size_bytes": stored.size_bytes}
    change(content)
    if seal:
        content["sha256"] = manifest._digest(content)
    (path / "manifest.json").write_text(json.dumps(content), encoding="utf-8")
