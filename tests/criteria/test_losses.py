"""Losses: cross-entropy against its formula, and what is said where there is no loss."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from graphprune.criteria.losses import cross_entropy, describe, evaluate_loss
from graphprune.criteria.samples import Batch
from graphprune.errors import InputError, LossError
from graphprune.program.example import Example

IGNORED = -100
"""Target that torch leaves out."""


def formula(output: Tensor, target: Tensor) -> float:
    """Mean over what counts of -log softmax at the target, place by place; 0 where nothing counts."""
    logits, classes = output.movedim(1, -1).flatten(0, -2).tolist(), target.flatten().tolist()
    losses = [
        math.log(sum(math.exp(each) for each in row)) - row[chosen]
        for row, chosen in zip(logits, classes, strict=True)
        if chosen != IGNORED
    ]
    return sum(losses) / len(losses) if losses else 0.0


@st.composite
def logits_and_targets(draw: st.DrawFn) -> tuple[Tensor, Tensor]:
    """For images, sequences, or one prediction each; some targets are ignored."""
    samples, classes = draw(st.integers(1, 4)), draw(st.integers(2, 5))
    places = draw(st.sampled_from([(), (3,), (2, 2)]))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**31)))
    output = 3 * torch.randn(samples, classes, *places, generator=generator, dtype=torch.float64)
    target = torch.randint(classes, (samples, *places), generator=generator)
    ignored = torch.rand(target.shape, generator=generator) < draw(st.sampled_from([0.0, 0.3, 1.0]))
    return output, target.masked_fill(ignored, IGNORED)


@given(logits_and_targets())
def test_cross_entropy_is_its_formula(drawn: tuple[Tensor, Tensor]) -> None:
    output, target = drawn
    # a few roundings of numbers of about 10 in double precision
    assert float(cross_entropy(output, target)) == pytest.approx(formula(output, target), rel=1e-12, abs=1e-12)


@given(logits_and_targets())
def test_the_models_own_prediction_is_the_likeliest_class(drawn: tuple[Tensor, Tensor]) -> None:
    output, _ = drawn
    own = cross_entropy(output, None)
    assert torch.equal(own, cross_entropy(output, output.argmax(1)))
    assert float(own) <= math.log(output.shape[1]) + 1e-12, "no worse than all classes alike"


@given(logits_and_targets())
def test_ignored_samples_have_no_gradient(drawn: tuple[Tensor, Tensor]) -> None:
    output, target = drawn
    output.requires_grad_()
    cross_entropy(output, target).backward()
    gradient = output.grad
    assert gradient is not None
    counted = (target != IGNORED).unsqueeze(1).expand_as(output)
    assert not gradient[~counted].any() and bool((gradient[counted] != 0).all())


def test_where_no_target_counts_the_loss_is_zero_and_can_be_differentiated() -> None:
    output = torch.randn(2, 3, requires_grad=True)
    loss = cross_entropy(output, torch.full((2,), IGNORED))
    loss.backward()
    assert loss.shape == () and float(loss.detach()) == 0.0
    assert output.grad is not None and not output.grad.any()


def test_targets_can_be_probabilities() -> None:
    output, target = torch.randn(2, 3, dtype=torch.float64), torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0]])
    expected = -(target * output.log_softmax(1)).sum() / 2
    torch.testing.assert_close(cross_entropy(output, target.double()), expected, rtol=1e-6, atol=0)  # target in float32


def test_targets_give_no_gradient_to_the_prediction_that_they_come_from() -> None:
    output = torch.randn(4, 3, dtype=torch.float64, requires_grad=True)
    cross_entropy(output, None).backward()
    with_target = output.detach().clone().requires_grad_()
    cross_entropy(with_target, output.detach().argmax(1)).backward()
    assert output.grad is not None and with_target.grad is not None
    assert torch.equal(output.grad, with_target.grad)


@pytest.mark.parametrize("wrong", [3, -1, 7, -99])
def test_a_target_that_is_no_class(wrong: int) -> None:
    with pytest.raises(
        LossError, match=f"^target {wrong} is not a class: the model's output has 3, so targets are 0 to 2"
    ):
        cross_entropy(torch.randn(3, 3), torch.tensor([0, wrong, IGNORED]))


@pytest.mark.parametrize(
    ("output", "found"),
    [
        ({"logits": torch.randn(2, 3), "hidden": [torch.randn(2)]}, "dict of 2 tensors"),
        ((), "tuple"),
        (None, "NoneType"),
        (0.5, "float"),
    ],
)
def test_an_output_that_is_no_tensor(output: Any, found: str) -> None:
    with pytest.raises(
        LossError, match=f"the model's output is {found}, not a tensor; pass loss=lambda output, target"
    ):
        cross_entropy(output, None)


@pytest.mark.parametrize("shape", [(), (3,), (3, 1), (3, 1, 4)])
def test_an_output_without_classes(shape: tuple[int, ...]) -> None:
    with pytest.raises(LossError) as caught:
        cross_entropy(torch.randn(shape), None)
    assert f"has shape {shape}; cross-entropy needs (N, classes, ...). Pass loss=" in str(caught.value)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (torch.zeros(2, 3), "(2, 3) of torch.float32"),
        (torch.tensor(True), "() of torch.bool"),
        ([torch.zeros(1), {"a": torch.zeros(1), "b": 3}], "list of 2 tensors"),
        ({"a": 3}, "dict"),
        ("text", "str"),
        (None, "NoneType"),
    ],
)
def test_descriptions(value: Any, text: str) -> None:
    assert describe(value) == text


# --- the loss of a batch ----------------------------------------------------------------------------------------------


def batch(samples: int = 4, target: Any = None) -> Batch:
    return Batch(Example.of(torch.randn(samples, 5)), target, samples)


@pytest.mark.parametrize("shape", [(), (1,), (1, 1)])
def test_a_loss_is_a_scalar_in_the_end(shape: tuple[int, ...]) -> None:
    module, given_batch = nn.Linear(5, 3), batch()
    found = evaluate_loss(lambda output, target: output.square().mean().reshape(shape), module, given_batch)
    assert found.shape == ()
    found.backward()
    expected = module(given_batch.inputs.args[0]).square().mean()
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert module.weight.grad is not None and module.weight.grad.any()


def test_a_loss_is_given_the_output_and_the_target() -> None:
    seen: list[Any] = []

    def loss(output: Tensor, target: Any) -> Tensor:
        seen.extend((output.shape, target))
        return output.mean()

    class Model(nn.Module):
        def forward(self, x: Tensor, *, scale: float) -> Tensor:
            return x[:, :2] * scale

    evaluate_loss(loss, Model(), Batch(Example((torch.randn(4, 5),), {"scale": 2.0}), "target", 4))
    assert seen == [(4, 2), "target"]


NO_SCALARS: list[tuple[Callable[[Any, Any], Any], str]] = [
    (
        lambda output, target: output,
        r"must be a scalar tensor, the mean over the batch; got a tensor of shape \(4, 3\)",
    ),
    (lambda output, target: output[:0].sum(1), r"got a tensor of shape \(0,\)"),
    (lambda output, target: float(output.detach().mean()), "got float"),
    (lambda output, target: None, "got NoneType"),
    (lambda output, target: (output.mean(),), "got tuple"),
    (lambda output, target: output.mean() * math.inf, "the loss of a batch of 4 samples is -?inf; check the data"),
    (lambda output, target: output.mean() * math.nan, "the loss of a batch of 4 samples is nan; check the data"),
]


@pytest.mark.parametrize(("loss", "message"), NO_SCALARS)
def test_what_is_no_loss(loss: Callable[[Any, Any], Any], message: str) -> None:
    with pytest.raises(LossError, match=message):
        evaluate_loss(loss, nn.Linear(5, 3), batch())


def test_a_loss_that_fails_tells_what_it_was_given() -> None:
    with pytest.raises(LossError) as caught:
        evaluate_loss(lambda output, target: dict[str, float]()["a"], nn.Linear(5, 3), batch(target=torch.zeros(4)))
    assert str(caught.value) == (
        "the loss cannot be computed from output (4, 3) of torch.float32 and target (4,) of torch.float32: "
        "KeyError: 'a'"
    )
    assert isinstance(caught.value.__cause__, KeyError)


def test_a_loss_that_fails_for_want_of_a_target_is_told_of_data() -> None:
    with pytest.raises(LossError, match=r"target NoneType: (.|\n)*\nWithout data= there is no target; give batches"):
        evaluate_loss(lambda output, target: target + 1, nn.Linear(5, 3), batch())


def test_messages_of_losses_that_explain_themselves_are_passed_on() -> None:
    def loss(output: Tensor, target: Any) -> Tensor:
        raise LossError("as I said")

    with pytest.raises(LossError, match=r"^as I said$"):
        evaluate_loss(loss, nn.Linear(5, 3), batch())


def test_a_model_that_cannot_take_the_batch_names_its_inputs() -> None:
    with pytest.raises(InputError) as caught:
        evaluate_loss(cross_entropy, nn.Linear(6, 3), batch())
    assert str(caught.value).startswith("data: the model cannot take a batch with inputs (4, 5) of torch.float32: ")
    assert str(caught.value).endswith("\nGive batches like the example input")


class Failing(nn.Module):
    """Runs out of memory, or is interrupted."""

    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def forward(self, x: Any) -> Any:
        raise self.error


@pytest.mark.parametrize("error", [MemoryError("no room"), torch.OutOfMemoryError("no room"), KeyboardInterrupt()])
def test_what_says_nothing_about_the_model_gets_through(error: BaseException) -> None:
    def loss(output: Any, target: Any) -> Any:
        raise error

    for function, module in ((cross_entropy, Failing(error)), (loss, nn.Identity())):
        with pytest.raises(type(error)) as caught:
            evaluate_loss(function, module, batch())
        assert caught.value is error
