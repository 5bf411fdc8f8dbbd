"""Figures of the measured results as SVG, drawn with matplotlib (the extra ``plot``)."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.summary import COSTS, Figure, Point, points
from benchmarks.rows import Row
from graphprune.errors import OptionError
from graphprune.research.analyses import Curve, ElasticityCurves, Remaining, Robustness, SaliencyMaps
from graphprune.research.analyses.drawing import (
    draw_elasticities,
    draw_remaining,
    draw_robustness,
    draw_saliency,
    saved,
)
from graphprune.research.metrics.sparsity import LayerLeft

MARKERS = "osD^v<>Pp*h"

DRAWN = COSTS | {"training and pruning, s": lambda row: row["training_seconds"] + row["pruning_seconds"]}
"""Values in the figures of costs, by title; the last one is figure 19 of the paper."""

_COST_COLUMNS = 6

CAP = 0.5
"""Largest distance of the attack in the figure over sparsity. Source: figure 5a of the paper."""


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Draws all figures that the rows allow; returns their paths, whose names begin with the study's.

    Raises:
        OptionError: matplotlib is missing.
    """
    folder.mkdir(parents=True, exist_ok=True)
    by_study: dict[str, list[Point]] = defaultdict(list)
    for point in points(rows):
        by_study[point.study].append(point)
    paths = []
    for study, found in by_study.items():
        pruned = [point for point in found if point.target_kind != "nothing"]
        for kind in ("weight", "node"):
            chosen = [point for point in pruned if point.structured == (kind == "node")]
            if chosen:
                paths.append(_curves(found, chosen, kind, ("accuracy", _accuracy), folder / f"{study}-{kind}s.svg"))
        structured = [point for point in pruned if point.structured]
        if structured:
            paths += [_costs(structured, folder / f"{study}-costs.svg"),
                      _memory(structured, folder / f"{study}-memory.svg")]  # fmt: skip
        paths += [path for draw_one in ANALYSES.values() for path in draw_one(study, found, folder)]
    return paths


def _curves(found: Sequence[Point], chosen: Sequence[Point], kind: str, value: tuple[str, Figure], path: Path) -> Path:
    """Draws a value over the share kept: a curve with bounds for each method, an axis for each network and data."""
    places = list(dict.fromkeys((point.network, point.data) for point in chosen))
    figure, axes = _figure(len(places))
    name, of_row = value
    for side, place in zip(axes, places, strict=True):
        here = [point for point in chosen if (point.network, point.data) == place]
        for index, (method, curve) in enumerate(_by_method(here).items()):
            _bounded(side, curve, f"{kind}_sparsity", of_row, method, index)
        for point in found:
            if point.target_kind == "nothing" and (point.network, point.data) == place:
                side.axhline(_mean(point, of_row), color="black", linestyle=":", label="dense")
        side.set(xscale="log", xlabel=f"share of the {kind}s left", ylabel=name)
        side.set_title(_titled(place), fontsize=8)
        side.invert_xaxis()
        _few_ticks(side.xaxis)
        side.grid(alpha=0.3)
        side.legend(fontsize=7)
    return saved(figure, path)


def _bounded(side: Any, curve: Sequence[Point], sparsity: str, value: Figure, label: str, index: int) -> None:
    """Draws one curve with its bounds, by the sparsity that was reached."""
    told = []
    for point in curve:
        left, spread = 1 - _mean(point, lambda row: row[sparsity]), point.spread(value)
        if left > 0 and spread is not None:
            told.append((left, spread.mean, spread.half_width or 0.0))
    left_, middle, half = ([each[place] for each in sorted(told)] for place in range(3))
    (line,) = side.plot(left_, middle, marker=MARKERS[index % len(MARKERS)], markersize=4, label=label)
    # values are shares, but with few seeds an interval may exceed [0, 1]
    low, high = ([min(1.0, max(0.0, m + sign * h)) for m, h in zip(middle, half, strict=True)] for sign in (-1, 1))
    side.fill_between(left_, low, high, alpha=0.15, color=line.get_color())


def _costs(chosen: Sequence[Point], path: Path) -> Path:
    """Draws costs relative to the dense network over the share of nodes removed; two rows for each network."""
    places = list(dict.fromkeys((point.network, point.data) for point in chosen))
    rows = math.ceil((len(DRAWN) + 1) / _COST_COLUMNS)  # the last part has the legend
    figure, axes = _figure(_COST_COLUMNS, rows * len(places))
    for index, place in enumerate(places):
        sides = axes[index * rows * _COST_COLUMNS :][: rows * _COST_COLUMNS]
        here = [point for point in chosen if (point.network, point.data) == place]
        for (name, cost), side in zip(DRAWN.items(), sides, strict=False):
            side.set(yscale="log", xlabel="share of the nodes gone", ylabel=name)
            for number, (method, curve) in enumerate(_by_method(here).items()):
                _plotted(side, curve, cost, method, number)
            side.set_title(place[0], fontsize=8)
            _few_ticks(side.yaxis)
            side.grid(alpha=0.3)
        for side in sides[len(DRAWN) :]:
            side.axis("off")
        sides[len(DRAWN)].legend(*sides[0].get_legend_handles_labels(), loc="center")
    return saved(figure, path)


def _plotted(side: Any, curve: Sequence[Point], cost: Figure, label: str, index: int) -> None:
    """Draws one curve with its bounds, on a logarithmic axis."""
    told = [(_mean(point, lambda row: row["node_sparsity"]), spread.mean, spread.half_width or 0.0)
            for point in curve if (spread := point.spread(cost)) is not None]  # fmt: skip
    if told:
        gone, middle, half = zip(*sorted(told), strict=True)
        (line,) = side.plot(gone, middle, marker=MARKERS[index % len(MARKERS)], markersize=4, label=label)
        # an interval of few seeds may reach below zero, where a logarithmic axis ends
        low, high = ([max(m / 10, m + sign * h) for m, h in zip(middle, half, strict=True)] for sign in (-1, 1))
        side.fill_between(gone, low, high, alpha=0.15, color=line.get_color())


def _memory(chosen: Sequence[Point], path: Path) -> Path:
    """Draws accuracy over memory at the start of training, as in figure 8 of the paper."""
    places = list(dict.fromkeys((point.network, point.data) for point in chosen))
    figure, axes = _figure(len(places))
    for side, place in zip(axes, places, strict=True):
        here = [point for point in chosen if (point.network, point.data) == place and "memory_bytes" in point.rows[0]]
        for index, (method, curve) in enumerate(_by_method(here).items()):
            rows = [row for point in curve for row in point.rows]
            memory = [row["memory_bytes"]["first"] / 2**20 for row in rows]
            side.plot(memory, [row["accuracy"] for row in rows], MARKERS[index % len(MARKERS)], label=method)
        side.set(xscale="log", xlabel="memory at the start of training, MiB", ylabel="accuracy")
        side.set_title(_titled(place), fontsize=8)
        _few_ticks(side.xaxis)
        side.grid(alpha=0.3)
        side.legend(fontsize=7)
    return saved(figure, path)


def _elasticities(study: str, found: Sequence[Point], folder: Path) -> list[Path]:
    curves = {}
    for point in found:
        if (told := point.rows[0].get("elasticities")) is not None:
            of = {kind: Curve(**told[kind]) for kind in ("channels", "weights")}
            name = f"{point.network}, {point.rows[0]['data']}"
            curves[name] = ElasticityCurves(**of, loss=told["loss"], samples=told["samples"])
    return [draw_elasticities(curves, folder / f"{study}.svg")] if curves else []


def _saliency(study: str, found: Sequence[Point], folder: Path) -> list[Path]:
    paths = []
    for name, shown in _by_target([point for point in found if "saliency" in point.rows[0]]).items():
        tensors = {label: {key: torch.tensor(values) for key, values in point.rows[0]["saliency"].items()}
                   for label, point in shown.items()}  # fmt: skip
        maps = {label: SaliencyMaps(**of_one) for label, of_one in tensors.items()}
        paths.append(draw_saliency(maps, folder / f"{study}-maps-{name}.svg"))
    return paths


def _robustness(study: str, found: Sequence[Point], folder: Path) -> list[Path]:
    """Draws success over distance, a figure for each target, and success over sparsity."""
    attacked = [point for point in found if "robustness" in point.rows[0]]
    paths = []
    for name, shown in _by_target(attacked).items():
        attacks = {label: [_attack(row["robustness"]) for row in point.rows] for label, point in shown.items()}
        paths.append(draw_robustness(attacks, folder / f"{study}-{name}.svg"))
    pruned = [point for point in attacked if point.target_kind != "nothing"]
    if pruned:
        success = (f"success at distances up to {CAP}", lambda row: row["robustness"]["success"].get(str(CAP)))
        paths.append(_curves(attacked, pruned, "weight", success, folder / f"{study}-at-{CAP}.svg"))
    return paths


def _attack(told: Row) -> Robustness:
    distances = tuple(float("inf") if each is None else each for each in told["distances"])
    success = {float(cap): share for cap, share in told["success"].items()}
    return Robustness(told["images"], told["classified"], distances, success)


def _remaining(study: str, found: Sequence[Point], folder: Path) -> list[Path]:
    """Draws the figure of the study of that name."""
    paths = []
    for name, shown in (_by_target(found) if study == "remaining" else {}).items():
        left = {label: [_left(row["remaining"]) for row in point.rows] for label, point in shown.items()}
        paths.append(draw_remaining(left, folder / f"{study}-{name}.svg"))
    return paths


def _left(told: Row) -> Remaining:
    return Remaining(**{kind: tuple(LayerLeft(**layer) for layer in of) for kind, of in told.items()})


def _by_target(found: Sequence[Point]) -> dict[str, dict[str, Point]]:
    """Returns the points to compare, by label, for each network, data and target weight sparsity.

    They are the dense network, the methods with that target, and for each method with a penalty, whose sparsity is hard
    to control, the point with the closest sparsity. Source: section 5 of the paper, which does the same.
    """
    sides: dict[str, dict[str, Point]] = {}
    asked = dict.fromkeys((point.network, point.data, point.target) for point in found
                          if point.target_kind == "weight sparsity")  # fmt: skip
    for network, data, target in asked:
        here = [point for point in found if (point.network, point.data) == (network, data)]
        side = {point.method: point for point in here
                if point.target_kind == "nothing" or point.target == target}  # fmt: skip
        penalised = [point for point in here if point.target_kind == "lambda"]
        for method, points_of in _by_method(penalised).items():
            closest = min(points_of, key=lambda point: abs(_mean(point, _weights_gone) - target))
            side[f"{method}, {_mean(closest, _weights_gone):.1%}"] = closest
        sides[f"{network}-{here[0].rows[0]['data']}-{target:g}"] = side
    return sides


def _accuracy(row: Row) -> float:
    return float(row["accuracy"])


def _weights_gone(row: Row) -> float:
    return float(row["weight_sparsity"])


Draw = Callable[[str, Sequence[Point], Path], list[Path]]
ANALYSES: dict[str, Draw] = {
    "elasticities": _elasticities, "saliency": _saliency, "robustness": _robustness, "remaining": _remaining,
}  # fmt: skip


def _by_method(chosen: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = defaultdict(list)
    for point in chosen:
        found[point.method].append(point)
    return found


def _mean(point: Point, figure: Figure) -> float:
    spread = point.spread(figure)
    assert spread is not None
    return spread.mean


def _titled(place: tuple[str, str]) -> str:
    """Returns network and data as a title, with the details of the data on a line of their own."""
    return ", ".join(place).replace(" (", "\n(")


def _few_ticks(axis: Any) -> None:
    """Sets few ticks on a logarithmic axis, so that their labels do not overlap."""
    from matplotlib.ticker import LogLocator, NullLocator

    axis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter("{x:g}")


def _figure(columns: int, rows: int = 1) -> tuple[Any, list[Any]]:
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise OptionError("figures need matplotlib; `pip install 'graphprune[plot]'`") from error
    figure = Canvas(figsize=(4.6 * columns, 3.8 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)
