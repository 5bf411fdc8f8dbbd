"""Elementwise ops, reductions, pooling and resampling."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from tests.property.programs import Builder, Value, op, project


@op()
def activation(b: Builder, x: int) -> int | None:
    name = b.choose(["relu", "sigmoid", "gelu", "silu", "tanh", "hardswish", "leaky_relu", "softplus", "elu"])
    return b.map(name, x, getattr(F, name))


@op()
def arithmetic(b: Builder, x: int) -> int | None:
    name, compute = b.choose([
        ("(2 - clamp) / 3", lambda y: (2 - y.clamp(-1, 1)) / 3), ("where", lambda y: torch.where(y > 0, y, y * 0.1)),
        ("masked_fill", lambda y: y.masked_fill(y < 0, 0.5)), ("detach", lambda y: y + y.detach().sigmoid()),
        ("addcmul", lambda y: torch.addcmul(y, y.sigmoid(), y, value=0.5)), ("sqrt", lambda y: (y.abs() + 1).sqrt()),
        ("clone relu_", lambda y: y.clone().relu_()), ("maximum", lambda y: torch.maximum(y, y * 0.5)),
        ("zeros_like", lambda y: torch.zeros_like(y) + y), ("dropout", lambda y: F.dropout(y, 0.2, training=False)),
        ("erf, to", lambda y: y.erf().to(y.dtype)), ("max(a, b)", lambda y: torch.max(y, y.sigmoid())),
        ("logsigmoid", lambda y: F.logsigmoid(y)), ("nan_to_num", lambda y: y.nan_to_num()),
        ("full_like", lambda y: y * torch.full_like(y, 0.5)), ("new_ones", lambda y: y.new_ones(y.shape) - y),
        ("clone zero_", lambda y: y + y.clone().zero_()), ("hardtanh", lambda y: F.hardtanh(y, -0.5, 0.5)),
    ])  # fmt: skip
    return b.map(name, x, compute)


@op()
def residual(b: Builder, x: int) -> int | None:
    name, compute = b.choose([
        ("add", lambda y, z: y + z), ("sub", lambda y, z: y - 2 * z), ("clone add_", lambda y, z: y.clone().add_(z)),
        ("gate", lambda y, z: y * torch.sigmoid(z)), ("lerp", lambda y, z: torch.lerp(y, z, 0.3)),
        ("stack sum", lambda y, z: torch.stack([y, z]).sum(0)),
        ("stack mean", lambda y, z: torch.stack((y, z), 1).mean(1)),
    ])  # fmt: skip
    return b.add(name, [x, b.choose(b.alike(x))], b.values[x], compute)


@op("image")
def squeeze_excite(b: Builder, x: int) -> int | None:
    value = b.values[x]
    width = value.width
    if b.below(2):
        pooled = b.add("pool", [x], Value("image", (width, 1, 1)), lambda y: y.mean((2, 3), keepdim=True))
        up = project(b, project(b, pooled, 3), width)
        return b.add("scale", [x, up], value, lambda y, scale: y * torch.sigmoid(scale))
    pooled = b.add("pool", [x], Value("features", (width,)), lambda y: F.adaptive_avg_pool2d(y, 1).flatten(1))
    up = project(b, project(b, pooled, 3), width)
    return b.add("scale", [x, up], value, lambda y, scale: y * scale.sigmoid().view(y.shape[0], y.shape[1], 1, 1))


@op("image", "tokens", "nhwc")
def spatial_attention(b: Builder, x: int) -> int | None:
    """One map for all channels."""
    scale = project(b, x, 1)
    name, compute = b.choose([
        ("map", lambda y, m: y * m.sigmoid()), ("expand_as", lambda y, m: y * m.sigmoid().expand_as(y)),
        ("expand", lambda y, m: y * m.expand(y.shape)),
    ])  # fmt: skip
    return b.add(name, [x, scale], b.values[x], compute)


@op()
def over_positions(b: Builder, x: int) -> int | None:
    value = b.values[x]
    dims = value.spatial
    if not dims:
        return None
    name, compute = b.choose([
        ("mean", lambda y: y.mean(dims)), ("sum", lambda y: y.sum(dims)), ("amax", lambda y: y.amax(dims)),
        ("var", lambda y: y.var(dims, unbiased=False)), ("norm", lambda y: torch.linalg.vector_norm(y + 2, dim=dims)),
        ("amin", lambda y: y.amin(dims)), ("var_mean", lambda y: sum(torch.var_mean(y, dims, correction=0))),
        ("prod", lambda y: y.flatten(*sorted((dims[0], dims[-1]))).prod(dims[0])),
        ("max", lambda y: y.flatten(*sorted((dims[0], dims[-1]))).max(dims[0])[0]),
    ])  # fmt: skip
    return b.add(f"{name}{dims}", [x], Value("features", (value.width,)), compute)


@op("tokens", "sequence")
def along_positions(b: Builder, x: int) -> int | None:
    (dim,) = b.values[x].spatial
    name, compute = b.choose([
        ("cumsum", lambda y: y.cumsum(dim)), ("softmax", lambda y: y.softmax(dim)),
        ("centre", lambda y: y - y.mean(dim, keepdim=True)), ("sort", lambda y: y.sort(dim)[0]),
    ])  # fmt: skip
    return b.map(f"{name}({dim})", x, compute)


@op(mixing=True)
def over_channels(b: Builder, x: int) -> int | None:
    """Statistics over the channels."""
    dim = b.values[x].dim
    name, compute = b.choose([
        ("softmax", lambda y: y.softmax(dim)), ("centre", lambda y: y - y.mean(dim, keepdim=True)),
        ("amax", lambda y: y * y.amax(dim, keepdim=True).sigmoid()), ("log_softmax", lambda y: y.log_softmax(dim)),
        ("unit", lambda y: F.normalize(y, dim=dim, eps=0.1)), ("cumsum", lambda y: y.cumsum(dim)),
        ("spread", lambda y: y / (1 + y.var(dim, keepdim=True, unbiased=False))),
        ("logsumexp", lambda y: y - y.logsumexp(dim, keepdim=True)), ("sum", lambda y: y + y.sum(dim).unsqueeze(dim)),
        ("cumprod", lambda y: y.sigmoid().cumprod(dim)), ("amin", lambda y: y * y.amin(dim, keepdim=True).tanh()),
        ("broadcast_to", lambda y: y - torch.broadcast_to(y.mean(dim, keepdim=True), y.shape)),
        ("std", lambda y: y * y.std(dim, keepdim=True, correction=0)),
        ("norm", lambda y: y / (1 + y.norm(dim=dim, keepdim=True))),
    ])  # fmt: skip
    return b.map(f"{name}({dim})", x, compute)


@op("tokens", mixing=True)
def similarity(b: Builder, x: int) -> int | None:
    """Products of the data with itself: what is summed over channels."""
    name, compute = b.choose(
        [
            ("gram", lambda y: (y @ y.transpose(1, 2) / 5).tanh() @ y),
            ("gram of sigmoids", lambda y: y.sigmoid() @ y.sigmoid().transpose(1, 2) @ y),
            ("attention to itself", lambda y: F.scaled_dot_product_attention(y, y.sigmoid(), y)),
            ("einsum", lambda y: torch.einsum("nic,njc,njd->nid", y, y.tanh(), y)),
            ("cosine", lambda y: F.cosine_similarity(y, y.sigmoid(), dim=-1).unsqueeze(-1) * y),
            ("triangle", lambda y: torch.tril(y @ y.mT) @ y),
            ("baddbmm", lambda y: torch.baddbmm(y, y @ y.mT, y.sigmoid())),
            ("diagonal", lambda y: (y @ y.mT).diagonal(dim1=1, dim2=2).unsqueeze(-1) * y),
        ]
    )
    return b.map(name, x, compute)


@op()
def without_a_rule(b: Builder, x: int) -> int | None:
    """Ops that no rule knows, or that depend on the order of channels, which therefore all stay."""
    dim = b.values[x].dim
    name, compute = b.choose([
        ("sort", lambda y: y.sort(dim)[0]), ("fft", lambda y: torch.fft.fft(y, dim=dim).real),
        ("cummax", lambda y: y.cummax(dim)[0]), ("flat roll", lambda y: y.roll(1)),
        ("argmax", lambda y: y * (1 + y.argmax(dim, keepdim=True))), ("argsort", lambda y: y + y.argsort(dim)),
        ("triangle", lambda y: y.triu() if y.dim() > 2 else y),
    ])  # fmt: skip
    return b.map(f"{name}({dim})", x, compute)


@op("image")
def pooling(b: Builder, x: int) -> int | None:
    value = b.values[x]
    channels, height, width = value.shape
    if min(height, width) < 2:
        return None
    half = Value("image", (channels, height // 2, width // 2))
    name, compute, result = b.choose([
        ("max_pool2d", lambda y: F.max_pool2d(y, 2), half), ("avg_pool2d", lambda y: F.avg_pool2d(y, 2), half),
        ("same max", lambda y: F.max_pool2d(y, 3, 1, 1), value),
        ("same avg", lambda y: F.avg_pool2d(y, 3, 1, 1), value),
        ("adaptive", lambda y: F.adaptive_avg_pool2d(y, (2, 1)), Value("image", (channels, 2, 1))),
        ("adaptive max", lambda y: F.adaptive_max_pool2d(y, 1), Value("image", (channels, 1, 1))),
        ("strided", lambda y: y[..., ::2, ::2], Value("image", (channels, -(-height // 2), -(-width // 2)))),
        ("rot90", lambda y: torch.rot90(y, 1, (2, 3)), Value("image", (channels, width, height))),
    ])  # fmt: skip
    return b.add(name, [x], result, compute)


@op("sequence", "volume")
def pooling_of_other_ranks(b: Builder, x: int) -> int | None:
    value = b.values[x]
    channels, *size = value.shape
    if value.kind == "volume":
        pool = b.choose([F.adaptive_avg_pool3d, F.adaptive_max_pool3d])
        return b.add("adaptive", [x], Value("volume", (channels, 1, 1, 1)), lambda y: pool(y, 1))
    if size[0] < 2:
        return None
    half = Value("sequence", (channels, size[0] // 2))
    name, compute, result = b.choose([
        ("avg", lambda y: F.avg_pool1d(y, 2), half), ("max", lambda y: F.max_pool1d(y, 2), half),
        ("adaptive", lambda y: F.adaptive_avg_pool1d(y, size[0] // 2), half),
        ("linear", lambda y: F.interpolate(y, size[0] // 2, mode="linear"), half),
        ("reflect", lambda y: F.pad(y, (1, 0), "reflect"), Value("sequence", (channels, size[0] + 1))),
    ])  # fmt: skip
    return b.add(f"pool {name}", [x], result, compute)


@op("image")
def upsample(b: Builder, x: int) -> int | None:
    channels, height, width = b.values[x].shape
    mode = b.choose(["nearest", "bilinear", "bicubic"])
    result = Value("image", (channels, 2 * height, 2 * width))

    def to_size(y: Tensor) -> Tensor:
        return F.interpolate(y, (2 * y.shape[2], 2 * y.shape[3]), mode=mode)

    compute = b.choose([to_size, lambda y: F.interpolate(y, scale_factor=2.0, mode=mode)])
    return b.add(f"upsample {mode}", [x], result, compute)


@op("image")
def pad_positions(b: Builder, x: int) -> int | None:
    channels, height, width = b.values[x].shape
    mode = b.choose(["constant", "replicate", "reflect", "circular"])
    if mode == "reflect" and width < 2:
        return None
    result = Value("image", (channels, height, width + 2))
    return b.add(f"pad {mode}", [x], result, lambda y: F.pad(y, (1, 1, 0, 0), mode))


@op("image")
def sampled(b: Builder, x: int) -> int | None:
    """Positions that another layer chooses."""
    where = project(b, x, 2)

    def sample(y: Tensor, grid: Tensor) -> Tensor:
        return F.grid_sample(y, grid.permute(0, 2, 3, 1).tanh(), align_corners=False)

    return b.add("grid_sample", [x, where], b.values[x], sample)


@op("features", "sequence", "image", "volume")
def prelu(b: Builder, x: int) -> int | None:
    value = b.values[x]
    return b.add_layer(nn.PReLU(b.choose([1, value.width])), x, value)
