"""Rows for normalisation, reduction, pooling and elementwise ops."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.ops.case import Case, image, net


def around(middle: Callable[[Tensor], Tensor] | nn.Module, channels: int = 8) -> Callable[[], nn.Module]:
    """A convolution, something on its channels, and a head that reads them."""

    def build() -> nn.Module:
        parts: dict[str, nn.Module] = {"a": nn.Conv2d(3, channels, 3, padding=1), "head": nn.Conv2d(channels, 4, 1)}
        if isinstance(middle, nn.Module):
            return net(lambda self, x: self.head(self.middle(self.a(x))), **parts, middle=middle)
        return net(lambda self, x: self.head(middle(self.a(x))), **parts)

    return build


def between_linear(middle: Callable[[Tensor], Tensor] | nn.Module, width: int = 8) -> Callable[[], nn.Module]:
    """The same with linear layers on tokens."""

    def build() -> nn.Module:
        parts: dict[str, nn.Module] = {"a": nn.Linear(5, width), "head": nn.Linear(width, 4)}
        if isinstance(middle, nn.Module):
            return net(lambda self, x: self.head(self.middle(self.a(x))), **parts, middle=middle)
        return net(lambda self, x: self.head(middle(self.a(x))), **parts)

    return build


def _squeeze_excite() -> nn.Module:
    return net(
        lambda self, x: (
            lambda y: self.head(y * torch.sigmoid(self.up(self.down(y.mean((2, 3), keepdim=True)).relu())))
        )(self.a(x).relu()),
        a=nn.Conv2d(3, 8, 3),
        down=nn.Conv2d(8, 4, 1),
        up=nn.Conv2d(4, 8, 1),
        head=nn.Conv2d(8, 4, 1),
    )


def _dropout() -> nn.Module:
    return net(
        lambda self, x: self.head(F.dropout(self.a(x).relu(), 0.5, training=self.training)),
        a=nn.Linear(5, 32),
        head=nn.Linear(32, 4),
    )


def _mean_over_channels(x: Tensor) -> Tensor:
    return x * torch.sigmoid(torch.cat([x.mean(1, keepdim=True), x.amax(1, keepdim=True)], 1).sum(1, keepdim=True))


IMAGE, TOKENS = image(2, 3, 6, 6), image(2, 7, 5)
BOTH = ("a.weight", "a.bias", "head.weight:1")
NORM = (*BOTH, "middle.weight", "middle.bias")

ROWS = (
    Case("batch norm 2d", around(nn.BatchNorm2d(8)), IMAGE, (*NORM, "middle.running_mean", "middle.running_var")),
    Case("batch norm 2d without affine", around(nn.BatchNorm2d(8, affine=False)), IMAGE, BOTH),
    Case("batch norm 2d with batch statistics", around(nn.BatchNorm2d(8, track_running_stats=False)), IMAGE, NORM),
    Case("batch norm 1d on features", lambda: nn.Sequential(nn.Linear(5, 8), nn.BatchNorm1d(8), nn.Linear(8, 4)),
         image(3, 5), ("0.weight", "1.weight", "1.running_var", "2.weight:1")),
    Case("batch norm 1d on sequences", lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.BatchNorm1d(8), nn.Conv1d(8, 4, 1)),
         image(3, 3, 9), ("0.weight", "1.weight", "2.weight:1")),
    Case("instance norm", around(nn.InstanceNorm2d(8, affine=True)), IMAGE, NORM),
    Case("layer norm", between_linear(nn.LayerNorm(8)), TOKENS, NORM, mixing=True),
    Case("layer norm without affine", between_linear(nn.LayerNorm(8, elementwise_affine=False)), TOKENS, BOTH,
        mixing=True),
    Case("functional layer norm", between_linear(lambda x: F.layer_norm(x, (8,))), TOKENS, BOTH, mixing=True),
    Case("layer norm over channels and positions", around(nn.LayerNorm([8, 6, 6])), IMAGE, NORM, mixing=True),
    Case("layer norm in channels-last order", lambda: net(
        lambda self, x: self.head(self.middle(self.a(x).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)),
        a=nn.Conv2d(3, 8, 3), middle=nn.LayerNorm(8), head=nn.Conv2d(8, 4, 1)), IMAGE, NORM, mixing=True),
    Case("rms norm", between_linear(nn.RMSNorm(8)), TOKENS, (*BOTH, "middle.weight"), mixing=True),
    Case("rms norm by hand", lambda: net(
        lambda self, x: (lambda y: self.head(self.scale * y * torch.rsqrt(y.pow(2).mean(-1,
            keepdim=True) + 1e-6)))(self.a(x)),
        a=nn.Linear(5, 8), scale=nn.Parameter(torch.ones(8)), head=nn.Linear(8, 4)), TOKENS, (*BOTH, "scale"),
            mixing=True),
    Case("group norm, few large groups", around(nn.GroupNorm(2, 12), 12), IMAGE, NORM, mixing=True),
    Case("group norm, many small groups", around(nn.GroupNorm(6, 12), 12), IMAGE, NORM),
    Case("group norm, one channel per group", around(nn.GroupNorm(8, 8)), IMAGE, NORM),
    Case("group norm, one group", around(nn.GroupNorm(1, 8)), IMAGE, NORM, mixing=True),
    Case("functional group norm", around(lambda x: F.group_norm(x, 2)), IMAGE, BOTH, mixing=True),
    Case("local response norm", around(nn.LocalResponseNorm(3)), IMAGE, frozen=("a.weight",), mixing=True),
    Case("normalise to unit length", between_linear(lambda x: F.normalize(x, dim=-1)), TOKENS, BOTH),
    Case("softmax over channels", around(lambda x: x.softmax(1)), IMAGE, BOTH, mixing=True),
    Case("log softmax over channels", between_linear(lambda x: F.log_softmax(x, -1)), TOKENS, BOTH, mixing=True),
    Case("softmax over positions", between_linear(lambda x: x.softmax(1)), TOKENS, BOTH),
    Case("mean over channels", around(_mean_over_channels), IMAGE, BOTH, mixing=True),
    Case("variance over channels", between_linear(lambda x: x / (x.var(-1, unbiased=False, keepdim=True) + 1)), TOKENS,
         BOTH, mixing=True),
    Case("argmax over channels", between_linear(lambda x: x * x.argmax(-1, keepdim=True)), TOKENS, frozen=("a.weight",
        )),
    Case("cumulative sum over channels", between_linear(lambda x: x.cumsum(-1)), TOKENS, BOTH, mixing=True),
    Case("sum of squares of everything", between_linear(lambda x: x / x.square().sum((1, 2), keepdim=True)), TOKENS,
        BOTH),
    Case("average pooling", around(nn.AvgPool2d(2)), IMAGE, BOTH),
    Case("max pooling", around(nn.MaxPool2d(2)), IMAGE, BOTH),
    Case("max pooling with padding", around(nn.MaxPool2d(3, 2, 1)), IMAGE, BOTH),
    Case("global average pooling", around(nn.AdaptiveAvgPool2d(1)), IMAGE, BOTH),
    Case("adaptive max pooling", around(nn.AdaptiveMaxPool2d(2)), IMAGE, BOTH),
    Case("adaptive average pooling to 3x3", around(nn.AdaptiveAvgPool2d(3)), IMAGE, BOTH),
    Case("lp pooling", around(nn.LPPool2d(2, 2)), IMAGE, BOTH),
    Case("pooling 1d", lambda: nn.Sequential(nn.Conv1d(3, 8, 3), nn.MaxPool1d(2), nn.AvgPool1d(2), nn.Conv1d(8, 4, 1)),
         image(2, 3, 14), ("0.weight", "3.weight:1")),
    Case("pooling 3d", lambda: nn.Sequential(nn.Conv3d(3, 8, 1), nn.MaxPool3d(2), nn.AdaptiveAvgPool3d(1), nn.Conv3d(8,
        4, 1)),
         image(2, 3, 4, 4, 4), ("0.weight", "3.weight:1")),
    Case("upsample nearest", around(nn.Upsample(scale_factor=2)), IMAGE, BOTH),
    Case("interpolate bilinear", around(lambda x: F.interpolate(x, size=(9, 9), mode="bilinear")), IMAGE, BOTH),
    Case("interpolate bicubic", around(lambda x: F.interpolate(x, scale_factor=2.0, mode="bicubic")), IMAGE, BOTH),
    Case("reflection padding", around(nn.ReflectionPad2d(1)), IMAGE, BOTH),
    Case("replication padding", around(nn.ReplicationPad2d(1)), IMAGE, BOTH),
    Case("prelu per channel", around(nn.PReLU(8)), IMAGE, (*BOTH, "middle.weight")),
    Case("prelu", around(nn.PReLU()), IMAGE, BOTH),
    Case("activations", around(lambda x: F.hardswish(F.gelu(F.silu(F.elu(F.softplus(F.leaky_relu(x))))))), IMAGE, BOTH),
    Case("clamp and arithmetic", around(lambda x: (2 - x.clamp(-1, 1)) / 3 + x.abs().sqrt()), IMAGE, BOTH),
    Case("where", around(lambda x: torch.where(x > 0, x, x.exp() - 1)), IMAGE, BOTH),
    Case("quotients that are no numbers where a channel is zero", around(
        lambda x: x / x.sum((2, 3), keepdim=True) + x.square().sqrt().reciprocal().log()), IMAGE, BOTH, mixing=True),
    Case("an op that torch has no shape kernel for", lambda: net(
        lambda self, x: self.head(torch.geqrf(self.a(x))[0].flatten(1)), a=nn.Conv2d(3, 8, 3), head=nn.Linear(128, 4)),
         IMAGE, frozen=("a.weight",), reason="no rule"),
    Case("in-place functions without a tag", around(
        lambda x: x.clone().abs_() + x.clone().copysign_(-1.0)), IMAGE, BOTH),
    Case("in-place relu and add", lambda: net(
        lambda self, x: (lambda y: self.head(self.b(F.relu_(y)).add_(y).relu_()))(self.a(x)),
        a=nn.Conv2d(3, 8, 3), b=nn.Conv2d(8, 8, 3, padding=1), head=nn.Conv2d(8, 4, 1)), IMAGE,
         (*BOTH, "b.weight", "b.weight:1")),
    Case("functional dropout", _dropout, TOKENS, BOTH),
    Case("dropout modules", around(nn.Sequential(nn.Dropout(0.3), nn.Dropout2d(0.3), nn.AlphaDropout(0.2))), IMAGE,
        BOTH),
    Case("squeeze and excite", _squeeze_excite, IMAGE, (*BOTH, "down.weight", "down.weight:1", "up.weight")),
    Case("efficient channel attention", lambda: net(
        lambda self, x: (lambda y: self.head(
            y * self.mix(y.mean((2, 3)).unsqueeze(1)).sigmoid().transpose(1, 2).unsqueeze(-1)))(self.a(x)),
        a=nn.Conv2d(3, 8, 3), mix=nn.Conv1d(1, 1, 3, padding=1), head=nn.Conv2d(8, 4, 1)), IMAGE, frozen=("a.weight",),
         reason="positions"),
    Case("glu", lambda: nn.Sequential(nn.Conv2d(3, 12, 3), nn.GLU(1), nn.Conv2d(6, 4, 1)), IMAGE, ("0.weight",
        "2.weight:1")),
    Case("gated linear unit by chunk", lambda: net(
        lambda self, x: (lambda p: self.head(F.silu(p[0]) * p[1]))(self.a(x).chunk(2, -1)),
        a=nn.Linear(5, 16), head=nn.Linear(8, 4)), TOKENS, BOTH),
    Case("buffer as scale", lambda: net(
        lambda self, x: self.head(self.a(x) * self.scale.view(1, -1, 1, 1)),
        a=nn.Conv2d(3, 8, 3), scale=torch.linspace(0.5, 2, 8), head=nn.Conv2d(8, 4, 1)), IMAGE, (*BOTH, "scale")),
    Case("scalar parameter", lambda: net(
        lambda self, x: self.head(self.a(x).relu() * self.scale + self.shift),
        a=nn.Conv2d(3, 8, 3), scale=nn.Parameter(torch.tensor(0.7)), shift=nn.Parameter(torch.tensor([0.2])),
        head=nn.Conv2d(8, 4, 1)), IMAGE, BOTH),
    Case("layer scale and drop path by hand", lambda: net(
        lambda self, x: (lambda y: self.head(y + self.gamma * self.b(y).relu()))(self.a(x)),
        a=nn.Linear(5, 8), b=nn.Linear(8, 8), gamma=nn.Parameter(torch.ones(8) * 0.3), head=nn.Linear(8, 4)), TOKENS,
         (*BOTH, "b.weight", "gamma")),
    Case("constant per channel", around(lambda x: x * torch.arange(8.0).view(1, -1, 1, 1)), IMAGE, BOTH),
)  # fmt: skip
