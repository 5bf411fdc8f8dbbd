"""The six networks of the paper's experiments, and its initialisation.

Source: SNIP-it/SNAP-it, appendix L (architectures) and section 4 (initialisation). All but the residual blocks follow
the appendix line by line; the appendix names those without spelling them out, see `BasicBlock`. Every network ends in
raw logits ``(N, classes)``.

The networks contain BatchNorm1d, so in training mode a batch needs two samples or more.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from graphprune.errors import OptionError

InShape = tuple[int, int, int]
"""Shape of one sample, ``(C, H, W)``."""

NEGATIVE_SLOPE = 0.05
DROPOUT = 0.3
ORTHOGONAL_GAIN = (2.0 / (1.0 + NEGATIVE_SLOPE**2)) ** 0.5
"""Gain of a leaky ReLU, which keeps the second moment of the signal through the activation."""

ModelT = TypeVar("ModelT", bound=nn.Module)


class _Conv(NamedTuple):
    """A convolution of stride 1, with its BatchNorm and activation."""

    width: int
    kernel_size: int = 3
    padding: int = 1


class _Pool(NamedTuple):
    """A max-pool of stride 2."""

    kernel_size: int = 2


class ConvNet(nn.Module):
    """A chain: convolutional features, adaptive average pool, fully connected classifier.

    Args:
        features: module that maps ``(N, C, H, W)`` to ``(N, C', H', W')``.
        pooled_side: side of the square that the features are pooled to, in pixels.
        classifier: module that maps ``(N, C' * pooled_side**2)`` to ``(N, classes)``.
    """

    def __init__(self, features: nn.Module, pooled_side: int, classifier: nn.Module) -> None:
        super().__init__()
        self.features = features
        self.pool = nn.AdaptiveAvgPool2d((pooled_side, pooled_side))
        self.classifier = classifier

    def forward(self, x: Tensor) -> Tensor:
        """Return the logits ``(N, classes)`` of images ``(N, C, H, W)``."""
        logits: Tensor = self.classifier(torch.flatten(self.pool(self.features(x)), 1))
        return logits


class BasicBlock(nn.Module):
    """Residual block: conv3x3, BatchNorm, LeakyReLU, conv3x3, BatchNorm, sum with the shortcut, LeakyReLU.

    Source: appendix L gives only the widths and the downsampling flag. The rest follows He et al. 2016, with the
    activation of the paper: no biases before BatchNorm (as in the stem, which the appendix gives), and stride 2 in the
    first convolution of a downsampling block.

    Args:
        in_channels: channels of the input.
        out_channels: channels of the output.
        downsampling: whether to halve height and width; the shortcut is then a 1x1 convolution of stride 2 with
            BatchNorm, otherwise the identity.
    """

    def __init__(self, in_channels: int, out_channels: int, downsampling: bool = False) -> None:
        super().__init__()
        stride = 2 if downsampling else 1
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(out_channels)
        self.act1 = nn.LeakyReLU(NEGATIVE_SLOPE)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.shortcut: nn.Module = nn.Identity()
        if downsampling:
            projection = nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False)
            self.shortcut = _named(("conv", projection), ("norm", nn.BatchNorm2d(out_channels)))
        self.act2 = nn.LeakyReLU(NEGATIVE_SLOPE)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, in_channels, H, W)`` to ``(N, out_channels, H', W')``."""
        branch = self.norm2(self.conv2(self.act1(self.norm1(self.conv1(x)))))
        out: Tensor = self.act2(branch + self.shortcut(x))
        return out


def lenet5(in_shape: InShape = (1, 28, 28), classes: int = 10) -> nn.Module:
    """LeNet5 with 6, 16 and 120 channels and a hidden layer of 84.

    At 28x28 the last feature map is 1x1 and the adaptive pool of appendix L copies it into 3x3.

    Args:
        in_shape: shape of one sample ``(C, H, W)``; H and W at least 28.
        classes: number of classes.
    """
    _check("lenet5", in_shape, classes, smallest_side=28)
    plan = (_Conv(6, 5, 2), _Pool(), _Conv(16, 5, 0), _Pool(), _Conv(120, 5, 0))
    return ConvNet(_features(in_shape[0], plan), 3, _classifier(120 * 9, (84,), classes))


def mlp5(in_shape: InShape = (1, 28, 28), classes: int = 10) -> nn.Module:
    """Multilayer perceptron of five linear layers, four of them 512 wide; it flattens the images.

    Args:
        in_shape: shape of one sample ``(C, H, W)``.
        classes: number of classes.
    """
    _check("mlp5", in_shape, classes, smallest_side=1)
    channels, height, width = in_shape
    layers = _classifier(channels * height * width, (512,) * 4, classes, first_dropout=False)
    return _named(("flatten", nn.Flatten()), *layers.named_children())


def conv6(in_shape: InShape = (3, 32, 32), classes: int = 10) -> nn.Module:
    """Six 3x3 convolutions in pairs of 64, 128 and 256, and two hidden layers of 256.

    Args:
        in_shape: shape of one sample ``(C, H, W)``; H and W at least 4.
        classes: number of classes.
    """
    _check("conv6", in_shape, classes, smallest_side=4)
    plan = (_Conv(64), _Conv(64), _Pool(), _Conv(128), _Conv(128), _Pool(), _Conv(256), _Conv(256))
    return ConvNet(_features(in_shape[0], plan), 3, _classifier(256 * 9, (256, 256), classes))


def alexnet(in_shape: InShape = (3, 32, 32), classes: int = 10) -> nn.Module:
    """AlexNet for small images: 64, 192, 384, 256 and 512 channels and two hidden layers of 4096.

    Args:
        in_shape: shape of one sample ``(C, H, W)``; H and W at least 7.
        classes: number of classes.
    """
    _check("alexnet", in_shape, classes, smallest_side=7)
    plan = (_Conv(64, 5, 2), _Pool(3), _Conv(192, 5, 2), _Pool(3), _Conv(384), _Conv(256), _Conv(512))
    return ConvNet(_features(in_shape[0], plan), 2, _classifier(512 * 4, (4096, 4096), classes))


def vgg16(in_shape: InShape = (3, 32, 32), classes: int = 10) -> nn.Module:
    """VGG16 with BatchNorm: thirteen 3x3 convolutions, the last one 1024 wide, and two hidden layers of 4096.

    Args:
        in_shape: shape of one sample ``(C, H, W)``; H and W at least 16.
        classes: number of classes.
    """
    _check("vgg16", in_shape, classes, smallest_side=16)
    stages = ((64,) * 2, (128,) * 2, (256,) * 3, (512,) * 3, (512, 512, 1024))
    plan: list[_Conv | _Pool] = []
    for stage in stages:
        plan += [_Conv(width) for width in stage] + [_Pool()]
    # The adaptive pool takes the place of the fifth max-pool.
    features = _features(in_shape[0], plan[:-1], inplace=True)
    return ConvNet(features, 2, _classifier(1024 * 4, (4096, 4096), classes, inplace=True))


def resnet18(in_shape: InShape = (3, 32, 32), classes: int = 10) -> nn.Module:
    """ResNet18 with a hidden layer of 256, and with the 7x7 stem of stride 2 and the max-pool at every image size.

    At 32x32 the last feature map is 1x1 and the adaptive pool of appendix L copies it into 2x2.

    Args:
        in_shape: shape of one sample ``(C, H, W)``.
        classes: number of classes.
    """
    _check("resnet18", in_shape, classes, smallest_side=1)
    layers: list[tuple[str, nn.Module]] = [
        ("conv1", nn.Conv2d(in_shape[0], 64, 7, stride=2, padding=3, bias=False)),
        ("norm1", nn.BatchNorm2d(64)),
        ("act1", nn.LeakyReLU(NEGATIVE_SLOPE, inplace=True)),
        ("pool1", nn.MaxPool2d(3, stride=2, padding=1)),
    ]
    in_channels = 64
    for stage, width in enumerate((64, 128, 256, 512), start=1):
        layers.append((f"stage{stage}_block1", BasicBlock(in_channels, width, downsampling=stage > 1)))
        layers.append((f"stage{stage}_block2", BasicBlock(width, width)))
        in_channels = width
    return ConvNet(_named(*layers), 2, _classifier(512 * 4, (256,), classes))


NETWORKS: dict[str, Callable[..., nn.Module]] = {
    factory.__name__: factory for factory in (lenet5, mlp5, conv6, alexnet, vgg16, resnet18)
}
"""Factories by name; each takes `in_shape` and `classes`."""


def build(name: str, in_shape: InShape, classes: int) -> nn.Module:
    """Build the network called `name`, with PyTorch's own initialisation.

    Args:
        name: a key of `NETWORKS`.
        in_shape: shape of one sample ``(C, H, W)``.
        classes: number of classes.

    Raises:
        OptionError: if the name is unknown, or the images are too small for the network.
    """
    if name not in NETWORKS:
        raise OptionError(f"unknown network {name!r}; known: {', '.join(NETWORKS)}")
    return NETWORKS[name](in_shape=in_shape, classes=classes)


@torch.no_grad()
def orthogonal_init_(model: ModelT, seed: int) -> ModelT:
    """Initialise every convolution and linear layer of `model` orthogonally, in place.

    A weight is taken as a matrix ``(C_out, C_in/groups * kH * kW)``. Its rows become orthogonal, or its columns where
    it has more rows than columns. Their length is `ORTHOGONAL_GAIN`, but 1 in the last layer. Biases become zero.
    Normalisation layers keep their values. Weights are drawn on the CPU, so that one seed gives the same weights on
    every device; the global random state does not change.

    Source: section 4 of the paper; Lee et al. 2020, "A Signal Propagation Perspective for Pruning Neural Networks at
    Initialization".

    Args:
        model: network to change. Its last layer is the last convolution or linear layer in the order of registration.
        seed: seed of the private generator.

    Returns:
        `model` itself.

    Raises:
        OptionError: if the model has no convolution or linear layer.
    """
    layers = [m for m in model.modules() if isinstance(m, nn.Conv1d | nn.Conv2d | nn.Conv3d | nn.Linear)]
    if not layers:
        raise OptionError(f"orthogonal_init_: {type(model).__name__} has no convolution or linear layer")
    generator = torch.Generator().manual_seed(seed)
    for layer in layers:
        gain = 1.0 if layer is layers[-1] else ORTHOGONAL_GAIN
        fresh = torch.empty(layer.weight.shape, device="cpu", dtype=torch.float32)
        layer.weight.copy_(nn.init.orthogonal_(fresh, gain, generator=generator))
        if layer.bias is not None:
            layer.bias.zero_()
    return model


def _named(*layers: tuple[str, nn.Module]) -> nn.Sequential:
    return nn.Sequential(OrderedDict(layers))


def _features(in_channels: int, plan: Sequence[_Conv | _Pool], inplace: bool = False) -> nn.Sequential:
    """Turn a plan into conv, BatchNorm, LeakyReLU triples and max-pools; both are numbered separately."""
    layers: list[tuple[str, nn.Module]] = []
    convs = pools = 0
    for entry in plan:
        if isinstance(entry, _Pool):
            pools += 1
            layers.append((f"pool{pools}", nn.MaxPool2d(entry.kernel_size, stride=2)))
            continue
        convs += 1
        layers += [
            (f"conv{convs}", nn.Conv2d(in_channels, entry.width, entry.kernel_size, padding=entry.padding)),
            (f"norm{convs}", nn.BatchNorm2d(entry.width)),
            (f"act{convs}", nn.LeakyReLU(NEGATIVE_SLOPE, inplace=inplace)),
        ]
        in_channels = entry.width
    return _named(*layers)


def _classifier(
    in_features: int, widths: Sequence[int], classes: int, first_dropout: bool = True, inplace: bool = False
) -> nn.Sequential:
    """Build hidden layers (linear, BatchNorm, LeakyReLU, dropout), then one linear layer."""
    layers: list[tuple[str, nn.Module]] = [("drop0", nn.Dropout(DROPOUT))] if first_dropout else []
    for index, width in enumerate(widths, start=1):
        layers += [
            (f"fc{index}", nn.Linear(in_features, width)),
            (f"norm{index}", nn.BatchNorm1d(width)),
            (f"act{index}", nn.LeakyReLU(NEGATIVE_SLOPE, inplace=inplace)),
            (f"drop{index}", nn.Dropout(DROPOUT)),
        ]
        in_features = width
    layers.append((f"fc{len(widths) + 1}", nn.Linear(in_features, classes)))
    return _named(*layers)


def _check(name: str, in_shape: tuple[int, ...], classes: int, smallest_side: int) -> None:
    if len(in_shape) != 3 or min(in_shape) < 1:
        raise OptionError(f"{name}: in_shape must be three positive sizes (C, H, W), got {in_shape}")
    if min(in_shape[1:]) < smallest_side:
        height, width = in_shape[1:]
        raise OptionError(f"{name}: needs images of {smallest_side}x{smallest_side} or larger, got {height}x{width}")
    if classes < 1:
        raise OptionError(f"{name}: classes must be 1 or more, got {classes}")
