"""The recipe: what it learns, what it repeats, what it leaves as it was."""

from __future__ import annotations

import math
import time
from typing import Any, cast

import pytest
import torch
from torch import Tensor, nn

from graphprune.errors import LossError, OptionError
from graphprune.research.datasets import Split, batches, mnist_5k
from graphprune.research.epochs import accuracy, batch_loss
from graphprune.research.networks import lenet5, orthogonal_init_
from graphprune.research.training import Recipe, Trainer, train

NO_CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, NO_CUDA])]


class BatchSizes(nn.Module):
    """A linear classifier that records how many samples it was trained on at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 3)
        self.seen: list[int] = []

    def forward(self, x: Tensor) -> Tensor:
        """Return logits ``(B, 3)`` of ``(B, 1, 2, 2)``."""
        self.seen.append(len(x))
        logits: Tensor = self.linear(x.flatten(1))
        return logits


def clusters(samples: int) -> Split:
    """Three separable clusters in four dims, as images ``(1, 2, 2)``."""
    generator = torch.Generator().manual_seed(0)
    targets = torch.arange(samples) % 3
    inputs = 3 * torch.eye(4)[targets] + 0.5 * torch.randn(samples, 4, generator=generator)
    return Split(inputs.reshape(samples, 1, 2, 2), targets)


def small_net() -> nn.Module:
    """The same small network each time, with dropout and BatchNorm."""
    layers = (nn.Linear(4, 16), nn.BatchNorm1d(16), nn.LeakyReLU(0.05), nn.Dropout(0.3), nn.Linear(16, 3))
    return orthogonal_init_(nn.Sequential(nn.Flatten(), *layers), seed=0)


def weights(model: nn.Module) -> Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()]).cpu()


def test_lenet5_learns_the_digits() -> None:
    digits = mnist_5k()
    model = orthogonal_init_(lenet5(), seed=0)
    result = train(model, digits.train, Recipe(epochs=3, batch_size=64), seed=0)
    assert accuracy(model, digits.test) > 0.9
    assert len(result.epoch_losses) == 3
    assert result.epoch_losses[0] > result.epoch_losses[-1]


def test_defaults_are_the_paper_s() -> None:
    assert Recipe(80) == Recipe(80, batch_size=512, learning_rate=2e-3, weight_decay=5e-5, clip_norm=10.0)


def test_recipe_names_every_field_out_of_range() -> None:
    with pytest.raises(OptionError) as caught:
        Recipe(-1, batch_size=0, learning_rate=0.0, weight_decay=math.nan, clip_norm=0.0, precision=cast(Any, "int8"))
    for field in ("epochs", "batch_size", "learning_rate", "weight_decay", "clip_norm", "precision"):
        assert f"{field} must be" in str(caught.value)


def test_a_double_network_has_a_double_loss() -> None:
    split = clusters(8)
    model = small_net().double()
    assert batch_loss(model, (split.inputs.double(), split.targets), "float32").dtype == torch.float64


def test_bfloat16_is_what_products_compute_in_and_nothing_is_kept_in() -> None:
    seen: list[torch.dtype] = []
    model = small_net()
    linear = next(module for module in model.modules() if isinstance(module, nn.Linear))
    linear.register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    trainer = Trainer(model, clusters(60), Recipe(1, batch_size=16, learning_rate=0.02, precision="bfloat16"), seed=0)
    trainer.run(15)
    assert set(seen) == {torch.bfloat16}
    assert accuracy(model, clusters(60)) > 0.9
    assert seen[-1] == torch.float32
    held = (*model.parameters(), *(moment for of in trainer.optimizer.state.values() for moment in of.values()))
    assert {tensor.dtype for tensor in held} == {torch.float32}


@pytest.mark.parametrize("device", DEVICES)
def test_a_run_depends_on_the_seed_alone(device: str) -> None:
    runs = []
    for global_seed, seed in ((1, 0), (2, 0), (1, 3)):
        torch.manual_seed(global_seed)
        model = small_net().to(device)
        result = train(model, clusters(50), Recipe(2, batch_size=16), seed)
        runs.append((weights(model), result.epoch_losses))
    assert torch.equal(runs[0][0], runs[1][0]) and runs[0][1] == runs[1][1]
    assert not torch.equal(runs[0][0], runs[2][0])


@pytest.mark.parametrize("device", DEVICES)
def test_the_global_random_state_is_untouched(device: str) -> None:
    model, split = small_net().to(device), clusters(50)
    on_device = torch.cuda.get_rng_state if device == "cuda" else torch.get_rng_state
    before, before_on_device = torch.get_rng_state(), on_device()
    seen = []
    train(model, split, Recipe(2, batch_size=16), seed=0, on_epoch=lambda *_: seen.append(torch.get_rng_state()))
    accuracy(model, split)
    assert all(torch.equal(state, before) for state in (*seen, torch.get_rng_state()))
    assert len(seen) == 2
    assert torch.equal(on_device(), before_on_device)


def test_dropout_is_drawn_from_the_seed_and_differs_between_epochs() -> None:
    masks: list[Tensor] = []
    dropout = nn.Dropout(0.5)
    dropout.register_forward_hook(lambda module, inputs, output: masks.append(output == 0))
    # With one batch an epoch the order of the samples cannot change the mask.
    train(nn.Sequential(nn.Flatten(), nn.Linear(4, 64), dropout, nn.Linear(64, 3)), clusters(9), Recipe(2), seed=0)
    assert not torch.equal(masks[0], masks[1])


def test_the_mode_of_every_module_is_restored() -> None:
    model = small_net().eval()
    next(model.children()).train()
    modes = [m.training for m in model.modules()]
    inside: list[bool] = []
    model.register_forward_hook(lambda module, inputs, output: inside.append(module.training))
    train(model, clusters(9), Recipe(1), seed=0)
    assert [m.training for m in model.modules()] == modes
    accuracy(model, clusters(9))
    assert [m.training for m in model.modules()] == modes
    assert inside == [True, False]


@pytest.mark.parametrize(
    ("samples", "batch_size", "seen"),
    [(9, 4, [4, 4]), (10, 4, [4, 4, 2]), (8, 4, [4, 4]), (3, 1, [1, 1, 1]), (1, 4, [1])],
)
def test_a_last_batch_of_one_is_dropped(samples: int, batch_size: int, seen: list[int]) -> None:
    model = BatchSizes()
    train(model, clusters(samples), Recipe(1, batch_size=batch_size), seed=0)
    assert model.seen == seen


def test_epoch_loss_is_the_mean_over_samples() -> None:
    split, model = clusters(10), BatchSizes()
    frozen = Recipe(1, batch_size=4, learning_rate=1e-30, weight_decay=0.0)
    result = train(model, split, frozen, seed=0)
    expected = nn.functional.cross_entropy(model(split.inputs), split.targets)
    assert result.epoch_losses[0] == pytest.approx(expected.item(), rel=1e-5)


def test_callback_gets_index_and_loss_and_its_time_is_not_counted() -> None:
    calls: list[tuple[int, float]] = []

    def on_epoch(epoch: int, loss: float) -> None:
        calls.append((epoch, loss))
        time.sleep(0.2)

    start = time.perf_counter()
    result = train(small_net(), clusters(9), Recipe(2), seed=0, on_epoch=on_epoch)
    assert calls == list(enumerate(result.epoch_losses))
    assert 0 < result.seconds < time.perf_counter() - start - 0.4


def test_no_epochs_change_nothing() -> None:
    model = small_net()
    before = weights(model)
    result = train(model, clusters(9), Recipe(0), seed=0)
    assert (result.seconds, result.epoch_losses) == (0.0, ())
    assert torch.equal(weights(model), before)


def test_gradient_norm_is_clipped(monkeypatch: pytest.MonkeyPatch) -> None:
    norms: list[float] = []
    model = BatchSizes()

    def record(self: torch.optim.Adam, closure: None = None) -> None:
        grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
        norms.append(torch.cat(grads).norm().item())

    monkeypatch.setattr(torch.optim.Adam, "step", record)
    for clip_norm in (1e-3, math.inf):
        train(model, clusters(9), Recipe(1, clip_norm=clip_norm), seed=0)
    # torch adds 1e-6 to the norm that it divides by.
    assert norms[0] == pytest.approx(1e-3, rel=1e-4)
    assert norms[1] > 1e-2


def test_loss_that_is_not_finite_names_epoch_and_step() -> None:
    split = clusters(12)
    split.inputs[7] = math.nan
    generator = torch.Generator().manual_seed(4)
    # As `train` does: the seed of dropout is drawn before the order.
    torch.randint(2**63 - 1, (), generator=generator)
    step = next(i for i, (x, _) in enumerate(batches(split, 4, generator)) if x.isnan().any())
    with pytest.raises(LossError, match=rf"the loss is nan at epoch 0, step {step} of 3"):
        train(BatchSizes(), split, Recipe(2, batch_size=4), seed=4)


def test_loss_error_keeps_the_mode_and_the_random_state() -> None:
    split, model = clusters(12), small_net().eval()
    split.inputs[0] = math.inf
    before = torch.get_rng_state()
    with pytest.raises(LossError):
        train(model, split, Recipe(1), seed=0)
    assert not model.training
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_accuracy_is_the_share_of_right_answers(device: str, batch_size: int) -> None:
    split = clusters(10)
    # The first three pixels are the logits: a sample is classified right until its target moves on.
    targets = split.targets.clone()
    targets[:3] = (targets[:3] + 1) % 3
    linear = nn.Linear(4, 3, bias=False)
    nn.init.eye_(linear.weight)
    model = nn.Sequential(nn.Flatten(), linear).to(device)
    assert accuracy(model, Split(split.inputs, targets), batch_size) == 0.7


def test_accuracy_leaves_no_gradient_and_no_statistics() -> None:
    model = small_net()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    accuracy(model, clusters(9))
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_accuracy_refuses_an_empty_batch() -> None:
    with pytest.raises(OptionError, match="batch_size must be 1 or more, got 0"):
        accuracy(small_net(), clusters(9), batch_size=0)
