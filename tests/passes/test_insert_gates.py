"""insert-gates: a factor for each channel that is one, printed in its place, and read by criteria that score by it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from typer.testing import CliRunner

from graphprune.cli import app
from graphprune.criteria import CRITERIA, criterion_of
from graphprune.criteria.elasticity import Elasticity
from graphprune.criteria.evenly import Evenly
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Accumulate
from graphprune.errors import InternalError
from graphprune.gates.insertion import GATE, GatedModule, Gating
from graphprune.pass_manager.printer import print_program
from graphprune.pass_manager.protocol import PassResult
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.passes.insert_gates import InsertGates
from graphprune.passes.score_channels import ScoreChannels
from graphprune.program.module_state import evaluating
from graphprune.program.program import Program
from tests.gates.test_recurrent import MODELS as RECURRENT
from tests.scoring import batches_like, leaving_no_trace, prepared, sensitivity
from tests.small_models import (
    NETWORKS,
    Chain,
    Residual,
    Transformer,
    analysed,
    images,
    randomised,
)

ACCUMULATIONS: tuple[Accumulate, ...] = ("signed", "absolute", "squared")

MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **NETWORKS,
    **{name: (RECURRENT[name], (7, 5)) for name in ("lstm", "gru", "rnn")},
}


def with_gates(program: Program, **options: bool) -> Program:
    return Runner().run([InsertGates(Gating(**options))], program)


def text_of(model: nn.Module, example: Tensor, **options: bool) -> list[str]:
    return print_program(with_gates(analysed(model, example)[0], **options)).splitlines()


# --- the program with its gates ---------------------------------------------------------------------------------------


def test_the_printed_program_has_its_gates() -> None:
    lines = text_of(Chain(), images())
    assert lines[2:9] == [
        "%conv : f32[2,6,6,6] = conv2d(%x, @conv.weight, @conv.bias) {group=g0}",
        "%norm : f32[2,6,6,6] = batchnorm2d(%conv, @norm.weight, @norm.bias) {group=g0}",
        "%_gate : f32[7] = @_gate",
        "%_gate_map_0 : i64[1,6,1,1] = @_gate_map_0",
        "%look_up : f32[1,6,1,1] = look_up(%_gate, %_gate_map_0)",
        "%mul : f32[2,6,6,6] = mul(%norm, %look_up)",
        "%relu : f32[2,6,6,6] = relu(%mul, inplace=False) {group=g0}",
    ]
    assert lines[-1].startswith("g0: 6 channels of @conv.weight[0], ")


def test_before_normalisation() -> None:
    lines = text_of(Chain(), images(), before_normalisation=True)
    assert lines[6:9] == [
        "%mul : f32[2,6,6,6] = mul(%conv, %look_up)",
        "%norm : f32[2,6,6,6] = batchnorm2d(%mul, @norm.weight, @norm.bias) {group=g0}",
        "%relu : f32[2,6,6,6] = relu(%norm, inplace=False) {group=g0}",
    ]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("per_sample", [False, True])
def test_every_node_of_the_printed_program_has_its_type(name: str, per_sample: bool) -> None:
    """It is found by a run, which a gate of another shape than the places need would end."""
    factory, shape = MODELS[name]
    nodes = [line for line in text_of(factory(), torch.randn(2, *shape), per_sample=per_sample) if line.startswith("%")]
    untyped = [line for line in nodes if " : " not in line.partition(" = ")[0]]
    assert all("getattr(" in line or "getitem(" in line or "floordiv(" in line for line in untyped), untyped


def test_heads_have_gates_behind_the_attention() -> None:
    lines = text_of(Transformer(), torch.randn(2, 5, 4))
    assert "%_gate_map_1 : i64[1,2,1,1] = @_gate_map_1" in lines
    assert "%mul_3 : f32[2,2,5,4] = mul(%scaled_dot_product_attention, %look_up_1)" in lines


def test_a_recurrent_layer_is_gated_step_by_step() -> None:
    lines = text_of(RECURRENT["rnn"](), torch.randn(2, 7, 5))
    (layer,) = [line for line in lines if line.startswith("%_gate_layer_cell")]
    assert "= gatedrecurrent(%look_up_1, %mul, @_gate_layer_cell.layer.weight_ih_l0, " in layer


def test_what_is_said_of_it() -> None:
    program, _ = analysed(Residual(), images())
    result = InsertGates().run(program)
    assert result.modified and result.remarks == ("18 gates at 5 places",)
    gated = result.program[GatedModule]
    assert (gated.channels, gated.per_sample, gated.gating) == (18, False, Gating())
    assert [site.node for site in gated.sites] == ["stem_norm", "norm1", "norm2", "norm3", "short_norm"]


def test_the_program_itself_stays_as_it_is() -> None:
    program, _ = analysed(Residual(), images())
    with leaving_no_trace(program):
        after = with_gates(program)
    assert after.module is program.module and after.without(GatedModule).facts == program.facts
    gated = after[GatedModule].module
    assert gated is not program.module and f"{GATE}_map_0" not in program.module.state_dict()
    assert gated.get_parameter("conv1.weight") is program.module.get_parameter("conv1.weight")


def test_a_second_run_finds_the_same() -> None:
    once = with_gates(analysed(Residual(), images())[0])
    twice = with_gates(once)
    assert print_program(twice) == print_program(once)
    other = with_gates(once, before_normalisation=True)
    assert other[GatedModule].gating == Gating(before_normalisation=True), "gates of another kind replace them"
    assert "mul(%stem, %look_up)" in print_program(other)


def test_where_all_channels_are_frozen_there_is_no_gate() -> None:
    program, _ = analysed(nn.Linear(5, 3), torch.randn(2, 5))
    result = InsertGates().run(program)
    assert result.remarks == ("0 gates at 0 places",)
    assert InsertGates().ensures(program, result) == []


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16])
@pytest.mark.parametrize("options", [{}, {"before_normalisation": True}, {"per_sample": True}])
@pytest.mark.parametrize("name", MODELS)
def test_gates_of_one_leave_outputs_equal(name: str, options: dict[str, bool], dtype: torch.dtype) -> None:
    factory, shape = MODELS[name]
    program, _ = analysed(randomised(factory()).to(dtype), torch.randn(2, *shape).to(dtype))
    gated, inputs = with_gates(program, **options)[GatedModule], program.example.args[0]
    with evaluating(program.module), evaluating(gated.module), torch.no_grad():
        expected = program.module(inputs)
        if name in RECURRENT:  # loops over steps in place of a kernel add up in another order, within some roundings
            tolerance = 100 * torch.finfo(dtype).eps
            torch.testing.assert_close(gated.module(inputs), expected, rtol=tolerance, atol=tolerance)
        else:
            assert torch.equal(gated.module(inputs), expected)


def test_where_a_place_has_no_dim_of_samples_there_is_one_gate_for_all() -> None:
    program, _ = analysed(RECURRENT["gru with learned states"](), torch.randn(2, 7, 5))
    gated = with_gates(program, per_sample=True)[GatedModule]
    assert not gated.per_sample and gated.gating.per_sample


# --- who reads them ---------------------------------------------------------------------------------------------------

READS = [
    "elasticity", "elasticity-per-mac", "elasticity-per-param", "fisher", "fisher-per-mac", "fisher-per-param",
    "taylor",
]  # fmt: skip
"""Criteria that read gates."""


def names_of(criterion: Any, accumulate: Accumulate = "signed") -> list[str]:
    return [each.name for each in pipelines.scoring(criterion, sensitivity(None, accumulate=accumulate))]


@pytest.mark.parametrize("name", CRITERIA.names())
def test_gates_come_before_the_criteria_that_read_them(name: str) -> None:
    expected = ["insert-gates", "score-channels"] if name in READS else ["score-channels"]
    assert names_of(criterion_of(name)) == expected


def test_a_criterion_around_another_one_wants_the_gates_of_that() -> None:
    assert names_of(Evenly("elasticity")) == ["insert-gates", "score-channels"]
    assert names_of(Evenly("l1-norm")) == ["score-channels"]


@pytest.mark.parametrize("accumulate", ACCUMULATIONS)
@pytest.mark.parametrize("before", [False, True])
def test_the_gates_are_those_that_the_criterion_wants(accumulate: Accumulate, before: bool) -> None:
    criterion = Elasticity(before_normalisation=before)
    insertion, _ = pipelines.scoring(criterion, sensitivity(None, accumulate=accumulate))
    assert insertion == InsertGates(Gating(before, per_sample=accumulate != "signed"))


@pytest.mark.parametrize("accumulate", ACCUMULATIONS)
@pytest.mark.parametrize("name", [*READS, "before normalisation"])
def test_scores_are_the_same_with_and_without_the_pass(name: str, accumulate: Accumulate) -> None:
    criterion = criterion_of(name) if name in READS else Elasticity(before_normalisation=True)
    program = prepared(Residual(), images())
    options = sensitivity(batches_like(program.example.args[0], 3, 2), accumulate=accumulate)
    alone = Runner().run([ScoreChannels(criterion, options)], program)
    after = Runner().run(pipelines.scoring(criterion, options), program)
    assert torch.equal(after[Scores].importance, alone[Scores].importance)
    assert after[Scores].loss == alone[Scores].loss and len(after[Scores].importance.unique()) > 9
    assert GatedModule not in after, "the gates go when they have been read"


def test_the_gates_of_the_pass_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> GatedModule:
        raise AssertionError("other gates were made")

    monkeypatch.setattr("graphprune.criteria.elasticity.gated_module", refuse)
    program = prepared(Chain(), images())
    options = sensitivity(batches_like(program.example.args[0], 3))
    Runner().run(pipelines.scoring(Elasticity(), options), program)
    with pytest.raises(AssertionError, match="other gates were made"):
        Runner().run([ScoreChannels(Elasticity(), options)], program)
    with pytest.raises(AssertionError, match="other gates were made"):
        Runner().run([InsertGates(Gating(True)), ScoreChannels(Elasticity(), options)], program)


def test_gates_of_another_kind_are_not_read() -> None:
    program = prepared(Residual(), images())
    options = sensitivity(batches_like(program.example.args[0], 3))
    right = Runner().run([ScoreChannels(Elasticity(), options)], program)
    after = Runner().run([InsertGates(Gating(True)), ScoreChannels(Elasticity(), options)], program)
    assert torch.equal(after[Scores].importance, right[Scores].importance) and GatedModule not in after


# --- refusals ---------------------------------------------------------------------------------------------------------


def test_without_dependencies_it_is_refused() -> None:
    program, _ = analysed(Chain(), images())
    with pytest.raises(InternalError, match="insert-gates needs Dependencies"):
        with_gates(program.with_module(program.module))


def test_a_place_that_was_passed_over_is_caught() -> None:
    program, _ = analysed(Residual(), images())
    result = InsertGates().run(program)
    gated = result.program[GatedModule]
    nodes = {node.name: node for node in gated.module.graph.nodes}
    nodes["relu_1"].replace_input_with(nodes["mul_1"], nodes["norm1"])
    assert InsertGates().ensures(program, result) == ["%relu_1 reads %norm1 without its gates"]
    fewer = PassResult(program.knowing(replace(gated, channels=12)), True)
    assert InsertGates().ensures(program, fewer)[0] == "a gate of channel 17, there are 12"


# --- the command line -------------------------------------------------------------------------------------------------


def printed(*options: str) -> list[str]:
    result = CliRunner().invoke(app, ["print", "paper:lenet5", "--after", "insert-gates", *options])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines()


def test_print_after_insert_gates() -> None:
    lines = printed()
    assert lines[3:8] == [
        "%features_norm1 : f32[2,6,28,28] = batchnorm2d(%features_conv1, @features.norm1.weight, @features.norm1.bias) "
        "{group=g0}",
        "%_gate : f32[227] = @_gate",
        "%_gate_map_0 : i64[1,6,1,1] = @_gate_map_0",
        "%look_up : f32[1,6,1,1] = look_up(%_gate, %_gate_map_0)",
        "%mul : f32[2,6,28,28] = mul(%features_norm1, %look_up)",
    ]
    assert lines[-1].startswith("g3: 84 channels of @classifier.fc1.weight[0]") and lines == printed()


def test_print_after_insert_gates_in_a_round() -> None:
    lines = printed("--sparsity", "0.5")
    assert "%_gate : f32[2,227] = @_gate" in lines, "one gate for each sample of the example"


def test_print_after_insert_gates_where_the_round_has_none() -> None:
    result = CliRunner().invoke(
        app, ["print", "paper:lenet5", "--after", "insert-gates", "--sparsity", "0.5", "--criterion", "l1-norm"]
    )
    assert result.exit_code == 2
    assert "the pass 'insert-gates' is no part of this round" in result.stderr
