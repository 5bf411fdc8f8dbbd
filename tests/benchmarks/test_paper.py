"""The grid of the paper's studies: order, resuming, errors, numbers of tables, and one real run."""

from __future__ import annotations

import itertools
import json
import math
import statistics
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.paper import __main__ as command
from benchmarks.paper import measure
from benchmarks.paper.ablation import tables as ablation
from benchmarks.paper.data import DATASETS
from benchmarks.paper.document import filled
from benchmarks.paper.engine import by_ray
from benchmarks.paper.extras import ANALYSES
from benchmarks.paper.figures import _by_target, draw
from benchmarks.paper.grid import Choice, Run, left, runs_of
from benchmarks.paper.measure import Place, row_of
from benchmarks.paper.named import method_of
from benchmarks.paper.studies import LAMBDAS, SHOWN, STUDIES, Scale
from benchmarks.paper.summary import best, points, summary
from benchmarks.rows import Row, append, read
from graphprune.errors import InputError, OptionError
from graphprune.research.methods import METHODS, ImpGlobal, Iterated, Reinitialised, ShuffledMasks
from graphprune.research.networks import NETWORKS

PLACE = Place(None, "cpu", "cpu")
SCALES: tuple[Scale, ...] = ("cpu", "paper")
TINY = Choice(networks=["lenet5"], datasets=["mnist_5k"], samples=200, seeds=[0], sparsities=[0.5], lambdas=[1e-4])


def tiny(method: str, epochs: int = 1, study: str = "structured") -> Run:
    (run,) = runs_of(study, "cpu", replace(TINY, methods=[method], epochs=epochs))
    return run


def made_up(method: str, target: float, seed: int, accuracy: float, **more: Any) -> Row:
    """A row with the numbers that tables need."""
    run = Run("structured", "lenet5", "mnist_5k", 200, 2, 64, "float32", method, target, seed)
    sparsity = target if method != "dense" else 0.0
    found = {
        "accuracy": accuracy, "weight_sparsity": sparsity, "node_sparsity": sparsity,
        "hm_weights": 2 * sparsity * accuracy / (sparsity + accuracy),
        "hm_nodes": 2 * sparsity * accuracy / (sparsity + accuracy), "training_seconds": 8.0, "pruning_seconds": 1.0,
        "structured": True, "target_kind": "nothing" if method == "dense" else "node sparsity", "train_samples": 200,
        "macs": {"executed": 25}, "macs_dense": 100, "training_macs": 50, "training_macs_dense": 400,
        "memory_bytes": {"peak": 10, "median": 5, "first": 10}, "memory_bytes_dense": 20,
        "inference_ms": {"pruned": {"median_ms": 2.0}, "dense": {"median_ms": 6.0}},
        "training_step_ms": {"pruned": {"median_ms": 1.0}, "dense": {"median_ms": 2.0}},
        "disk": {"csr_bytes": 10, "paper_bytes": 4.0}, "disk_dense": {"csr_bytes": 160, "paper_bytes": 80.0},
    }  # fmt: skip
    return asdict(run) | found | more


# --- the table of studies --------------------------------------------------------------------------------------------


def test_every_table_and_figure_is_mapped_once() -> None:
    wanted = [f"Table {number}" for number in range(1, 5)] + [f"Figure {number}" for number in range(1, 22)]
    assert list(SHOWN) == wanted
    assert {study for study, _ in SHOWN.values()} <= {*STUDIES, None}
    assert [shown for shown, (study, _) in SHOWN.items() if study is None] == ["Figure 9"]
    told = command.mapping().splitlines()
    assert [line[:10].strip() for line in told] == wanted


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", STUDIES)
def test_studies_name_what_there_is(name: str, scale: Scale) -> None:
    study = STUDIES[name]
    assert set(study.analyses) <= set(ANALYSES)
    for setting in study.scales[scale].settings:
        assert setting.network in NETWORKS and setting.data in DATASETS
        for method in study.scales[scale].methods:
            method_of(method, max(setting.epochs, 8))
    runs = runs_of(name, scale)
    assert len({run.key for run in runs}) == len(runs) > 0


def test_the_scale_of_the_paper_is_its_protocol() -> None:
    assert LAMBDAS[0] == 5 and LAMBDAS[-1] == 1e-6 and len(LAMBDAS) == 10
    steps = [math.log(a / b) for a, b in itertools.pairwise(LAMBDAS)]
    assert steps == pytest.approx([math.log(5e6) / 9] * 9, rel=3e-3)  # three digits are kept
    for name, study in STUDIES.items():
        sizes = study.scales["paper"]
        assert {setting.epochs for setting in sizes.settings} == ({0} if name == "elasticities" else {80})
        assert all(setting.samples is None for setting in sizes.settings)
        batches = {setting.data == "imagenette": setting.batch_size for setting in sizes.settings if setting.epochs}
        assert all(size == (128 if larger else 512) for larger, size in batches.items())
    assert STUDIES["unstructured"].scales["paper"].seeds == STUDIES["structured"].scales["paper"].seeds == 5


def test_studies_have_all_methods_of_their_kind() -> None:
    for name, structured in (("unstructured", False), ("structured", True)):
        methods = {each: METHODS[each] for each in METHODS.names() if not each.startswith("cnip-it")}
        wanted = {each for each, method in methods.items() if method.structured == structured}
        assert set(STUDIES[name].scales["cpu"].methods) == wanted | {"dense"}


def test_intervals_are_in_proportion_to_the_papers_epochs() -> None:
    during, rewinding = method_of("snip-it during", 80), method_of("imp-global", 80)
    assert isinstance(during, Iterated) and during.every == 4
    assert isinstance(rewinding, ImpGlobal) and (rewinding.rewind_epoch, rewinding.every) == (6, 4)
    shuffled, fresh = method_of("snip-it during, shuffled", 40), method_of("snap-it, re-initialised", 40)
    assert isinstance(shuffled, ShuffledMasks) and isinstance(shuffled.of, Iterated) and shuffled.of.every == 2
    assert isinstance(fresh, Reinitialised) and fresh.name == "snap-it, re-initialised"
    joined = method_of("snip-it during, on paths", 40)
    assert isinstance(joined, Iterated) and (joined.dead_paths, joined.every) == ("remove", 2)
    with pytest.raises(OptionError, match="unknown"):
        method_of("no such method", 8)
    with pytest.raises(OptionError, match="snap-it: dead paths are of methods that remove weights"):
        method_of("snap-it, on paths", 8)
    by_default, as_published = method_of("snap-it during, absolute", 80), method_of("snap, published loss", 80)
    assert isinstance(by_default, Iterated) and isinstance(as_published, Iterated)
    assert (by_default.accumulate, by_default.published_loss, by_default.every) == ("absolute", False, 4)
    assert (as_published.accumulate, as_published.published_loss) == ("signed", True)
    for name in ("random-nodes, absolute", "grasp, published loss"):
        with pytest.raises(OptionError, match="methods that rank by elasticity"):
            method_of(name, 8)


# --- the grid --------------------------------------------------------------------------------------------------------


def test_all_of_a_seed_comes_before_the_next_one_and_dense_first() -> None:
    runs = runs_of("structured", "cpu")
    seeds = [run.seed for run in runs]
    assert seeds == sorted(seeds) and set(seeds) == {0, 1, 2}
    assert runs[0].method == "dense"
    of_one = [replace(run, seed=0) for run in runs if run.seed == 2]
    assert of_one == [run for run in runs if run.seed == 0]


def test_targets_are_of_the_kind_that_a_method_takes() -> None:
    runs = runs_of("structured", "cpu", Choice(networks=["lenet5"], seeds=[0]))
    targets = {method: [run.target for run in runs if run.method == method] for method in ("dense", "snap-it", "l0")}
    assert targets["dense"] == [0.0] and targets["snap-it"] == [0.5, 0.7, 0.85, 0.93]
    assert len(targets["l0"]) > 2
    (chosen,) = runs_of("structured", "cpu", replace(TINY, methods=["snap"], epochs=3, batch_size=32))
    assert chosen == Run("structured", "lenet5", "mnist_5k", 200, 3, 32, "float32", "snap", 0.5, 0)


def test_data_of_the_study_keeps_its_setting_and_other_data_takes_the_largest() -> None:
    def sizes(data: str) -> set[tuple[int, int | None, int]]:
        choice = Choice(networks=["mlp5"], methods=["dense"], datasets=[data])
        return {(run.epochs, run.samples, run.batch_size) for run in runs_of("unstructured", "cpu", choice)}

    assert sizes("mnist_5k") == {(20, None, 128)} and sizes("fashion_mnist") == sizes("cifar10") == {(10, None, 512)}


def test_what_is_in_the_file_is_left_out() -> None:
    runs = runs_of("unstructured", "cpu", Choice(networks=["mlp5"], methods=["dense", "snip"], seeds=[0, 1]))
    rows = [asdict(runs[0]), asdict(runs[3]) | {"error": "no"}]
    assert left(runs, json.loads(json.dumps(rows))) == [*runs[1:3], *runs[4:]]
    assert left(runs, rows, again=True) == runs[1:]


def test_a_line_that_was_cut_off_is_left_out_and_not_written_on(tmp_path: Path) -> None:
    path = tmp_path / "new" / "rows.jsonl"
    append(path, {"a": 1})
    with path.open("a") as file:
        file.write('{"a": 2, "b')
    append(path, {"a": 3})
    append(path, {"a": 4})
    with path.open("a") as file:
        file.write("[5]\n")
    assert [row["a"] for row in read(path)] == [1, 3, 4]
    assert read(tmp_path / "none.jsonl") == []


def test_the_command_resumes_and_records_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    made: list[str] = []

    def fake(run: Run, data: Any, place: Place) -> dict[str, Any]:
        made.append(run.method)
        if run.method == "snap":
            raise RuntimeError("too much")
        return {"accuracy": 0.5, "weight_sparsity": 0.25, "node_sparsity": 0.125}

    monkeypatch.setattr(measure, "_measured", fake)
    path = tmp_path / "rows.jsonl"
    arguments = ["structured", "--networks", "lenet5", "--datasets", "mnist_5k", "--seeds", "0", "--sparsities", "0.5",
                 "--device", "cpu", "--out", str(path), "--methods"]  # fmt: skip
    assert command.main([*arguments, "dense", "snap", "snap-it"]) == 1
    assert made == ["dense", "snap", "snap-it"]
    rows = read(path)
    assert [row.get("error") for row in rows] == [None, "RuntimeError: too much", None]
    assert all(row["threads"] == 1 and row["versions"]["torch"] and row["hardware"]["cores"] for row in rows)
    assert command.main([*arguments, "dense", "snap", "snap-it", "l0", "--lambdas", "1"]) == 0
    assert made[3:] == ["l0"]
    assert command.main([*arguments, "snap", "--again"]) == 1
    assert made[4:] == ["snap"] and len(read(path)) == 5
    capsys.readouterr()


def test_data_that_is_not_there_makes_no_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "rows.jsonl"
    assert command.main(["imagenette", "--data-dir", str(tmp_path), "--out", str(path), "--device", "cpu"]) == 1
    assert not path.exists() and "imagenette" in capsys.readouterr().err
    with pytest.raises(InputError, match="imagenette"):
        row_of(replace(tiny("dense"), data="imagenette"), Place(tmp_path, "cpu", "cpu"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["structured", "snap"], "name methods by --methods"),
        (["summary", "structure"], "no such study: structure"),
        (["summary", "--out", "none.jsonl"], "no results at none.jsonl"),
        (["structured", "--networks", "vgg16"], "structured at scale cpu has no vgg16; its networks are lenet5, conv6"),
        (["structured", "--methods", "snapp"], "snapp"),
        (["structured", "--samples", "-5"], "expected a whole number, at least 1, got -5"),
        (["structured", "--batch-size", "0"], "at least 1, got 0"),
        (["structured", "--epochs", "1.5"], "at least 0, got 1.5"),
        (["structured", "--sparsities", "0.5", "1.5"], "expected a share between 0 and 1, got 1.5"),
        (["structured", "--lambdas", "x"], "expected a number, got x"),
        (["structured", "--device", "tpu"], "--device tpu: Expected one of"),
        (["structured", "--device", "meta"], "--device meta: tensors have no values there"),
        (["structured", "--methods", "snip, on paths, on paths"], "the same variant twice"),
        (["structured", "--out", "."], ". is a folder"),
        (["summary", "--out", "benchmarks/results/latency.jsonl"], "rows that are no runs"),
    ],
)
def test_what_cannot_be_meant_ends_with_a_message(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        code: object = command.main([*arguments, "--plan"])
    except SystemExit as ended:
        code = ended.code
    assert code == 2 and message in capsys.readouterr().err


def test_a_seed_named_twice_is_run_once() -> None:
    choice = Choice(networks=["lenet5"], methods=["dense"], seeds=[1, 1])
    assert [run.seed for run in runs_of("structured", "cpu", choice)] == [1]


# --- tables and figures ----------------------------------------------------------------------------------------------


def test_the_document_has_the_tables_of_the_rows() -> None:
    rows = [made_up("dense", 0.0, 0, 0.9), made_up("snap-it", 0.7, 0, 0.8)]
    text = "before\n<!-- accuracy structured lenet5 mnist_5k -->\nstale\n<!-- end -->\nafter <!-- end -->\n"
    made = filled(text, [*rows, made_up("snap", 0.7, 0, 0.5, network="conv6")])
    assert made.startswith("before\n<!-- accuracy structured lenet5 mnist_5k -->\n\n") and made.endswith(
        "\n\n<!-- end -->\nafter <!-- end -->\n"
    )
    assert "| snap-it | 80.0 |" in made and "stale" not in made and "| snap |" not in made
    assert filled(made, rows) == made
    for wrong in (text.replace("accuracy", "beauty"), text.replace("lenet5", "vgg16")):
        with pytest.raises(OptionError, match="expected one of accuracy"):
            filled(wrong, rows)
    with pytest.raises(OptionError, match=r"2 epochs.*9 epochs"):
        filled(text, [*rows, made_up("snap", 0.7, 0, 0.5, epochs=9)])


def test_the_document_has_attacks_and_layers() -> None:
    measured = {
        "robustness": {"success": {"0.1": 0.0, "0.25": 0.1, "0.5": 0.25, "1.0": 0.5, "2.0": 1.0}},
        "remaining": {"weights": [{"name": "fc1", "before": 200, "left": 3}, {"name": "fc2", "before": 10, "left": 5}]},
    }
    rows = [made_up("snip", 0.9, seed, 0.8) | measured for seed in (0, 1)]
    text = "<!-- {} structured lenet5 mnist_5k --><!-- end -->"
    assert "| snip | 0.9 | 2 | 80.0 ± 0.0 | 10.0 ± 0.0 | 25.0 ± 0.0 | 50.0 ± 0.0 | 100.0 ± 0.0 |" in filled(
        text.format("attacks"), rows
    )
    of_layers = filled(text.format("layers"), rows)
    assert "| fc1, % | fc2, % |" in of_layers and "| snip | 0.9 | 2 | 1.5 ± 0.0 | 50.0 ± 0.0 |" in of_layers


def test_the_document_is_that_of_the_results() -> None:
    rows = [row for study in STUDIES for row in read(command.RESULTS / f"{study}.jsonl")]
    text = command.DOCUMENT.read_text(encoding="utf-8")
    assert filled(text, rows, read(ablation.RESULTS)) == text, "run `python -m benchmarks.paper document`"


def test_the_document_has_the_ablation() -> None:
    rows = [
        {"network": "lenet5", "granularity": "channel", "variant": "signed", "sparsity": 0.7, "seed": seed,
         "accuracy": accuracy}
        for seed, accuracy in enumerate((0.5, 0.7))
    ]  # fmt: skip
    text = "<!-- ablation lenet5 channel -->stale<!-- end -->"
    # 1.96 times the deviation 14.1 over the root of two
    assert "| signed | 60.0 ± 19.6 (2) |" in filled(text, [], rows) and "stale" not in filled(text, [], rows)
    with pytest.raises(OptionError, match="a network and a granularity that the ablation has"):
        filled(text.replace("channel", "weight"), [], rows)


def test_tables_have_the_means_and_intervals_of_the_rows() -> None:
    accuracies = [0.80, 0.83, 0.85]
    rows = [made_up("snap-it", 0.7, seed, accuracy) for seed, accuracy in enumerate(accuracies)]
    rows += [made_up("dense", 0.0, 0, 0.9), made_up("snap-it", 0.9, 0, 0.2)]
    rows.append(asdict(tiny("snap")) | {"error": "OptionError: it cannot work"})
    text = summary(rows)
    mean, half = statistics.mean(accuracies), 1.96 * statistics.stdev(accuracies) / math.sqrt(3)
    # all points, their costs, the best of each method: a harmonic mean of .7 and .83, not of .9 and .2
    accuracy, cost, chosen = (line for line in text.splitlines() if line.startswith("| snap-it | 0.7 | 3 |"))
    assert f"| {100 * mean:.1f} ± {100 * half:.1f} |" in accuracy and chosen == accuracy
    # work, also in training; memory, also at the start; a step, a pass; bytes on disk, also the paper's; seconds
    assert cost.split("|")[4:-1] == [f" {value:.1f} ± 0.0 " for value in (4, 8, 4, 2, 2, 3, 16, 20, 8, 1)]
    assert "| snap-it | 0.9 | 1 | 20.0 | 90.0 | 90.0 |" in text and "| dense | - | 1 | 90.0 | 0.00 |" in text
    assert "(dense: 90.0)" in text and "| method | 70 % of nodes | 90 % of nodes |" in text
    assert f"| snap-it | {100 * mean:.1f} ± {100 * half:.1f} | 20.0 |" in text
    assert "OptionError: it cannot work" in text
    assert [each.target for each in best([p for p in points(rows) if p.method == "snap-it"])] == [0.7]


def test_of_two_rows_of_one_run_the_last_counts() -> None:
    rows = [made_up("snap-it", 0.7, 0, 0.1), made_up("snap-it", 0.7, 0, 0.6)]
    (point,) = points(rows)
    assert [row["accuracy"] for row in point.rows] == [0.6]
    failed = asdict(Run("structured", "lenet5", "mnist_5k", 200, 2, 64, "float32", "snap-it", 0.7, 0)) | {"error": "no"}
    assert "failed" not in summary([failed, *rows])


def test_figures_are_drawn_and_are_the_same_again(tmp_path: Path) -> None:
    rows = [made_up("snap-it", at, seed, 0.9 - at / 4 + seed / 100) for at in (0.5, 0.7) for seed in (0, 1)]
    rows.append(made_up("dense", 0.0, 0, 0.9))
    paths = draw(rows, tmp_path / "one")
    assert [path.name for path in paths] == ["structured-nodes.svg", "structured-costs.svg", "structured-memory.svg"]
    again = draw(rows, tmp_path / "two")
    assert [path.read_bytes() for path in paths] == [path.read_bytes() for path in again]


# --- real runs -------------------------------------------------------------------------------------------------------


def test_a_structured_run_has_every_metric() -> None:
    run = tiny("random-nodes", epochs=2)
    row = json.loads(json.dumps(row_of(run, PLACE)))
    assert "error" not in row, row
    assert {name: row[name] for name in asdict(run)} == asdict(run)
    assert row["train_samples"] == 200 and row["test_samples"] == 1000
    assert 0 < row["accuracy"] < 1 and 0.5 < row["weight_sparsity"] < 1
    assert row["node_sparsity"] == pytest.approx(0.5, abs=0.01) == row["node_sparsity_of_channels"]
    share, accuracy = row["node_sparsity"], row["accuracy"]
    assert row["hm_nodes"] == pytest.approx(2 / (1 / share + 1 / accuracy))
    # LeNet5, by hand: positions x weights of its convolutions, then its linear layers
    dense = 28 * 28 * 6 * 25 + 10 * 10 * 16 * 150 + 120 * 400 + 1080 * 84 + 84 * 10
    small = 28 * 28 * 3 * 25 + 10 * 10 * 8 * 75 + 60 * 200 + 540 * 42 + 42 * 10
    assert (row["macs_dense"], row["macs"]["executed"]) == (dense, small)
    assert (row["training_macs"], row["training_macs_dense"]) == (3 * 2 * 200 * small, 3 * 2 * 200 * dense)
    assert len(row["epoch_losses"]) == 2 == len(row["epoch_seconds"])
    assert row["training_seconds"] == pytest.approx(sum(row["epoch_seconds"])) and row["pruning_seconds"] > 0
    memory = row["memory_bytes"]
    assert row["memory_bytes_dense"] > memory["peak"] == memory["median"] == memory["first"] > 0
    for timed in ("inference_ms", "training_step_ms"):
        assert row[timed]["dense"]["median_ms"] > 0 < row[timed]["pruned"]["p10_ms"]
    left_weights = 3 * 25 + 8 * 75 + 60 * 200 + 540 * 42 + 42 * 10
    assert row["disk"]["dense_bytes"] == 4 * left_weights
    assert [layer["left"] for layer in row["remaining"]["weights"]] == [75, 600, 12000, 22680, 420]
    assert {"csr_bytes", "paper_bytes", "smaller_bytes"} <= set(row["disk"]) == set(row["disk_dense"])


def test_work_is_counted_on_the_network_as_it_was_in_each_epoch() -> None:
    row = row_of(tiny("snap-it during", epochs=8), PLACE)
    assert "error" not in row, row
    samples = 3 * 200
    assert samples * 8 * row["macs"]["executed"] < row["training_macs"] < samples * 8 * row["macs_dense"]
    # the first epoch is the dense network's
    assert row["memory_bytes"]["first"] == row["memory_bytes"]["peak"] > row["memory_bytes"]["median"]


def test_an_unstructured_run_has_zeros_but_no_smaller_network() -> None:
    row = row_of(tiny("snip", study="unstructured"), PLACE)
    assert "error" not in row, row
    assert row["weight_sparsity"] == pytest.approx(0.5, abs=1e-4)
    assert row["macs"]["executed"] == row["macs_dense"] > row["macs"]["nonzero"]
    assert row["training_macs"] == row["training_macs_dense"] > row["training_macs_nonzero"]
    assert "memory_bytes" not in row and "inference_ms" not in row


def test_a_control_costs_what_its_own_training_costs() -> None:
    row = row_of(tiny("snip, shuffled", study="controls"), PLACE)
    assert "error" not in row, row
    assert row["training_macs"] == 3 * 200 * row["macs_dense"]
    assert row["weight_sparsity"] == pytest.approx(0.5, abs=1e-4)


def test_a_run_can_be_repeated() -> None:
    rows = []
    for _ in range(2):
        torch.rand(3)
        rows.append(row_of(tiny("snap"), PLACE))
    assert rows[0]["epoch_losses"] == rows[1]["epoch_losses"] and rows[0]["accuracy"] == rows[1]["accuracy"]


@pytest.mark.parametrize(
    "study, network, method, file",
    [
        ("elasticities", "lenet5", "dense", "elasticities.svg"),
        ("saliency", "mlp5", "snip", "saliency-maps-mlp5-mnist_5k-0.5.svg"),
        ("remaining", "mlp5", "snip", "remaining-mlp5-mnist_5k-0.5.svg"),
    ],
)
def test_analyses_are_in_the_row_and_drawn(study: str, network: str, method: str, file: str, tmp_path: Path) -> None:
    (run,) = runs_of(study, "cpu", replace(TINY, methods=[method], epochs=0, networks=[network]))
    row = json.loads(json.dumps(row_of(run, PLACE)))
    assert row[study], row
    assert (tmp_path / file) in draw([row], tmp_path)


def test_of_a_penalty_the_sparsity_that_came_closest_is_shown(tmp_path: Path) -> None:
    success = {"images": 3, "classified": 2, "distances": [0.4, None], "success": {"0.5": 0.5, "1.0": 0.5}}
    rows = [made_up("snip", 0.9, 0, 0.8, robustness=success, target_kind="weight sparsity", structured=False)]
    for penalty, sparsity in ((1e-3, 0.999), (1e-4, 0.92), (1e-5, 0.1)):
        more = {"robustness": success, "target_kind": "lambda", "structured": False, "weight_sparsity": sparsity}
        rows.append(made_up("hoyer-square", penalty, 0, 0.7, **more))
    names = [path.name for path in draw(rows, tmp_path)]
    assert "structured-lenet5-mnist_5k-0.9.svg" in names and "structured-at-0.5.svg" in names
    (side,) = _by_target(points(rows)).values()
    assert {label: point.target for label, point in side.items()} == {"snip": 0.9, "hoyer-square, 92.0%": 1e-4}


@pytest.mark.skipif(find_spec("ray") is None, reason="needs ray")
@pytest.mark.slow
def test_ray_makes_the_same_rows() -> None:
    runs = [tiny("snap"), tiny("random-nodes")]
    rows = {row["method"]: row for row in by_ray(runs, PLACE, at_once=2)}
    assert rows["snap"]["epoch_losses"] == row_of(runs[0], PLACE)["epoch_losses"]
    assert rows["random-nodes"]["threads"] == 1
