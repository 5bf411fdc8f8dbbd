"""A sample of the coverage study that meets every family of ops; all models are in benchmarks/coverage.py."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from benchmarks.coverage_page import write_page
from benchmarks.coverage_run import Grid, study
from benchmarks.models import FAMILIES, names

ONCE = Grid(sparsities=(0.5,), rounds=(2,), export_sparsities=())

SAMPLE = {
    "torchvision:squeezenet1_1": "concatenation",
    "torchvision:mobilenet_v3_small": "depthwise convolution, squeeze and excitation",
    "torchvision:lraspp_mobilenet_v3_large": "segmentation: dict output, resampling",
    "timm:test_resnet": "residual stream, pooling",
    "timm:test_nfnet": "standardised weights",
    "timm:test_convnext": "channels last, layer norm, layer scale",
    "timm:test_mambaout": "gated convolution",
    "timm:test_vit3": "attention with layer scale",
    "transformers:bert": "embedding, attention, dataclass output",
    "transformers:llama": "grouped queries, rotary positions, RMSNorm, gated feed-forward",
    "transformers:t5": "relative position bias, cross attention, tied embedding",
    "transformers:gpt2": "causal mask, transposed weights, tied head",
    "transformers:swin": "windows, roll, patch merging",
    "transformers:segformer": "reduced keys, scales concatenated",
    "transformers:clip": "two inputs and towers",
    "transformers:whisper_encoder": "one-dimensional convolution",
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAMPLE)
def test_a_model_is_pruned_proved_and_trained(name: str) -> None:
    row = study(name, ONCE)
    assert row["outcome"] == "pass", row["reason"]
    (entry,) = row["compilations"]
    # the last channel of a round is a whole one, and small configurations have few
    assert 0.4 <= entry["removed"] <= 0.6
    assert entry["relative_error"] <= 1e-5


@pytest.mark.filterwarnings("ignore")
def test_a_model_with_windows_is_exported() -> None:
    row = study("transformers:swin", Grid(sparsities=(0.5,), rounds=(1,)))
    assert row["outcome"] == "pass", row["reason"]
    assert row["compilations"][0]["onnx_relative_error"] <= 1e-4


def test_a_model_that_is_not_there_is_a_failure() -> None:
    row = study("timm:no_such_model", ONCE)
    assert row["outcome"] == "fail" and "no_such_model" in row["reason"]


def test_the_families_of_timm_are_all_in_the_list() -> None:
    timm = pytest.importorskip("timm")
    listed = json.loads(FAMILIES.read_text(encoding="utf-8"))
    if timm.__version__ == listed["timm"]:
        assert set(listed["smallest"]) == set(timm.list_modules())
    assert len(listed["smallest"]) >= 95
    assert len(names("torchvision")) >= 80 and len(names("segmentation")) >= 6


def test_the_page_counts_outcomes_and_gives_reasons(tmp_path: Path) -> None:
    origin = {"hardware": "a machine", "versions": {"torch": "2"}}
    rows = [
        {"model": "paper:lenet5", "outcome": "pass", "reason": "", "captured_by": "torch.fx", "prunable_rows": 0.9,
         "compilations": [{"seconds": 1.0, "relative_error": 2e-7, "onnx_relative_error": 3e-7}], **origin},
        {"model": "paper:conv6", "outcome": "refused", "reason": "no\nchannels", "compilations": [], **origin},
    ]  # fmt: skip
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    write_page(tmp_path / "rows.jsonl", tmp_path / "page.md")
    page = (tmp_path / "page.md").read_text(encoding="utf-8")
    assert "| Networks of the SNIP-it paper | 2 | 1 | 1 | 0 | 90.0% | 2.0e-07 | 3.0e-07 |" in page
    assert "| lenet5 | pass | torch.fx | 1 | 90.0% | 2.0e-07 | 3.0e-07 | 1.0 |" in page
    assert "- paper:conv6: no channels" in page
