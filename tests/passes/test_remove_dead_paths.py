"""remove-dead-paths: what lies on no path goes; outputs stay what they were but for constants."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from graphprune.costs.pool import pool_of
from graphprune.criteria.scores import Scores
from graphprune.errors import InternalError
from graphprune.pass_manager.protocol import PassResult
from graphprune.pass_manager.runner import Runner
from graphprune.passes import pipelines
from graphprune.passes.remove_dead_paths import RemoveDeadPaths
from graphprune.program.program import Program
from graphprune.program.tensors import Masks
from graphprune.request.limits import Limits
from graphprune.selection.record import Selection
from tests.small_models import CLASSES, Dense, Inverted, Mlp, Residual, analysed, images, randomised

MODELS: dict[str, Callable[[], nn.Module]] = {"residual": Residual, "depthwise": Inverted, "concat": Dense}

TOLERANCE = 1e-12
"""Double precision; sums of some hundred terms, in another order where channels are gone."""


def masked_at_random(program: Program, share: float, seed: int) -> Masks:
    generator = torch.Generator().manual_seed(seed)
    return {name: torch.rand(w.shape, generator=generator) >= share for name, w in pool_of(program).items()}


def selected(model: nn.Module, example: Tensor, masks: Masks | None = None, share: float = 0.85) -> Program:
    """A program with masks selected, all channels kept and scored by their index."""
    program, dependencies = analysed(model, example)
    importance = torch.arange(dependencies.channels, dtype=torch.float64)
    masks = masked_at_random(program, share, seed=1) if masks is None else masks
    selection = Selection(torch.ones(dependencies.channels, dtype=torch.bool), masks=masks)
    return program.knowing(Scores(importance, "index"), selection)


def selection_of(program: Program) -> Selection:
    return program[Selection]


def by_hand(model: nn.Module, masks: Masks) -> nn.Module:
    """A copy with zeros, without this library."""
    masked = copy.deepcopy(model).eval()
    with torch.no_grad():
        for name, mask in masks.items():
            masked.get_parameter(name).mul_(mask)
    return masked


def without_constants(model: nn.Module) -> nn.Module:
    """Biases and means of 0, so that a channel which no input reaches is 0."""
    with torch.no_grad():
        for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith(("bias", "running_mean")):
                tensor.zero_()
    return model


def carried_out(program: Program, limits: Limits | None = None, resurrect: bool = False) -> Program:
    passes = (
        pipelines.masking(resurrect=resurrect, verify=True, seed=0)
        if limits is None
        else pipelines.pruning_jointly(resurrect=resurrect, verify=True, seed=0)
    )
    return Runner().run((RemoveDeadPaths(limits), *passes), program)


@pytest.mark.parametrize("limits", [None, Limits()], ids=["weights", "channels too"])
@pytest.mark.parametrize("name", MODELS)
def test_without_constants_the_function_is_exactly_the_same(name: str, limits: Limits | None) -> None:
    model = without_constants(randomised(MODELS[name]())).double()
    program = selected(model, images().double())
    expected = by_hand(model, dict(selection_of(program).masks))
    after = carried_out(program, limits)
    zeroed = sum(int((~mask).sum()) for mask in selection_of(program).masks.values())
    masks = after.history.masks
    left = sum(int(masks[name].sum()) if name in masks else w.numel() for name, w in pool_of_any(after).items())
    assert left < sum(w.numel() for w in pool_of(program).values()) - zeroed, "some were dead"
    inputs = images(5).double()
    torch.testing.assert_close(after.module.eval()(inputs), expected(inputs), rtol=TOLERANCE, atol=TOLERANCE)


def pool_of_any(program: Program) -> dict[str, nn.Parameter]:
    return {n: p for n, p in program.module.named_parameters() if p.dim() >= 2}


@pytest.mark.parametrize("name", MODELS)
def test_what_no_output_sees_goes_without_a_trace(name: str) -> None:
    """Also with biases and normalisations: all inputs are joined here, and some channels lead nowhere."""
    torch.manual_seed(3)
    model = randomised(MODELS[name]()).double()
    reader = {"residual": "conv2.weight", "depthwise": "project.weight", "concat": "fc.weight"}[name]
    mask = torch.ones_like(model.get_parameter(reader), dtype=torch.bool)
    mask[:, [0, 2]] = False
    masks = {reader: mask}
    if name == "depthwise":  # the excitation reads them as well
        masks["squeeze.weight"] = torch.ones(4, 8, 1, 1, dtype=torch.bool)
        masks["squeeze.weight"][:, [0, 2]] = False
    if name == "concat":  # what else reads the stem's channels 0 and 2
        for other in ("conv1.weight", "conv2.weight"):
            masks[other] = torch.ones_like(model.get_parameter(other), dtype=torch.bool)
            masks[other][:, [0, 2]] = False
    program = selected(model, images().double(), masks)
    result = RemoveDeadPaths(Limits()).run(program)
    assert int((~selection_of(result.program).keep).sum()) == 2
    after, inputs = carried_out(program, Limits()), images(5).double()
    expected = by_hand(model, masks)(inputs)
    torch.testing.assert_close(after.module.eval()(inputs), expected, rtol=TOLERANCE, atol=TOLERANCE)


@pytest.mark.parametrize("limits", [None, Limits()], ids=["weights", "channels too"])
def test_what_no_input_reaches_goes_with_its_constant(limits: Limits | None) -> None:
    """Outputs move by what the bias gave, the same for all inputs, and gradients in the input stay."""
    model = Mlp(activation=torch.tanh).double()
    mask = torch.ones(8, 5, dtype=torch.bool)
    mask[[1, 4]] = False
    program = selected(model, torch.randn(4, 5).double(), {"fc1.weight": mask})
    after = carried_out(program, limits)
    wanted = copy.deepcopy(model)
    with torch.no_grad():
        wanted.fc1.weight[[1, 4]] = 0.0
        wanted.fc1.bias[[1, 4]] = 0.0  # tanh(0) = 0: as if the channel were not there
    inputs = torch.randn(6, 5).double()
    torch.testing.assert_close(after.module(inputs), wanted(inputs), rtol=TOLERANCE, atol=TOLERANCE)
    assert not torch.allclose(after.module(inputs), by_hand(model, {"fc1.weight": mask})(inputs)), "a constant is lost"
    assert after.module.get_parameter("fc1.weight").shape[0] == (8 if limits is None else 6)


def test_a_network_that_is_cut_in_two_loses_everything_but_a_channel_of_each_group() -> None:
    program = selected(Mlp(), torch.randn(4, 5), {"fc2.weight": torch.zeros(6, 8, dtype=torch.bool)})
    result = RemoveDeadPaths(Limits()).run(program)
    selection = selection_of(result.program)
    assert not any(bool(mask.any()) for mask in selection.masks.values()) and len(selection.masks) == 3
    # of each group the most important one, which is the last, is held back by the floor
    assert selection.keep.nonzero().flatten().tolist() == [7, 13]
    after = carried_out(program, Limits())
    assert after.module(torch.randn(2, 5)).shape == (2, CLASSES)


def test_floors_and_alignment_hold() -> None:
    program = selected(Mlp(), torch.randn(4, 5), {"fc2.weight": torch.zeros(6, 8, dtype=torch.bool)})
    result = RemoveDeadPaths(Limits(min_channels=2, align=4)).run(program)
    keep = selection_of(result.program).keep
    assert keep[:8].sum() == 4 and keep[8:].sum() == 4


def test_channels_that_were_removed_before_do_not_come_back() -> None:
    program = selected(Mlp(), torch.randn(4, 5), {"fc2.weight": torch.zeros(6, 8, dtype=torch.bool)})
    keep = torch.ones(14, dtype=torch.bool)
    keep[7] = False
    program = program.knowing(replace(selection_of(program), keep=keep))
    assert selection_of(RemoveDeadPaths(Limits()).run(program).program).keep.nonzero().flatten().tolist() == [6, 13]


@pytest.mark.parametrize("limits", [None, Limits()], ids=["weights", "channels too"])
def test_nothing_to_do_and_twice(limits: Limits | None) -> None:
    program = selected(Residual(), images(), {})
    result = RemoveDeadPaths(limits).run(program)
    assert not result.modified and result.program is program
    once = Runner().run([RemoveDeadPaths(limits)], selected(randomised(Inverted()), images()))
    assert RemoveDeadPaths(limits).run(once).modified is False


def test_a_result_that_leaves_or_takes_too_much_is_found() -> None:
    program = selected(randomised(Residual()), images())
    transformation = RemoveDeadPaths(Limits())
    result = transformation.run(program)
    assert transformation.ensures(program, result) == []
    assert "live weights are on no path" in transformation.ensures(program, PassResult(program, True))[0]


def test_a_wrong_walk_is_found_by_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """The claim that outputs do not see something is tried out, not believed."""

    def wrong(program: Program) -> Masks:
        return {name: torch.zeros_like(weight, dtype=torch.bool) for name, weight in pool_of(program).items()}

    monkeypatch.setattr("graphprune.passes.remove_dead_paths.useful_masks", wrong)
    program = selected(randomised(Residual()), images(), share=0.6)
    with pytest.raises(InternalError, match="what no output should depend on changes one by"):
        Runner().run([RemoveDeadPaths()], program)
    assert Selection in Runner().run([RemoveDeadPaths(verify=False)], program)


def test_channels_have_to_be_scored() -> None:
    program = selected(Residual(), images()).without(Scores)
    with pytest.raises(InternalError, match="channels are not scored"):
        Runner().run([RemoveDeadPaths(Limits())], program)
    assert Selection in Runner().run([RemoveDeadPaths()], program)
