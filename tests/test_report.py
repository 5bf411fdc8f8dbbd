"""The report: its table, and that it is plain data."""

from __future__ import annotations

import copy
import importlib.util
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import Compiled
from graphprune.report import FrozenRow, with_whole_reasons
from tests.small_models import CLASSES, Residual, images


class Partly(Residual):
    """Has a parameter that it does not read."""

    def __init__(self) -> None:
        super().__init__()
        self.spare = nn.Parameter(torch.zeros(4))


@pytest.fixture(scope="module")
def compiled() -> Compiled:
    torch.manual_seed(0)
    data: list[tuple[Tensor, Tensor]] = [(images(4), torch.randint(CLASSES, (4,)))]
    options = {"data": data, "samples": 8, "min_channels": 3, "schedule": "linear"}
    return graphprune.compile(Partly(), images(2), sparsity=0.5, **options)  # type: ignore[arg-type]


def test_costs_rounds_and_groups(compiled: Compiled) -> None:
    report = compiled.report
    assert report.costs["channels"] == (18, 9)
    assert report.costs["params"][1] == sum(p.numel() for p in compiled.module.parameters())
    assert report.achieved["channels"] == 0.5
    assert len(report.rounds) == 7 and sum(entry.removed for entry in report.rounds) == 9
    assert [(row.id, row.name, row.before, row.after) for row in report.groups] == [
        ("g0", "stem.weight", 6, 3),
        ("g1", "conv1.weight", 4, 3),
        ("g2", "conv3.weight", 8, 3),
    ]
    assert all(row.elasticity is not None and row.elasticity >= 0 for row in report.groups)


def test_rounds_say_what_was_asked_for_and_proved(compiled: Compiled) -> None:
    for entry in compiled.report.rounds:
        assert entry.requested.keys() == {"channels"}
        assert abs(entry.achieved["channels"] - entry.requested["channels"]) <= 0.5 / 18 + 1e-9
        assert entry.loss is None or entry.loss > 0
        assert (entry.verification is not None) == (entry.removed > 0)
        assert entry.seconds > 0


def test_frozen_weights_and_their_reasons(compiled: Compiled) -> None:
    (row,) = compiled.report.frozen
    assert (row.name, row.size) == ("fc.weight", CLASSES)
    assert "leaves the program" in row.reason and row.path


class Twin(nn.Module):
    """One layer leaves the program as it is, one is added to it; of a third some channels leave."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(5, 6)
        self.head = nn.Linear(2, CLASSES)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        first, third = self.first(x), self.third(x)
        return first, torch.relu(first) + self.second(x), third[:, 2:], self.head(torch.relu(third[:, :2]))


def test_ties_and_partly_frozen_weights_are_told() -> None:
    compiled = graphprune.compile(Twin(), torch.randn(2, 5), loss=lambda output, _: output[-1].square().mean())
    rows = {row.name: row for row in compiled.report.frozen}
    assert {name: row.channels for name, row in rows.items()} == {
        "first.weight": "4", "second.weight": "4", "third.weight": "4 of 6", "head.weight": str(CLASSES),
    }  # fmt: skip
    assert len(rows["first.weight"].path) == 1 and rows["first.weight"].why == rows["first.weight"].reason
    text = str(compiled.report)
    assert "4 of 6" in text and "goes with" in text
    assert all("leaves the program" in row.reason and "test_report.py:" in row.reason for row in rows.values())


def test_a_long_path_is_cut_in_the_table() -> None:
    ties = tuple(f"a{index}.weight[0] goes with a{index + 1}.weight[0]: add" for index in range(5))
    why = FrozenRow("a0.weight", 4, 4, "leaves", (*ties, "a5.weight[0]: leaves")).why
    assert why.splitlines() == ["leaves", *(f"  {tie}" for tie in ties[:3]), "  and 2 more ties"]


def test_the_table_as_text(compiled: Compiled) -> None:
    text = str(compiled.report)
    assert all(len(line) <= 120 for line in text.splitlines())
    parts = ("Partly, captured by torch.fx", "50.0%", "stem.weight", "frozen weight", "leaves the program", "spare")
    for part in parts:
        assert part in text, part
    assert "channels │ 18" in text


def test_text_in_brackets_is_not_taken_for_markup(compiled: Compiled) -> None:
    row = replace(compiled.report.frozen[0], reason="view [1, 2] of [bold]x")
    assert "view [1, 2] of [bold]x" in str(replace(compiled.report, frozen=(row,)))


class FrozenStatistics(nn.Module):
    """Keeps its batch statistics while it trains, as backbones of detectors do; a part of it does so for itself."""

    class Body(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.norm(self.conv(x)).relu()
            return out

        def train(self, mode: bool = True) -> FrozenStatistics.Body:
            super().train(mode)
            self.norm.eval()
            return self

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm, self.body = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), self.Body()
        self.last, self.drop, self.head = nn.BatchNorm2d(6), nn.Dropout(0.1), nn.Linear(6, 2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.head(self.drop(self.last(self.body(self.norm(self.stem(x)))).mean((2, 3))))
        return out

    def train(self, mode: bool = True) -> FrozenStatistics:
        super().train(mode)
        self.norm.eval()
        return self


def test_modes_that_a_models_own_train_keeps_are_told(caplog: pytest.LogCaptureFixture) -> None:
    model = FrozenStatistics().train()
    compiled = graphprune.compile(model, torch.randn(2, 3, 9, 9), sparsity=0.3, criterion="l1-norm")
    assert compiled.report.evaluating == ("norm", "body.norm")
    assert "train() of FrozenStatistics leaves norm, body.norm in evaluation mode" in str(compiled.report)
    assert "leaves norm, body.norm in evaluation mode" in caplog.text
    modes = {name: compiled.module.get_submodule(name).training for name in ("norm", "body.norm", "last")}
    assert modes == {"norm": False, "body.norm": False, "last": True}, "as they are in the model"
    assert model.training and not model.norm.training


def test_what_train_writes_does_not_reach_the_users_model() -> None:
    class Merging(nn.Linear):
        """Adds a constant to its weights while it is evaluated, as adapters of low rank do."""

        merged = False

        def train(self, mode: bool = True) -> Any:
            super().train(mode)
            if mode == self.merged:
                self.weight.data += -1 if mode else 1
                self.merged = not mode
            return self

    first, x = Merging(4, 16), torch.randn(5, 4)
    model = nn.Sequential(first, nn.ReLU(), nn.Linear(16, 3))
    expected = copy.deepcopy(model).eval()(x)
    for training in (False, True):
        model.train(training)
        before = first.weight.clone()
        compiled = graphprune.compile(model, x, sparsity=0.5, criterion="l1-norm")
        assert torch.equal(first.weight, before) and first.merged == (not training)
        kept = compiled.plan.kept["0.weight", 0]
        dead = sorted({*range(16)} - {*kept.tolist()})
        masked = copy.deepcopy(model).eval()
        masked.get_parameter("2.weight").data[:, dead] = 0
        torch.testing.assert_close(compiled.module.eval()(x), masked(x))
    assert torch.equal(model.eval()(x), expected)


def test_modes_are_not_compared_where_train_cannot_be_called(caplog: pytest.LogCaptureFixture) -> None:
    class Refusing(FrozenStatistics):
        def train(self, mode: bool = True) -> Any:
            if mode:
                raise RuntimeError("only evaluated")
            return super().train(mode)

    compiled = graphprune.compile(Refusing(), torch.randn(2, 3, 9, 9), sparsity=0.3, criterion="l1-norm")
    assert compiled.report.evaluating == () and "only evaluated; its modes are not compared" in caplog.text


def test_plain_data(compiled: Compiled) -> None:
    content = json.loads(json.dumps(compiled.report.to_dict()))
    assert content["costs"]["channels"] == [18, 9]
    assert content["achieved"]["channels"] == 0.5
    assert content["rounds"][0]["verification"]["tolerance"] == 1e-5
    assert content["dropped"] == ["spare"]
    assert content["seconds_by_pass"]["prune-channels"] > 0


def test_a_floor_that_held_something_back_is_told(compiled: Compiled) -> None:
    floors = [line for entry in compiled.report.rounds for line in entry.bound]
    assert any("at its floor of 3" in line for line in floors)
    assert "held back: " in str(compiled.report)


MODULE = """
import torch
from torch import nn


class Partly(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.middle, self.head = nn.Conv2d(3, 6, 1), nn.Conv2d(6, 6, 1), nn.Conv2d(6, 4, 1)

    def forward(self, x):
        return self.head(self.middle(self.stem(x)).sort(dim=1).values)
"""


def test_a_report_reads_the_same_wherever_the_model_lies(tmp_path: Path) -> None:
    texts = set()
    for folder in (tmp_path / "a", tmp_path / ("a long name with spaces " * 4) / ("deep" * 20)):
        folder.mkdir(parents=True)
        (folder / "network.py").write_text(MODULE, encoding="utf-8")
        spec = importlib.util.spec_from_file_location("network", folder / "network.py")
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        torch.manual_seed(0)
        report = graphprune.compile(module.Partly(), torch.randn(2, 3, 8, 8), criterion="l1-norm").report
        frozen = str(replace(report, rounds=(), seconds_by_pass={}))
        assert "network.py:12: " in frozen, frozen
        texts.add(frozen)
    assert len(texts) == 1


def test_a_table_breaks_long_lines_behind_the_place() -> None:
    place = "aten.sort in node %values at some/package/of/somebody/with/a/long/name/models/network.py:12"
    assert with_whole_reasons(f"{place}: depends on positions: all of them") == (
        f"{place}:\n    depends on positions: all of them"
    )
    assert with_whole_reasons("add in node %add: other operand") == "add in node %add: other operand"
