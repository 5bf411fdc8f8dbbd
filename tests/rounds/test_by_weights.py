"""Single weights, and weights together with channels: from the call to the file, and through training."""

from __future__ import annotations

import copy
import gc
from pathlib import Path
from typing import Any

import onnx
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import graphprune
from graphprune import Budget, Compiled, Pruner
from graphprune.errors import ArtifactError, NothingToPruneError, OptionError, UserError, VerificationError
from graphprune.plan.plan import Plan
from tests.small_models import CLASSES, Residual, images, randomised
from tests.test_pruner import OPTIMIZERS, batches, train

BOTH = ("weight", "mixed")


def compiled_of(granularity: str, model: nn.Module | None = None, **options: Any) -> Compiled:
    defaults: dict[str, Any] = {"sparsity": 0.7, "data": batches(2), "samples": 16}
    model = randomised(Residual()) if model is None else model
    return graphprune.compile(model, images(2), granularity=granularity, **(defaults | options))


def dead_weights(module: nn.Module, masks: dict[str, Tensor]) -> float:
    """The largest of them."""
    return max(float(module.get_parameter(name).detach()[~mask].abs().max()) for name, mask in masks.items())


@pytest.mark.parametrize("granularity", BOTH)
@pytest.mark.parametrize("resurrect", [False, True])
def test_exact_share_of_weights_goes(granularity: str, resurrect: bool) -> None:
    model = randomised(Residual())
    before = copy.deepcopy(model.state_dict())
    compiled = compiled_of(granularity, model, resurrect=resurrect)
    total, left = compiled.report.costs["weights"]
    assert total == sum(m.weight.numel() for m in model.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))
    assert left == total - -(-total * 7 // 10)
    live = sum(
        int((module.weight != 0).sum())
        for module in compiled.module.modules()
        if isinstance(module, (nn.Conv2d, nn.Linear))
    )
    assert live == left
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items()), "the user's model"
    verification = compiled.verify()
    assert verification.relative_error <= verification.tolerance
    assert all(entry.verification is not None for entry in compiled.report.rounds)
    channels, channels_left = compiled.report.costs["channels"]
    assert (channels_left < channels) == (granularity == "mixed")


def test_live_weights_keep_their_values() -> None:
    model = randomised(Residual())
    compiled = compiled_of("weight", model, resurrect=True)
    for name, mask in compiled.plan.masks.items():
        expected = torch.where(mask, model.get_parameter(name), 0)
        assert torch.equal(compiled.module.get_parameter(name), expected), name


@pytest.mark.parametrize("granularity", BOTH)
def test_rounds_that_take_nothing_yet(granularity: str) -> None:
    compiled = compiled_of(granularity, resurrect=True, schedule=lambda kappa: [0.0, kappa / 2, kappa / 2, kappa])
    total, left = compiled.report.costs["weights"]
    assert left == total - -(-total * 7 // 10)
    assert compiled.report.rounds[0].verification is None


def test_one_shot_equals_zeroing_by_hand() -> None:
    """SNIP: |w dL/dw| by plain autograd, the largest stay."""
    model, data = randomised(Residual()).eval(), batches(1, 16)
    compiled = compiled_of("weight", model, schedule="one-shot", data=data, samples=16)
    functional.cross_entropy(model(data[0][0]), data[0][1]).backward()
    weights = [module.weight for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    scores = torch.cat([(weight * weight.grad).abs().flatten() for weight in weights if weight.grad is not None])
    live = torch.cat(
        [
            compiled.plan.masks.get(name, torch.ones_like(value, dtype=torch.bool)).flatten()
            for name, value in model.named_parameters()
            if value.dim() > 1
        ]
    )
    # the order of modules is that of registration in both
    assert scores[~live].max() <= scores[live].min() * (1 + 1e-5)  # roundings of a sum in another order


@pytest.mark.parametrize("granularity", BOTH)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_dead_weights_stay_zero_in_training(name: str, granularity: str) -> None:
    pruner = Pruner(
        randomised(Residual()), images(2), granularity=granularity, sparsity=0.8, data=batches(2), samples=16,
        schedule="linear",
    )  # fmt: skip
    optimizer = OPTIMIZERS[name](pruner.module)
    while pruner.rounds_left:
        train(pruner.module, optimizer, batches(2))
        pruner.step(optimizer=optimizer)
        train(pruner.module, optimizer, batches(2))
        masks = pruner.finish().plan.masks
        # factored moments, which belong to dead and live weights together, move dead ones: those are put right
        assert dead_weights(pruner.module, masks) == 0
    compiled = pruner.finish()
    assert compiled.verify().relative_error <= 1e-5
    costs = compiled.report.costs["weights"]
    assert costs[1] == costs[0] - -(-costs[0] * 8 // 10)


def test_gradients_are_masked_before_they_are_clipped() -> None:
    compiled = compiled_of("weight")
    module = compiled.module.train()
    functional.cross_entropy(module(images(8)), torch.randint(CLASSES, (8,))).backward()
    for name, mask in compiled.plan.masks.items():
        gradient = module.get_parameter(name).grad
        assert gradient is not None and not bool(gradient[~mask].any()) and bool(gradient[mask].any())


def test_an_optimizer_that_nobody_told_cannot_revive_weights() -> None:
    pruner = Pruner(randomised(Residual()), images(2), granularity="weight", sparsity=0.8, data=batches(1), samples=8)
    optimizer = torch.optim.SGD(pruner.module.parameters(), lr=0.1, momentum=0.99)
    train(pruner.module, optimizer, batches(2))
    pruner.step()
    # it holds parameters that are no longer the module's: what it does has no effect, and a new one starts clean
    train(pruner.module, torch.optim.SGD(pruner.module.parameters(), lr=0.1, momentum=0.99), batches(2))
    with torch.no_grad():
        for parameter in pruner.module.parameters():
            parameter.add_(1.0)
    masks = pruner.finish().plan.masks
    assert dead_weights(pruner.module, masks) == 0


def test_two_forward_passes_before_one_backward() -> None:
    """Nothing is written to a parameter between them, which autograd would refuse."""
    module = compiled_of("weight").module.train()
    with torch.no_grad():
        module.get_parameter("conv1.weight").add_(1.0)
    (module(images(4)).sum() + module(images(4)).sum()).backward()


def test_copies_are_held_too() -> None:
    compiled = compiled_of("mixed")
    copied = copy.deepcopy(compiled.module)
    optimizer = torch.optim.AdamW(copied.parameters(), lr=0.1, weight_decay=0.1)
    train(copied, optimizer, batches(3))
    assert dead_weights(copied, compiled.plan.masks) == 0
    assert compiled.verify().relative_error <= 1e-5, "the original is not touched"


@pytest.mark.parametrize("granularity", BOTH)
def test_saved_and_loaded(granularity: str, tmp_path: Path) -> None:
    compiled = compiled_of(granularity)
    compiled.save(tmp_path / "net")
    inputs = images(3)
    expected = compiled.module.eval()(inputs)
    loaded = graphprune.load(tmp_path / "net", Residual())
    assert torch.equal(loaded.eval()(inputs), expected)
    assert torch.allclose(graphprune.load(tmp_path / "net")(inputs), expected, atol=1e-5)
    train(loaded, torch.optim.SGD(loaded.parameters(), lr=0.1, weight_decay=0.1), batches(2))
    assert dead_weights(loaded, compiled.plan.masks) == 0
    stored = onnx.load(tmp_path / "net" / "model.onnx")
    arrays = [onnx.numpy_helper.to_array(entry) for entry in stored.graph.initializer]
    zeros = sum(int((array == 0).sum()) for array in arrays if array.ndim > 1)
    assert zeros >= sum(int((~mask).sum()) for mask in compiled.plan.masks.values())


@pytest.mark.parametrize("granularity", BOTH)
def test_plan_is_replayed(granularity: str) -> None:
    compiled, other = compiled_of(granularity), randomised(Residual())
    plan = Plan.from_json(compiled.plan.to_json())
    assert plan.to_json() == compiled.plan.to_json()
    replayed = plan.apply(other)
    assert {n: p.shape for n, p in replayed.named_parameters()} == {
        n: p.shape for n, p in compiled.module.named_parameters()
    }
    assert dead_weights(replayed, compiled.plan.masks) == 0


def test_a_plan_with_broken_masks_is_refused() -> None:
    text = compiled_of("weight").plan.to_json()
    with pytest.raises(ArtifactError, match="bytes for the mask"):
        Plan.from_json(text.replace('"shape":[4,6,3,3]', '"shape":[4,6,3,30]'))
    other = Plan.from_json(text)
    other.masks["conv1.weight"] = torch.ones(4, 6, 1, 1, dtype=torch.bool)
    with pytest.raises(ArtifactError, match=r"conv1\.weight: the plan masks"):
        other.apply(Residual())


def test_a_dead_weight_that_was_set_is_found() -> None:
    compiled = compiled_of("weight")
    name, mask = next(iter(compiled.plan.masks.items()))
    with torch.no_grad():
        compiled.module.get_parameter(name)[~mask] = 1.0
    with pytest.raises(VerificationError, match=f"{name}: .* dead weights are not zero"):
        compiled.verify()


def test_protected_weights_are_not_in_the_pool() -> None:
    compiled = compiled_of("weight", protect=("conv1", "fc.weight"))
    assert not {"conv1.weight", "fc.weight"} & compiled.plan.masks.keys()
    assert "conv2.weight" in compiled.plan.masks


def test_dead_weights_can_come_back_in_later_rounds_only_if_asked() -> None:
    """Ranked by another criterion in each round: the parity of the round decides."""
    from graphprune.costs.pool import pool_of
    from graphprune.criteria.weights import WeightScores

    for resurrect in (False, True):
        calls = [0]

        def turning(program: Any, sensitivity: Any, calls: list[int] = calls) -> WeightScores:
            calls[0] += 1
            rows = {n: torch.arange(w.numel(), dtype=torch.float64).view(w.shape) for n, w in pool_of(program).items()}
            return WeightScores({n: row if calls[0] % 2 else -row for n, row in rows.items()}, "turning")

        pruner = Pruner(
            Residual(), images(2), granularity="weight", sparsity=0.6, schedule=lambda kappa: [kappa / 2, kappa],
            criterion=turning, resurrect=resurrect,
        )  # fmt: skip
        pruner.step()
        first = dict(pruner.finish().plan.masks)
        pruner.step()
        second = pruner.finish().plan.masks
        revived = sum(int((mask & ~first[name]).sum()) for name, mask in second.items() if name in first)
        assert (revived > 0) == resurrect


REFUSED: list[tuple[dict[str, Any], type[UserError], str]] = [
    ({"granularity": "filter"}, OptionError, "granularity='filter' is unknown; known are channel, weight, mixed"),
    ({"granularity": "weight", "budget": Budget(channels=0.5)}, OptionError, r"^Budget\(channels=0.5\): where single"),
    ({"granularity": "mixed", "budget": Budget(latency=0.5)}, OptionError, "weights are what is counted"),
    ({"granularity": "weight", "align": 8}, OptionError, "about channels"),
    ({"granularity": "mixed", "align": "auto"}, OptionError, "about widths"),
    ({"granularity": "channel", "resurrect": True}, OptionError, "cannot come back"),
    ({"granularity": "weight", "criterion": "l1-norm"}, OptionError, "does not rank what granularity='weight' removes"),
    ({"granularity": "channel", "criterion": "force"}, OptionError, "does not rank what granularity='channel' removes"),
    ({"granularity": "weight", "criterion": "elastic"}, OptionError, "criterion for weights 'elastic' is unknown"),
    ({"granularity": "mixed", "criterion": lambda weights: None}, OptionError, "ranks channels and weights alike"),
    ({"granularity": "weight", "sparsity": 0.0}, NothingToPruneError, "would make none of"),
]


@pytest.mark.parametrize(("options", "error", "message"), REFUSED, ids=lambda value: str(value)[:40])
def test_what_cannot_work_is_refused(options: dict[str, Any], error: type[UserError], message: str) -> None:
    with pytest.raises(error, match=message):
        graphprune.compile(Residual(), images(2), **options)


def test_channels_by_a_budget_of_weights() -> None:
    compiled = graphprune.compile(Residual(), images(2), budget=Budget(weights=0.5))
    before, after = compiled.report.costs["weights"]
    assert after <= before / 2 and not compiled.plan.masks
    assert after == sum(m.weight.numel() for m in compiled.module.modules() if isinstance(m, (nn.Conv2d, nn.Linear)))


@pytest.mark.parametrize("granularity", BOTH)
@pytest.mark.parametrize("resurrect", [False, True])
def test_a_model_of_which_no_channel_can_go(granularity: str, resurrect: bool) -> None:
    compiled = graphprune.compile(
        nn.Linear(6, 4), torch.randn(3, 6), granularity=granularity, resurrect=resurrect, sparsity=0.75
    )
    assert compiled.report.costs["weights"] == (24, 6) and compiled.report.costs["channels"] == (0, 0)
    assert compiled.verify().relative_error <= 1e-5


def test_channels_may_run_out_before_the_last_round() -> None:
    """Each group is down to one channel by then, and weights go alone."""
    model = nn.Sequential(nn.Linear(5, 2), nn.ReLU(), nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, CLASSES))
    pruner = Pruner(model, torch.randn(4, 5), granularity="mixed", sparsity=0.9, criterion="magnitude")
    while pruner.rounds_left:
        pruner.step()
    assert pruner.rounds[-1].achieved["channels"] == 0.5 and not pruner.rounds[-1].removed
    assert pruner.report().costs["weights"] == (20, 2)


@pytest.mark.parametrize("granularity", BOTH)
def test_no_scores_are_left_between_rounds(granularity: str) -> None:
    """In double precision they take twice the memory of the model."""
    model = nn.Sequential(nn.Linear(20, 200), nn.ReLU(), nn.Linear(200, 200), nn.ReLU(), nn.Linear(200, CLASSES))
    pruner = Pruner(model, torch.randn(4, 20), granularity=granularity, sparsity=0.9, schedule="linear")
    for _ in range(2):
        pruner.step()
        gc.collect()
        left = [thing for thing in gc.get_objects() if type(thing) is Tensor and thing.dtype == torch.float64]
        assert not [tuple(tensor.shape) for tensor in left if tensor.numel() >= 200 * 20]


class Standardised(nn.Module):
    """A convolution by weights that are computed first, from which zeros would not come through."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.head = nn.Conv2d(2, 8, 3), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        weight = self.conv.weight - self.conv.weight.mean((1, 2, 3), keepdim=True)
        out: Tensor = self.head(torch.relu(functional.conv2d(x, weight)).mean((2, 3)))
        return out


def test_what_is_not_counted_is_told(caplog: pytest.LogCaptureFixture) -> None:
    compiled = graphprune.compile(Standardised(), images(2), granularity="weight", sparsity=0.5)
    assert compiled.report.costs["weights"] == (8 * CLASSES, 4 * CLASSES)
    told = "only 24 weights can become zero and are counted; more are looked up, computed before they multiply"
    assert told.replace("24", str(8 * CLASSES)) in caplog.text and "and stay: conv.weight" in caplog.text
    caplog.clear()
    compiled_of("weight")
    assert "are counted" not in caplog.text
    with pytest.raises(NothingToPruneError, match=r"no weight can become zero: .* Not among them: conv\.weight"):
        graphprune.compile(Standardised(), images(2), granularity="weight", protect=("head",))
