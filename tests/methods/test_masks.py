"""Masks of weights: which weights they keep, and that they hold."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import OptionError
from graphprune.methods.counts import dead_nodes, zeroed_weights
from graphprune.methods.masks import HeldMasks, largest, layer_weights
from graphprune.training import Recipe, Trainer
from tests.methods.small import few_digits, lenet


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
    held = HeldMasks(trainer.model, masks)
    held.apply(trainer.optimizer)
    trainer.on_gradients = held.mask_gradients
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
    held = HeldMasks(model, {"1.weight": mask})
    held.apply()
    trainer.on_gradients = held.mask_gradients
    trainer.after_step = lambda: seen.append(weight.grad.clone() if weight.grad is not None else torch.empty(0))
    trainer.epoch()
    # What is clipped is the gradient of live weights alone; torch adds 1e-6 to the norm that it divides by.
    assert float(seen[0].norm()) == pytest.approx(1e-3, rel=2e-3)
    assert not bool(seen[0][~mask].any())


def test_masks_that_fit_nothing_are_named() -> None:
    masks = {"features.conv1.weight": torch.ones(2, dtype=torch.bool), "nowhere": torch.ones(1, dtype=torch.bool)}
    with pytest.raises(OptionError, match=r"no parameters of that shape in ConvNet: features\.conv1\.weight, nowhere"):
        HeldMasks(lenet(), masks)


def test_counts_of_what_is_gone() -> None:
    model = nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.Linear(3, 2))
    masks = {"0.weight": torch.ones(3, 4, dtype=torch.bool), "2.weight": torch.ones(2, 3, dtype=torch.bool)}
    masks["0.weight"][1] = False
    masks["2.weight"][0] = False
    assert zeroed_weights(model, model, masks) == pytest.approx(7 / 18)
    assert dead_nodes(model, masks) == pytest.approx(1 / 3)
    smaller = nn.Sequential(nn.Linear(4, 2), nn.ReLU(), nn.Linear(2, 2))
    assert zeroed_weights(model, smaller) == pytest.approx(6 / 18)
