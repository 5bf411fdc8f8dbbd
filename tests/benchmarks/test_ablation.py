"""The ablation: which variants there are, that each runs, that a file is continued, and what its table says."""

from __future__ import annotations

import argparse
import json
import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks.paper.ablation import __main__ as ablation
from benchmarks.paper.ablation.__main__ import jobs
from benchmarks.paper.ablation.runs import Job, run
from benchmarks.paper.ablation.studies import STUDIES, Study, narrow_conv6
from benchmarks.paper.ablation.tables import summary
from benchmarks.paper.ablation.variants import Variant, variants
from benchmarks.trained_networks import CifarResNet
from graphprune.criteria.elasticity import Elasticity
from graphprune.research.datasets import Dataset, Normalisation, Split
from graphprune.research.networks import ConvNet
from graphprune.research.training import Recipe


def noise(count: int, side: int, channels: int) -> Split:
    return Split(torch.randn(count, channels, side, side), torch.arange(count) % 10)


def dataset(side: int = 28, channels: int = 1) -> Dataset:
    train, test = noise(60, side, channels), noise(40, side, channels)
    scale = Normalisation((0.0,) * channels, (1.0,) * channels)
    return Dataset("noise", train, test, test, scale)


def narrow(seed: int) -> nn.Module:
    torch.manual_seed(seed)
    features = nn.Sequential(nn.Conv2d(1, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 8, 3, 2), nn.BatchNorm2d(8))
    return ConvNet(features, 1, nn.Sequential(nn.ReLU(), nn.Linear(8, 10)))


SMALL = Study(
    lambda directory: dataset(), narrow, Recipe(1, 32), 48, 40, {"channel": (0.5,), "weight": (0.8,)}, "halving",
    16,
)  # fmt: skip


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> Study:
    monkeypatch.setitem(STUDIES, "lenet5", SMALL)
    return SMALL


def test_each_choice_is_turned_round_by_itself() -> None:
    for granularity, schedule in (("channel", "halving"), ("weight", "one-shot")):
        found = variants(granularity, schedule)  # type: ignore[arg-type]
        names = [variant.name for variant in found]
        assert len(set(names)) == len(names), "names tell them apart"
        assert {variant.accumulate for variant in found} == {"signed", "absolute", "squared"}
        assert not any(variant.training and variant.before for variant in found)
        for variant in found:
            if variant.criterion == "elasticity":
                turned = [variant.training, variant.before, variant.published, variant.schedule != schedule]
                assert sum(turned) <= 1 or (variant.before and variant.published and sum(turned) == 2)
            assert granularity == "channel" or not (variant.training or variant.before)
        assert {variant.criterion for variant in found} > {"elasticity", "random"}


def test_criteria_are_those_of_the_name() -> None:
    assert Variant("channel").ranking() == "elasticity"
    assert Variant("channel", training=True).ranking() == Elasticity(training=True)
    assert Variant("channel", before=True).ranking() == Elasticity(before_normalisation=True)
    assert Variant("channel", "l1-norm, evenly").ranking().by == "l1-norm"
    assert Variant("channel", before=True, published=True).name == (
        "signed, halving, gates before normalisation, published loss"
    )


def test_all_variants_run_on_a_fresh_network(small: Study) -> None:
    data = small.dataset(None)
    for granularity in ("channel", "weight"):
        for variant in variants(granularity, small.schedule):
            row = run(Job("lenet5", variant, 0.5, 0), narrow(0), data)
            assert "error" not in row, row
            assert 0 <= row["accuracy"] <= 1 and row["rounds"] == (1 if variant.schedule == "one-shot" else 7)
            measure = "channels" if granularity == "channel" else "weights"
            assert abs(row["removed"][measure] - 0.5) <= 0.5 / 14, "14 channels, and more weights"
            assert json.loads(json.dumps(row)) == row
            assert row["train_samples"] == 48


def test_a_trained_network_is_pruned_inside_of_blocks_and_not_changed() -> None:
    dense, data = CifarResNet(1).eval(), dataset(32, 3)
    before = {name: value.clone() for name, value in dense.state_dict().items()}
    job = Job("resnet20", Variant("channel", accumulate="absolute", schedule="one-shot"), 0.25, 0, finetune_epochs=1)
    row = run(job, dense, data)
    assert row["removed"]["channels"] == pytest.approx(0.25)
    assert {"accuracy", "accuracy_dense", "accuracy_finetuned"} <= row.keys()
    assert all(torch.equal(value, before[name]) for name, value in dense.state_dict().items())
    # 16 + 32 + 64 inside of the three blocks, and nothing else
    assert row["removed"]["params"] < 0.3


def test_a_variant_that_fails_is_a_row(small: Study) -> None:
    variant = Variant("channel", training=True, before=True)
    row = run(Job("lenet5", replace(variant, criterion="no such criterion"), 0.5, 0), narrow(0), small.dataset(None))
    assert "no such criterion" in row["error"] and "accuracy" not in row


def test_a_file_is_continued(
    small: Study, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(ablation, "variants", lambda granularity, schedule: variants(granularity, schedule)[-1:])
    out = tmp_path / "ablation.jsonl"

    def call(*seeds: str) -> list[str]:
        arguments = ["--networks", "lenet5", "--granularities", "weight", "--out", str(out), "--seeds", *seeds]
        monkeypatch.setattr(sys, "argv", ["ablation", *arguments])
        ablation.main()
        return out.read_text(encoding="utf-8").splitlines()

    first = call("0")
    second = call("0", "1")
    assert len(first) == 1 and second[:1] == first and len(second) == 2
    assert re.search(r"\| magnitude \| \d+\.\d ± \d+\.\d \(2\) \|", capsys.readouterr().out)


def test_table() -> None:
    rows = [
        {"network": "n", "granularity": "channel", "variant": name, "sparsity": sparsity, "seed": seed, "accuracy": at}
        for name, sparsity, seed, at in (
            ("worse", 0.5, 0, 0.5), ("worse", 0.5, 1, 0.6), ("better", 0.5, 0, 0.7), ("better", 0.9, 0, 0.6),
        )
    ]  # fmt: skip
    rows.append({"network": "n", "granularity": "channel", "variant": "broken", "sparsity": 0.5, "error": "LossError"})
    # by hand: sigma 0.0707 of two, 1.96 sigma / sqrt(2) = 9.8 percent points
    assert summary(rows).splitlines() == [
        "### n, channel, accuracy", "", "| variant | 50% removed | 90% removed |", "|---|---:|---:|",
        "| better | 70.0 (1) | 60.0 (1) |", "| worse | 55.0 ± 9.8 (2) |  |", "", "broken: LossError",
    ]  # fmt: skip


def test_jobs_and_their_keys() -> None:
    options = argparse.Namespace(
        seeds=[0, 1], networks=["lenet5", "resnet20"], granularities=["channel"], sparsities=[0.3], finetune_epochs=2
    )
    found = list(jobs(options))
    assert len({job.key for job in found}) == len(found) == 2 * 2 * len(variants("channel", "halving"))
    assert {job.key[0]: job.key[-1] for job in found} == {"lenet5": 0, "resnet20": 2}, "fresh ones have no fine-tuning"


def test_the_narrow_network() -> None:
    assert narrow_conv6(0).eval()(torch.randn(2, 1, 28, 28)).shape == (2, 10)
