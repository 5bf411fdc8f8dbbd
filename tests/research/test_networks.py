"""Architectures against appendix L of the paper, and the orthogonal initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from graphprune.errors import OptionError
from graphprune.research.networks import (
    DROPOUT,
    NEGATIVE_SLOPE,
    NETWORKS,
    ORTHOGONAL_GAIN,
    BasicBlock,
    ConvNet,
    InShape,
    alexnet,
    build,
    conv6,
    lenet5,
    mlp5,
    orthogonal_init_,
    resnet18,
    vgg16,
)

DEFAULT_SHAPES: dict[str, InShape] = {name: (3, 32, 32) for name in NETWORKS} | {
    "lenet5": (1, 28, 28),
    "mlp5": (1, 28, 28),
}
# Weights and biases, then BatchNorm's two per channel: the layers of appendix L at the default shape and 10 classes.
LENET5 = (
    (25 * 6 + 6) + (150 * 16 + 16) + (400 * 120 + 120) + (1080 * 84 + 84) + (84 * 10 + 10) + 2 * (6 + 16 + 120 + 84)
)
MLP5 = (784 * 512 + 512) + 3 * (512 * 512 + 512) + (512 * 10 + 10) + 4 * 2 * 512
CONV6 = (
    (27 * 64 + 64 + 576 * 64 + 64 + 576 * 128 + 128 + 1152 * 128 + 128 + 1152 * 256 + 256 + 2304 * 256 + 256)
    + (2304 * 256 + 256 + 256 * 256 + 256 + 256 * 10 + 10)
    + 2 * (2 * 64 + 2 * 128 + 2 * 256 + 2 * 256)
)
ALEXNET = (
    (75 * 64 + 64 + 1600 * 192 + 192 + 1728 * 384 + 384 + 3456 * 256 + 256 + 2304 * 512 + 512)
    + (2048 * 4096 + 4096 + 4096 * 4096 + 4096 + 40960 + 10)
    + 2 * (64 + 192 + 384 + 256 + 512 + 4096 + 4096)
)
VGG16_CONVS = (
    (3 * 64 + 64 * 64 + 64 * 128 + 128 * 128 + 128 * 256 + 2 * 256 * 256 + 256 * 512 + 2 * 512 * 512)
    + (2 * 512 * 512 + 512 * 1024)
) * 9
VGG16_CHANNELS = 2 * 64 + 2 * 128 + 3 * 256 + 5 * 512 + 1024
VGG16 = VGG16_CONVS + (2 * 4096 * 4096 + 40960 + 10) + 3 * (VGG16_CHANNELS + 2 * 4096)
RESNET18 = (
    (3 * 49 * 64 + 4 * 9 * 64 * 64)
    + sum(9 * w // 2 * w + 3 * 9 * w * w + w // 2 * w for w in (128, 256, 512))
    + 2 * (5 * 64 + sum(5 * w for w in (128, 256, 512)))
    + (2048 * 256 + 256 + 2 * 256 + 256 * 10 + 10)
)
COUNTS = {"lenet5": LENET5, "mlp5": MLP5, "conv6": CONV6, "alexnet": ALEXNET, "vgg16": VGG16, "resnet18": RESNET18}


@pytest.fixture(scope="module")
def networks() -> dict[str, nn.Module]:
    """All six at their defaults, in eval mode; the tests do not change them."""
    return {name: factory().eval() for name, factory in NETWORKS.items()}


def test_the_mapping_holds_the_six_networks() -> None:
    assert list(NETWORKS) == ["lenet5", "mlp5", "conv6", "alexnet", "vgg16", "resnet18"]
    assert list(NETWORKS.values()) == [lenet5, mlp5, conv6, alexnet, vgg16, resnet18]


@pytest.mark.parametrize("name", NETWORKS)
def test_parameter_count(networks: dict[str, nn.Module], name: str) -> None:
    assert sum(p.numel() for p in networks[name].parameters()) == COUNTS[name]


@pytest.mark.parametrize("name", NETWORKS)
def test_traced_network_gives_the_same_logits(networks: dict[str, nn.Module], name: str) -> None:
    x = torch.randn(2, *DEFAULT_SHAPES[name], generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        logits = networks[name](x)
        traced = torch.fx.symbolic_trace(networks[name])(x)
    assert logits.shape == (2, 10)
    torch.testing.assert_close(traced, logits, rtol=0, atol=0)


@pytest.mark.parametrize(
    ("name", "features"),
    [
        ("lenet5", (120, 1, 1)),
        ("conv6", (256, 8, 8)),
        ("alexnet", (512, 7, 7)),
        ("vgg16", (1024, 2, 2)),
        ("resnet18", (512, 1, 1)),
    ],
)
def test_feature_map_before_the_adaptive_pool(
    networks: dict[str, nn.Module], name: str, features: tuple[int, ...]
) -> None:
    network = networks[name]
    assert isinstance(network, ConvNet)
    with torch.no_grad():
        assert network.features(torch.zeros(1, *DEFAULT_SHAPES[name])).shape == (1, *features)


@pytest.mark.parametrize("name", NETWORKS)
def test_slopes_dropout_and_batchnorm(networks: dict[str, nn.Module], name: str) -> None:
    modules = list(networks[name].modules())
    assert {m.negative_slope for m in modules if isinstance(m, nn.LeakyReLU)} == {NEGATIVE_SLOPE} == {0.05}
    assert {m.p for m in modules if isinstance(m, nn.Dropout)} == {DROPOUT} == {0.3}
    norms = [m for m in modules if isinstance(m, nn.BatchNorm1d | nn.BatchNorm2d)]
    assert {(m.eps, m.momentum, m.affine, m.track_running_stats) for m in norms} == {(1e-5, 0.1, True, True)}
    assert not any(isinstance(m, nn.ReLU) for m in modules)


@pytest.mark.parametrize(
    ("name", "convs", "linears", "dropouts"),
    [
        ("lenet5", 3, 2, 2),
        ("mlp5", 0, 5, 4),
        ("conv6", 6, 3, 3),
        ("alexnet", 5, 3, 3),
        ("vgg16", 13, 3, 3),
        ("resnet18", 20, 2, 2),
    ],
)
def test_numbers_of_layers(networks: dict[str, nn.Module], name: str, convs: int, linears: int, dropouts: int) -> None:
    modules = list(networks[name].modules())
    counts = tuple(sum(isinstance(m, kind) for m in modules) for kind in (nn.Conv2d, nn.Linear, nn.Dropout))
    assert counts == (convs, linears, dropouts)


@pytest.mark.parametrize(
    ("name", "in_shape"),
    [
        ("lenet5", (3, 32, 40)),
        ("mlp5", (2, 5, 3)),
        ("conv6", (1, 4, 9)),
        ("alexnet", (1, 7, 12)),
        ("resnet18", (1, 28, 28)),
        ("resnet18", (3, 1, 1)),
    ],
)
def test_other_shapes_and_classes(name: str, in_shape: InShape) -> None:
    network = build(name, in_shape, classes=7).train()
    assert network(torch.zeros(2, *in_shape)).shape == (2, 7)


@pytest.mark.parametrize("name", ["lenet5", "conv6", "alexnet", "vgg16"])
def test_smallest_side_is_the_smallest_that_runs(networks: dict[str, nn.Module], name: str) -> None:
    smallest = {"lenet5": 28, "conv6": 4, "alexnet": 7, "vgg16": 16}[name]
    channels = DEFAULT_SHAPES[name][0]
    with torch.no_grad():
        assert networks[name](torch.zeros(1, channels, smallest, smallest)).shape == (1, 10)
        with pytest.raises(RuntimeError):
            networks[name](torch.zeros(1, channels, smallest - 1, smallest))
    with pytest.raises(OptionError, match=f"{name}: needs images of {smallest}x{smallest} or larger, got"):
        build(name, (channels, smallest - 1, smallest), 10)


def test_downsampling_block_halves_and_projects() -> None:
    block = BasicBlock(4, 8, downsampling=True)
    assert block(torch.zeros(2, 4, 6, 6)).shape == (2, 8, 3, 3)
    assert isinstance(block.shortcut, nn.Sequential)
    assert isinstance(BasicBlock(4, 4).shortcut, nn.Identity)


def test_block_adds_the_shortcut_before_the_last_activation() -> None:
    block = BasicBlock(3, 3).eval()
    x = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(0))
    nn.init.zeros_(block.conv2.weight)
    torch.testing.assert_close(block(x), nn.functional.leaky_relu(x, 0.05))


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(
        OptionError, match=r"unknown network 'vgg19'; known: lenet5, mlp5, conv6, alexnet, vgg16, resnet18"
    ):
        build("vgg19", (3, 32, 32), 10)


@pytest.mark.parametrize(("in_shape", "classes"), [((0, 28, 28), 10), ((28, 28), 10), ((1, 28, 28), 0)])
def test_impossible_sizes_are_refused(in_shape: InShape, classes: int) -> None:
    with pytest.raises(OptionError, match="mlp5: "):
        build("mlp5", in_shape, classes)


@pytest.mark.parametrize("name", ["lenet5", "mlp5", "conv6"])
def test_orthogonal_init(name: str) -> None:
    network = orthogonal_init_(build(name, DEFAULT_SHAPES[name], 10), seed=3)
    layers = [m for m in network.modules() if isinstance(m, nn.Conv2d | nn.Linear)]
    for layer in layers:
        weight = layer.weight.detach().flatten(1)
        gain = 1.0 if layer is layers[-1] else math.sqrt(2 / 1.0025)
        gram = weight @ weight.T if weight.shape[0] <= weight.shape[1] else weight.T @ weight
        # Single precision QR of at most 2304 columns.
        torch.testing.assert_close(gram, gain**2 * torch.eye(len(gram)), rtol=0, atol=2e-5)
        assert layer.bias is not None and not layer.bias.any()


def test_orthogonal_init_takes_layers_without_bias_and_leaves_norms() -> None:
    block = BasicBlock(3, 5, downsampling=True)
    nn.init.constant_(block.norm1.weight, 0.25)
    assert orthogonal_init_(block, seed=0) is block
    assert block.norm1.weight.eq(0.25).all()
    gram = block.conv1.weight.detach().flatten(1) @ block.conv1.weight.detach().flatten(1).T
    torch.testing.assert_close(gram, ORTHOGONAL_GAIN**2 * torch.eye(5), rtol=0, atol=1e-5)


def test_orthogonal_init_depends_on_the_seed_alone_and_leaves_the_global_state() -> None:
    first = orthogonal_init_(lenet5(), seed=1)
    torch.manual_seed(11)
    before = torch.get_rng_state()
    again, other = lenet5(), lenet5()
    torch.set_rng_state(before)
    orthogonal_init_(again, seed=1)
    orthogonal_init_(other, seed=2)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(torch.equal(a, b) for a, b in zip(first.parameters(), again.parameters(), strict=True))
    pairs = zip(first.parameters(), other.parameters(), strict=True)
    assert all(not torch.equal(a, b) for a, b in pairs if a.ndim > 1)


def test_orthogonal_init_refuses_a_model_without_layers() -> None:
    with pytest.raises(OptionError, match="ReLU has no convolution or linear layer"):
        orthogonal_init_(nn.ReLU(), seed=0)
