"""Masks of weights: which weights they keep, and that they hold."""

from __future__ import annotations

import copy
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import OptionError
from graphprune.research.methods.masks import hold_in, largest, layer_weights
from graphprune.research.metrics import node_sparsity, weight_sparsity
from graphprune.research.training import Recipe, Trainer
from graphprune.training.masks import hold
from tests.research.methods.small import few_digits, lenet


@pytest.mark.parametrize("sparsity", [0.0, 0.37, 0.5, 0.999, 1.0])
def test_the_largest_of_all_tensors_stay(sparsity: float) -> None:
    scores = {"a": torch.randn(7, 5), "b": torch.randn(40, 3, 2), "c": torch.randn(11)}
    masks = largest(scores, sparsity)
    total = 35 + 240 + 11
    by_hand = sorted((float(v) for tensor in scores.values() for v in tensor.flatten()), reverse=True)
    stay = set(by_hand[: total - round(sparsity * total)])
    for name, mask in masks.items():
        assert mask.shape == scores[name].shape
        assert [float(v) in stay for v in scores[name].flatten()] == mask.flatten().tolist()


def test_ties_do_not_change_the_count() -> None:
    masks = largest({"a": torch.zeros(10, 10), "b": torch.zeros(3)}, 0.3)
    assert sum(int(mask.sum()) for mask in masks.values()) == 103 - 31


def test_only_weights_of_layers_are_in_the_pool() -> None:
    names = list(layer_weights(lenet()))
    assert names == [f"features.conv{i}.weight" for i in (1, 2, 3)] + [f"classifier.fc{i}.weight" for i in (1, 2)]


def test_dead_weights_stay_dead_and_have_no_moments() -> None:
    trainer = Trainer(lenet(), few_digits().train, Recipe(3, batch_size=64, weight_decay=0.1), seed=0)
    trainer.run(1)
    masks = largest({n: w.detach().abs() for n, w in layer_weights(trainer.model).items()}, 0.8)
    hold_in(trainer, masks)
    live = {n: w.detach().clone() for n, w in layer_weights(trainer.model).items()}
    trainer.run(2)
    for name, weight in layer_weights(trainer.model).items():
        dead = ~masks[name]
        assert bool((weight[dead] == 0).all())
        assert not torch.equal(weight, live[name])
        state = trainer.optimizer.state[weight]
        assert bool((state["exp_avg"][dead] == 0).all() and (state["exp_avg_sq"][dead] == 0).all())


def test_dead_weights_do_not_count_in_the_norm_that_clips() -> None:
    seen: list[Tensor] = []
    model = nn.Sequential(nn.Flatten(), nn.Linear(784, 10, bias=False))
    trainer = Trainer(model, few_digits().train, Recipe(1, batch_size=256, clip_norm=1e-3), seed=0)
    weight = model.get_parameter("1.weight")
    mask = torch.zeros_like(weight, dtype=torch.bool)
    mask[:, 300:310] = True
    hold_in(trainer, {"1.weight": mask})
    trainer.after_step = lambda: seen.append(weight.grad.clone() if weight.grad is not None else torch.empty(0))
    trainer.epoch()
    # What is clipped is the gradient of live weights alone; torch adds 1e-6 to the norm that it divides by.
    assert float(seen[0].norm()) == pytest.approx(1e-3, rel=2e-3)
    assert not bool(seen[0][~mask].any())


def test_masks_that_fit_nothing_are_named() -> None:
    masks = {"features.conv1.weight": torch.ones(2, dtype=torch.bool), "nowhere": torch.ones(1, dtype=torch.bool)}
    with pytest.raises(OptionError, match=r"no parameters of that shape in ConvNet: features\.conv1\.weight, nowhere"):
        hold(lenet(), masks)


def test_later_masks_take_the_place_of_earlier_ones() -> None:
    """Also where they let weights live that were dead before; gradients follow the masks that hold now."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    weight = model.get_parameter("0.weight")
    for place in (0, 2):
        mask = torch.ones(3, 4, dtype=torch.bool)
        mask[place] = False
        hold(model, {"0.weight": mask})
        model.zero_grad()
        model(torch.rand(8, 4)).square().sum().backward()
        gradient = weight.grad
        assert gradient is not None and not bool(weight[place].any()) and not bool(gradient[place].any())
        assert bool(gradient[1].all()) and bool(gradient[2 - place].all()), "alive, or alive again"
        with torch.no_grad():
            weight[0] = 0.1  # it is for the masks that hold next to let this be, or not
    hold(model, {})
    assert not model._forward_pre_hooks and not [key for key in vars(weight) if "graphprune" in key]


def test_any_module_is_held_and_its_copies(tmp_path: Path) -> None:
    model = lenet()
    masks = largest({n: w.detach().abs() for n, w in layer_weights(model).items()}, 0.9)
    hold(model, masks)
    torch.save(model, tmp_path / "model.pt")
    for each in (model, copy.deepcopy(model), torch.load(tmp_path / "model.pt", weights_only=False)):
        optimizer = torch.optim.SGD(each.parameters(), lr=0.1, momentum=0.9, weight_decay=0.1)
        for _ in range(2):
            optimizer.zero_grad()
            each(torch.randn(4, 1, 28, 28)).square().sum().backward()
            for name, mask in masks.items():
                gradient = each.get_parameter(name).grad
                assert gradient is not None and not bool(gradient[~mask].any())
            optimizer.step()
        assert all(not bool(each.get_parameter(name)[~mask].any()) for name, mask in masks.items())
    # a state is read without the hook
    assert all(type(value) is Tensor for value in model.state_dict().values())


def test_counts_of_what_is_gone() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    masks = {"0.weight": torch.ones(3, 4, dtype=torch.bool), "2.weight": torch.ones(2, 3, dtype=torch.bool)}
    masks["0.weight"][1] = False
    masks["2.weight"][0] = False
    masked = copy.deepcopy(model)
    hold(masked, masks)
    assert weight_sparsity(masked, model) == pytest.approx(7 / 18)
    assert node_sparsity(masked, model) == pytest.approx(1 / 3)
    smaller = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
    assert weight_sparsity(smaller, model) == pytest.approx(6 / 18)
