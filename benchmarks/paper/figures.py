"""Figures of what was measured, with matplotlib, an extra (``plot``), as SVG."""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.paper.rows import Row
from benchmarks.paper.summary import COSTS, Figure, Point, points
from graphprune.analyses import Curve, ElasticityCurves, Remaining, Robustness, SaliencyMaps
from graphprune.analyses.drawing import draw_elasticities, draw_remaining, draw_robustness, draw_saliency
from graphprune.errors import OptionError
from graphprune.metrics.sparsity import LayerLeft

MARKERS = "osD^v<>Pp*h"


def draw(rows: Sequence[Row], folder: Path) -> list[Path]:
    """All figures that the rows allow; their names begin with the study's.

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
                paths.append(_accuracies(found, chosen, kind, folder / f"{study}-{kind}s.svg"))
        structured = [point for point in pruned if point.structured]
        if structured:
            paths += [_costs(structured, folder / f"{study}-costs.svg"),
                      _memory(structured, folder / f"{study}-memory.svg")]  # fmt: skip
        paths += [path for draw_one in ANALYSES.values() for path in draw_one(study, found, folder)]
    return paths


def _accuracies(found: Sequence[Point], chosen: Sequence[Point], kind: str, path: Path) -> Path:
    """Accuracy against what is left, a curve for each method with its bounds, one part for each network and data."""
    places = list(dict.fromkeys((point.network, point.data) for point in chosen))
    figure, axes = _figure(len(places))
    for side, place in zip(axes, places, strict=True):
        here = [point for point in chosen if (point.network, point.data) == place]
        for index, (method, curve) in enumerate(_by_method(here).items()):
            _bounded(side, curve, f"{kind}_sparsity", method, index)
        for point in found:
            if point.target_kind == "nothing" and (point.network, point.data) == place:
                side.axhline(_mean(point, lambda row: row["accuracy"]), color="black", linestyle=":", label="dense")
        side.set(xscale="log", xlabel=f"share of the {kind}s left", ylabel="accuracy", title="\n".join(place))
        side.invert_xaxis()
        side.grid(alpha=0.3)
        side.legend(fontsize=7)
    return _saved(figure, path)


def _bounded(side: Any, curve: Sequence[Point], sparsity: str, label: str, index: int) -> None:
    """One curve, by the sparsity that came out."""
    ordered = sorted(curve, key=lambda point: _mean(point, lambda row: row[sparsity]))
    spreads = [point.spread(lambda row: row["accuracy"]) for point in ordered]
    told = [(1 - _mean(point, lambda row: row[sparsity]), spread.mean, spread.half_width or 0.0)
            for point, spread in zip(ordered, spreads, strict=True) if spread is not None]  # fmt: skip
    told = [each for each in told if each[0] > 0]
    left, middle, half = ([each[place] for each in told] for place in range(3))
    (line,) = side.plot(left, middle, marker=MARKERS[index % len(MARKERS)], markersize=4, label=label)
    low, high = ([m + sign * h for m, h in zip(middle, half, strict=True)] for sign in (-1, 1))
    side.fill_between(left, low, high, alpha=0.15, color=line.get_color())


def _costs(chosen: Sequence[Point], path: Path) -> Path:
    """How many times less or faster than dense, against the share of nodes that is gone; a row for each network."""
    places = list(dict.fromkeys((point.network, point.data) for point in chosen))
    figure, axes = _figure(len(COSTS), rows=len(places))
    for (place, (name, cost)), side in zip(itertools.product(places, COSTS.items()), axes, strict=True):
        here = [point for point in chosen if (point.network, point.data) == place]
        for index, (method, curve) in enumerate(_by_method(here).items()):
            _plotted(side, curve, cost, method, index)
        side.set(yscale="log", xlabel="share of the nodes gone", ylabel=name, title=place[0])
        side.grid(alpha=0.3)
    axes[0].legend(fontsize=7)
    return _saved(figure, path)


def _plotted(side: Any, curve: Sequence[Point], cost: Figure, label: str, index: int) -> None:
    told = [(_mean(point, lambda row: row["node_sparsity"]), spread.mean)
            for point in curve if (spread := point.spread(cost)) is not None]  # fmt: skip
    if told:
        side.plot(*zip(*sorted(told), strict=True), marker=MARKERS[index % len(MARKERS)], markersize=4, label=label)


def _memory(chosen: Sequence[Point], path: Path) -> Path:
    """Memory at the start of training against accuracy; the paper's figure 8."""
    places = list(dict.fromkeys((point.network, point.data) for point in chosen))
    figure, axes = _figure(len(places))
    for side, place in zip(axes, places, strict=True):
        here = [point for point in chosen if (point.network, point.data) == place and "memory_bytes" in point.rows[0]]
        for index, (method, curve) in enumerate(_by_method(here).items()):
            rows = [row for point in curve for row in point.rows]
            memory = [row["memory_bytes"]["first"] / 2**20 for row in rows]
            side.plot(memory, [row["accuracy"] for row in rows], MARKERS[index % len(MARKERS)], label=method)
        side.set(xscale="log", xlabel="memory at the start of training, MiB", ylabel="accuracy", title="\n".join(place))
        side.grid(alpha=0.3)
        side.legend(fontsize=7)
    return _saved(figure, path)


def _elasticities(study: str, found: Sequence[Point], folder: Path) -> list[Path]:
    curves = {}
    for point in found:
        if (told := point.rows[0].get("elasticities")) is not None:
            of = {kind: Curve(**told[kind]) for kind in ("channels", "weights")}
            name = f"{point.network}, {point.rows[0]['data']}"
            curves[name] = ElasticityCurves(**of, loss=told["loss"], samples=told["samples"])
    return [draw_elasticities(curves, folder / f"{study}.svg")] if curves else []


def _saliency(study: str, found: Sequence[Point], folder: Path) -> list[Path]:
    maps = {}
    for point in found:
        if (told := point.rows[0].get("saliency")) is not None:
            tensors = {name: torch.tensor(values) for name, values in told.items()}
            maps[_label(point)] = SaliencyMaps(**tensors)
    return [draw_saliency(maps, folder / f"{study}.svg")] if maps else []


def _robustness(study: str, found: Sequence[Point], folder: Path) -> list[Path]:
    """Of the first seed, a figure for each target."""
    attacks: dict[float, dict[str, Robustness]] = defaultdict(dict)
    for point in found:
        if (told := point.rows[0].get("robustness")) is not None:
            distances = tuple(float("inf") if each is None else each for each in told["distances"])
            success = {float(cap): share for cap, share in told["success"].items()}
            robustness = Robustness(told["images"], told["classified"], distances, success)
            at = point.target if point.target_kind.endswith("sparsity") else 0.0
            attacks[at][_label(point)] = robustness
    return [draw_robustness(of, folder / f"{study}-{at:g}.svg") for at, of in sorted(attacks.items())]


def _remaining(study: str, found: Sequence[Point], folder: Path) -> list[Path]:
    """Of the study of that name, for each network and data."""
    if study != "remaining":
        return []
    shown: dict[str, dict[str, Remaining]] = defaultdict(dict)
    for point in found:
        told = point.rows[0]["remaining"]
        layers = {kind: tuple(LayerLeft(**layer) for layer in told[kind]) for kind in ("weights", "nodes")}
        shown[f"{point.network}-{point.rows[0]['data']}"][_label(point)] = Remaining(**layers)
    return [draw_remaining(of, folder / f"{study}-{name}.svg") for name, of in shown.items()]


Draw = Callable[[str, Sequence[Point], Path], list[Path]]
ANALYSES: dict[str, Draw] = {
    "elasticities": _elasticities, "saliency": _saliency, "robustness": _robustness, "remaining": _remaining,
}  # fmt: skip


def _label(point: Point) -> str:
    return f"{point.method}, lambda {point.target:g}" if point.target_kind == "lambda" else point.method


def _by_method(chosen: Sequence[Point]) -> dict[str, list[Point]]:
    found: dict[str, list[Point]] = defaultdict(list)
    for point in chosen:
        found[point.method].append(point)
    return found


def _mean(point: Point, figure: Figure) -> float:
    spread = point.spread(figure)
    assert spread is not None
    return spread.mean


def _figure(columns: int, rows: int = 1) -> tuple[Any, list[Any]]:
    try:
        from matplotlib.figure import Figure as Canvas
    except ImportError as error:
        raise OptionError("figures need matplotlib; `pip install 'graphprune[plot]'`") from error
    figure = Canvas(figsize=(5.2 * columns, 4.2 * rows), layout="constrained")
    return figure, list(figure.subplots(rows, columns, squeeze=False).flat)


def _saved(figure: Any, path: Path) -> Path:
    # no date, and names of its parts that do not change: the same rows give the same file
    from matplotlib import rc_context

    with rc_context({"svg.hashsalt": "graphprune"}):
        figure.savefig(path, metadata={"Date": None})
    return path
