"""Rows for sliding windows, Fourier transforms, complex numbers and random numbers."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrizations
from torchvision.ops import deform_conv2d, roi_align

from tests.ops.case import Case, image, net
from tests.ops.cases_mixing import around, between_linear

IMAGE, TOKENS = image(2, 3, 6, 6), image(2, 7, 5)
BOTH = ("a.weight", "a.bias", "head.weight:1")


def _unpooled(x: Tensor) -> Tensor:
    most, where = F.max_pool2d(x, 2, return_indices=True)
    return F.max_unpool2d(most, where, (2, 2))


def _involution(x: Tensor) -> Tensor:
    windows = F.unfold(x, 3, padding=1).view(x.shape[0], 8, 9, 6, 6)
    return (windows * windows.mean(1, keepdim=True)).sum(2)


def _global_filter(self: Any, x: Tensor) -> Tensor:
    y = torch.fft.rfft2(self.a(x), norm="ortho") * torch.view_as_complex(self.filter)
    result: Tensor = self.head(torch.fft.irfft2(y, s=(6, 6), norm="ortho"))
    return result


def _spectral_convolution(self: Any, x: Tensor) -> Tensor:
    y = self.a(x)
    low = torch.fft.rfft(y)[:, :, :3]
    mixed = torch.einsum("bix,iox->box", low, self.mix)
    result: Tensor = self.head(torch.fft.irfft(mixed, n=y.shape[-1]))
    return result


def _padded_spectrum(self: Any, x: Tensor) -> Tensor:
    spectrum = torch.fft.rfft(self.a(x))
    out = torch.zeros(x.shape[0], 6, spectrum.shape[-1], dtype=spectrum.dtype)
    out[:, :, :3] = torch.einsum("bix,iox->box", spectrum[:, :, :3], self.mix)
    result: Tensor = self.head(torch.fft.irfft(out, n=8))
    return result


def _turned(self: Any, x: Tensor) -> Tensor:
    """Rotary positions by complex numbers: heads can go, their width has as many frequencies."""
    y = self.a(x).view(2, 7, 3, 4)
    turned = torch.view_as_complex(y.unflatten(-1, (2, 2)).contiguous()) * self.angles
    result: Tensor = self.head(torch.view_as_real(turned).flatten(2))
    return result


def _spectral_norm(norm: Any) -> nn.Module:
    return net(
        lambda self, x: self.head(self.b(self.a(x).relu()).relu().mean((2, 3))),
        a=norm(nn.Conv2d(3, 8, 3)),
        b=norm(nn.Conv2d(8, 6, 3)),
        head=nn.Linear(6, 4),
    )


SPECTRAL = ("a.weight", "mix", "mix:1", "head.weight:1")
ROTATION = torch.polar(torch.ones(7, 1, 2), torch.arange(14.0).view(7, 1, 2))

ROWS = (
    Case("unfold of positions", lambda: net(
        lambda self, x: self.head(F.unfold(self.a(x), 2).transpose(1, 2)), a=nn.Conv2d(3, 4, 3), head=nn.Linear(16, 4)),
         IMAGE, BOTH),
    Case("unfold module", lambda: net(
        lambda self, x: self.head(self.windows(self.a(x)).transpose(1, 2)), a=nn.Conv2d(3, 4, 3),
        windows=nn.Unfold((2, 3), stride=2, padding=1), head=nn.Linear(24, 4)), IMAGE, BOTH),
    Case("unfold and fold", around(lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 6), 3, padding=1)), IMAGE, BOTH),
    Case("involution", around(_involution), IMAGE, BOTH, mixing=True),
    Case("windows by tensor.unfold", around(lambda x: x.unfold(2, 2, 2).unfold(3, 2, 2).mean((-1, -2))), IMAGE, BOTH),
    Case("windows of channels", between_linear(lambda x: x.unfold(2, 4, 4).flatten(2)), TOKENS, frozen=("a.weight",),
         reason="by position"),
    Case("max pooling with a padding of its own", around(lambda x: F.max_pool2d(
        F.pad(x, (1, 0, 1, 0), value=float("-inf")), 3, 1)), IMAGE, BOTH),
    Case("max unpooling", around(_unpooled), IMAGE, BOTH),
    Case("deformable convolution", lambda: net(
        lambda self, x: self.head(deform_conv2d(self.a(x), self.offsets(x), self.kernel, padding=1)),
        a=nn.Conv2d(3, 8, 3, padding=1), offsets=nn.Conv2d(3, 18, 3, padding=1),
        kernel=nn.Parameter(torch.randn(6, 8, 3, 3)), head=nn.Conv2d(6, 4, 1)), IMAGE,
         ("a.weight", "kernel", "kernel:1", "head.weight:1"), ("offsets.weight",), "offsets belong"),
    Case("boxes cut out of an image", lambda: net(
        lambda self, x: self.head(roi_align(self.a(x), self.boxes, output_size=2).flatten(1)),
        a=nn.Conv2d(3, 8, 3), head=nn.Linear(32, 4),
        boxes=torch.tensor([[0, 0, 0, 3, 3], [0, 1, 1, 4, 4], [0, 2, 0, 4, 3.0]])), IMAGE, BOTH, ("boxes",)),
    Case("quarter turn", around(lambda x: torch.rot90(x, 1, (2, 3))), IMAGE, BOTH),
    Case("fft over positions", around(lambda x: torch.fft.fft2(x).abs()), IMAGE, BOTH),
    Case("fft", lambda: net(
        lambda self, x: self.head(self.b(torch.fft.fft(self.a(x), dim=-1).real).relu()),
        a=nn.Linear(5, 8), b=nn.Linear(8, 6), head=nn.Linear(6, 4)), TOKENS, ("b.weight",), ("a.weight",),
         "mixes positions"),
    Case("global filter", lambda: net(
        _global_filter, a=nn.Conv2d(3, 8, 3, padding=1), filter=nn.Parameter(torch.randn(8, 6, 4, 2)),
        head=nn.Conv2d(8, 4, 1)), IMAGE, (*BOTH, "filter"), ("filter:3",)),
    Case("spectral convolution with complex weights", lambda: net(
        _spectral_convolution, a=nn.Conv1d(3, 8, 1), mix=nn.Parameter(torch.randn(8, 6, 3, dtype=torch.cfloat)),
        head=nn.Conv1d(6, 4, 1)), image(2, 3, 8), SPECTRAL),
    Case("spectral convolution into a padded spectrum", lambda: net(
        _padded_spectrum, a=nn.Conv1d(3, 8, 1), mix=nn.Parameter(torch.randn(8, 6, 3, dtype=torch.cfloat)),
        head=nn.Conv1d(6, 4, 1)), image(2, 3, 8), SPECTRAL, exported=True),
    Case("rotary positions by complex numbers", lambda: net(
        _turned, a=nn.Linear(5, 12), angles=ROTATION, head=nn.Linear(12, 4)), TOKENS, BOTH),
    Case("complex from parts", around(lambda x: torch.complex(x, x * 2).abs()), IMAGE, BOTH),
    Case("spectral norm", lambda: _spectral_norm(parametrizations.spectral_norm), image(2, 3, 8, 8),
         ("a.parametrizations.weight.original", "b.parametrizations.weight.original:1", "head.weight:1")),
    Case("orthogonal weights", lambda: net(
        lambda self, x: self.head(self.b(self.a(x).relu())), a=nn.Linear(5, 8),
        b=parametrizations.orthogonal(nn.Linear(8, 8)), head=nn.Linear(8, 4)), image(2, 5), frozen=("a.weight",)),
    Case("dropout that is always on", around(lambda x: F.dropout(x, 0.5, training=True)), IMAGE, frozen=("a.weight",),
         reason="random numbers", mixing=True),
    Case("noise that does not depend on channels", lambda: net(
        lambda self, x: self.head(self.a(x) + self.scale * torch.rand(1, 1, 6, 6)), a=nn.Conv2d(3, 8, 3, padding=1),
        scale=nn.Parameter(torch.rand(8, 1, 1)), head=nn.Conv2d(8, 4, 1)), IMAGE, (*BOTH, "scale"), mixing=True),
    Case("gumbel softmax", around(lambda x: F.gumbel_softmax(x, dim=1)), IMAGE, frozen=("a.weight",),
         reason="random numbers", mixing=True),
)  # fmt: skip
