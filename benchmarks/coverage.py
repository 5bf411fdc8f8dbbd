"""Every torchvision model, one timm model of each family, and Hugging Face transformers: is each pruned right?

Each model runs in a process of its own under a time and a memory limit: compiled at three sparsities in one and in
three rounds, every round proved, trained one step, exported to ONNX and compared with torch. One JSON line per model;
finished models are not run again. ``docs/coverage.md`` is written from the lines.

    python -m benchmarks.coverage --jobs 2
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields
from pathlib import Path
from typing import Any

from benchmarks.coverage_page import write_page
from benchmarks.coverage_run import Grid
from benchmarks.models import names
from benchmarks.rows import append, read
from graphprune.deploy import describe_hardware, library_versions

SOURCES = ("torchvision", "segmentation", "timm", "transformers", "paper")
RESULTS = Path("benchmarks/results/coverage.jsonl")
PAGE = Path("docs/coverage.md")


def run_apart(name: str, arguments: Sequence[str], time_limit_s: float) -> dict[str, Any]:
    """Studies a model in a process of its own and returns its row; a process that dies or hangs is a failure."""
    command = [sys.executable, "-m", "benchmarks.coverage_run", name, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=time_limit_s, check=False)
    except subprocess.TimeoutExpired:
        return failure(name, f"not finished after {time_limit_s:.0f} s")
    lines = done.stdout.splitlines()
    if done.returncode or not lines:
        said = done.stderr.strip().splitlines() or ["no word"]
        return failure(name, f"process ended with {done.returncode}: {said[-1]}")
    row: dict[str, Any] = json.loads(lines[-1])
    return row


def failure(name: str, reason: str) -> dict[str, Any]:
    """Returns a row for a model whose process did not give one."""
    return {"model": name, "outcome": "fail", "reason": reason, "compilations": []}


def main() -> None:
    """Runs the models that the results file does not have yet, then writes the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=RESULTS, help="JSON lines; models in it are not run again")
    parser.add_argument("--page", type=Path, default=PAGE)
    parser.add_argument("--models", nargs="+", help="names instead of all")
    parser.add_argument("--sources", nargs="+", choices=SOURCES, default=SOURCES)
    parser.add_argument("--jobs", type=int, default=1, help="processes at a time")
    parser.add_argument("--time-limit-s", type=float, default=1200, help="per model")
    parser.add_argument("--memory-gib", type=float, default=10, help="per model")
    for field in fields(Grid):
        parser.add_argument(f"--{field.name.replace('_', '-')}", nargs="+", default=[], help="passed on for each model")
    options = parser.parse_args()
    done = {row["model"] for row in read(options.out)}
    wanted = options.models or [name for source in options.sources for name in names(source)]
    arguments = ["--memory-gib", str(options.memory_gib)]
    for field in fields(Grid):
        if values := getattr(options, field.name):
            arguments += [f"--{field.name.replace('_', '-')}", *values]
    origin = {"hardware": str(describe_hardware()), "versions": library_versions()}

    def run(name: str) -> None:
        row = run_apart(name, arguments, options.time_limit_s) | origin
        append(options.out, row)
        print(f"{row['outcome']:8}{name}: {row.get('seconds', 0):.0f} s {row['reason'][:300]}", flush=True)

    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(run, [name for name in wanted if name not in done]))
    write_page(options.out, options.page)


if __name__ == "__main__":
    main()
