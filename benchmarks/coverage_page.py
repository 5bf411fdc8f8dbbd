"""Writes `docs/coverage.md` from the results of the coverage study."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from benchmarks.models import names
from benchmarks.rows import read

TITLES = {
    "torchvision": "torchvision, classification",
    "segmentation": "torchvision, segmentation",
    "timm": "timm, the smallest model of each family",
    "transformers": "Hugging Face transformers, small configurations",
    "paper": "Networks of the SNIP-it paper",
}

_HEAD = """# Coverage

`python -m benchmarks.coverage` captures and analyses every model of the list. It compiles each one at three
sparsities (share of the prunable channels removed), in one and in three rounds, and proves every round. It trains the
result one step, exports it to ONNX and compares that with torch. All weights are random. The command resumes where it
stopped, and writes this page from `benchmarks/results/coverage.jsonl`, which has the figures of each compilation.
Models that have not been run yet are missing here. The column *compiled* says how many of the six compilations a
model went through.

*Refused* means that graphprune said no, with the reason. *Fail* means a crash, a hang, a wrong result, or a limit of
time or memory. *Prunable* is the share of output rows that can be removed; output rows are the output channels of all
weights of two dims or more that evaluation mode reads. *Error* is the largest difference between the compact and the
masked network, and *ONNX* is the largest difference between onnxruntime and torch; both are shares of the output's
scale. *Seconds* is the median time of the model's compilations, with their proofs, in one thread.
"""


def write_page(results: Path, page: Path) -> None:
    """Writes the page; if a model was studied twice, the later row counts."""
    rows = {row["model"]: row for row in read(results)}
    sections = [(source, [rows[name] for name in names(source) if name in rows]) for source in TITLES]
    sections = [(source, found) for source, found in sections if found]
    parts = [_HEAD, _summary(sections), *(_section(source, found) for source, found in sections)]
    page.parent.mkdir(parents=True, exist_ok=True)
    page.write_text("\n".join(parts) + "\n", encoding="utf-8")


def _summary(sections: list[tuple[str, list[dict[str, Any]]]]) -> str:
    lines = [_line(["models", "of", "pass", "refused", "fail", "median prunable", "worst error", "worst ONNX"])]
    lines.append(_line(["---"] * 8))
    for source, rows in sections:
        outcomes = Counter(row["outcome"] for row in rows)
        shares = [row["prunable_rows"] for row in rows if "prunable_rows" in row]
        cells = [TITLES[source], str(len(rows)), *(str(outcomes[kind]) for kind in ("pass", "refused", "fail"))]
        cells += [f"{statistics.median(shares):.1%}" if shares else "", _worst(rows, "relative_error")]
        lines.append(_line([*cells, _worst(rows, "onnx_relative_error")]))
    made = sorted({_origin(row) for _, rows in sections for row in rows})
    return "\n".join([*lines, "", *(f"Made with {origin}." for origin in made), ""])


def _section(source: str, rows: list[dict[str, Any]]) -> str:
    columns = ["model", "outcome", "captured by", "compiled", "prunable", "error", "ONNX", "seconds"]
    lines = [f"## {TITLES[source]}", "", _line(columns), _line(["---"] * len(columns))]
    for row in rows:
        seconds = [entry["seconds"] for entry in row["compilations"]]
        cells = [
            row["model"].partition(":")[2],
            row["outcome"],
            row.get("captured_by", "").partition(" ")[0],
            str(len(row["compilations"])),
            f"{row['prunable_rows']:.1%}" if "prunable_rows" in row else "",
            _worst([row], "relative_error"),
            _worst([row], "onnx_relative_error"),
            f"{statistics.median(seconds):.1f}" if seconds else "",
        ]
        lines.append(_line(cells))
    reasons = [f"- {row['model']}: {' '.join(row['reason'].split())}" for row in rows if row["reason"]]
    return "\n".join([*lines, "", *reasons, *([""] if reasons else [])])


def _worst(rows: Iterable[dict[str, Any]], key: str) -> str:
    found = [entry[key] for row in rows for entry in row["compilations"] if key in entry]
    return f"{max(found):.1e}" if found else ""


def _origin(row: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in row["versions"].items())
    return f"{row['hardware']}; {versions}"


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
