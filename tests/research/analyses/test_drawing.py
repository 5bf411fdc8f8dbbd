"""Figures: files with something in them; the figures' content is the data's."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from graphprune.errors import OptionError
from graphprune.research.analyses import Curve, ElasticityCurves, Remaining, Robustness, SaliencyMaps
from graphprune.research.analyses.drawing import draw_elasticities, draw_remaining, draw_robustness, draw_saliency
from graphprune.research.metrics.sparsity import LayerLeft

CURVE = Curve.of(torch.tensor([3.0, 1.0, 0.1, 0.0]))
CURVES = {
    "dense": ElasticityCurves(CURVE, CURVE, 2.3, 10),
    "pruned": ElasticityCurves(CURVE, Curve((), (), 0, 0), 2.3, 10),
}
LEFT = {
    "SNIP": [Remaining((LayerLeft("conv", 10, left), LayerLeft("fc", 10, 0)), ()) for left in (5, 7)],
    "SNAP": [Remaining((LayerLeft("conv", 10, 2), LayerLeft("fc", 10, 9)), ())],
}
CLASSES = torch.zeros(3, dtype=torch.int64)
MAPS = {"dense": SaliencyMaps(torch.rand(3, 4, 4), torch.rand(3, 3, 4, 4), CLASSES, CLASSES)}
ATTACKED = {
    "dense": [Robustness(9, 8, (0.5,) * 8, {0.1: 0.0, 1.0: rate}) for rate in (0.8, 1.0)],
    "lost": [Robustness(9, 0, (), {})],
    "lost in one seed": [Robustness(9, 0, (), {}), Robustness(9, 8, (0.5,) * 8, {0.1: 0.5, 1.0: 0.5})],
}


def test_every_figure(tmp_path: Path) -> None:
    paths = [
        draw_elasticities(CURVES, tmp_path / "elasticities.svg"),
        draw_remaining(LEFT, tmp_path / "remaining.svg"),
        draw_saliency(MAPS, tmp_path / "saliency.png"),
        draw_robustness(ATTACKED, tmp_path / "robustness.svg"),
    ]
    assert all(path.stat().st_size > 1000 for path in paths)


@pytest.mark.parametrize("name", ["it.svg", "it.png"])
def test_the_same_data_gives_the_same_file(tmp_path: Path, name: str) -> None:
    first = draw_robustness(ATTACKED, tmp_path / name).read_bytes()
    assert draw_robustness(ATTACKED, tmp_path / name).read_bytes() == first


def test_bars_are_means_over_seeds_within_their_bounds(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    axes = pytest.importorskip("matplotlib.axes").Axes
    drawn, draw_bars = dict[str, list[float]](), axes.bar

    def bar(*args: Any, **rest: Any) -> Any:
        drawn[rest["label"]] = [*args[2], *rest["yerr"][0], *rest["yerr"][1]]
        return draw_bars(*args, **rest)

    monkeypatch.setattr(axes, "bar", bar)
    draw_remaining(LEFT, tmp_path / "remaining.svg")
    half = 1.96 * 0.2 / math.sqrt(2) / math.sqrt(2)  # of 0.5 and 0.7, by hand
    assert drawn["SNIP"] == pytest.approx([0.6, 0, half, 0, half, 0])
    assert drawn["SNAP"] == pytest.approx([0.2, 0.9, 0, 0, 0, 0]), "of one seed there is no interval"


def test_nothing_to_draw_and_nothing_to_draw_with(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(OptionError, match="nothing to draw"):
        draw_saliency({}, tmp_path / "it.png")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OptionError, match=r"pip install 'graphprune\[plot\]'"):
        draw_robustness(ATTACKED, tmp_path / "it.svg")
