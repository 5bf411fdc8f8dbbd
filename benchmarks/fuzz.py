"""Prunes many random programs at random and counts mismatches.

Run ``python -m benchmarks.fuzz --programs 10000 --jobs 2``. The programs are those of the seeds from ``--first-seed``
on. Blocks of 100 seeds are done one by one; each adds a line to ``benchmarks/results/fuzz.jsonl``, and a run that was
interrupted goes on after the last one. A line counts only for the code that it was made with.

An export to ONNX takes as long as some twenty other checks, so one seed in 50 is compared in onnxruntime as well; one
in 100 is captured by torch.export, which takes as long as ten. One in ten decides by a size, which is another way of
capture.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import random
import sys
import time
import traceback
import warnings
from collections import Counter
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.rows import append, read
from tests.property.checks import Outcome, check
from tests.property.ops import OPS
from tests.property.programs import RandomProgram, build

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.jsonl"
BLOCK = 100
ONNX_EVERY, EXPORT_EVERY, SIZES_EVERY = 50, 100, 10
COUNTS = ("programs", "prunable", "rounds", "channels", "removed", "zeroed", "onnx", "onnx_refused")

Line = dict[str, Any]


def program_of(seed: int) -> tuple[RandomProgram, random.Random]:
    """Returns the program of a seed, and the generator that its checks go on with."""
    generator = random.Random(seed)
    torch.manual_seed(seed)
    model = build(generator.randrange, OPS, 3 + generator.randrange(16))
    model.takes_list, model.decides_by_size = seed % EXPORT_EVERY == 1, seed % SIZES_EVERY == 3
    return model, generator


def run_seed(seed: int) -> Outcome:
    """Builds and checks the program of a seed.

    Raises:
        Exception: whatever the checks find wrong.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about odd programs, and random programs are odd
        model, generator = program_of(seed)
        return check(model, generator.randrange, 1 + generator.randrange(3), onnx=seed % ONNX_EVERY == 0)


def run_block(first: int, programs: int, code: str) -> Line:
    """Runs consecutive seeds; returns their counts, and every mismatch with its program as text."""
    torch.set_num_threads(1)
    started = time.perf_counter()
    counts = dict.fromkeys(COUNTS, 0)
    mismatches, routes, shrunk = [], Counter[str](), Counter[str]()
    for seed in range(first, first + programs):
        counts["programs"] += 1
        try:
            outcome = run_seed(seed)
        except Exception as error:  # a failure of any kind counts, and the run goes on
            mismatches.append(_mismatch(seed, error))
            continue
        counts["prunable"] += outcome.channels > 0
        counts["rounds"] += sum(gone > 0 for gone in outcome.removed)
        counts["channels"] += outcome.channels
        counts["removed"] += sum(outcome.removed)
        counts["zeroed"] += outcome.zeroed
        counts["onnx"] += outcome.onnx
        counts["onnx_refused"] += outcome.refused
        routes[outcome.route] += 1
        shrunk.update(outcome.shrunk)
    return {
        "first_seed": first, **counts, "routes": dict(routes), "mismatches": mismatches,
        "shrunk": dict(sorted(shrunk.items())), "seconds": round(time.perf_counter() - started, 1),
        "torch": torch.__version__, "code": code,
    }  # fmt: skip


def _mismatch(seed: int, error: Exception) -> Line:
    where = traceback.extract_tb(error.__traceback__)[-1]
    return {
        "seed": seed, "error": f"{type(error).__name__}: {str(error)[:600]}",
        "where": f"{Path(where.filename).name}:{where.lineno}", "program": str(program_of(seed)[0]),
    }  # fmt: skip


def fingerprint() -> str:
    """Returns a hash of all the code that a result depends on."""
    folders = ("graphprune", "passes", "tests/property", "benchmarks/fuzz.py")
    files = sorted(path for each in folders for path in [ROOT / each, *(ROOT / each).rglob("*.py")] if path.is_file())
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:16]


def finished(path: Path, code: str) -> dict[tuple[int, int], Line]:
    """Returns the lines that were made with this code, by first seed and number of programs."""
    return {(line["first_seed"], line["programs"]): line for line in read(path) if line["code"] == code}


def run(blocks: list[tuple[int, int]], jobs: int, path: Path) -> list[Line]:
    """Runs the blocks that are not done yet; returns the lines of all blocks."""
    code = fingerprint()
    done = finished(path, code)
    lines = [done[block] for block in blocks if block in done]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")  # lines of other code go
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = [pool.submit(run_block, *block, code) for block in blocks if block not in done]
        try:
            for future in as_completed(futures):
                lines.append(future.result())
                append(path, lines[-1])
                _show(lines[-1], sum(line["programs"] for line in lines), sum(programs for _, programs in blocks))
        except BaseException:  # also an interrupt; the waiting blocks are left for the next run
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return lines


def _show(line: Line, done: int, of: int) -> None:
    for mismatch in line["mismatches"]:
        print(f"seed {mismatch['seed']}: {mismatch['error']}\n{mismatch['program']}\n", flush=True)
    print(f"{done} of {of}: seeds from {line['first_seed']} took {line['seconds']} s", file=sys.stderr, flush=True)


def summary(lines: list[Line]) -> str:
    """Returns the counts of all blocks as a paragraph."""
    total = {name: sum(line[name] for line in lines) for name in COUNTS}
    seeds = sorted(mismatch["seed"] for line in lines for mismatch in line["mismatches"])
    ops = {name for line in lines for name in line["shrunk"]}
    routes = sum((Counter[str](line["routes"]) for line in lines), Counter[str]())
    return (
        f"{total['programs']} programs, {total['prunable']} with something to prune; {total['rounds']} rounds removed "
        f"{total['removed']} of {total['channels']} channels, through {len(ops)} kinds of ops and layers;\n"
        f"captured by {', '.join(f'{route} {count}' for route, count in routes.most_common())};\n"
        f"{total['zeroed']} compared with the zeroed model, {total['onnx']} in onnxruntime (one seed in {ONNX_EVERY}), "
        f"which refused {total['onnx_refused']};\n"
        f"{len(seeds)} mismatches {seeds or ''}; {sum(line['seconds'] for line in lines):.0f} s of one core"
    )


def main() -> int:
    """Runs the programs of consecutive seeds, prints each failure and the counts; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=int, default=1000, help="number of programs (default 1000)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first program (default 0)")
    parser.add_argument("--jobs", type=int, default=1, help="processes, of one thread each (default 1)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="file of the finished blocks")
    options = parser.parse_args()
    end = options.first_seed + options.programs
    blocks = [(first, min(BLOCK, end - first)) for first in range(options.first_seed, end, BLOCK)]
    lines = run(blocks, options.jobs, options.results)
    print(summary(lines))
    return 1 if any(line["mismatches"] for line in lines) else 0


if __name__ == "__main__":
    raise SystemExit(main())
