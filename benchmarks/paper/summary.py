"""Tables of the measured results as Markdown: means and 95 % intervals over seeds."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

from benchmarks.paper.grid import Run
from benchmarks.rows import Row
from graphprune.research.metrics import Spread, spread_over_seeds

Figure = Callable[[Row], float | None]
"""Function from a row to a number; None if the row does not have the number."""


def _share(name: str) -> Figure:
    return lambda row: 100 * row[name]


def _fewer(before: str, after: Figure) -> Figure:
    """Returns a figure of how many times less a cost is; None if nothing is left or nothing was measured."""

    def times(row: Row) -> float | None:
        left = after(row)
        return row[before] / left if left and before in row else None

    return times


def _faster(name: str) -> Figure:
    return lambda row: row[name]["dense"]["median_ms"] / row[name]["pruned"]["median_ms"] if name in row else None


def _memory(when: str) -> Figure:
    return lambda row: row["memory_bytes"][when] if "memory_bytes" in row else None


def _on_disk(form: str) -> Figure:
    """Returns a figure of how many times less disk space a form of `graphprune.research.metrics.DiskSize` takes."""

    def times(row: Row) -> float | None:
        left = row["disk"][form]
        return row["disk_dense"][form] / left if left else None

    return times


FIGURES: dict[str, Figure] = {
    "accuracy, %": _share("accuracy"),
    "weights gone, %": _share("weight_sparsity"),
    "nodes gone, %": _share("node_sparsity"),
    "HM, weights": _share("hm_weights"),
    "HM, nodes": _share("hm_nodes"),
    "training, s": lambda row: row["training_seconds"],
    "pruning, s": lambda row: row["pruning_seconds"],
}
"""Figures in the columns of most tables, by title."""

COSTS: dict[str, Figure] = {
    "MACs, x": _fewer("macs_dense", lambda row: row["macs"]["executed"]),
    "training MACs, x": _fewer("training_macs_dense", lambda row: row["training_macs"]),
    "memory, x": _fewer("memory_bytes_dense", _memory("median")),
    "memory at start, x": _fewer("memory_bytes_dense", _memory("first")),
    "training step, x": _faster("training_step_ms"),
    "inference, x": _faster("inference_ms"),
    "disk, x": _on_disk("csr_bytes"),
    "disk (paper), x": _on_disk("paper_bytes"),
    "training, s": FIGURES["training, s"],
    "pruning, s": FIGURES["pruning, s"],
}  # fmt: skip
"""Figures for structured methods, by title: how many times less than dense in the same run (``x``), and seconds."""


CAPS = (0.25, 0.5, 1.0, 2.0)
"""Largest distances of the attack in tables."""

ATTACKS: dict[str, Figure] = {"accuracy, %": FIGURES["accuracy, %"]} | {
    f"within {cap:g}, %": (lambda row, cap=str(cap): 100 * row["robustness"]["success"][cap]) for cap in CAPS
}
"""Figures for attacked networks, by title: accuracy, and the success of the attack within each distance."""


def layers(found: Sequence[Point]) -> dict[str, Figure]:
    """Returns the figures of the weights that each layer keeps in per cent, by title."""

    def left(place: int) -> Figure:
        def share(row: Row) -> float:
            layer = row["remaining"]["weights"][place]
            return 100 * float(layer["left"]) / float(layer["before"])

        return share

    return {f"{layer['name']}, %": left(place) for place, layer in enumerate(found[0].rows[0]["remaining"]["weights"])}


@dataclass(frozen=True)
class Point:
    """The seeds of one method and target, for one network and its data.

    Attributes:
        study: See `Run`.
        network: See `Run`.
        data: Data as in `Run`, with what of it.
        method: See `Run`.
        target: See `Run`.
        rows: One for each seed.
    """

    study: str
    network: str
    data: str
    method: str
    target: float
    rows: tuple[Row, ...]

    @property
    def structured(self) -> bool:
        """Whether the method removes nodes."""
        return bool(self.rows[0]["structured"])

    @property
    def target_kind(self) -> str:
        """Kind of the target, see `graphprune.research.methods.method.Target`."""
        return str(self.rows[0]["target_kind"])

    def spread(self, figure: Figure) -> Spread | None:
        """Returns mean and spread of a figure over the seeds; None if a seed does not have it."""
        values = [value for row in self.rows if (value := figure(row)) is not None]
        return spread_over_seeds(values) if len(values) == len(self.rows) else None


def points(rows: Iterable[Row]) -> list[Point]:
    """Groups rows without an error by run, apart from the seed, in the order of the first rows.

    If a run has several rows, the last one counts.
    """
    names = [field.name for field in fields(Run) if field.name != "seed"]
    groups: dict[tuple[object, ...], dict[int, Row]] = defaultdict(dict)
    for row in rows:
        if "error" not in row:
            groups[tuple(row[name] for name in names)][row["seed"]] = row
    found = []
    for group in groups.values():
        row, seeds = next(iter(group.values())), tuple(group[seed] for seed in sorted(group))
        found.append(Point(row["study"], row["network"], _data(row), row["method"], row["target"], seeds))
    return found


def failures(rows: Sequence[Row]) -> list[Row]:
    """Returns the rows with an error whose runs have no row without one."""
    names = [field.name for field in fields(Run)]
    worked = {tuple(row[name] for name in names) for row in rows if "error" not in row}
    return [row for row in rows if "error" in row and tuple(row[name] for name in names) not in worked]


def best(found: Sequence[Point]) -> list[Point]:
    """Picks each method's target with the highest harmonic mean, as in the paper's tables; dense stays as it is.

    The mean is of accuracy and sparsity: that of nodes for structured methods, otherwise that of weights.

    Source: section 5 of the paper.
    """
    by_method: dict[str, list[Point]] = defaultdict(list)
    for point in found:
        by_method[point.method].append(point)
    return [max(each, key=_harmonic_mean) for each in by_method.values()]


def summary(rows: Sequence[Row]) -> str:
    """Returns the tables of each study, network and data (accuracies, figures, costs, best points), and failures."""
    by_place: dict[tuple[str, str, str], list[Point]] = defaultdict(list)
    for point in points(rows):
        by_place[point.study, point.network, point.data].append(point)
    parts = []
    for (study, network, data), found in by_place.items():
        parts.append(f"## {study}: {network}, {data}\n")
        parts.append(by_target(found))
        parts.append("\nAll figures:\n")
        parts.append(table(found, FIGURES))
        structured = [point for point in found if point.structured]
        if len(structured) > 1:
            parts.append("\nHow many times less or faster than the dense network, and times of the whole run:\n")
            parts.append(table(structured, COSTS))
        parts.append("\nHighest harmonic mean of each method:\n")
        parts.append(table(best(found), FIGURES))
        parts.append("")
    if failed := failures(rows):
        parts.append("## Runs that failed\n")
        parts += [f"- {Run(**{f.name: row[f.name] for f in fields(Run)})}: {row['error']}" for row in failed]
    return "\n".join(parts)


def by_target(found: Sequence[Point]) -> str:
    """Returns a table of accuracies with a row for each method and a column for each share to remove.

    A cell has the mean and the half-width of the 95 % interval over seeds. Methods with a penalty are left out; the
    full table has them.
    """
    accuracy = FIGURES["accuracy, %"]
    dense = "".join(f" (dense: {_cell(p.spread(accuracy))})" for p in found if p.target_kind == "nothing")
    pruned = [point for point in found if point.target_kind.endswith("sparsity")]
    cells = {(point.method, point.target_kind, point.target): _cell(point.spread(accuracy)) for point in pruned}
    columns = sorted({(point.target_kind, point.target) for point in pruned})
    heads = (f"{100 * target:g} % of {kind.removesuffix(' sparsity')}s" for kind, target in columns)
    lines = [f"Accuracy, %, by what is removed{dense}:\n", f"| method | {' | '.join(heads)} |",
             f"|---|{'---|' * len(columns)}"]  # fmt: skip
    for method in dict.fromkeys(point.method for point in pruned):
        lines.append(f"| {method} | {' | '.join(cells.get((method, *column), '') for column in columns)} |")
    return "\n".join(lines)


def table(found: Sequence[Point], figures: dict[str, Figure]) -> str:
    """Returns a table with a row for each point: mean and half-width of the 95 % interval of each figure."""
    lines = [f"| method | target | seeds | {' | '.join(figures)} |", f"|---|---|{'---|' * (1 + len(figures))}"]
    for point in found:
        cells = (_cell(point.spread(figure)) for figure in figures.values())
        lines.append(f"| {point.method} | {_target(point)} | {len(point.rows)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(spread: Spread | None) -> str:
    if spread is None:
        return "-"
    digits = 0 if abs(spread.mean) >= 1000 else 1 if abs(spread.mean) >= 1 else 2
    half = "" if spread.half_width is None else f" ± {spread.half_width:.{digits}f}"
    return f"{spread.mean:.{digits}f}{half}"


def _target(point: Point) -> str:
    kinds = {"nothing": "-", "lambda": f"lambda {point.target:g}"}
    return kinds.get(point.target_kind, f"{point.target:g}")


def _harmonic_mean(point: Point) -> float:
    spread = point.spread(_share("hm_nodes" if point.structured else "hm_weights"))
    assert spread is not None
    return spread.mean


def _data(row: Row) -> str:
    samples = f"{row['train_samples']} to train on"
    return f"{row['data']} ({samples}, {row['epochs']} epochs, batch {row['batch_size']}, {row['precision']})"
