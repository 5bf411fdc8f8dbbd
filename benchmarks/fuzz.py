"""Prunes many random programs at random and counts mismatches.

Run ``python -m benchmarks.fuzz --programs 10000``.
"""

from __future__ import annotations

import argparse
import random
import time
import traceback
import warnings

import torch

from tests.property.program_ops import OPS
from tests.property.programs import RandomProgram, build, check


def run_one(seed: int) -> tuple[int, int]:
    """Builds and checks the program of a seed; gives its channels and how many were removed.

    Raises:
        Exception: whatever was wrong; `program_of` gives the program again.
    """
    generator = random.Random(seed)
    model = build(generator.randrange, OPS, 2 + generator.randrange(14))
    outcome = check(model, generator.randrange, 1 + generator.randrange(3))
    return outcome.channels, sum(outcome.removed)


def program_of(seed: int) -> RandomProgram:
    """The program of a seed."""
    generator = random.Random(seed)
    return build(generator.randrange, OPS, 2 + generator.randrange(14))


def main() -> int:
    """Runs programs from a list of seeds, prints each failure and the counts."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=1000, help="number of programs (default 1000)")
    parser.add_argument("--first-seed", type=int, default=0, help="seed of the first program (default 0)")
    options = parser.parse_args()
    torch.set_num_threads(1)
    started, channels, removed, prunable, failures = time.perf_counter(), 0, 0, 0, []
    for seed in range(options.first_seed, options.first_seed + options.programs):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                found, gone = run_one(seed)
        except Exception as error:  # a failure of any kind counts, and the run goes on
            failures.append(seed)
            print(f"seed {seed}: {type(error).__name__}: {str(error)[:600]}\n{program_of(seed)}", flush=True)
            if not isinstance(error, AssertionError):
                print("".join(traceback.format_exception(error)[-3:]), flush=True)
            continue
        channels, removed, prunable = channels + found, removed + gone, prunable + (found > 0)
    seconds = time.perf_counter() - started
    print(
        f"{options.programs} programs in {seconds:.0f} s: {len(failures)} mismatches {failures}; "
        f"{prunable} with something to prune, {removed} of {channels} channels removed"
    )
    return 1 if failures else 0


if __name__ == "__main__":
    raise SystemExit(main())
