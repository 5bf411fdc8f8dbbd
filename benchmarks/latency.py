"""Latency of what pruning tools make of the same models: at equal multiply-accumulates, and at equal latency.

Every tool prunes in a process of its own with a time limit and leaves an ONNX file; then all files of a model are timed
in turns in one run. A tool that fails, or does not end, is recorded with the reason. One JSON line for each model and
setting; what is in the file is not run again. Where it lacks tools that are asked for by name all are timed anew, and
the last line of a setting counts. Where the dense network itself fails nothing is recorded.

    python -m benchmarks.latency --measure macs --share 2/3
    python -m benchmarks.latency --measure latency --share 0.5 --models resnet18 vit_b_16
    python -m benchmarks.latency --provider cuda --batch 64
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import onnx
from torch import nn

from benchmarks.arguments import count, positive, share
from benchmarks.latency_tools import TOOLS, image
from benchmarks.onnx_macs import count_macs, count_parameters
from benchmarks.rows import read, record
from graphprune.deploy import TimingResult, describe_hardware, library_versions, onnx_feeds, time_interleaved
from graphprune.deploy.sessions import choose_provider
from graphprune.errors import UserError
from graphprune.program.example import Example

RESULTS = Path(__file__).resolve().parent / "results" / "latency.jsonl"
MODELS = (
    "resnet18", "resnet50", "mobilenet_v2", "efficientnet_b0", "densenet121", "regnet_y_400mf", "convnext_tiny",
    "vit_b_16", "swin_t",
)  # fmt: skip

Row = dict[str, Any]


def prune_apart(tool: str, model: str, path: Path, options: argparse.Namespace) -> tuple[float, str]:
    """Prunes in a process of its own; returns the seconds, and the reason if there is no file (otherwise empty)."""
    command = [sys.executable, "-m", "benchmarks.latency_tools", tool, model, str(path)]
    command += ["--measure", options.measure, "--share", str(options.share)]
    command += ["--provider", options.provider, "--threads", str(options.threads), "--batch", str(options.batch)]
    started = time.perf_counter()
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=options.limit_s)
    except subprocess.TimeoutExpired:
        return options.limit_s, f"no end in {options.limit_s:.0f} s"
    lines = done.stderr.strip().splitlines() or [f"ended with {done.returncode}"]
    return time.perf_counter() - started, "" if done.returncode == 0 and path.exists() else lines[-1][:300]


def settings(model: str, options: argparse.Namespace) -> Row:
    """Returns the settings that tell rows apart."""
    provider, _ = choose_provider(options.provider)
    return {
        "model": model, "measure": options.measure, "share": options.share, "provider": provider,
        "threads": options.threads, "batch": options.batch,
    }  # fmt: skip


def last_of_each(rows: list[Row]) -> list[Row]:
    """Returns the last row of each model and setting."""
    return list({(row["model"], setting(row)): row for row in rows}.values())


def to_time(made: Row, rows: Iterable[Row], named: Sequence[str] | None) -> list[str]:
    """Returns the tools to time together: those that rows of these settings have, and the named ones.

    The list is empty if the rows have all of them.

    Args:
        made: Settings of the rows.
        rows: Rows that exist already.
        named: Names of the wanted tools. None stands for the tools of the existing rows, or for all tools if there are
            no such rows.
    """
    there = {tool for row in rows if made.items() <= row.items() for tool in (*row["tools"], *row["errors"])}
    wanted = there.union(named) if named else there or {*TOOLS}
    return [tool for tool in TOOLS if tool in wanted] if wanted > there else []


def measure(made: Row, tools: Iterable[str], options: argparse.Namespace) -> Row:
    """Measures tools on one model and returns the row; it has no tools if the dense network failed.

    Args:
        made: Its settings.
        tools: Beside the dense network.
        options: Options of the command line.
    """
    model = made["model"]
    with tempfile.TemporaryDirectory() as folder:
        files: dict[str, Path] = {}
        seconds: dict[str, float] = {}
        errors: dict[str, str] = {}
        for tool in dict.fromkeys(("dense", *tools)):
            path = Path(folder) / f"{len(files)}.onnx"
            seconds[tool], why = prune_apart(tool, model, path, options)
            if why:
                errors[tool] = why
            else:
                files[tool] = path
            if "dense" in errors:
                return made | {"tools": {}, "errors": errors}
        feeds = onnx_feeds(nn.Identity(), Example.of(image(options.batch)))
        timing = time_interleaved(
            files, feeds, provider=options.provider, threads=options.threads, repeats=options.repeats
        )
        found = {tool: _figures(tool, path, files["dense"], timing) for tool, path in files.items()}
    for tool, figures in found.items():
        figures["tool_s"] = round(seconds[tool], 1)
    return made | {
        "tools": found, "errors": errors, "repeats": timing.repeats, "hardware": str(describe_hardware()),
        "versions": library_versions(),
    }  # fmt: skip


def _figures(tool: str, path: Path, dense: Path, timing: TimingResult) -> Row:
    latency, speedup = timing.latencies[tool], timing.speedup("dense", tool)
    macs = count_macs(dense, timing.batch_size) / count_macs(path, timing.batch_size)
    return {
        "median_ms": latency.median_ms, "p10_ms": latency.p10_ms, "p90_ms": latency.p90_ms,
        "speedup": speedup.pairwise_median, "speedup_p10": speedup.pairwise_p10, "speedup_p90": speedup.pairwise_p90,
        "macs_reduction": macs, "speedup_per_macs": speedup.pairwise_median / macs,
        "params": count_parameters(path), "nodes": len(onnx.load(path).graph.node),
    }  # fmt: skip


def setting(row: Row) -> str:
    """Returns in words what the files of a row were made for and timed on."""
    where = f"{row['provider'].removesuffix('ExecutionProvider')}, threads {row['threads']}, batch {row['batch']}"
    return f"{row['share']:.0%} of {row['measure']}, {where}"


def summary(rows: list[Row]) -> Row:
    """Sums up, by setting, what all models give together."""
    found: Row = {}
    for timed in dict.fromkeys(map(setting, rows)):
        of_setting = [row["tools"] for row in rows if setting(row) == timed]
        for tool in TOOLS:
            figures = [tools[tool] for tools in of_setting if tool in tools]
            if tool == "dense" or not figures:
                continue
            found[f"{timed}: {tool}"] = {
                "models": len(figures),
                "speedup": statistics.geometric_mean(each["speedup"] for each in figures),
                "macs_reduction": statistics.geometric_mean(each["macs_reduction"] for each in figures),
                "speedup_per_macs": statistics.geometric_mean(each["speedup_per_macs"] for each in figures),
            }
    return found


def table(rows: list[Row]) -> str:
    """Returns a table with a line for each model and tool."""
    lines = [f"{'model':<17}{'setting':<47}{'tool':<28}{'ms':>9}{'speed-up':>10}{'MACs':>8}{'ratio':>7}{'nodes':>7}"]
    for row in rows:
        for tool, each in row["tools"].items():
            lines.append(
                f"{row['model']:<17}{setting(row):<47}{tool:<28}{each['median_ms']:>9.3f}{each['speedup']:>9.2f}x"
                f"{each['macs_reduction']:>7.2f}x{each['speedup_per_macs']:>7.2f}{each['nodes']:>7}"
            )
        lines += [f"{row['model']:<17}{setting(row):<47}{tool:<28}{why}" for tool, why in row["errors"].items()]
    return "\n".join(lines)


def main() -> None:
    """Measures what the results file does not have yet, then prints all results."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--tools", nargs="+", choices=TOOLS, help="beside the dense network; default: all")
    parser.add_argument("--measure", choices=("macs", "latency"), default="macs")
    parser.add_argument("--share", type=share, default=2 / 3, help="to be removed; a fraction will do")
    parser.add_argument("--provider", default="auto")
    parser.add_argument("--threads", type=count, default=1)
    parser.add_argument("--batch", type=count, default=1, help="images in a timed run")
    parser.add_argument("--repeats", type=count, default=31)
    parser.add_argument("--limit-s", type=positive, default=600, help="of one tool on one model")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    if options.measure == "latency" and options.batch != 1:
        parser.error("tools prune to the latency of one image; leave --batch out")
    try:
        choose_provider(options.provider)
    except UserError as error:
        parser.error(str(error))
    rows = read(options.out)
    for model in options.models:
        made = settings(model, options)
        tools = to_time(made, rows, options.tools)
        if not tools:
            continue
        row = measure(made, tools, options)
        if row["tools"]:
            record(options.out, row)
            rows.append(row)
        else:
            print(f"{model}: the dense network failed, nothing is recorded: {row['errors']['dense']}", file=sys.stderr)
    rows = last_of_each(rows)
    print(table(rows))
    print(json.dumps(summary(rows), indent=1))


if __name__ == "__main__":
    main()
