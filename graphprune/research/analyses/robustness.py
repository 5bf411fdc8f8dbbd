"""How far an image has to be changed before a network gets it wrong, by the L2 attack of Carlini and Wagner.

The attack is the one of Foolbox (the extra ``robustness``).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphprune.errors import OptionError
from graphprune.program.module_state import in_mode
from graphprune.research.datasets import Normalisation, Split
from graphprune.research.epochs import device_of

CAPS = (0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0)
"""Largest distances for which success is reported; figure 5 of the paper has 0.5 and a range around 1."""


@dataclass(frozen=True)
class Attack:
    """Options of the attack; the defaults are Foolbox's and its authors'.

    Attributes:
        binary_search_steps: For the weight of the misclassification against the distance.
        steps: Steps of the optimiser for each; the first thing to lower where time is short.
        stepsize: Stepsize of the optimiser.
        initial_const: Weight to start from.
        batch_size: Images attacked at a time; the result depends on it a little, for all stop together.
    """

    binary_search_steps: int = 9
    steps: int = 10000
    stepsize: float = 1e-2
    initial_const: float = 1e-3
    batch_size: int = 256

    def __post_init__(self) -> None:
        wrong = [f"{name}={value}" for name, value in vars(self).items() if value <= 0]
        if wrong:
            raise OptionError(f"attack: expected values above 0, got {', '.join(wrong)}")


@dataclass(frozen=True)
class Robustness:
    """What the attack found.

    Attributes:
        images: Number of images that were given.
        classified: Those that the network had right: only these are attacked, and only these count.
        distances: For each of them, L2 distance of the nearest image found that the network gets wrong, in units of
            pixels in [0, 1]; infinite where none was found.
        success: Share of the attacked images with such a distance of at most a cap, by cap; empty where there are none.
    """

    images: int
    classified: int
    distances: tuple[float, ...]
    success: dict[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, ready for JSON: infinite distances as null, caps as text."""
        return {
            "images": self.images,
            "classified": self.classified,
            "distances": [distance if math.isfinite(distance) else None for distance in self.distances],
            "success": {str(cap): share for cap, share in self.success.items()},
        }


def robustness(
    model: nn.Module, split: Split, normalisation: Normalisation, *, caps: Sequence[float] = CAPS,
    attack: Attack | None = None,
) -> Robustness:  # fmt: skip
    """Attacks every image that the network classifies right.

    The attack searches for the nearest image, so one run gives the success at all caps.

    Source: section 5 and figure 5 of the paper; the attack of Carlini and Wagner 2017.

    Args:
        model: Network from inputs ``(N, C, H, W)`` to logits; attacked in evaluation mode and not changed.
        split: Normalised images; some hundred are enough, and each takes thousands of passes.
        normalisation: How the images were made from pixels in [0, 1]; see `Dataset.normalisation`.
        caps: Largest distances to report, in units of pixels, not negative.
        attack: Options of the attack; the defaults of `Attack` where None.

    Raises:
        OptionError: Foolbox is missing, or a cap is negative.
    """
    if any(cap < 0 for cap in caps):
        raise OptionError(f"caps must not be negative, got {list(caps)}")
    attack = attack or Attack()
    found: list[Tensor] = []
    with in_mode(model, training=False), torch.enable_grad(), _without_gradients_of_weights(model):
        for inputs, targets in zip(
            split.inputs.split(attack.batch_size), split.targets.split(attack.batch_size), strict=True
        ):
            found.append(_attacked(model, normalisation, inputs, targets, attack))
    distances = torch.cat(found)
    shares = {float(cap): float((distances <= cap).double().mean()) for cap in caps} if len(distances) else {}
    return Robustness(len(split), len(distances), tuple(distances.tolist()), shares)


class _OfPixels(nn.Module):
    """A network with its normalisation in front."""

    def __init__(self, model: nn.Module, normalisation: Normalisation) -> None:
        super().__init__()
        self.model, self.normalisation = model, normalisation

    def forward(self, pixels: Tensor) -> Tensor:
        """Returns the logits of pixels ``(N, C, H, W)`` in [0, 1]."""
        logits: Tensor = self.model(self.normalisation.apply(pixels))
        return logits


def _attacked(
    model: nn.Module, normalisation: Normalisation, inputs: Tensor, targets: Tensor, attack: Attack
) -> Tensor:
    """Returns the distances ``(n,)``, float64, for the images of a batch that are classified right."""
    foolbox = _foolbox()
    device = device_of(model)
    # rounding must not take pixels out of [0, 1]
    pixels, targets = normalisation.undo(inputs.to(device)).clamp(0, 1), targets.to(device)
    network = _OfPixels(model, normalisation).eval()
    with torch.no_grad():
        right = network(pixels).argmax(1) == targets
    pixels, targets = pixels[right], targets[right]
    if not len(pixels):
        return torch.empty(0, dtype=torch.float64)
    search = foolbox.attacks.L2CarliniWagnerAttack(
        binary_search_steps=attack.binary_search_steps, steps=attack.steps, stepsize=attack.stepsize,
        initial_const=attack.initial_const,
    )  # fmt: skip
    attacked = foolbox.PyTorchModel(network, bounds=(0, 1), device=device)
    _, nearest, _ = search(attacked, pixels, targets, epsilons=None)
    with torch.no_grad():
        wrong = network(nearest).argmax(1) != targets
    distances = (nearest - pixels).double().flatten(1).norm(dim=1)
    return torch.where(wrong, distances, torch.inf).cpu()


@contextmanager
def _without_gradients_of_weights(model: nn.Module) -> Iterator[None]:
    """Turns off the gradients of the parameters meanwhile, because only that of the image is needed."""
    needed = [parameter for parameter in model.parameters() if parameter.requires_grad]
    for parameter in needed:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in needed:
            parameter.requires_grad_(True)


def _foolbox() -> Any:
    try:
        import foolbox
    except ModuleNotFoundError as error:
        raise OptionError("robustness needs Foolbox; `pip install 'graphprune[robustness]'`") from error
    return foolbox
