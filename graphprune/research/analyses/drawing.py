"""Figures of the analyses, drawn with matplotlib (the extra ``plot``); the suffix of the path sets the file format."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from graphprune.errors import OptionError
from graphprune.research.analyses.elasticities import ElasticityCurves
from graphprune.research.analyses.remaining import Remaining
from graphprune.research.analyses.robustness import Robustness
from graphprune.research.analyses.saliency import SaliencyMaps
from graphprune.research.metrics import spread_over_seeds


def draw_elasticities(curves: Mapping[str, ElasticityCurves], path: str | Path) -> Path:
    """Draws the sorted elasticities of several networks: channels on the left, weights on the right; both axes log.

    Raises:
        OptionError: matplotlib is missing, or there are no curves.
    """
    figure, axes = _figure(curves, columns=2)
    for side, kind in zip(axes, ("channels", "weights"), strict=True):
        for name, of_network in curves.items():
            curve = getattr(of_network, kind)
            shown = [(rank, value) for rank, value in zip(curve.ranks, curve.values, strict=True) if value > 0]
            side.plot([rank for rank, _ in shown], [value for _, value in shown], label=name)
        side.set(xscale="log", yscale="log", xlabel=f"rank among the {kind}", ylabel="elasticity")
        side.grid(alpha=0.3)
        side.legend()
    return saved(figure, path)


def draw_remaining(networks: Mapping[str, Sequence[Remaining]], path: str | Path) -> Path:
    """Draws the share of weights kept in each layer, as a group of bars per layer on a logarithmic scale.

    Args:
        networks: The networks by name, a network of each seed: bars are the means, their lines the 95 % intervals.
        path: The figure.

    Raises:
        OptionError: matplotlib is missing, or there are no networks.
    """
    figure, (axes,) = _figure(networks)
    width = 0.8 / len(networks)
    layers = [layer.name for layer in next(iter(networks.values()))[0].weights]
    for place, (name, seeds) in enumerate(networks.items()):
        left = [[layer.left / layer.before for layer in found.weights] for found in seeds]
        shares = [spread_over_seeds(of_layer) for of_layer in zip(*left, strict=True)]
        halves = [share.half_width or 0.0 for share in shares]
        down = [min(half, share.mean) for half, share in zip(halves, shares, strict=True)]
        axes.bar(
            [index + place * width - 0.4 + width / 2 for index in range(len(shares))], [share.mean for share in shares],
            width, label=name, yerr=(down, halves), error_kw={"linewidth": 0.8},
        )  # fmt: skip
    axes.set_xticks(range(len(layers)), layers, rotation=45, ha="right")
    axes.set(yscale="symlog" if _has_empty(networks) else "log", ylabel="share of the weights left")
    figure.legend(loc="outside upper center", ncols=3)
    return saved(figure, path)


def draw_saliency(networks: Mapping[str, SaliencyMaps], path: str | Path) -> Path:
    """Draws the images in the first row and a row of maps for each network; every map has its own scale.

    Raises:
        OptionError: matplotlib is missing, or there are no networks.
    """
    first = next(iter(networks.values()), None)
    count = 1 if first is None else len(first.maps)
    figure, axes = _figure(networks, columns=count, rows=1 + len(networks))
    images = [] if first is None else list(first.images.mean(1))
    rows = [("image", images), *((name, list(found.maps)) for name, found in networks.items())]
    for row, (name, pictures) in enumerate(rows):
        for column, picture in enumerate(pictures):
            cell = axes[row * count + column]
            cell.imshow(picture.numpy(), cmap="gray" if row == 0 else "hot")
            cell.set(xticks=[], yticks=[], ylabel=name if column == 0 else "")
    return saved(figure, path)


def draw_robustness(networks: Mapping[str, Sequence[Robustness]], path: str | Path) -> Path:
    """Draws the success rate of the attack over the largest distance that it is allowed.

    Args:
        networks: The networks by name, a network of each seed: lines are the means, in bounds of the 95 % intervals.
        path: The figure.

    Raises:
        OptionError: matplotlib is missing, or there are no networks.
    """
    figure, (axes,) = _figure(networks)
    for name, seeds in networks.items():
        attacked = [found for found in seeds if found.success]  # a network that classifies no image right has none
        caps = list(attacked[0].success) if attacked else []
        rates = [spread_over_seeds([found.success[cap] for found in attacked]) for cap in caps]
        images = sum(found.classified for found in seeds)
        (line,) = axes.plot(caps, [rate.mean for rate in rates], "o-", label=f"{name} ({images} images)")
        bounds = [[rate.mean + sign * (rate.half_width or 0.0) for rate in rates] for sign in (-1, 1)]
        axes.fill_between(caps, *bounds, alpha=0.15, color=line.get_color())
    axes.set(xlabel="largest L2 distance, pixels in [0, 1]", ylabel="success rate of the attack", ylim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=7)
    return saved(figure, path)


def _has_empty(networks: Mapping[str, Sequence[Remaining]]) -> bool:
    return any(layer.left == 0 for seeds in networks.values() for found in seeds for layer in found.weights)


def _figure(data: Mapping[str, object], columns: int = 1, rows: int = 1) -> tuple[Any, list[Any]]:
    """Returns a figure without a window, and its axes row by row."""
    if not data:
        raise OptionError("there is nothing to draw; give one entry or more")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise OptionError("a plot needs matplotlib; `pip install 'graphprune[plot]'`") from error
    size = (1.6 * columns, 1.6 * rows) if rows > 1 else (6.4 * columns, 4.8)
    figure = Figure(figsize=size, layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def saved(figure: Any, path: str | Path) -> Path:
    """Writes a matplotlib figure without a date, and an SVG with stable names, so that two runs write equal files."""
    from matplotlib import rc_context

    of_svg = {"metadata": {"Date": None}} if Path(path).suffix == ".svg" else {}
    with rc_context({"svg.hashsalt": "graphprune", "svg.fonttype": "none"}):
        figure.savefig(path, **of_svg)
    return Path(path)
