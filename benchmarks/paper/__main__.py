"""The experiments of the SNIP-it paper, a command for each study, its tables and its figures.

Each run of a study's grid becomes one JSON line; runs whose line is in the file are not made again.

    python -m benchmarks.paper --list
    python -m benchmarks.paper structured --scale cpu --data-dir DIR --networks lenet5
    python -m benchmarks.paper summary structured
    python -m benchmarks.paper figures structured
    python -m benchmarks.paper document
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from benchmarks.arguments import count, count_from_zero, positive, share
from benchmarks.paper.ablation import tables as ablation
from benchmarks.paper.data import DATASETS
from benchmarks.paper.document import filled
from benchmarks.paper.engine import by_ray, one_by_one
from benchmarks.paper.figures import draw
from benchmarks.paper.grid import Choice, Run, left, runs_of
from benchmarks.paper.measure import Place, check_data
from benchmarks.paper.studies import SHOWN, STUDIES
from benchmarks.paper.summary import summary
from benchmarks.rows import Row, append, read
from graphprune.errors import OptionError, UserError
from graphprune.research.networks import NETWORKS

RESULTS = Path(__file__).resolve().parent / "results"
DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "paper.md"


def mapping() -> str:
    """Returns a list of which study shows which table or figure of the paper."""
    return "\n".join(f"{shown:<10} {study or '-':<13} {what}" for shown, (study, what) in SHOWN.items())


def parser() -> argparse.ArgumentParser:
    """The options of the command line."""
    made = argparse.ArgumentParser(
        prog="python -m benchmarks.paper", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("study", nargs="?", choices=[*STUDIES, *SHOW])
    made.add_argument("of", nargs="*", help="of summary and figures: studies; default: those that have results")
    made.add_argument("--list", action="store_true", help="which study shows which table or figure, and stop")
    made.add_argument("--scale", choices=["cpu", "paper"], default="cpu")
    made.add_argument("--data-dir", type=Path, help="of the datasets; default: GRAPHPRUNE_DATA")
    made.add_argument("--out", type=Path, help="JSON lines; default: results/STUDY.jsonl beside this file")
    made.add_argument("--into", type=Path, default=RESULTS, help="of figures: the folder for SVG files")
    made.add_argument("--networks", nargs="+", choices=list(NETWORKS))
    made.add_argument("--datasets", nargs="+", choices=list(DATASETS), help="each with every network")
    made.add_argument("--methods", nargs="+")
    made.add_argument("--sparsities", nargs="+", type=share)
    made.add_argument("--lambdas", nargs="+", type=positive)
    made.add_argument("--seeds", nargs="+", type=count_from_zero)
    made.add_argument("--samples", type=count, help="to train on")
    made.add_argument("--epochs", type=count_from_zero)
    made.add_argument("--batch-size", type=count)
    made.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    made.add_argument("--ray", type=count, metavar="N", help="N runs at a time, by Ray")
    made.add_argument("--again", action="store_true", help="make runs again that ended in an error")
    made.add_argument("--plan", action="store_true", help="print the runs that are left, and stop")
    return made


def make(options: argparse.Namespace) -> int:
    """Makes the runs of a study that its file lacks; returns how many ended in an error or could not be made."""
    path = options.out or RESULTS / f"{options.study}.jsonl"
    choice = Choice(**{name: getattr(options, name) for name in Choice.__annotations__})
    runs = left(runs_of(options.study, options.scale, choice), _rows(path), options.again)
    if options.plan:
        print("\n".join(map(str, runs)))
        return 0
    place = Place(options.data_dir, options.device, options.scale)
    wanted, runs = len(runs), _with_data(runs, place)
    rows = one_by_one(runs, place) if options.ray is None else by_ray(runs, place, options.ray)
    errors = wanted - len(runs)
    for number, row in enumerate(rows, start=1):
        append(path, row)
        errors += "error" in row
        print(f"{time.strftime('%H:%M:%S')} {number} of {len(runs)}: {told(row)}", flush=True)
    return errors


def show(options: argparse.Namespace) -> int:
    """Prints the tables of results files, draws their figures, or writes the document with new tables.

    Raises:
        OptionError: a file does not exist, or is not a file of runs.
    """
    paths = [RESULTS / f"{study}.jsonl" for study in options.of or STUDIES] if options.out is None else [options.out]
    missing = [str(path) for path in paths if not path.exists()] if options.of or options.out else []
    if missing:
        raise OptionError(f"no results at {', '.join(missing)}; make runs first, see --list")
    rows = [row for path in paths for row in _rows(path)]
    SHOW[options.study](rows, options)
    return 0


def _rows(path: Path) -> list[Row]:
    rows = read(path)
    if not all(Run.__annotations__.keys() <= row.keys() for row in rows):
        raise OptionError(f"{path} has rows that are no runs; name a file that a study has written")
    return rows


def _document(rows: list[Row], options: argparse.Namespace) -> None:
    DOCUMENT.write_text(filled(DOCUMENT.read_text(encoding="utf-8"), rows, read(ablation.RESULTS)), encoding="utf-8")


SHOW: dict[str, Callable[[list[Row], argparse.Namespace], None]] = {
    "summary": lambda rows, options: print(summary(rows)),
    "figures": lambda rows, options: print("\n".join(map(str, draw(rows, options.into)))),
    "document": _document,
}
"""Commands that only show results, by name."""


def told(row: Row) -> str:
    """Returns a row as one line of text."""
    run = Run(**{name: row[name] for name in Run.__annotations__})
    if "error" in row:
        return f"{run}: {row['error']}"
    return (f"{run}: accuracy {row['accuracy']:.2%}, weights -{row['weight_sparsity']:.2%}, nodes "
            f"-{row['node_sparsity']:.2%}, {row['run_seconds']:.0f} s")  # fmt: skip


def _with_data(runs: Sequence[Run], place: Place) -> list[Run]:
    """Returns the runs whose data exists; prints what is missing for the others."""
    missing = {}
    for data in {run.data: run for run in runs}.values():
        if (reason := check_data(data, place)) is not None:
            missing[data.data] = reason
            print(f"left out: {reason}", file=sys.stderr)
    return [run for run in runs if run.data not in missing]


def _check(options: argparse.Namespace) -> None:
    """Ends the program if the options do not fit together."""
    if options.study is None:
        parser().error("name a study, or --list")
    if options.of and options.study not in SHOW:
        parser().error(f"{' '.join(options.of)}: not of a study; name methods by --methods, networks by --networks")
    if unknown := [study for study in options.of if study not in STUDIES]:
        parser().error(f"no such study: {', '.join(unknown)}; there are {', '.join(STUDIES)}")
    try:
        values = not torch.empty(0, device=options.device).is_meta
    except (RuntimeError, AssertionError) as error:  # torch raises one for a wrong name, the other for a missing device
        parser().error(f"--device {options.device}: {str(error).splitlines()[0]}")
    if not values:
        parser().error(f"--device {options.device}: tensors have no values there")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the command; returns the exit code."""
    options = parser().parse_args(arguments)
    logging.basicConfig(format="%(message)s")
    if options.list:
        print(mapping())
        return 0
    _check(options)
    torch.set_num_threads(1)
    try:
        return show(options) if options.study in SHOW else min(make(options), 1)
    except UserError as error:  # an unknown method, for example, or a table without rows
        print(error, file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
