"""The benchmark of repairs, on random pictures."""

from __future__ import annotations

import pytest
import torch

from benchmarks import repair
from benchmarks.trained_networks import CifarResNet
from graphprune.research.datasets import Dataset, Split


@pytest.fixture(scope="module")
def data() -> Dataset:
    generator = torch.Generator().manual_seed(0)

    def split(samples: int) -> Split:
        return Split(torch.randn(samples, 3, 32, 32, generator=generator), torch.arange(samples) % 10)

    return Dataset("pictures", split(60), split(10), split(20))


def test_a_run_measures_what_it_says(data: Dataset, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(repair, "SAMPLES", 60)
    torch.manual_seed(0)
    row = repair.run("resnet8", "l2-norm", 0.3, 0, CifarResNet(1).eval(), data)
    assert set(repair.KEYS) <= row.keys() and set(repair.COLUMNS) <= row.keys()
    assert row["macs"] >= 0.3 and row["left"] == [] and row["seconds"] > 0
    assert row["loss_after"] <= row["loss_before"]
    assert row["proof_error"] < 1e-4


def test_the_summary_has_means_and_every_seed() -> None:
    rows = [
        {
            "network": "resnet20", "criterion": criterion, "macs_asked": 0.5, "seed": seed, "dense": 0.9,
            "right_after": 0.1, "recalibrated": 0.5, "repaired": repaired, "seconds": 4.0,
        }
        for criterion, repaired, seed in (("random", 0.6, 0), ("fisher", 0.7, 0), ("fisher", 0.8, 1))
    ]  # fmt: skip
    lines = repair.summary(rows).splitlines()
    assert lines[0] == "resnet20, 50% of the MACs removed, dense 90.00%"
    assert lines[1].split()[:4] == ["fisher", "10.00%", "50.00%", "75.00%"]
    assert lines[1].endswith("repaired by seed: 70.00%, 80.00%; 4.0 s")
    assert lines[2].split()[0] == "random"
