"""SynFlow: the part of the flow from inputs to outputs that goes through a weight."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.utils._pytree import tree_leaves

from graphprune.costs.pool import full_weights
from graphprune.criteria.gradients import private_copy
from graphprune.criteria.scores import WeightScores
from graphprune.criteria.sensitivity import Sensitivity
from graphprune.criteria.weights.criterion import WEIGHT_CRITERIA
from graphprune.errors import InputError, LossError, is_out_of_memory
from graphprune.process_state import private_random_state
from graphprune.program.program import Program, device_of


@WEIGHT_CRITERIA.register("synflow")
def synflow(program: Program, sensitivity: Sensitivity) -> WeightScores:
    """|w| dR/d|w|, where R is the sum of the outputs for inputs of ones if every parameter has its absolute value.

    R is the paper's sum, over all paths, of the products of absolute weights. It is computed on a private copy in
    evaluation mode and float64, because R grows with the product of the widths. Each parameter is replaced by its
    absolute value, but biases and the running means of batch norms by 0, because they are added to the flow and belong
    to no path; running variances and scales stay, as positive factors of it. ReLU6 and hard tanh are replaced by ReLU,
    which is the identity on positive values, because they would stop the flow where it exceeds their bound. So scores
    are not negative and, in networks of such layers, sum to R in every layer that all paths go through. Sigmoids, layer
    norms and softmax are taken as they are; the flow through them is not conserved.

    Inputs have the shape of the example; integers (tokens) and masks are those of the example. Needs no data. The
    paper prunes in 100 rounds of a geometric schedule.

    Source: Tanaka et al. 2020, Pruning neural networks without any data by iteratively conserving synaptic flow. Its
        code also takes absolute values of biases and running means, which are 0 in the networks that it starts with.

    Raises:
        InputError: the model cannot be run on inputs of ones in float64.
        LossError: the flow is not finite, or does not depend on the weights.
    """
    weights = full_weights(program)
    module = private_copy(program.module)
    _pass_positive_values(module)
    own = dict(module.named_parameters())
    _make_positive(module, in_pool={id(own[name]) for name in weights})
    wanted = [own[name] for name in weights]
    with private_random_state(sensitivity.seed), torch.enable_grad():
        flow = _flow(module, program)
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(flow, wanted, allow_unused=True)
    importance = {}
    for (name, weight), gradient in zip(weights.items(), gradients, strict=True):
        slope = torch.zeros_like(weight, dtype=torch.float64) if gradient is None else gradient
        importance[name] = (weight.double().abs() * slope).abs()
    if not all(bool(torch.isfinite(scores).all()) for scores in importance.values()):
        raise LossError(f"synflow: the flow ({float(flow.detach()):g}) or its gradient is not finite; check weights")
    return WeightScores(importance, "synflow")


def _pass_positive_values(module: fx.GraphModule) -> None:
    """Replaces activations that bound positive values by ReLU, in place."""
    for submodule in list(module.modules()):
        for name, child in submodule._modules.items():
            if isinstance(child, nn.Hardtanh):  # nn.ReLU6 is one
                submodule._modules[name] = nn.ReLU()
    bounded = [node for node in module.graph.nodes if node.op == "call_function" and node.target in _BOUNDED]
    for node in bounded:
        node.target, node.args, node.kwargs = functional.relu, node.all_input_nodes[:1], {}
    if bounded:
        module.recompile()


_BOUNDED = {
    functional.relu6, functional.hardtanh, functional.hardtanh_, torch.ops.aten.relu6.default,
    torch.ops.aten.hardtanh.default, torch.ops.aten.relu6_.default, torch.ops.aten.hardtanh_.default,
}  # fmt: skip


def _make_positive(module: nn.Module, in_pool: set[int]) -> None:
    """Replaces parameters by absolute values in float64, in memory of their own; what adds to the flow becomes 0."""
    for submodule in module.modules():
        for name, parameter in submodule._parameters.items():
            if parameter is not None and parameter.is_floating_point():
                added = "bias" in name.split("_") and id(parameter) not in in_pool
                value = parameter.detach().double().abs()
                parameter.data = torch.zeros_like(value) if added else value
        for name, buffer in submodule._buffers.items():
            if buffer is not None and buffer.is_floating_point():
                value = buffer.double()
                submodule._buffers[name] = torch.zeros_like(value) if name == "running_mean" else value


def _flow(module: fx.GraphModule, program: Program) -> Tensor:
    """The sum of the outputs, as a mean over the samples of the example."""
    example = program.example.mapped(lambda tensor: _ones(tensor).to(device_of(program)))
    try:
        output = example.given_to(module)
    except Exception as error:  # any op may refuse, in its own way
        if is_out_of_memory(error):
            raise
        raise InputError(f"synflow: the model cannot be run on inputs of ones in float64: {error}") from error
    found = [leaf.sum() for leaf in tree_leaves(output) if isinstance(leaf, Tensor) and leaf.requires_grad]
    if not found:
        raise LossError("synflow: the model's output does not depend on its weights, or has no gradient in them")
    return torch.stack(found).sum() / example.batch_size


def _ones(tensor: Tensor) -> Tensor:
    """Ones in float64; tokens and masks (integers, booleans, floats with infinities) keep their values."""
    if not tensor.is_floating_point():
        return tensor
    return torch.ones_like(tensor, dtype=torch.float64) if bool(torch.isfinite(tensor).all()) else tensor.double()
