"""Importances of torch-pruning: they give the same in our groups as in torch-pruning's own, and leave no trace."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch_pruning as tp
import torchvision
from torch import Tensor, nn
from torch.nn import functional

import graphprune
from graphprune.criteria import Sensitivity, TorchPruning, criterion_of
from graphprune.criteria.group_members import member_indices
from graphprune.criteria.losses import cross_entropy
from graphprune.criteria.samples import SampleStream
from graphprune.criteria.scores import Scores
from graphprune.errors import LossError, OptionError
from graphprune.labels.dependencies import Dependencies
from graphprune.program.example import Example
from graphprune.program.program import Program
from tests.small_models import CLASSES, IMAGES, Mlp, Residual, analysed, group_of, images, randomised

importance: Any = tp.importance


class Vgg(nn.Module):
    """Convolutions, then a flattened map of two by two: a channel is four inputs of the linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.conv2, self.norm2 = nn.Conv2d(8, 12, 3, padding=1), nn.BatchNorm2d(12)
        self.fc1, self.fc2 = nn.Linear(48, 10), nn.Linear(10, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.norm1(self.conv1(x))), 4)
        x = functional.max_pool2d(functional.relu(self.norm2(self.conv2(x))), 4)
        out: Tensor = self.fc2(functional.relu(self.fc1(x.flatten(1))))
        return out


class Grouped(nn.Module):
    """A convolution in two groups: a channel is the same index in each."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.norm1 = nn.Conv2d(3, 8, 1), nn.BatchNorm2d(8)
        self.conv2, self.fc = nn.Conv2d(8, 6, 3, padding=1, groups=2), nn.Linear(6, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv2(functional.relu(self.norm1(self.conv1(x)))))
        out: Tensor = self.fc(x.mean((2, 3)))
        return out


MODELS: dict[str, Callable[[], nn.Module]] = {
    "resnet18": lambda: torchvision.models.resnet18(num_classes=CLASSES),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(num_classes=CLASSES, width_mult=0.25),
    "vgg": Vgg,
    "grouped": Grouped,
}

# relative to the largest in the group; float32 sums in another order. LAMP divides by what is left of a sum, where
# cancellation makes the rounding of the last few channels larger
CLOSE, CLOSE_LAMP = 1e-6, 1e-4

CASES: list[tuple[Any, float]] = [
    (importance.MagnitudeImportance(), CLOSE),
    (importance.MagnitudeImportance(p=1, group_reduction="first", normalizer=None, bias=True), CLOSE),
    (importance.MagnitudeImportance(group_reduction="max", normalizer="gaussian"), CLOSE),
    (importance.BNScaleImportance(), CLOSE),
    (importance.LAMPImportance(), CLOSE_LAMP),
    (importance.TaylorImportance(), CLOSE),
    (importance.TaylorImportance(multivariable=True, bias=True), CLOSE),
    (importance.HessianImportance(), CLOSE),
]


def data_for(model: nn.Module) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(3, 3, 32, 32, generator=generator), torch.tensor([0, 2, 1])


def sensitivity_of(batches: list[Any], seed: int = 0) -> Sensitivity:
    return Sensitivity(SampleStream(batches, Example.of(batches[0][0])), cross_entropy, 3, "signed", seed)


def score(program: Program, given: Any, batches: list[Any]) -> Scores:
    scores = criterion_of(given)(program, sensitivity_of(batches))
    assert isinstance(scores, Scores)
    return scores


def fill_gradients(model: nn.Module, given: Any, inputs: Tensor, target: Tensor) -> None:
    """What a user of torch-pruning does before rating: gradients of the mean loss, or the mean of squared ones."""
    model.zero_grad()
    if not isinstance(given, importance.GroupHessianImportance):
        functional.cross_entropy(model(inputs), target).backward()
        return
    parameters = list(model.parameters())
    rows = [
        torch.autograd.grad(functional.cross_entropy(model(inputs[i : i + 1]), target[i : i + 1]), parameters)
        for i in range(len(target))
    ]
    for parameter, *gradients in zip(parameters, *rows, strict=True):
        parameter.grad = torch.stack(gradients).square().mean(0)


def rated_by_torch_pruning(
    model: nn.Module, given: Any, dependencies: Dependencies, inputs: Tensor
) -> list[Tensor | None]:
    """The importance of each of our channels, read off torch-pruning's own group with the same root."""
    graph = tp.DependencyGraph().build_dependency(model, inputs)
    found: list[Tensor | None] = []
    for indices in member_indices(dependencies):
        name, root = next(
            (name, layer)
            for name, dim in indices
            if dim == 0 and isinstance(layer := model.get_submodule(name.rpartition(".")[0]), (nn.Conv2d, nn.Linear))
            if not isinstance(layer, nn.Conv2d) or layer.groups < layer.out_channels
        )
        prune = tp.prune_conv_out_channels if isinstance(root, nn.Conv2d) else tp.prune_linear_out_channels
        rows = indices[name, 0]
        assert rows.numel() == len(root.weight), "the group holds all rows of its root"
        theirs = given(graph.get_pruning_group(root, prune, list(range(len(root.weight)))))
        found.append(None if theirs is None else theirs.double()[rows].mean(1))
    return found


@pytest.mark.parametrize(("given", "tolerance"), CASES, ids=lambda case: getattr(type(case), "__name__", None))
@pytest.mark.parametrize("name", MODELS)
def test_scores_equal_those_of_its_own_groups(name: str, given: Any, tolerance: float) -> None:
    model = randomised(MODELS[name]()).eval()
    inputs, target = data_for(model)
    program, dependencies = analysed(model, inputs)
    ours = score(program, given, [(inputs, target)]).importance
    fill_gradients(model, given, inputs, target)
    theirs = rated_by_torch_pruning(model, given, dependencies, inputs)
    assert any(rated is not None for rated in theirs)
    for group, rated in zip(dependencies.groups, theirs, strict=True):
        if rated is not None:
            worst = (ours[group.start : group.stop] - rated).abs().max() / rated.abs().max()
            assert worst <= tolerance, (group.name, float(worst))


@pytest.mark.parametrize("given", [importance.TaylorImportance(), importance.HessianImportance()])
def test_gradients_are_means_over_samples_of_all_batches(given: Any) -> None:
    program, _ = analysed(randomised(Residual()).eval(), images())
    x, y = images(3), torch.tensor([0, 1, 2])
    split, whole = score(program, given, [(x[:2], y[:2]), (x[2:], y[2:])]), score(program, given, [(x, y)])
    assert split.samples == 3 and split.loss == pytest.approx(whole.loss)
    torch.testing.assert_close(split.importance, whole.importance, rtol=1e-5, atol=0.0)  # sums in another order


@pytest.mark.parametrize("given", [*(case for case, _ in CASES[::3]), importance.RandomImportance()])
def test_no_trace_is_left(given: Any) -> None:
    model = randomised(Residual()).train()
    model.stem.weight.requires_grad_(False)
    program, _ = analysed(model, images())
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    batches = [(images(3), torch.tensor([0, 1, 2]))]
    code = program.module.code
    generators = torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=False)
    score(program, given, batches)
    for module in (model, program.module):
        assert all(parameter.grad is None for parameter in module.parameters())
        assert [name for name, p in module.named_parameters() if not p.requires_grad] == ["stem.weight"]
        assert all(submodule.training for submodule in module.modules())
        assert all(torch.equal(tensor, state[name]) for name, tensor in module.state_dict().items())
        assert not any(submodule._forward_hooks or submodule._backward_hooks for submodule in module.modules())
    assert program.module.code == code
    assert torch.equal(generators[0], torch.get_rng_state()) and generators[1] == random.getstate()
    assert str(generators[2]) == str(np.random.get_state(legacy=False))


def test_random_importance_comes_from_the_seed() -> None:
    program, _ = analysed(Residual(), images())
    batches = [(images(3), torch.tensor([0, 1, 2]))]
    given = criterion_of(importance.RandomImportance())
    one, same, other = (given(program, sensitivity_of(batches, seed)) for seed in (1, 1, 2))
    assert isinstance(one, Scores) and isinstance(same, Scores) and isinstance(other, Scores)
    assert torch.equal(one.importance, same.importance) and not torch.equal(one.importance, other.importance)


def test_what_it_cannot_rate_goes_last_with_a_warning(caplog: pytest.LogCaptureFixture) -> None:
    program, dependencies = analysed(Vgg(), torch.randn(2, 3, 32, 32))
    given = criterion_of(importance.BNScaleImportance(normalizer=None))
    run = sensitivity_of([(torch.zeros(1), 0)])
    with caplog.at_level(logging.WARNING, logger="graphprune"):
        scores = [given(program, run) for _ in range(2)]
    hidden = group_of(dependencies, "fc1.weight")
    assert isinstance(scores[0], Scores)
    found = scores[0].importance
    assert bool((found[hidden.start : hidden.stop] > found[: hidden.start].max()).all())
    assert caplog.messages == [
        f"criterion BNScaleImportance cannot rate 1 of 3 groups; they go last: {hidden.id} (fc1.weight)"
    ]


def test_what_rates_nothing_is_refused() -> None:
    program, _ = analysed(Mlp(), torch.randn(2, 5))
    with pytest.raises(OptionError, match=r"BNScaleImportance: it rates none of the 2 groups \(g0 \(fc1\.weight\)"):
        score(program, importance.BNScaleImportance(), [(torch.zeros(1), 0)])


@pytest.mark.parametrize("name", ["OBDCImportance", "ActivationImportance"])
def test_statistics_of_its_own_pruners_are_refused(name: str) -> None:
    program, _ = analysed(Mlp(), torch.randn(2, 5))
    with pytest.raises(OptionError, match=f"criterion {name}: it collects statistics through hooks"):
        score(program, getattr(tp.pruner.importance, name)(), [(torch.zeros(1), 0)])


class OwnImportance(tp.importance.Importance):  # type: ignore[misc]
    """A user's own: what the function says of the group."""

    def __init__(self, rate: Callable[[Any], Any]) -> None:
        self.rate = rate

    def __call__(self, group: Any) -> Any:
        return self.rate(group)


def test_an_importance_of_the_users_own_gets_gradients() -> None:
    program, _ = analysed(Mlp(), torch.randn(2, 5))
    seen = []

    def rate(group: Any) -> Tensor:
        dep, idxs = group[0]
        seen.append(dep.layer.weight.grad.abs().sum())
        assert dep.pruning_fn == tp.prune_linear_out_channels and group[0].root_idxs == idxs
        return torch.arange(len(idxs))

    scores = score(program, OwnImportance(rate), [(torch.randn(3, 5), torch.tensor([0, 1, 2]))])
    assert scores.importance.tolist() == [*range(8), *range(6)] and scores.loss is not None
    assert scores.criterion == "OwnImportance" and all(total > 0 for total in seen)


@pytest.mark.parametrize(
    ("rate", "message"),
    [
        (lambda group: torch.ones(3), r"expected a tensor of shape \(8,\).* g0 \(fc1\.weight\), got shape \(3,\)"),
        (lambda group: 1.0, r"expected a tensor of shape \(8,\).*, got float"),
        (lambda group: torch.full((8,), torch.nan), r"g0 \(fc1\.weight\) are not finite.*normalizer=None"),
        (lambda group: group[99], r"it failed on group g0 \(fc1\.weight\): IndexError: "),
    ],
)
def test_importances_that_go_wrong(rate: Callable[[Any], Any], message: str) -> None:
    program, _ = analysed(Mlp(), torch.randn(2, 5))
    with pytest.raises(OptionError, match=f"criterion OwnImportance: .*{message}"):
        score(program, OwnImportance(rate), [(torch.randn(3, 5), torch.tensor([0, 1, 2]))])


def test_a_loss_without_gradient_is_refused() -> None:
    program, _ = analysed(Mlp(), torch.randn(2, 5))
    stream = SampleStream([(torch.randn(3, 5), 0)], Example.of(torch.zeros(1)))
    wrong = Sensitivity(stream, lambda out, _: out.detach().mean(), 3, "signed", 0)
    with pytest.raises(LossError, match="no gradient in the model's weights"):
        criterion_of(importance.TaylorImportance())(program, wrong)


def test_heads_and_weights_without_a_layer_are_rated() -> None:
    class Attention(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed, self.attention = nn.Linear(4, 8), nn.MultiheadAttention(8, 2, batch_first=True)
            self.head = nn.Linear(8, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            out: Tensor = self.head((x + self.attention(x, x, x, need_weights=False)[0]).mean(1))
            return out

    model = Attention()
    program, dependencies = analysed(model, torch.randn(2, 5, 4))
    heads = group_of(dependencies, "attention.in_proj_weight")
    assert heads.channels == 2
    given = importance.MagnitudeImportance(p=1, group_reduction="sum", normalizer=None)
    found = score(program, given, [(torch.zeros(1), 0)]).importance[heads.start : heads.stop]
    # a head is 4 rows of each of q, k and v, and 4 columns of what follows; the mean is over its 12 rows
    rows = model.attention.in_proj_weight.detach().abs().view(3, 2, 4, 8).sum((0, 2, 3))
    columns = model.attention.out_proj.weight.detach().abs().view(8, 2, 4).sum((0, 2))
    torch.testing.assert_close(found, (rows + columns).double() / 12)


@pytest.mark.parametrize("name", IMAGES)
def test_pruning_by_one(name: str) -> None:
    data = [(images(4), torch.randint(CLASSES, (4,)))]
    compiled = graphprune.compile(IMAGES[name](), images(2), criterion=importance.TaylorImportance(), data=data)
    assert compiled.report.criterion == "TaylorImportance"
    assert compiled.report.rounds[0].loss is not None
    assert compiled.verify().max_abs_error < 1e-4


def test_a_class_is_no_object() -> None:
    with pytest.raises(OptionError, match=r"got the class TaylorImportance; give an object, TaylorImportance\(\)"):
        criterion_of(importance.TaylorImportance)
    assert isinstance(criterion_of(importance.TaylorImportance()), TorchPruning)


def test_it_is_imported_only_where_it_is_used() -> None:
    code = (
        "import sys, torch, graphprune\n"
        "model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))\n"
        "graphprune.compile(model, torch.randn(2, 3), criterion=lambda weights: weights['0.weight[0]'].norm(dim=1))\n"
        "assert 'torch_pruning' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
