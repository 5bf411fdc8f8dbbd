"""trace: from the user's model to a program, by the runner as by hand."""

from __future__ import annotations

import logging
import random
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from graphprune.capture import capture
from graphprune.errors import CaptureError, InputError, OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.printer import print_program
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.passes.trace import Trace
from tests.ops.case import net
from tests.small_models import CLASSES, Chain, Mlp, Residual, Transformer, images


def test_the_program_computes_what_the_model_computes() -> None:
    model = Residual()
    result = Trace(images()).run(model)
    assert result.modified and result.remarks == ("captured by torch.fx",)
    assert print_program(result.program) == print_program(capture(model, images()))
    inputs = images(3)
    assert torch.equal(result.program.module.eval()(inputs), model.eval()(inputs)), "the same ops on the same numbers"


def test_the_remark_says_why_it_was_not_an_earlier_front_end() -> None:
    model = net(lambda self, x: self.head(x if len(x) > 0 else x + 1), head=nn.Linear(5, CLASSES))
    (remark,) = Trace(torch.randn(2, 5)).run(model).remarks
    assert remark.startswith("captured by torch.export (torch.fx: RuntimeError: 'len' is not supported")


def test_the_model_is_not_changed() -> None:
    model = Residual().train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    example = images()
    state = torch.get_rng_state()
    program = Trace(example).run(model).program
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert model.training and program.module.training and torch.equal(state, torch.get_rng_state())


def test_twice_gives_the_same_program() -> None:
    model = Residual()
    first, second = (Trace(images()).run(model).program for _ in range(2))
    assert print_program(first) == print_program(second) and first.module is not second.module


@pytest.mark.parametrize(
    "example", [torch.ones(2, 5), (torch.ones(2, 5),), {"x": torch.ones(2, 5)}], ids=["tensor", "tuple", "dict"]
)
def test_every_form_of_example(example: Any) -> None:
    program = Trace(example).run(Mlp()).program
    assert [tuple(tensor.shape) for tensor in program.example.tensors()] == [(2, 5)]


def test_options_are_those_of_the_program() -> None:
    example = torch.randn(2, 5, 4)
    program = Trace(example, ("fc1",), "head_dim").run(Transformer()).program
    assert (program.protect, program.attention) == (("fc1",), "head_dim")
    plain = Trace(example).run(Transformer()).program
    assert (plain.protect, plain.attention) == ((), "heads")
    widths = [
        Runner().run(pipelines.analysis(), traced)[Dependencies].channels for traced in (plain, program)
    ]  # two heads of four indices; fc1 has twelve channels
    assert widths == [8 + 2 + 12, 8 + 4]


class Draws(nn.Module):
    """Draws a number of Python's in each call, of which tracing makes a constant."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(5, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(x) * (1 + random.random())
        return out


def test_a_graph_that_computes_something_else_is_taken_only_unseen() -> None:
    with pytest.raises(CaptureError, match="Draws cannot be captured"):
        Trace(torch.randn(2, 5)).run(Draws())
    assert Trace(torch.randn(2, 5), verify=False).run(Draws()).program.captured_by.route == "torch.fx"


@pytest.mark.parametrize(
    ("example", "message"),
    [(3, "tensor"), ((), "tensor"), (torch.randn(2, 4), "Mlp fails on its example input: RuntimeError")],
    ids=["a number", "nothing", "another width"],
)
def test_examples_that_do_not_fit(example: object, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Trace(example).run(Mlp())


def test_a_model_that_no_front_end_can_capture() -> None:
    model = net(lambda self, x: self.fc(x) if float(x.sum()) > 0 else self.fc(-x), fc=nn.Linear(5, CLASSES))
    with pytest.raises(CaptureError) as caught:
        Trace(torch.randn(2, 5)).run(model)
    for route in ("torch.fx: ", "torch.fx with sizes: ", "torch.export: "):
        assert f"\n  {route}" in str(caught.value)


# --- by the runner ----------------------------------------------------------------------------------------------------


def test_the_runner_notes_the_time_and_says_a_line(caplog: pytest.LogCaptureFixture) -> None:
    runner = Runner()
    with caplog.at_level(logging.INFO, logger="graphprune.pass_manager"):
        program = runner.start(Trace(images()), Chain())
    assert runner.seconds.keys() == {"trace"} and runner.seconds["trace"] > 0
    assert caplog.messages == ["trace: captured by torch.fx"]
    runner.seconds["trace"] = 1000.0
    runner.start(Trace(images()), Chain())
    assert runner.seconds["trace"] > 1000.0, "times add up"
    assert program.facts == {}


def test_the_runner_dumps_and_emits(tmp_path: Path) -> None:
    emitted: list[str] = []
    runner = Runner(dump_dir=tmp_path / "dump", print_after=frozenset({"trace"}), emit=emitted.append)
    program = runner.start(Trace(images()), Chain())
    assert [path.name for path in (tmp_path / "dump").iterdir()] == ["01-trace.txt"]
    assert emitted == [print_program(program)] == [(tmp_path / "dump" / "01-trace.txt").read_text(encoding="utf-8")]
    assert emitted[0].startswith("program Chain captured by torch.fx\n%x : f32[4,2,6,6] = input\n")


def test_dumps_are_numbered_on(tmp_path: Path) -> None:
    runner = Runner(dump_dir=tmp_path)
    pipelines.analysed(Chain(), images(), runner=runner)
    passes = list(runner.seconds)
    assert passes[0] == "trace" and len(passes) >= 4
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        f"{number:02}-{name}.txt" for number, name in enumerate(passes, 1)
    ]


def test_a_failing_front_end_leaves_nothing(tmp_path: Path) -> None:
    runner = Runner(dump_dir=tmp_path)
    with pytest.raises(InputError):
        runner.start(Trace(3), Mlp())
    assert runner.seconds == {} and list(tmp_path.iterdir()) == []


def test_options_reach_the_analysis() -> None:
    program = pipelines.analysed(Mlp(), torch.randn(2, 5), ("fc1",), "head_dim")
    assert (program.protect, program.attention) == (("fc1",), "head_dim") and program[Dependencies].channels == 6
    with pytest.raises(OptionError, match="'fc3' matches no module"):
        pipelines.analysed(Mlp(), torch.randn(2, 5), ("fc3",))
    with pytest.raises(CaptureError):
        pipelines.analysed(Draws(), torch.randn(2, 5))
    assert Dependencies in pipelines.analysed(Draws(), torch.randn(2, 5), verify=False)
