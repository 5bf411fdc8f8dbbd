"""Tables of the ablation's rows, as Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from benchmarks.rows import Row
from graphprune.research.metrics import spread_over_seeds

RESULTS = Path(__file__).resolve().parents[1] / "results" / "ablation.jsonl"

MEASURES = ("accuracy", "accuracy_finetuned")
"""Measures that have tables; only rows of a network that was fine-tuned have the second one."""


def summary(rows: Sequence[Row]) -> str:
    """Returns a table for each network, granularity and measure, with its title and with the errors."""
    titles = dict.fromkeys(
        (row["network"], row["granularity"], measure) for row in rows for measure in MEASURES if measure in row
    )
    return "\n\n".join(
        f"### {network}, {granularity}, {measure.replace('_', ', ')}\n\n{table(rows, network, granularity, measure)}"
        for network, granularity, measure in titles
    )


def table(rows: Sequence[Row], network: str, granularity: str, measure: str = MEASURES[0]) -> str:
    """Returns mean accuracies in per cent, with 95 % interval and number of seeds, as a table.

    The best variant comes first, by its mean over the sparsities. Errors of variants are below the table.
    """
    of = [row for row in rows if (row["network"], row["granularity"]) == (network, granularity)]
    cells: dict[str, dict[float, dict[int, float]]] = {}
    for row in of:
        if measure in row:  # by seed, because runs with and without fine-tuning share the accuracy before it
            cells.setdefault(row["variant"], {}).setdefault(row["sparsity"], {})[row["seed"]] = 100 * row[measure]
    sparsities = sorted({sparsity for by_sparsity in cells.values() for sparsity in by_sparsity})

    def order(variant: str) -> float:
        found = [spread_over_seeds(list(of_seeds.values())).mean for of_seeds in cells[variant].values()]
        return -sum(found) / len(found)

    lines = [f"| variant | {' | '.join(f'{each:.0%} removed' for each in sparsities)} |"]
    lines.append("|---|" + "---:|" * len(sparsities))
    for variant in sorted(cells, key=order):
        texts = [_cell(list(cells[variant].get(each, {}).values())) for each in sparsities]
        lines.append(f"| {variant} | {' | '.join(texts)} |")
    errors = {row["variant"]: row["error"] for row in of if "error" in row}
    return "\n".join([*lines, *(f"\n{variant}: {error}" for variant, error in errors.items())])


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    found = spread_over_seeds(values)
    spread = "" if found.half_width is None else f" ± {found.half_width:.1f}"
    return f"{found.mean:.1f}{spread} ({len(values)})"
