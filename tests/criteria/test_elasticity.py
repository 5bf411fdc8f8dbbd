"""Elasticity against finite differences, closed forms and explicit loops; what it refuses; that it leaves no trace."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from graphprune.criteria.elasticity import Elasticity, gate_gradient
from graphprune.criteria.losses import cross_entropy
from graphprune.criteria.samples import Batch, SampleStream
from graphprune.criteria.scores import Scores
from graphprune.criteria.sensitivity import Accumulate, Sensitivity
from graphprune.errors import InputError, LossError
from graphprune.gates.insertion import insert_gates
from graphprune.gates.placement import find_sites
from graphprune.labels.dependencies import Dependencies
from graphprune.pass_manager.runner import Runner
from graphprune.passes.score_channels import ScoreChannels
from graphprune.program.example import Example
from graphprune.program.program import Program
from tests.small_models import (
    CLASSES,
    NETWORKS,
    Chain,
    Dense,
    Inverted,
    Mlp,
    Residual,
    analysed,
    group_of,
    images,
    randomised,
)

Batches = list[tuple[Tensor, Tensor]]


def labelled(inputs: Tensor) -> tuple[Tensor, Tensor]:
    return inputs, torch.randint(CLASSES, (len(inputs),))


def image_batches(*sizes: int) -> Batches:
    return [labelled(images(size).double()) for size in sizes]


def sensitivity(data: Any, samples: int, accumulate: Accumulate = "signed", loss: Any = cross_entropy) -> Sensitivity:
    example = Example.of(images(2))
    return Sensitivity(SampleStream(data, example), loss, samples, accumulate, seed=0)


def prepared(model: nn.Module, inputs: Tensor) -> tuple[Program, Dependencies]:
    return analysed(randomised(model).double(), inputs.double())


def mean_loss(program: Program, batches: Batches) -> float:
    with torch.no_grad():
        program.module.eval()
        outputs = torch.cat([program.module(inputs) for inputs, _ in batches])
        return float(functional.cross_entropy(outputs, torch.cat([target for _, target in batches])))


def single_sample_gradients(program: Program, dependencies: Dependencies, batches: Batches) -> Tensor:
    """Gate gradients of each sample's own loss, shape ``(samples, channels)``, by an explicit loop."""
    program.module.eval()
    gated = insert_gates(program, dependencies, find_sites(program, dependencies), per_sample=False)
    rows = []
    for inputs, target in batches:
        for index in range(len(inputs)):
            one = Batch(Example.of(inputs[index : index + 1]), target[index : index + 1], 1)
            rows.append(gate_gradient(gated, one, cross_entropy)[0])
    return torch.stack(rows)


@pytest.mark.parametrize("factory", [Chain, Residual, Inverted, Dense])
def test_finite_differences(factory: Callable[[], nn.Module]) -> None:
    program, dependencies = prepared(factory(), images())
    (batch,) = image_batches(5)
    scores = Elasticity()(program, sensitivity([batch], 5))
    gated = insert_gates(program, dependencies, find_sites(program, dependencies), per_sample=False)
    gated.module.eval()

    def loss(channel: int, change: float) -> float:
        gate = torch.ones(dependencies.channels + 1, dtype=torch.float64)
        gate[channel] += change
        gated.set_gate(gate)
        with torch.no_grad():
            return float(functional.cross_entropy(gated.module(batch[0]), batch[1]))

    step = 1e-6
    slopes = [(loss(c, step) - loss(c, -step)) / (2 * step) for c in range(dependencies.channels)]
    expected = torch.tensor(slopes, dtype=torch.float64).abs() / loss(0, 0.0)
    torch.testing.assert_close(scores.importance, expected, rtol=1e-5, atol=1e-8)


def closed_form(module: nn.Module, norms: dict[str, slice], batch: tuple[Tensor, Tensor]) -> Tensor:
    """|sum over sites of gamma dL/dgamma + beta dL/dbeta| / L."""
    module.zero_grad()
    loss = functional.cross_entropy(module(batch[0]), batch[1])
    loss.backward()
    total = torch.zeros((), dtype=torch.float64)
    for name, part in norms.items():
        norm = module.get_submodule(name)
        assert isinstance(norm, nn.BatchNorm2d) and norm.weight.grad is not None and norm.bias.grad is not None
        total = total + (norm.weight * norm.weight.grad + norm.bias * norm.bias.grad)[part]
    return (total.abs() / loss).detach()


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize(
    ("factory", "member", "norms"),
    [
        (Chain, "conv.weight", {"norm": slice(None)}),
        (Residual, "stem.weight", {"stem_norm": slice(None), "norm2": slice(None)}),
        (Residual, "short.weight", {"norm3": slice(None), "short_norm": slice(None)}),
        (Inverted, "expand.weight", {"depth_norm": slice(None)}),
        (Dense, "conv1.weight", {"norm2": slice(4, 7), "norm3": slice(4, 7)}),
    ],
)
def test_closed_form_behind_a_batch_norm(
    factory: Callable[[], nn.Module], member: str, norms: dict[str, slice], training: bool
) -> None:
    model = factory().train(training)
    program, dependencies = prepared(model, images())
    (batch,) = image_batches(5)
    scores = Elasticity(training)(program, sensitivity([batch], 5))
    group = group_of(dependencies, member)
    expected = closed_form(model, norms, batch)
    torch.testing.assert_close(scores.importance[group.start : group.stop], expected, rtol=1e-9, atol=1e-12)


def test_signed_is_the_gradient_of_the_whole_batch() -> None:
    program, _ = prepared(Residual(), images())
    batches = image_batches(3, 4, 1)
    whole = (torch.cat([x for x, _ in batches]), torch.cat([y for _, y in batches]))
    apart = Elasticity()(program, sensitivity(batches, 8))
    together = Elasticity()(program, sensitivity([whole], 8))
    torch.testing.assert_close(apart.importance, together.importance, rtol=1e-10, atol=1e-14)
    assert apart.loss == pytest.approx(mean_loss(program, batches), rel=1e-12)


@pytest.mark.parametrize("example_batch", [1, 3])
@pytest.mark.parametrize("name", NETWORKS)
def test_per_sample_accumulation_is_a_loop_over_samples(name: str, example_batch: int) -> None:
    factory, shape = NETWORKS[name]
    program, dependencies = prepared(factory(), torch.randn(example_batch, *shape))
    batches = [labelled(torch.randn(size, *shape, dtype=torch.float64)) for size in (3, 4, 2)]
    rows = single_sample_gradients(program, dependencies, batches)
    loss = mean_loss(program, batches)
    expected = {"absolute": rows.abs().mean(0), "squared": rows.square().mean(0).sqrt(), "signed": rows.mean(0).abs()}
    for accumulate, importance in expected.items():
        found = Elasticity()(program, sensitivity(batches, 9, accumulate))  # type: ignore[arg-type]
        torch.testing.assert_close(found.importance, importance / loss, rtol=1e-8, atol=1e-12, msg=accumulate)
        assert found.samples == 9


class ClassToken(nn.Module):
    """A parameter, repeated for each sample, joins the tokens; there is no normalisation to put gates behind."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.mix, self.head = nn.Linear(4, 6), nn.Linear(6, 6), nn.Linear(6, CLASSES)
        self.token, self.position = nn.Parameter(torch.randn(1, 1, 6)), nn.Parameter(torch.randn(1, 4, 6))

    def forward(self, x: Tensor) -> Tensor:
        tokens = torch.cat([self.token.repeat(x.shape[0], 1, 1), self.embed(x)], 1) + self.position
        out: Tensor = self.head((tokens + self.mix(torch.relu(tokens))).mean(1))
        return out


@pytest.mark.parametrize("example_batch", [1, 2])
def test_parameters_that_are_spread_over_the_samples(example_batch: int) -> None:
    program, dependencies = prepared(ClassToken(), torch.randn(example_batch, 3, 4))
    batches = [labelled(torch.randn(size, 3, 4, dtype=torch.float64)) for size in (4, 2)]
    rows = single_sample_gradients(program, dependencies, batches)
    found = Elasticity()(program, sensitivity(batches, 6, "absolute"))
    expected = rows.abs().mean(0) / mean_loss(program, batches)
    torch.testing.assert_close(found.importance, expected, rtol=1e-8, atol=1e-12)


def test_an_uneven_last_batch_counts_by_its_samples() -> None:
    program, dependencies = prepared(Chain(), images())
    batches = image_batches(6, 1)
    rows = single_sample_gradients(program, dependencies, batches)
    found = Elasticity()(program, sensitivity(batches, 7))
    expected = rows.mean(0).abs() / mean_loss(program, batches)
    torch.testing.assert_close(found.importance, expected, rtol=1e-9, atol=1e-13)


def test_batches_are_trimmed_to_the_number_of_samples() -> None:
    program, _ = prepared(Chain(), images())
    (batch,) = image_batches(8)
    found = Elasticity()(program, sensitivity([batch], 5))
    expected = Elasticity()(program, sensitivity([(batch[0][:5], batch[1][:5])], 5))
    assert found.samples == 5
    torch.testing.assert_close(found.importance, expected.importance, rtol=1e-12, atol=0)


def test_small_data_is_gone_through_once_a_round() -> None:
    program, _ = prepared(Chain(), images())
    options = sensitivity(image_batches(3), 7)
    assert [Elasticity()(program, options).samples for _ in range(2)] == [3, 3]


def test_data_that_ends_within_a_round_starts_over_in_it() -> None:
    program, _ = prepared(Chain(), images())
    options = sensitivity([labelled(images(2).double()) for _ in range(3)], 4)
    assert [Elasticity()(program, options).samples for _ in range(3)] == [4, 4, 4]


def test_an_infinite_source_goes_on_where_the_last_round_stopped() -> None:
    drawn: list[int] = []

    def endless() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            drawn.append(len(drawn))
            yield labelled(images(2).double())

    program, _ = prepared(Chain(), images())
    options = sensitivity(endless(), 6)
    Elasticity()(program, options)
    Elasticity()(program, options)
    assert len(drawn) == 6


def test_rounds_draw_other_random_numbers_and_the_same_seed_the_same() -> None:
    seen: list[Tensor] = []

    def noise() -> Iterator[tuple[Tensor, Tensor]]:
        while True:
            seen.append(torch.randn(2, 2, 6, 6, dtype=torch.float64))
            yield labelled(seen[-1])

    program, _ = prepared(Chain(8), images())
    smaller, _ = prepared(Chain(6), images())
    first = Elasticity()(program, sensitivity(noise(), 2))
    Elasticity()(smaller, sensitivity(noise(), 2))
    again = Elasticity()(program, sensitivity(noise(), 2))
    assert not torch.equal(seen[0], seen[1])
    assert torch.equal(first.importance, again.importance)


def test_without_data_the_example_is_scored_against_the_models_own_prediction() -> None:
    model = randomised(Chain())
    example = images(3)
    program, _ = analysed(model, example)
    stream = SampleStream(None, Example.of(example))
    found = Elasticity()(program, Sensitivity(stream, cross_entropy, 2560, "signed", 0))
    with torch.no_grad():
        output = model.eval()(example)
    assert found.samples == 3
    assert found.loss == pytest.approx(float(functional.cross_entropy(output, output.argmax(1))), rel=1e-6)


class Noisy(Residual):
    """A network whose forward draws random numbers in training."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(functional.dropout(x, 0.5, self.training))


def snapshot(module: nn.Module) -> list[Any]:
    tensors: list[Any] = [(name, t.clone(), t.requires_grad, t.grad) for name, t in module.named_parameters()]
    tensors += [(name, buffer.clone()) for name, buffer in module.named_buffers()]
    return [*tensors, [(name, part.training) for name, part in module.named_modules()]]


def random_states() -> list[Any]:
    return [torch.get_rng_state(), np.random.get_state(legacy=False)["state"]["key"], random.getstate()]


def same(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, np.ndarray):
        return bool((first == second).all())
    if isinstance(first, (list, tuple)):
        return len(first) == len(second) and all(same(a, b) for a, b in zip(first, second, strict=True))
    return bool(first == second)


def random_batches() -> Iterator[tuple[Tensor, Tensor]]:
    while True:
        random.random()
        shift = float(np.random.rand())
        yield labelled(torch.randn(3, 2, 6, 6) + shift)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("accumulate", ["signed", "absolute"])
def test_scoring_leaves_no_trace(training: bool, accumulate: Accumulate) -> None:
    model = randomised(Noisy()).train()
    model.norm1.eval()
    program, _ = analysed(model, images())
    parameters = dict(program.module.named_parameters())
    parameters["stem.weight"].requires_grad_(False)
    parameters["fc.weight"].grad = torch.ones_like(parameters["fc.weight"])
    options = sensitivity(random_batches(), 7, accumulate)
    before, numbers = snapshot(program.module), random_states()
    Elasticity(training)(program, options)
    assert same(before, snapshot(program.module))
    assert same(numbers, random_states())


def test_scoring_leaves_no_trace_when_it_fails() -> None:
    program, _ = analysed(randomised(Noisy()).train(), images())
    options = sensitivity([(images() * torch.nan, torch.zeros(4).long())], 4)
    before, numbers = snapshot(program.module), random_states()
    with pytest.raises(LossError):
        Elasticity(training=True)(program, options)
    assert same(before, snapshot(program.module))
    assert same(numbers, random_states())


def scoring(data: Any = None, samples: int = 4, loss: Any = cross_entropy) -> None:
    program, _ = analysed(Chain(), images())
    data = [labelled(images())] if data is None else data
    Elasticity()(program, sensitivity(data, samples, loss=loss))


@pytest.mark.parametrize(
    ("loss", "message"),
    [
        (lambda output, target: output.sum() * torch.nan, "loss of a batch of 4 samples is nan"),
        (lambda output, target: output.sum() * torch.inf, "loss of a batch of 4 samples is -?inf"),
        (lambda output, target: output.sum() * 0, "mean loss of the sensitivity samples is 0"),
        (lambda output, target: output.mean(1), r"must be a scalar tensor.*got a tensor of shape \(4,\)"),
        (lambda output, target: float(output.detach().sum()), "must be a scalar tensor.*got float"),
        (lambda output, target: output.detach().sum(), "no gradient in the model's channels"),
        (lambda output, target: torch.ones((), requires_grad=True) * 2, "no gradient in the model's channels"),
        (lambda output, target: functional.mse_loss(output, target, reduction="sum").sqrt(), "cannot be computed from"),
        (lambda output, target: (output - output.detach()).abs().sum().sqrt(), "gradient of the loss .* is not finite"),
        (lambda output, target: output["logits"].sum(), "cannot be computed from output"),
    ],
)
def test_losses_that_cannot_be_used(loss: Callable[[Any, Any], Any], message: str) -> None:
    with pytest.raises(LossError, match=message):
        scoring(loss=loss)


@pytest.mark.parametrize(
    ("target", "message"),
    [
        (torch.tensor([0, 1, 2, 3]), "target 3 is not a class.*0 to 2"),
        (torch.tensor([0, -1, 2, 1]), "target -1 is not a class"),
        (torch.tensor([0, 1, 2]), r"cannot be computed from output \(4, 3\) of torch.float32 and target \(3,\)"),
        ([0, 1, 2, 0], "cannot be computed from output .* and target list"),
        (torch.rand(4), "cannot be computed"),
    ],
)
def test_targets_that_do_not_fit(target: Any, message: str) -> None:
    with pytest.raises(LossError, match=message):
        scoring([(images(), target)])


def test_targets_to_be_ignored_are_allowed() -> None:
    scoring([(images(), torch.tensor([0, -100, 2, 1]))])


def test_an_output_that_is_no_tensor_needs_a_loss() -> None:
    class Two(Chain):
        def forward(self, x: Tensor) -> Any:
            return {"logits": super().forward(x)}

    program, _ = analysed(Two(), images())
    with pytest.raises(LossError, match="output is dict of 1 tensors, not a tensor; pass loss="):
        Elasticity()(program, sensitivity([labelled(images())], 4))
    options = sensitivity([labelled(images())], 4, loss=lambda output, target: cross_entropy(output["logits"], target))
    assert Elasticity()(program, options).samples == 4


def test_an_output_that_holds_no_logits_needs_a_loss() -> None:
    with pytest.raises(LossError, match=r"shape \(4, 1\); cross-entropy needs"):
        cross_entropy(torch.zeros(4, 1), torch.zeros(4))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ([], "data gives no batches"),
        (iter([]), "data gives no batches"),
        (3, "expected an iterable of batches .* got int"),
        (images(), "expected batches .* got Tensor"),
        (labelled(images()), r"got Tensor; a single batch is given as data=\[\(inputs, target\)\]"),
        ([(images(), 1, 2)], "got tuple of 3"),
        ([("text", torch.zeros(4))], "no tensor among its inputs"),
        ([labelled(images(0))], "holds no samples"),
        ([labelled(torch.randn(4, 3, 6, 6))], r"cannot take a batch with inputs \(4, 3, 6, 6\)"),
        ([labelled(images().long())], "cannot take a batch with inputs .* of torch.int64"),
    ],
)
def test_data_that_cannot_be_used(data: Any, message: str) -> None:
    with pytest.raises(InputError, match=message):
        scoring(data)


def test_an_op_that_refuses_a_batch_prints_no_traceback(capfd: pytest.CaptureFixture[str]) -> None:
    class Placed(Mlp):
        def __init__(self) -> None:
            super().__init__()
            self.places = nn.Parameter(torch.zeros(3, 5))

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = super().forward(x + self.places)
            return out

    program, _ = analysed(Placed(), torch.randn(2, 3, 5))
    with pytest.raises(InputError, match=r"inputs \(2, 4, 5\)"):
        Elasticity()(program, sensitivity([(torch.randn(2, 4, 5), torch.zeros(2).long())], 2))
    assert capfd.readouterr().err == ""


def test_a_generator_that_ends_is_used_up_in_the_next_round() -> None:
    program, _ = analysed(Mlp(), torch.randn(4, 5))
    stream = SampleStream(islice([labelled(torch.randn(3, 5))], 1), Example.of(torch.randn(4, 5)))
    options = Sensitivity(stream, cross_entropy, 4, "absolute", 0)
    assert Elasticity()(program, options).samples == 3
    with pytest.raises(InputError, match="a generator that is used up"):
        Elasticity()(program, options)


def test_a_ranking_without_differences_is_said_to_be_arbitrary(caplog: pytest.LogCaptureFixture) -> None:
    program, dependencies = analysed(Mlp(), torch.randn(4, 5))
    with torch.no_grad():
        program.module.get_parameter("head.weight").zero_()
    example = Example.of(torch.randn(4, 5))
    options = Sensitivity(SampleStream(None, example), cross_entropy, 4, "absolute", 0)
    with caplog.at_level(logging.WARNING, logger="graphprune"):
        scored = Runner().run([ScoreChannels(Elasticity(), options)], program)
    assert Scores in scored and not bool(scored[Scores].importance.any())
    assert "ranking is arbitrary" in caplog.text
    assert str(dependencies.channels) in caplog.text


def test_a_sum_of_losses_scales_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """Elasticity is relative to the loss, so a factor in it does not count."""
    program, _ = prepared(Chain(), images())
    batches = image_batches(4)
    options = sensitivity(batches, 4)
    twice = replace(options, loss=lambda output, target: 2 * cross_entropy(output, target))
    first, second = Elasticity()(program, options), Elasticity()(program, twice)
    torch.testing.assert_close(first.importance, second.importance, rtol=1e-12, atol=0)


def test_gates_before_a_fresh_normalisation_score_alike() -> None:
    """Mean 0, variance 1 and no shift: before or behind, the gate multiplies the same."""
    program, _ = analysed(Residual().double(), images(2).double())
    data = image_batches(8)
    behind, before = (
        Elasticity(before_normalisation=place)(program, sensitivity(data, 8)).importance for place in (False, True)
    )
    assert torch.allclose(behind, before, rtol=1e-9)


def test_gates_before_a_normalisation_by_the_batch_are_undone() -> None:
    program, dependencies = prepared(randomised(Residual()), images(2))
    data = image_batches(16)
    inner = group_of(dependencies, "conv1.weight")
    behind, before = (
        Elasticity(training=True, before_normalisation=place)(program, sensitivity(data, 16)).importance
        for place in (False, True)
    )
    rows = slice(inner.start, inner.stop)
    # the small rest is eps, the term that keeps a variance of zero from dividing
    assert float(before[rows].max()) < 1e-3 * float(behind[rows].max())


def test_gates_before_a_normalisation_with_statistics_differ_by_its_shift() -> None:
    program, _ = prepared(randomised(Residual()), images(2))
    data = image_batches(8)
    behind, before = (
        Elasticity(before_normalisation=place)(program, sensitivity(data, 8)).importance for place in (False, True)
    )
    assert not torch.allclose(behind, before, rtol=1e-2)
