"""Times analysis and rewriting of this checkout against another one (an earlier commit, say), in turns.

Each checkout has a process of its own, and the two take turns run by run, so that a machine that changes its pace
changes it for both. Both compile as in `benchmarks.compile_time`. One JSON line per model: medians of CPU seconds, and
the median of the ratios pair by pair with its quartiles, and the ratio of the fastest runs, which other work on the
machine disturbs least; below 1 this checkout is faster.

    git worktree add ../before COMMIT
    python -m benchmarks.compile_time_against ../before --models resnet18 vit_b_16
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import warnings
from pathlib import Path
from typing import IO, Any

import torch

from benchmarks.rows import record
from graphprune.deploy import describe_hardware, library_versions

MODELS = ["resnet18", "resnet50", "mobilenet_v2", "densenet121", "swin_t", "vit_b_16"]
WORK = "from benchmarks.compile_time_against import work; work()"


def work() -> None:
    """Answers each line on standard input, the name of a model, with the CPU seconds of one compilation."""
    from benchmarks.compile_time import timed

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for line in sys.stdin:
        print(json.dumps(timed("graphprune", line.strip(), limit_s=300)["cpu"]), flush=True)


class Checkout:
    """A process that compiles with the code of one checkout."""

    def __init__(self, folder: Path) -> None:
        # the benchmark is this one's; only the library comes from the checkout
        paths = os.pathsep.join([str(folder.resolve()), str(Path(__file__).resolve().parent.parent)])
        self._process = subprocess.Popen(
            [sys.executable, "-c", WORK],
            env={**os.environ, "PYTHONPATH": paths, "OMP_NUM_THREADS": "1"},
            cwd=folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdin is not None and self._process.stdout is not None
        self._questions: IO[str] = self._process.stdin
        self._answers: IO[str] = self._process.stdout

    def seconds(self, model: str) -> float:
        """CPU seconds of one compilation of a model."""
        print(model, file=self._questions, flush=True)
        return float(json.loads(self._answers.readline()))

    def close(self) -> None:
        """Ends the process."""
        self._questions.close()
        self._process.wait()


def compared(here: Checkout, other: Checkout, model: str, repeats: int) -> dict[str, Any]:
    """Both checkouts in turns on a model; the first run of each is dropped."""
    pairs = [(here.seconds(model), other.seconds(model)) for _ in range(repeats + 1)][1:]
    low, median, high = statistics.quantiles([first / second for first, second in pairs], n=4)
    return {
        "model": model,
        "here_s": statistics.median(first for first, _ in pairs),
        "other_s": statistics.median(second for _, second in pairs),
        "ratio": median,
        "ratio_of_fastest": min(first for first, _ in pairs) / min(second for _, second in pairs),
        "ratio_quartiles": [low, high],
        "repeats": repeats,
    }


def main() -> None:
    """Measures each model, and prints its row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="folder of the other checkout")
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--out", type=Path, help="JSON lines")
    options = parser.parse_args()
    record(options.out, {"hardware": str(describe_hardware()), "versions": library_versions(), "threads": 1})
    here, other = Checkout(Path(__file__).parent.parent), Checkout(options.other)
    for model in options.models:
        row = compared(here, other, model, options.repeats)
        record(options.out, row)
    here.close()
    other.close()


if __name__ == "__main__":
    main()
