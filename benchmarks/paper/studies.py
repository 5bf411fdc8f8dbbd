"""The studies as data: networks, datasets, methods, targets, seeds and epochs of each scale.

The scale ``paper`` is the paper's protocol: 80 epochs, 5 seeds, batches of 512 (128 on Imagenette), ten lambdas. The
paper does not list its sparsities; those here span its figures. The scale ``cpu`` can be run on two cores. It has fewer
epochs, seeds, sparsities and pictures, large convolutions in bfloat16, and instead of MNIST the digits that a package
ships.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from graphprune.research.epochs import Precision

Scale = Literal["cpu", "paper"]


def log_steps(first: float, last: float, count: int) -> tuple[float, ...]:
    """Returns values from the first to the last in equal steps on a logarithmic scale, rounded to three digits."""
    return tuple(float(f"{first * (last / first) ** (step / (count - 1)):.3g}") for step in range(count))


LAMBDAS = log_steps(5, 1e-6, 10)
"""Weights of penalties. Source: appendix F of the paper, 10 logarithmic steps from 5 down to 1e-6."""


@dataclass(frozen=True)
class Setting:
    """A network, its data, and how long it is trained.

    Attributes:
        network: A key of `graphprune.research.networks.NETWORKS`.
        data: A key of `benchmarks.paper.data.DATASETS`.
        epochs: The recipe's; some methods take twice as many.
        samples: Number of samples to train on; None for all.
        batch_size: Batch size in training.
        precision: Precision in training; ``bfloat16`` takes about half the time of large layers on CPUs that have it.
    """

    network: str
    data: str
    epochs: int
    samples: int | None = None
    batch_size: int = 512
    precision: Precision = "float32"


@dataclass(frozen=True)
class Sizes:
    """A study at one scale.

    Attributes:
        settings: Networks to train, with data and epochs.
        methods: Names of the methods, see `benchmarks.paper.named.method_of`.
        seeds: Number of seeds, counted from 0.
        weights: Targets of methods that take a weight sparsity, in (0, 1).
        nodes: Targets of methods that take a node sparsity, in (0, 1).
        lambdas: Targets of methods that take the weight of a penalty, by ``"method, network"``, by method, or ``""``
            for all others.
    """

    settings: tuple[Setting, ...]
    methods: tuple[str, ...]
    seeds: int
    weights: tuple[float, ...] = ()
    nodes: tuple[float, ...] = ()
    lambdas: Mapping[str, tuple[float, ...]] = field(default_factory=lambda: {"": LAMBDAS})


@dataclass(frozen=True)
class Study:
    """A study, whose runs are for some of the paper's tables and figures.

    Attributes:
        title: Title in a few words.
        scales: Its sizes.
        analyses: Further measurements of every run, see `benchmarks.paper.extras`.
    """

    title: str
    scales: Mapping[Scale, Sizes]
    analyses: tuple[str, ...] = ()


UNSTRUCTURED = (
    "dense", "random-weights", "snip", "snip-it", "snip-it during", "force", "grasp", "synflow", "imp-global",
    "hoyer-square",
)  # fmt: skip
STRUCTURED = (
    "dense", "random-nodes", "snap", "snap-it", "snap-it during", "efficient-conv-nets", "gate-decorators",
    "group-hoyer-square", "l0",
)  # fmt: skip
COMBINED = ("dense", "cnip-it", "cnip-it during", "snap-it", "snip-it")
CONTROLS = (
    "dense", *(f"{of}{control}" for of in ("snip", "snip-it", "grasp", "synflow")
               for control in ("", ", shuffled", ", re-initialised")),
    "snap-it", "snap-it, re-initialised",
)  # fmt: skip
CIFAR = ("dense", "snap-it", "random-nodes", "efficient-conv-nets", "snip-it")
MAPS = ("dense", "snip", "snip-it", "snip-it during", "grasp", "hoyer-square")
ATTACKED = ("dense", "random-weights", "snip", "snip-it", "snip-it during", "grasp", "imp-global", "hoyer-square")

PAPER_WEIGHTS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995)
PAPER_NODES = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.93, 0.96)
CPU_WEIGHTS = (0.8, 0.9, 0.95, 0.98, 0.99)
CPU_NODES = (0.5, 0.7, 0.85, 0.93)
CPU_LAMBDAS = {
    "hoyer-square": log_steps(1e-1, 1e-4, 5),
    "group-hoyer-square": log_steps(3, 3e-2, 5),
    "l0": log_steps(2, 0.5, 3),
    "l0, conv6": log_steps(2e-2, 2e-3, 3),
}
"""Fewer lambdas, in the range that matters within about ten epochs.

They are lower for L0 on Conv6, because the penalty of L0 counts weights, of which Conv6 has many.
"""


def of_paper(*pairs: str, batch_size: int = 512) -> tuple[Setting, ...]:
    """Returns settings of the paper's protocol, from texts ``"network/data"``."""
    names = (pair.split("/") for pair in pairs)
    return tuple(Setting(network, data, epochs=80, batch_size=batch_size) for network, data in names)


def pictures(network: str, epochs: int, samples: int, batch_size: int = 128) -> Setting:
    """Returns a CIFAR-10 setting for a network with convolutions too large for the paper's protocol on two cores."""
    return Setting(network, "cifar10", epochs, samples, batch_size, "bfloat16")


def digits(*networks: str) -> tuple[Setting, ...]:
    """Returns settings with the digits that a package ships, which are few and need smaller batches and more epochs."""
    return tuple(Setting(network, "mnist_5k", epochs=20, batch_size=128) for network in networks)


STUDIES: dict[str, Study] = {
    "unstructured": Study(
        "single weights: accuracy against sparsity",
        {
            "paper": Sizes(
                of_paper("lenet5/cifar10", "mlp5/cifar10", "conv6/cifar10", "resnet18/cifar10", "mlp5/mnist"),
                UNSTRUCTURED, 5, PAPER_WEIGHTS,
            ),
            "cpu": Sizes(
                (*digits("lenet5", "mlp5"), Setting("lenet5", "fashion_mnist", 10),
                 Setting("mlp5", "fashion_mnist", 10, precision="bfloat16")),
                UNSTRUCTURED, 3, CPU_WEIGHTS, lambdas=CPU_LAMBDAS,
            ),
        },
    ),
    "structured": Study(
        "nodes: accuracy against sparsity, work, memory, time, size",
        {
            "paper": Sizes(
                of_paper("lenet5/cifar10", "conv6/cifar10", "lenet5/mnist"), STRUCTURED, 5, nodes=PAPER_NODES
            ),
            "cpu": Sizes(
                (Setting("lenet5", "fashion_mnist", 10), pictures("conv6", 8, 5_000, batch_size=64)),
                STRUCTURED, 3, nodes=CPU_NODES, lambdas=CPU_LAMBDAS,
            ),
        },
    ),
    "cifar": Study(
        "large networks on CIFAR-10",
        {
            "paper": Sizes(
                of_paper("vgg16/cifar10", "alexnet/cifar10", "resnet18/cifar10"), (*STRUCTURED, "snip-it"), 5,
                PAPER_WEIGHTS, PAPER_NODES,
            ),
            "cpu": Sizes(
                (pictures("resnet18", 8, 10_000), pictures("alexnet", 8, 10_000, batch_size=64),
                 pictures("vgg16", 8, 10_000, batch_size=64)),
                CIFAR, 2, (0.95,), (0.7, 0.93),
            ),
        },
    ),
    "combined": Study(
        "weights and nodes together",
        {
            "paper": Sizes(of_paper("vgg16/cifar10"), COMBINED, 5, PAPER_WEIGHTS, PAPER_NODES),
            "cpu": Sizes((Setting("lenet5", "fashion_mnist", 10),), COMBINED, 3, CPU_WEIGHTS, CPU_NODES),
        },
    ),
    "controls": Study(
        "masks shuffled within layers, and pruned networks initialised anew",
        {
            "paper": Sizes(of_paper("conv6/cifar10", "mlp5/mnist"), CONTROLS, 5, (0.9, 0.95, 0.98, 0.99), (0.7, 0.93)),
            "cpu": Sizes(
                (*digits("mlp5"), Setting("lenet5", "fashion_mnist", 10, 20_000, 128)),
                CONTROLS, 3, (0.9, 0.98), (0.7, 0.93),
            ),
        },
    ),
    "robustness": Study(
        "success of an attack at capped distances",
        {
            "paper": Sizes(of_paper("mlp5/mnist"), ATTACKED, 5, PAPER_WEIGHTS),
            "cpu": Sizes(digits("mlp5"), ATTACKED, 3, (0.9, 0.99), lambdas=CPU_LAMBDAS),
        },
        ("robustness",),
    ),
    "saliency": Study(
        "pixels that the loss depends on, at 99 % of the weights",
        {
            "paper": Sizes(of_paper("mlp5/mnist"), MAPS, 1, (0.99,)),
            "cpu": Sizes(digits("mlp5"), MAPS, 1, (0.99,), lambdas=CPU_LAMBDAS),
        },
        ("saliency",),
    ),
    "elasticities": Study(
        "sorted elasticities of networks before training",
        {
            "paper": Sizes(
                tuple(
                    Setting(network, data, epochs=0)
                    for network in ("lenet5", "mlp5", "conv6", "resnet18", "alexnet", "vgg16")
                    for data in ("cifar10", "mnist", "imagenette")
                    if data != "mnist" or network in ("lenet5", "mlp5", "conv6")
                ),
                ("dense",), 1,
            ),
            "cpu": Sizes(
                tuple(
                    Setting(network, data, epochs=0)
                    for network, of in {
                        "lenet5": ("mnist_5k", "fashion_mnist", "cifar10"),
                        "mlp5": ("mnist_5k", "fashion_mnist", "cifar10"),
                        "conv6": ("fashion_mnist", "cifar10"), "resnet18": ("cifar10",),
                    }.items()
                    for data in of
                ),
                ("dense",), 1,
            ),
        },
        ("elasticities",),
    ),
    "remaining": Study(
        "weights left in each layer, at 99 % of the weights",
        {
            "paper": Sizes(of_paper("mlp5/mnist"), ATTACKED, 5, (0.99,)),
            "cpu": Sizes(digits("mlp5"), ATTACKED, 3, (0.99,), lambdas=CPU_LAMBDAS),
        },
    ),
    "imagenette": Study(
        "larger pictures: weights and nodes",
        {
            "paper": Sizes(
                of_paper(*(f"{network}/imagenette" for network in
                           ("vgg16", "alexnet", "lenet5", "mlp5", "conv6", "resnet18")), batch_size=128),
                (*STRUCTURED, *UNSTRUCTURED[1:]), 5, PAPER_WEIGHTS, PAPER_NODES,
            ),
            "cpu": Sizes(
                (Setting("resnet18", "imagenette", 4, 2_000, 128),), CIFAR, 2, (0.95,), (0.7, 0.93)
            ),
        },
    ),
}  # fmt: skip

FOLDERS = "needs Imagenette's folders of pictures, which are not to be had here"

SHOWN: dict[str, tuple[str | None, str]] = {
    "Table 1": ("imagenette", f"structured, VGG16 and AlexNet on Imagenette; {FOLDERS}"),
    "Table 2": (
        "unstructured",
        "CIFAR-10 (at scale cpu by --datasets cifar10, LeNet5 and MLP5), best harmonic means; "
        "its lower half is of the study imagenette",
    ),
    "Table 3": ("unstructured", "MLP5 on MNIST, best harmonic means"),
    "Table 4": ("cifar", "structured, VGG16 and AlexNet on CIFAR-10, best harmonic means and costs"),
    "Figure 1": ("cifar", "structured, accuracy against sparsity"),
    "Figure 2": ("unstructured", "accuracy against sparsity on CIFAR-10"),
    "Figure 3": ("saliency", "maps of MLP5 on MNIST at 99 %"),
    "Figure 4": ("remaining", "weights left by layer of MLP5 on MNIST at 99 %"),
    "Figure 5": ("robustness", "attack on MLP5 on MNIST"),
    "Figure 6": ("elasticities", "before training, sorted"),
    "Figure 7": ("combined", "CNIP-it against SNAP-it"),
    "Figure 8": ("cifar", "memory at the start of training against accuracy, VGG16"),
    "Figure 9": (None, "a drawing of the method, nothing to measure"),
    "Figure 10": ("unstructured", "MLP5, accuracy against sparsity"),
    "Figure 11": ("structured", "LeNet5, where L0 works well"),
    "Figure 12": ("unstructured", "Conv6, accuracy against sparsity"),
    "Figure 13": ("imagenette", f"structured, LeNet5; {FOLDERS}"),
    "Figure 14": ("imagenette", f"unstructured; {FOLDERS}"),
    "Figure 15": ("imagenette", f"structured; {FOLDERS}"),
    "Figure 16": ("structured", "multiply-accumulates of training"),
    "Figure 17": ("structured", "multiply-accumulates of inference"),
    "Figure 18": ("structured", "disk"),
    "Figure 19": ("structured", "time of a whole run: training and pruning"),
    "Figure 20": ("structured", "time of inference"),
    "Figure 21": ("structured", "memory in training, median over the epochs"),
}
"""The study of each table and figure of the paper, or None, and what it shows."""
