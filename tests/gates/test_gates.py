"""Gates: where they are, and that a closed one is a removed channel."""

from __future__ import annotations

import operator
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from graphprune.errors import InternalError
from graphprune.gates.insertion import GATE, GatedModule, can_be_per_sample, insert_gates
from graphprune.gates.placement import find_sites
from graphprune.gates.site import Site
from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.program.example import Example
from graphprune.program.module_state import evaluating
from graphprune.program.program import Program
from graphprune.verification.equivalence import MaskedProgram
from tests.small_models import (
    CLASSES,
    IMAGES,
    Chain,
    Dense,
    Inverted,
    Mlp,
    Residual,
    Transformer,
    Windows,
    analysed,
    group_of,
    images,
    randomised,
)


def gated(program: Program, dependencies: Dependencies, *, per_sample: bool = False) -> GatedModule:
    return insert_gates(program, dependencies, find_sites(program, dependencies), per_sample=per_sample)


def site_nodes(program: Program, dependencies: Dependencies, channel: int) -> list[str]:
    return [site.node for site in find_sites(program, dependencies) if bool((site.channels == channel).any())]


def closed(gates: GatedModule, channel: int, inputs: Tensor) -> Tensor:
    gate = torch.ones(gates.channels + 1, dtype=inputs.dtype)
    gate[channel] = 0
    gates.set_gate(gate)
    with evaluating(gates.module):
        out: Tensor = gates.module(inputs)
    return out


def masked(program: Program, dependencies: Dependencies, channel: int, inputs: Tensor) -> Tensor:
    keep = torch.ones(dependencies.channels, dtype=torch.bool)
    keep[channel] = False
    (out,) = tree_leaves(MaskedProgram.of(program, KeepSet.of(dependencies, keep)).run(Example.of(inputs)))
    value: Tensor = out.value
    return value


def check_closed_is_masked(model: nn.Module, inputs: Tensor, channels: range | None = None) -> None:
    program, dependencies = analysed(model.double(), inputs.double())
    gates = gated(program, dependencies)
    fresh = torch.randn_like(inputs, dtype=torch.float64)
    for channel in channels or range(dependencies.channels):
        found = closed(gates, channel, fresh)
        torch.testing.assert_close(found, masked(program, dependencies, channel, fresh), rtol=0, atol=1e-12)


def test_gates_are_nodes_of_the_graph() -> None:
    program, dependencies = analysed(Chain(), images())
    gates = gated(program, dependencies)
    nodes = list(gates.module.graph.nodes)
    assert [node.op for node in nodes if node.target == GATE] == ["get_attr"]
    products = [node for node in nodes if node.target is torch.mul]
    assert len(products) == 1
    gates.module.graph.lint()
    assert GATE not in dict(program.module.named_buffers())
    assert not any(node.target == GATE for node in program.module.graph.nodes), "the program itself is not changed"


def test_open_gates_change_nothing() -> None:
    for name, factory in IMAGES.items():
        program, dependencies = analysed(randomised(factory()), images())
        gates, inputs = gated(program, dependencies), images(3)
        gates.set_gate(torch.ones(gates.channels + 1))
        with evaluating(program.module), evaluating(gates.module):
            assert torch.equal(gates.module(inputs), program.module(inputs)), name


def test_the_gate_comes_after_the_normalisation() -> None:
    program, dependencies = analysed(Chain(), images())
    channel = group_of(dependencies, "conv.weight").start
    assert site_nodes(program, dependencies, channel) == ["norm"]


def test_without_normalisation_the_gate_comes_after_the_product() -> None:
    program, dependencies = analysed(Mlp(), torch.randn(4, 5))
    assert site_nodes(program, dependencies, group_of(dependencies, "fc1.weight").start) == ["fc1"]
    assert site_nodes(program, dependencies, group_of(dependencies, "fc2.weight").start) == ["fc2"]


def test_every_branch_of_a_residual_stream_has_the_same_gate() -> None:
    program, dependencies = analysed(Residual(), images())
    stream = group_of(dependencies, "stem.weight")
    assert site_nodes(program, dependencies, stream.start) == ["stem_norm", "norm2"]
    last = group_of(dependencies, "short.weight")
    assert site_nodes(program, dependencies, last.start) == ["norm3", "short_norm"]
    gates = gated(program, dependencies)
    lookups = [node.args[0].target for node in gates.module.graph.nodes if "look_up" in str(node.target)]
    assert lookups == [GATE] * len(gates.sites), "all sites read one vector"


def test_each_channel_of_a_group_has_one_gate() -> None:
    program, dependencies = analysed(Residual(), images())
    stream = group_of(dependencies, "stem.weight")
    for site in find_sites(program, dependencies):
        if site.node in ("stem_norm", "norm2"):
            assert site.channels.flatten().tolist() == list(range(stream.start, stream.stop))
            assert tuple(site.channels.shape) == (1, 6, 1, 1)


def test_a_depthwise_convolution_is_no_consumer() -> None:
    program, dependencies = analysed(Inverted(), images())
    assert site_nodes(program, dependencies, group_of(dependencies, "expand.weight").start) == ["depth_norm"]


def test_the_excitation_is_not_gated_but_what_it_scales_is() -> None:
    program, dependencies = analysed(Inverted(), images())
    assert "excite" not in {site.node for site in find_sites(program, dependencies)}


def test_consumers_of_a_concatenation_have_gates_behind_their_normalisations() -> None:
    program, dependencies = analysed(Dense(), images())
    assert site_nodes(program, dependencies, group_of(dependencies, "stem.weight").start) == ["norm1", "norm2", "norm3"]
    assert site_nodes(program, dependencies, group_of(dependencies, "conv2.weight").start) == ["norm3"]
    last = next(site for site in find_sites(program, dependencies) if site.node == "norm3")
    assert last.channels.flatten().unique().numel() == 10, "each part of the concatenation has its own gates"


@pytest.mark.parametrize("name", IMAGES)
def test_a_closed_gate_is_a_removed_channel(name: str) -> None:
    check_closed_is_masked(randomised(IMAGES[name]()), images())


def test_flattened_features_go_with_their_channel() -> None:
    model = nn.Sequential(nn.Conv2d(2, 4, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(16, CLASSES))
    check_closed_is_masked(model, images())


def test_layer_scale() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.conv, self.fc = nn.Conv2d(2, 4, 1), nn.Conv2d(4, 4, 1), nn.Linear(4, CLASSES)
            self.gamma = nn.Parameter(torch.rand(4, 1, 1))

        def forward(self, x: Tensor) -> Tensor:
            x = self.stem(x)
            out: Tensor = self.fc(functional.relu(x + self.gamma * self.conv(x)).mean((2, 3)))
            return out

    check_closed_is_masked(Scaled(), images())
    program, dependencies = analysed(Scaled(), images())
    assert site_nodes(program, dependencies, 0) == ["stem", "conv"], "not the scale, though it is a parameter"


def test_inside_a_transformer_block_a_closed_gate_is_a_removed_channel() -> None:
    model, inputs = randomised(Transformer()), torch.randn(2, 5, 4)
    program, dependencies = analysed(model, inputs)
    stream = group_of(dependencies, "embed.weight")
    inner = [c for c in range(dependencies.channels) if not stream.start <= c < stream.stop]
    assert inner and stream.stop - stream.start == 8
    program, dependencies = analysed(model.double(), inputs.double())
    gates, fresh = gated(program, dependencies), torch.randn(2, 5, 4, dtype=torch.float64)
    for channel in inner:
        expected = masked(program, dependencies, channel, fresh)
        torch.testing.assert_close(closed(gates, channel, fresh), expected, rtol=0, atol=1e-12)


def test_in_a_pre_norm_stream_a_closed_gate_silences_the_channel_behind_every_layer_norm() -> None:
    """The one difference: the channel still counts in the statistics of the norms; in a pruned network it does not."""
    model, inputs = randomised(Transformer()).double(), torch.randn(2, 5, 4, dtype=torch.float64)
    program, dependencies = analysed(model, inputs)
    stream = group_of(dependencies, "embed.weight")
    assert site_nodes(program, dependencies, stream.start) == ["norm1", "norm2", "norm3"]
    gates = gated(program, dependencies)
    found = closed(gates, stream.start + 2, inputs)
    with torch.no_grad():
        for norm in (model.norm1, model.norm2, model.norm3):
            norm.weight[2] = 0
            norm.bias[2] = 0
    torch.testing.assert_close(found, model(inputs), rtol=0, atol=1e-12)
    assert not torch.allclose(found, masked(program, dependencies, stream.start + 2, inputs), atol=1e-6)


@pytest.mark.parametrize(
    "activation",
    [torch.sigmoid, functional.softplus, torch.exp, lambda x: functional.relu(x + 1), lambda x: torch.sigmoid(x) * x],
    ids=["sigmoid", "softplus", "exp", "shifted", "product"],
)
def test_activations_that_are_not_zero_at_zero(activation: Callable[[Tensor], Tensor]) -> None:
    check_closed_is_masked(Mlp(activation=activation), torch.randn(4, 5))


@pytest.mark.parametrize("swapped", [False, True])
def test_gated_linear_units(swapped: bool) -> None:
    class Glu(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.value, self.switch, self.head = nn.Linear(5, 4), nn.Linear(5, 4), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            value, switch = self.value(x), torch.sigmoid(self.switch(x))
            out: Tensor = self.head(operator.mul(switch, value) if swapped else operator.mul(value, switch))
            return out

    check_closed_is_masked(Glu(), torch.randn(4, 5))


def test_a_channel_is_gated_once_on_the_way_to_each_consumer() -> None:
    """One consumer sees the channel as it is, the other behind a normalisation: the gate acts on each in its place."""

    class Fork(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.norm = nn.Conv2d(2, 4, 1), nn.BatchNorm2d(4)
            self.plain, self.normed = nn.Linear(4, CLASSES), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = self.conv(x)
            out: Tensor = self.plain(x.mean((2, 3))) + self.normed(torch.relu(self.norm(x)).mean((2, 3)))
            return out

    model = randomised(Fork()).double().eval()
    program, dependencies = analysed(model, images().double())
    gates, inputs = gated(program, dependencies), images().double()
    assert site_nodes(program, dependencies, 0) == ["conv", "norm"]
    gate = torch.full((5,), 0.5, dtype=torch.float64)
    gates.set_gate(gate)
    with torch.no_grad():
        x = model.conv(inputs)
        expected = model.plain(x.mean((2, 3)) / 2) + model.normed(torch.relu(model.norm(x) / 2).mean((2, 3)))
    with evaluating(gates.module):
        torch.testing.assert_close(gates.module(inputs), expected)
    check_closed_is_masked(randomised(Fork()), images())


def test_reading_a_shape_is_no_use_of_the_channels() -> None:
    class Reads(Transformer):
        def forward(self, x: Tensor) -> Tensor:
            x = self.embed(x)
            x = x.view(x.shape[0], x.size(1), -1)
            x = x + self.scale1 * self.attend(self.norm1(x))
            out: Tensor = self.head(self.norm3(x).mean(1))
            return out

    program, dependencies = analysed(Reads(), torch.randn(2, 5, 4))
    assert site_nodes(program, dependencies, group_of(dependencies, "embed.weight").start) == ["norm1", "norm3"]


def test_a_shared_layer_is_gated_at_each_use() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.stem, self.block, self.head = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            x = torch.relu(self.stem(x))
            out: Tensor = self.head(torch.relu(self.block(torch.relu(self.block(x)))))
            return out

    check_closed_is_masked(Twice(), torch.randn(4, 5))


def test_functional_layers_with_parameters_of_their_own() -> None:
    class Functional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.bias = nn.Parameter(torch.randn(4, 5)), nn.Parameter(torch.randn(4))
            self.head = nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu(x @ self.weight.t() + self.bias))
            return out

    check_closed_is_masked(Functional(), torch.randn(3, 5))


@pytest.mark.parametrize("batch", [1, 2, 3, 4])
def test_samples_that_share_a_dim_with_windows(batch: int) -> None:
    program, dependencies = analysed(Windows(), torch.randn(batch, 4, 4, 2))
    site = next(site for site in find_sites(program, dependencies) if site.node == "add")
    assert (site.sample_dim, site.repeats, site.regular) == (0, 4, True)


@pytest.mark.parametrize("batch", [1, 3])
def test_samples_in_another_dim_than_the_first(batch: int) -> None:
    class Sequence(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc, self.head = nn.Linear(5, 4), nn.Linear(4, CLASSES)

        def forward(self, x: Tensor) -> Tensor:
            out: Tensor = self.head(torch.relu(self.fc(x.transpose(0, 1))).mean(0))
            return out

    program, dependencies = analysed(Sequence(), torch.randn(batch, 3, 5))
    (site,) = find_sites(program, dependencies)
    assert site.sample_dim == 1 and can_be_per_sample(site)


def test_a_site_without_a_dim_for_samples_refuses_gates_of_its_own() -> None:
    program, dependencies = analysed(Chain(), images())
    site = Site("norm", frozenset({"relu"}), torch.zeros(1, 6, 1, 1, dtype=torch.long), regular=False)
    assert not can_be_per_sample(site)
    with pytest.raises(InternalError, match="%norm cannot carry one gate per sample"):
        insert_gates(program, dependencies, [site], per_sample=True)


def test_per_sample_gates_act_on_their_own_sample() -> None:
    for model, inputs in ((Residual(), images(3)), (Windows(), torch.randn(3, 4, 4, 2))):
        program, dependencies = analysed(randomised(model), inputs)
        gates = gated(program, dependencies, per_sample=True)
        gate = torch.ones(3, gates.channels + 1)
        gate[1, 0] = 0
        gates.set_gate(gate)
        with evaluating(program.module), evaluating(gates.module):
            found, dense = gates.module(inputs), program.module(inputs)
        torch.testing.assert_close(found[[0, 2]], dense[[0, 2]])
        assert not torch.allclose(found[1], dense[1])


def test_per_sample_nodes_are_in_the_graph_too() -> None:
    program, dependencies = analysed(Chain(), images())
    gates = gated(program, dependencies, per_sample=True)
    names = [getattr(node.target, "__name__", "") for node in gates.module.graph.nodes]
    assert names.count("spread_per_sample") == 1
    assert isinstance(gates.module, fx.GraphModule)
