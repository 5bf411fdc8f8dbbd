"""prune-channels: smaller tensors, attributes and literals; the program that it came from stays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphprune.criteria.scores import Scores
from graphprune.errors import InternalError
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.protocol import PassResult
from graphprune.pass_manager.runner import Runner
from graphprune.passes.build_dependencies import BuildDependencies
from graphprune.passes.prune_channels import PruneChannels
from graphprune.program.facts import FirstAnalysis
from graphprune.program.program import Origin, Program
from graphprune.selection.record import Selection
from tests.small_models import Residual, Transformer, analysed, group_of, images


def selected(model: nn.Module, example: torch.Tensor, removed: dict[str, list[int]]) -> Program:
    program, dependencies = analysed(model, example)
    keep = torch.ones(dependencies.channels, dtype=torch.bool)
    for name, channels in removed.items():
        keep[group_of(dependencies, name).start + torch.tensor(channels)] = False
    return program.knowing(Selection(keep))


def test_parameters_and_buffers_lose_the_selected_slices() -> None:
    model = Residual()
    program = selected(model, images(), {"stem.weight": [1, 4], "conv1.weight": [0]})
    compact = Runner().run([PruneChannels()], program)
    tensors = compact.module.state_dict()
    stream, inner = torch.tensor([0, 2, 3, 5]), torch.tensor([1, 2, 3])
    assert torch.equal(tensors["stem.weight"], model.stem.weight[stream])
    assert torch.equal(tensors["conv1.weight"], model.conv1.weight[inner][:, stream])
    assert torch.equal(tensors["norm2.running_var"], model.get_buffer("norm2.running_var")[stream])
    assert torch.equal(tensors["short.weight"], model.short.weight[:, stream])
    assert torch.equal(compact.history.kept["conv1.weight", 1], stream) and torch.equal(
        compact.history.kept["conv1.weight", 0], inner
    )
    assert ("fc.weight", 1) not in compact.history.kept


def test_tensors_keep_their_memory_format() -> None:
    model = Residual().to(memory_format=torch.channels_last)
    program = selected(model, images(), {"stem.weight": [1, 4], "conv1.weight": [0]})
    compact = Runner().run([PruneChannels()], program)
    for name, weight in compact.module.named_parameters():
        if weight.dim() == 4:
            assert weight.is_contiguous(memory_format=torch.channels_last), name
    plain = Runner().run([PruneChannels()], selected(Residual(), images(), {"stem.weight": [1, 4]}))
    assert all(weight.is_contiguous() for weight in plain.module.parameters())


def test_attributes_follow() -> None:
    compact = Runner().run([PruneChannels()], selected(Residual(), images(), {"stem.weight": [1, 4]}))
    conv, norm = compact.module.get_submodule("conv1"), compact.module.get_submodule("norm2")
    assert isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d)
    assert (conv.in_channels, conv.out_channels, norm.num_features) == (4, 4, 4)


def test_literals_follow() -> None:
    program = selected(Transformer(), torch.randn(2, 5, 4), {"proj.weight": [0]})
    compact = Runner().run([PruneChannels()], program)
    assert compact.module(torch.randn(3, 7, 4)).shape == (3, 3)


def test_analyses_of_the_larger_program_are_dropped_and_it_is_kept_for_the_proof() -> None:
    program = selected(Residual(), images(), {"stem.weight": [1, 4]})
    compact = Runner().run([PruneChannels()], program)
    assert Dependencies not in compact and Scores not in compact and Selection not in compact
    assert Origin in compact and compact[Origin].program.module is program.module
    assert compact[FirstAnalysis].channels_left == 16


def test_the_program_given_is_not_changed() -> None:
    model = Residual()
    program = selected(model, images(), {"stem.weight": [1, 4]})
    Runner().run([PruneChannels()], program)
    assert all(torch.equal(a, b) for a, b in zip(program.module.parameters(), model.parameters(), strict=True))


def test_a_selection_of_everything_leaves_every_tensor_as_it_is() -> None:
    program = selected(Residual(), images(), {})
    compact = Runner().run([PruneChannels()], program)
    assert compact.history.kept == {} and compact[FirstAnalysis].channels_left == 18
    for before, after in zip(program.module.parameters(), compact.module.parameters(), strict=True):
        assert before is after


def test_two_prunes_compose() -> None:
    program = selected(Residual(), images(), {"stem.weight": [1, 4]})
    once = Runner().run([PruneChannels(), BuildDependencies()], program)
    keep = torch.ones(once[Dependencies].channels, dtype=torch.bool)
    keep[group_of(once[Dependencies], "stem.weight").start + 1] = False
    twice = Runner().run([PruneChannels()], once.knowing(Selection(keep)))
    assert twice.history.kept["stem.weight", 0].tolist() == [0, 3, 5]
    assert twice[FirstAnalysis].channels_left == 15


def test_without_a_selection_it_is_refused() -> None:
    program, _ = analysed(Residual(), images())
    with pytest.raises(InternalError, match="prune-channels needs Selection"):
        Runner().run([PruneChannels()], program)


def test_a_result_of_another_size_than_foretold_is_caught() -> None:
    program = selected(Residual(), images(), {"stem.weight": [1, 4]})
    compact = PruneChannels().run(program).program
    compact.module.get_submodule("fc").bias = None  # type: ignore[assignment]
    (problem,) = PruneChannels().ensures(program, PassResult(compact, True))
    assert "parameters, foretold" in problem
