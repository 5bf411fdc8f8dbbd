"""Repair by least squares: what it makes of networks of every kind, and what it must not do."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import graphprune
from graphprune import Compiled, UserError
from graphprune.program.tensors import stored_tensors
from graphprune.repair.record import Repair
from tests.ops.case import net
from tests.repair.networks import FITTED, IMAGE
from tests.small_models import randomised


def data(batches: int = 6, size: int = 32, shape: tuple[int, ...] = IMAGE, seed: int = 1) -> list[tuple[Tensor, None]]:
    """Smooth images, whose channels depend on each other as those of photographs do; nothing has targets."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(shape[0], 3, generator=torch.Generator().manual_seed(9))
    found = []
    for _ in range(batches):
        hidden = torch.randn(size, 3, *shape[1:], generator=generator)
        found.append((torch.einsum("oc,nc...->no...", mix, hidden), None))
    return found


def pruned(model: nn.Module, share: float = 0.4) -> Compiled:
    """A network without some of its channels, picked at random."""
    return graphprune.compile(
        randomised(model).eval(), torch.randn(2, *IMAGE), sparsity=share, criterion="random", schedule="one-shot"
    )


def squared_distance(compiled: Compiled, model: nn.Module) -> float:
    """Squared distance of the outputs on new samples, as a share of the squared norm of the dense ones."""
    inputs = torch.cat([batch for batch, _ in data(2, 64, seed=77)])
    with torch.no_grad():
        dense, compact = model(inputs), compiled.module.eval()(inputs)
    return float((dense - compact).square().sum() / dense.square().sum())


@pytest.mark.parametrize("name", FITTED)
def test_the_outputs_come_nearer_and_the_proof_holds(name: str) -> None:
    torch.manual_seed(0)
    model = FITTED[name]()
    compiled = pruned(model)
    before, untouched = squared_distance(compiled, model), copy.deepcopy(model.state_dict())
    found = compiled.repair(data())
    assert found.accepted and found.loss_after < found.loss_before and found.layers
    assert squared_distance(compiled, model) < 0.9 * before
    assert compiled.verify().relative_error <= compiled.verify().tolerance
    assert all(torch.equal(value, untouched[key]) for key, value in model.state_dict().items())
    assert compiled.report.repair is found and str(found) in str(compiled.report)


@pytest.mark.parametrize("name", ["plain", "residual", "depthwise", "attention"])
def test_it_is_deterministic(name: str) -> None:
    values = []
    for _ in range(2):
        torch.manual_seed(0)
        compiled = pruned(FITTED[name]())
        torch.manual_seed(torch.seed())  # whatever the state of the generator is
        compiled.repair(data())
        values.append({key: value.clone() for key, value in compiled.module.state_dict().items()})
    assert all(torch.equal(values[0][key], values[1][key]) for key in values[0])


def test_channels_that_others_stand_for_are_made_up_for_entirely() -> None:
    """Every channel is there twice, so that a linear map of those that are left gives the dense outputs exactly."""
    torch.manual_seed(0)
    model: Any = net(
        lambda self, x: self.c(self.b(self.a(x).relu()).relu()),
        a=nn.Conv2d(4, 12, 3), b=nn.Conv2d(12, 12, 3, padding=1), c=nn.Conv2d(12, 3, 1),
    ).double()  # fmt: skip
    with torch.no_grad():
        for layer in (model.a, model.b):
            layer.weight[6:], layer.bias[6:] = layer.weight[:6], layer.bias[:6]
    halves = {"a.weight[0]": range(6), "b.weight[0]": range(6)}

    def first_half(weights: dict[str, Tensor]) -> Tensor:
        (name,) = halves.keys() & weights.keys()
        return (torch.arange(len(weights[name])) < 6).double()

    example = torch.randn(2, *IMAGE, dtype=torch.float64)
    compiled = graphprune.compile(model, example, sparsity=0.5, criterion=first_half, schedule="one-shot")
    assert [row.after for row in compiled.report.groups] == [6, 6]
    batches = [(inputs.double(), None) for inputs, _ in data()]
    found = compiled.repair(batches)
    # the ridge, a thousandth of the variance, keeps the weights a little nearer to the old ones
    assert found.loss_before > 0.05 and found.loss_after < 1e-6


def test_what_has_lost_nothing_is_left_alone() -> None:
    torch.manual_seed(0)
    model = FITTED["plain"]()
    compiled = pruned(model)
    first = {key: value.clone() for key, value in compiled.module.state_dict().items() if key.startswith("a.")}
    found = compiled.repair(data())
    assert [layer.name for layer in found.layers] == ["b", "c"]
    assert all(torch.equal(compiled.module.state_dict()[key], value) for key, value in first.items())


def test_nothing_changes_where_the_outputs_do_not_come_nearer() -> None:
    torch.manual_seed(0)
    compiled = pruned(FITTED["residual"]())
    while compiled.repair(data()).accepted:
        pass
    before = {key: value.clone() for key, value in compiled.module.state_dict().items()}
    found = compiled.repair(data())
    assert not found.accepted and "everything stays as it was" in str(found)
    assert all(torch.equal(compiled.module.state_dict()[key], value) for key, value in before.items())


def test_the_optimizer_goes_on_with_the_repaired_weights() -> None:
    torch.manual_seed(0)
    compiled = pruned(FITTED["plain"]())
    parameters = dict(compiled.module.named_parameters())
    compiled.repair(data())
    assert all(parameters[name] is parameter for name, parameter in compiled.module.named_parameters())


def test_the_dense_model_is_the_one_that_was_given_after_training_between_rounds() -> None:
    """Tensors that did not shrink are trained too; the dense weights must not follow them."""
    torch.manual_seed(0)
    model = FITTED["residual"]().eval()
    pruner = graphprune.Pruner(model, torch.randn(2, *IMAGE), sparsity=0.4, criterion="random", schedule="linear")
    given = {name: tensor.clone() for name, tensor in stored_tensors(pruner.module).items()}
    while pruner.rounds_left:
        pruner.step()
        with torch.no_grad():
            for parameter in pruner.module.parameters():
                parameter.add_(1.0)
    compiled = pruner.finish()
    dense = stored_tensors(compiled._dense().module)
    assert all(torch.equal(dense[name], tensor) for name, tensor in given.items())
    compiled.repair(data())
    assert all(torch.equal(dense[name], tensor) for name, tensor in given.items())


def test_modes_buffers_inputs_and_the_random_state_stay() -> None:
    torch.manual_seed(0)
    compiled = pruned(FITTED["depthwise"]())
    compiled.module.train()
    batches = data()
    inputs, state = [batch.clone() for batch, _ in batches], torch.get_rng_state()
    compiled.repair(batches)
    assert all(module.training for module in compiled.module.modules())
    assert all(torch.equal(batch, before) for (batch, _), before in zip(batches, inputs, strict=True))
    assert torch.equal(torch.get_rng_state(), state)
    assert int(compiled.module.state_dict()["n.num_batches_tracked"]) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_other_types(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    model = FITTED["plain"]().to(dtype).eval()
    compiled = graphprune.compile(
        model, torch.randn(2, *IMAGE, dtype=dtype), sparsity=0.4, criterion="random", schedule="one-shot", verify=False
    )
    found = compiled.repair([(inputs.to(dtype), None) for inputs, _ in data()])
    assert found.accepted
    assert {parameter.dtype for parameter in compiled.module.parameters()} == {dtype}


class Counting(nn.Module):
    """Counts its calls in a buffer, in evaluation mode too."""

    calls: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.norm, self.b = nn.Conv2d(4, 12, 1), nn.BatchNorm2d(12), nn.Conv2d(12, 3, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        result: Tensor = self.b(self.norm(self.a(x)).relu())
        return result


def test_what_a_program_counts_in_its_buffers_stays() -> None:
    torch.manual_seed(0)
    compiled = pruned(Counting())
    before = compiled.module.get_buffer("calls").clone()
    compiled.repair(data())
    compiled.recalibrate(data())
    assert torch.equal(compiled.module.get_buffer("calls"), before)


# --- what is not fitted -----------------------------------------------------------------------------------------------


def tied() -> nn.Module:
    model: Any = net(
        lambda self, x: self.head(self.b(self.a(self.s(x)).relu()).relu().mean((2, 3))),
        s=nn.Conv2d(4, 8, 1), a=nn.Conv2d(8, 8, 1), b=nn.Conv2d(8, 8, 1), head=nn.Linear(8, 3),
    )  # fmt: skip
    model.b.weight = model.a.weight
    tied_model: nn.Module = model
    return tied_model


def recurrent() -> nn.Module:
    return net(
        lambda self, x: self.head(self.rnn(self.s(x).flatten(2).transpose(1, 2))[0][:, -1]),
        s=nn.Conv2d(4, 8, 1), rnn=nn.GRU(8, 8, batch_first=True), head=nn.Linear(8, 3),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("factory", "name", "reason"),
    [
        (tied, "a", "its weights are used more than once"),
        (recurrent, "rnn.weight_ih_l0", "neither a convolution nor a linear layer reads it"),
    ],
)
def test_what_cannot_be_fitted_is_said(factory: Callable[[], nn.Module], name: str, reason: str) -> None:
    torch.manual_seed(0)
    found = pruned(factory()).repair(data())
    assert dict(found.left)[name] == reason


def test_dead_weights_stay_dead() -> None:
    torch.manual_seed(0)
    compiled = graphprune.compile(
        FITTED["plain"](), torch.randn(2, *IMAGE), sparsity=0.5, granularity="mixed", schedule="one-shot"
    )
    found: Repair = compiled.repair(data())
    assert set(dict(found.left).values()) == {"some of its weights are dead"}
    compiled.verify()


# --- what is refused --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batches", "options", "message"),
    [
        ([(torch.randn(8, 9, 8, 8), None)], {}, r"the model cannot take a batch with inputs \(\d, 9, 8, 8\)"),
        (torch.randn(8, *IMAGE), {}, r"data: expected batches \(inputs, target\), got Tensor"),
        ([], {}, "data gives no batches"),
        (5, {}, "data: expected an iterable of batches"),
        ([(torch.randn(4, *IMAGE), None)], {}, "a repair needs at least 5 samples"),
        (data(), {"samples": 0}, "samples=0: expected a whole number of at least 1"),
        (data(), {"seed": "x"}, "seed='x': expected a whole number"),
    ],
)
def test_data_and_options_that_cannot_work(batches: Any, options: dict[str, Any], message: str) -> None:
    torch.manual_seed(0)
    compiled = pruned(FITTED["plain"]())
    before = {key: value.clone() for key, value in compiled.module.state_dict().items()}
    with pytest.raises(UserError, match=message):
        compiled.repair(batches, **options)
    if not options:
        with pytest.raises(UserError, match=message):
            compiled.recalibrate(batches)
    assert all(torch.equal(compiled.module.state_dict()[key], value) for key, value in before.items())
