"""Shuffled masks and new initial weights."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from graphprune.errors import OptionError
from graphprune.research.methods import HoyerSquare, RandomNodes, RandomWeights, Reinitialised, ShuffledMasks
from graphprune.research.methods.controls import reinitialise_, shuffled
from graphprune.research.networks import ORTHOGONAL_GAIN
from graphprune.research.training import Recipe
from tests.research.methods.small import few_digits, lenet, with_statistics

RECIPE = Recipe(1, batch_size=64)


def test_a_shuffled_mask_has_as_many_in_each_layer_at_other_places() -> None:
    masks = {"a": torch.rand(40, 30) < 0.2, "b": torch.rand(5, 4, 3, 3) < 0.7, "c": torch.zeros(3, dtype=torch.bool)}
    found = shuffled(masks, seed=1)
    for name, mask in masks.items():
        assert found[name].shape == mask.shape and found[name].dtype == torch.bool
        assert int(found[name].sum()) == int(mask.sum())
    assert not torch.equal(found["a"], masks["a"]) and not torch.equal(found["b"], masks["b"])
    again, other = shuffled(masks, seed=1), shuffled(masks, seed=2)
    assert torch.equal(found["a"], again["a"]) and not torch.equal(found["a"], other["a"])


def test_every_place_is_as_likely() -> None:
    mask = torch.tensor([[True, True, False], [False, False, False]])
    counts = torch.stack([shuffled({"m": mask}, seed)["m"] for seed in range(3000)]).double().mean(0)
    # Five standard deviations of a share of 1/3 among 3000.
    assert torch.allclose(counts, torch.full_like(counts, 1 / 3), atol=5 * (2 / 9 / 3000) ** 0.5)


def test_new_weights_are_orthogonal_masked_and_statistics_are_fresh() -> None:
    model = with_statistics(lenet())
    masks = {"features.conv1.weight": torch.rand(6, 1, 5, 5) < 0.5}
    before = model.get_parameter("classifier.fc1.weight").detach().clone()
    reinitialise_(model, masks, seed=7)
    first = model.get_parameter("features.conv1.weight")
    assert bool((first[~masks["features.conv1.weight"]] == 0).all())
    rows = model.get_parameter("classifier.fc1.weight").detach()
    # Orthogonal rows of that length, in float32.
    assert torch.allclose(rows @ rows.T, ORTHOGONAL_GAIN**2 * torch.eye(84), atol=1e-5)
    assert not torch.allclose(rows, before)
    for layer in model.modules():
        if isinstance(layer, (nn.BatchNorm1d, nn.BatchNorm2d)):
            assert layer.running_mean is not None and not bool(layer.running_mean.any())
            assert bool((layer.weight == 1).all()) and not bool(layer.bias.any())


def test_the_shuffled_control_of_a_run() -> None:
    method = ShuffledMasks(HoyerSquare(threshold=1e-2))
    assert (method.name, method.target, method.structured) == ("hoyer-square, shuffled", "lambda", False)
    found, original = (m.train(lenet(), few_digits(), RECIPE, 1e-3, seed=0) for m in (method, method.of))
    assert found.masks is not None and original.masks is not None
    assert found.weight_sparsity == original.weight_sparsity > 0
    assert {n: int(m.sum()) for n, m in found.masks.items()} == {n: int(m.sum()) for n, m in original.masks.items()}
    assert any(not torch.equal(found.masks[name], original.masks[name]) for name in found.masks)
    assert all(bool((found.module.get_parameter(name)[~mask] == 0).all()) for name, mask in found.masks.items())


def test_the_reinitialised_control_of_a_smaller_network() -> None:
    method = Reinitialised(RandomNodes())
    assert (method.name, method.target, method.structured) == ("random-nodes, re-initialised", "node sparsity", True)
    result = method.train(lenet(), few_digits(), RECIPE, 0.5, seed=0)
    assert result.compiled is not None and result.compiled.module is result.module
    assert result.node_sparsity == pytest.approx(0.5, abs=0.5 / 226)
    result.compiled.verify()


def test_the_reinitialised_control_of_masks() -> None:
    of = RandomWeights()
    found, original = (m.train(lenet(), few_digits(), RECIPE, 0.8, seed=0) for m in (Reinitialised(of), of))
    assert found.masks is not None and original.masks is not None
    for name, mask in found.masks.items():
        weight = found.module.get_parameter(name)
        assert torch.equal(mask, original.masks[name]) and bool((weight[~mask] == 0).all())
        assert not torch.equal(weight, original.module.get_parameter(name))


def test_there_is_nothing_to_shuffle_in_a_smaller_network() -> None:
    with pytest.raises(OptionError, match="take Reinitialised"):
        ShuffledMasks(RandomNodes())
