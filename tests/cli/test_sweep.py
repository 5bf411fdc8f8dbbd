"""``graphprune sweep``: the table, the files, and messages for what cannot be."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from graphprune.cli import app
from graphprune.rounds.correction import Correction

BATCHES = """
import torch

def train():
    return [(torch.randn(8, 1, 28, 28), torch.randint(10, (8,))) for _ in range(2)]

test = train()

def fails():
    raise ValueError("no such data")
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "sweep_batches.py").write_text(BATCHES, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GRAPHPRUNE_CACHE", str(tmp_path))
    monkeypatch.setattr("graphprune.latency.stopwatch.REPEATS", 3)
    # what a busy machine measures is not tested here
    monkeypatch.setattr("graphprune.rounds.by_latency.CORRECTION", Correction(most=10.0))
    return tmp_path


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["sweep", *arguments])


def test_table_and_files(here: Path) -> None:
    result = run("paper:mlp5", "--latency", "0.3", "--data", "sweep_batches:train", "--test", "sweep_batches:test",
                 "--provider", "cpu", "--out", "result")  # fmt: skip
    assert result.exit_code == 0, result.output
    rows = [line.strip().split("  ")[0] for line in result.stdout.splitlines()]
    assert {"dense", "pruned -30%", "uniform -30%"} <= set(rows)
    assert "Medians of" in result.stdout and "CPUExecutionProvider, threads: 1" in result.stdout
    stored = json.loads((here / "result" / "sweep.json").read_text(encoding="utf-8"))
    assert [point["kind"] for point in stored["points"]] == ["dense", "pruned", "uniform"]
    assert all(0 <= point["accuracy"] <= 1 for point in stored["points"])
    assert (here / "result" / "sweep.svg").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--test", "sweep_batches:none"), "--test 'sweep_batches:none': sweep_batches has no 'none'"),
        (("--test", "sweep_batches"), "--test 'sweep_batches': expected package.module:name"),
        (("--data", "sweep_batches:fails"), "failed when called without arguments: ValueError: no such data"),
        (("--out", "sweep_batches.py"), "--out: sweep_batches.py is a file; name a directory"),
        (("--latency", "1.5"), "expected shares of the latency to remove, each in (0, 1)"),
    ],
)
def test_messages(arguments: tuple[str, ...], message: str, here: Path) -> None:
    result = run("paper:mlp5", *arguments)
    assert result.exit_code == 2
    assert message in " ".join(result.stderr.split())
