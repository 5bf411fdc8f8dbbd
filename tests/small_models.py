"""Small networks that tests share, one for each way in which channels are coupled."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.capture import capture
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.groups import Group
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.program.program import Program

CLASSES = 3

ModelT = TypeVar("ModelT", bound=nn.Module)


def analysed(model: nn.Module, example: object, protect: tuple[str, ...] = ()) -> tuple[Program, Dependencies]:
    """The captured program and its dependencies."""
    program = Runner().run(pipelines.analysis(), capture(model, example, protect))
    return program, program[Dependencies]


def group_of(dependencies: Dependencies, name: str, dim: int = 0) -> Group:
    """The group that a dim of a parameter belongs to."""
    found = [g for g in dependencies.groups if any((m.name, m.dim) == (name, dim) for m in g.members)]
    assert len(found) == 1, [g.name for g in dependencies.groups]
    return found[0]


def randomised(model: ModelT) -> ModelT:
    """Gives every normalisation statistics and scales that are not 0 and 1, so that mistakes in their place show."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, (nn.BatchNorm2d, nn.LayerNorm)):
                module.weight.uniform_(0.5, 1.5)
                module.bias.uniform_(-0.5, 0.5)
            if isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None and module.running_var is not None
                module.running_mean.normal_()
                module.running_var.uniform_(0.5, 2.0)
    return model


class Chain(nn.Module):
    """Convolution, BatchNorm, ReLU, linear."""

    def __init__(self, width: int = 6) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.fc = nn.Linear(width, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 2, H, W)`` to ``(N, 3)``."""
        out: Tensor = self.fc(functional.relu(self.norm(self.conv(x))).mean((2, 3)))
        return out


class Mlp(nn.Module):
    """Two hidden layers without normalisation."""

    def __init__(self, widths: tuple[int, int] = (8, 6), activation: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(5, widths[0]), nn.Linear(*widths)
        self.head = nn.Linear(widths[1], CLASSES)
        self.activation = activation

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 5)`` to ``(N, 3)``."""
        out: Tensor = self.head(self.activation(self.fc2(self.activation(self.fc1(x)))))
        return out


class Residual(nn.Module):
    """A stem and two residual blocks; the second has a projection."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(2, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv1, self.norm1 = nn.Conv2d(6, 4, 3, padding=1, bias=False), nn.BatchNorm2d(4)
        self.conv2, self.norm2 = nn.Conv2d(4, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6)
        self.conv3, self.norm3 = nn.Conv2d(6, 8, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(8)
        self.short, self.short_norm = nn.Conv2d(6, 8, 1, stride=2, bias=False), nn.BatchNorm2d(8)
        self.fc = nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 2, H, W)`` to ``(N, 3)``."""
        x = functional.relu(self.stem_norm(self.stem(x)))
        x = functional.relu(x + self.norm2(self.conv2(functional.relu(self.norm1(self.conv1(x))))))
        x = functional.relu(self.norm3(self.conv3(x)) + self.short_norm(self.short(x)))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class Inverted(nn.Module):
    """An inverted residual block with squeeze-excite: expand, depthwise, excite, project."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.stem_norm = nn.Conv2d(2, 4, 3, padding=1), nn.BatchNorm2d(4)
        self.expand, self.expand_norm = nn.Conv2d(4, 8, 1), nn.BatchNorm2d(8)
        self.depth, self.depth_norm = nn.Conv2d(8, 8, 3, padding=1, groups=8), nn.BatchNorm2d(8)
        self.squeeze, self.excite = nn.Conv2d(8, 4, 1), nn.Conv2d(4, 8, 1)
        self.project, self.project_norm = nn.Conv2d(8, 4, 1), nn.BatchNorm2d(4)
        self.fc = nn.Linear(4, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 2, H, W)`` to ``(N, 3)``."""
        x = self.stem_norm(self.stem(x))
        y = functional.relu6(self.expand_norm(self.expand(x)))
        y = functional.silu(self.depth_norm(self.depth(y)))
        scale = torch.sigmoid(self.excite(functional.relu(self.squeeze(y.mean((2, 3), keepdim=True)))))
        x = x + self.project_norm(self.project(y * scale))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


class Dense(nn.Module):
    """Two DenseNet layers: normalisation first, results concatenated."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(2, 4, 3, padding=1)
        self.norm1, self.conv1 = nn.BatchNorm2d(4), nn.Conv2d(4, 3, 3, padding=1)
        self.norm2, self.conv2 = nn.BatchNorm2d(7), nn.Conv2d(7, 3, 3, padding=1)
        self.norm3, self.fc = nn.BatchNorm2d(10), nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 2, H, W)`` to ``(N, 3)``."""
        x = self.stem(x)
        x = torch.cat([x, self.conv1(functional.relu(self.norm1(x)))], 1)
        x = torch.cat([x, self.conv2(functional.relu(self.norm2(x)))], 1)
        out: Tensor = self.fc(functional.relu(self.norm3(x)).mean((2, 3)))
        return out


class Transformer(nn.Module):
    """A pre-norm transformer block with LayerScale over tokens of width 8."""

    def __init__(self, dim: int = 8, heads: int = 2) -> None:
        super().__init__()
        self.embed, self.heads = nn.Linear(4, dim), heads
        self.norm1, self.qkv, self.proj = nn.LayerNorm(dim), nn.Linear(dim, 3 * dim), nn.Linear(dim, dim)
        self.scale1 = nn.Parameter(torch.full((dim,), 0.5))
        self.norm2, self.fc1, self.fc2 = nn.LayerNorm(dim), nn.Linear(dim, 12), nn.Linear(12, dim)
        self.scale2 = nn.Parameter(torch.full((dim,), 0.5))
        self.norm3, self.head = nn.LayerNorm(dim), nn.Linear(dim, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, T, 4)`` to ``(N, 3)``."""
        x = self.embed(x)
        x = x + self.scale1 * self.attend(self.norm1(x))
        x = x + self.scale2 * self.fc2(functional.gelu(self.fc1(self.norm2(x))))
        out: Tensor = self.head(self.norm3(x).mean(1))
        return out

    def attend(self, x: Tensor) -> Tensor:
        """Self-attention over ``(N, T, dim)``."""
        batch, tokens, dim = x.shape
        q, k, v = self.qkv(x).reshape(batch, tokens, 3, self.heads, dim // self.heads).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = functional.scaled_dot_product_attention(q, k, v)
        out: Tensor = self.proj(mixed.transpose(1, 2).reshape(batch, tokens, dim))
        return out


class Windows(nn.Module):
    """Works on windows of two by two tokens, flattened into the batch as in window attention."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.norm = nn.Linear(2, 6), nn.LayerNorm(6)
        self.fc1, self.fc2 = nn.Linear(6, 10), nn.Linear(10, 6)
        self.head = nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """``(N, 4, 4, 2)`` to ``(N, 3)``."""
        x = self.norm(self.embed(x))
        windows = x.view(x.shape[0], 2, 2, 2, 2, x.shape[3]).transpose(2, 3).reshape(-1, 4, x.shape[3])
        mixed = self.fc2(functional.relu(self.fc1(windows)) + windows.mean((1, 2), keepdim=True))
        mixed = mixed.view(x.shape[0], 4, 4, -1)
        out: Tensor = self.head(torch.tanh(mixed).mean((1, 2)))
        return out


IMAGES: dict[str, Callable[[], nn.Module]] = {
    "chain": Chain,
    "residual": Residual,
    "inverted": Inverted,
    "dense": Dense,
}
"""Models that take ``(N, 2, 6, 6)``."""

NETWORKS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{name: (factory, (2, 6, 6)) for name, factory in IMAGES.items()},
    "mlp": (Mlp, (5,)),
    "transformer": (Transformer, (5, 4)),
    "windows": (Windows, (4, 4, 2)),
}
"""Models, each with the shape of one sample."""


def images(batch: int = 4) -> Tensor:
    """A batch for the models in `IMAGES`."""
    return torch.randn(batch, 2, 6, 6)
