"""Gates inside recurrent layers: the next time step sees a unit's output too, so the steps are run one by one."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from graphprune.coupling.recurrent_calls import is_recurrent, is_recurrent_layer, recurrent_layer

aten = torch.ops.aten

States = tuple[Tensor, ...]


def cell_state_argument(module: nn.Module, node: fx.Node) -> Any:
    """The cell state that an LSTM is given; None for any other node, and if the states are a single argument."""
    if not is_recurrent(module, node):
        return None
    given = node.args[1] if len(node.args) > 1 else node.kwargs.get("hx")
    return given[1] if isinstance(given, (tuple, list)) and len(given) == 2 else None


def takes_cell_state(module: nn.Module, values: Mapping[str, Any], node: fx.Node) -> bool:
    """Whether a node takes the last cell state out of the results of an LSTM."""
    path: list[Any] = []
    while node.target is operator.getitem:
        source = node.args[0]
        if not isinstance(source, fx.Node) or not isinstance(values[source.name], tuple):
            break
        path, node = [node.args[1], *path], source
    if not path or not is_recurrent(module, node):
        return False
    # (output, hidden, cell) of a layer, also as (output, (hidden, cell)), and (hidden, cell) of a single step
    return path in ([2], [1, 1]) if is_recurrent_layer(module, node) else path == [1]


class GatedRecurrent(nn.Module):
    """A recurrent layer whose hidden state is multiplied by a gate after each step.

    Args:
        layer: A module, or a recurrent op.
    """

    def __init__(self, layer: Callable[..., Any]) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, gate: Tensor, *args: Any, **kwargs: Any) -> Any:
        """Runs the layer with its hidden state gated after each step.

        Args:
            gate: ``(H,)``, or ``(N, H)`` where each sample has gates of its own.
            args: Arguments of the layer.
            kwargs: Keyword arguments of the layer.
        """
        with _StepByStep(gate):
            return self.layer(*args, **kwargs)


class _StepByStep(TorchFunctionMode):
    """Runs recurrent ops as loops over their steps."""

    def __init__(self, gate: Tensor) -> None:
        super().__init__()
        self.gate = gate

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs one call."""
        step = _STEPS.get(recurrent_layer(func, args))
        if step is None:
            return func(*args, **(kwargs or {}))
        output, states = _run_layers(step, self.gate, *args)
        return output, *states


def _run_layers(
    step: Callable[..., States],
    gate: Tensor,
    source: Tensor,
    given: Tensor | Sequence[Tensor],
    params: Sequence[Tensor],
    has_biases: bool,
    num_layers: int,
    dropout: float,
    train: bool,
    bidirectional: bool,
    batch_first: bool,
) -> tuple[Tensor, list[Tensor]]:
    """Output and last states of a stack of layers; the arguments are those of ``aten.lstm.input``."""
    given = [given] if isinstance(given, Tensor) else given
    directions = 2 if bidirectional else 1
    per_block = len(params) // (num_layers * directions)
    output = source.transpose(0, 1) if batch_first else source
    last = []
    for layer in range(num_layers):
        if layer > 0:
            output = functional.dropout(output, dropout, train)
        sides = []
        for block in range(layer * directions, (layer + 1) * directions):
            backward = block % directions == 1
            weights = params[block * per_block : (block + 1) * per_block]
            states: States = tuple(state[block] for state in given)
            hidden = []
            for entry in output.flip(0) if backward else output:
                first, *others = step(entry, states, weights, has_biases)
                states = (first * gate, *others)
                hidden.append(states[0])
            sides.append(torch.stack(hidden[::-1] if backward else hidden))
            last.append(states)
        output = torch.cat(sides, -1)
    output = output.transpose(0, 1) if batch_first else output
    return output, [torch.stack(state) for state in zip(*last, strict=True)]


def _products(entry: Tensor, hidden: Tensor, weights: Sequence[Tensor], has_biases: bool) -> tuple[Tensor, Tensor]:
    biases = weights[2:4] if has_biases else (None, None)
    return functional.linear(entry, weights[0], biases[0]), functional.linear(hidden, weights[1], biases[1])


def _lstm_step(entry: Tensor, states: States, weights: Sequence[Tensor], has_biases: bool) -> States:
    from_input, from_state = _products(entry, states[0], weights, has_biases)
    into, forget, fresh, out = (from_input + from_state).chunk(4, -1)
    cell = forget.sigmoid() * states[1] + into.sigmoid() * fresh.tanh()
    hidden = out.sigmoid() * cell.tanh()
    projection = weights[4 if has_biases else 2 :]
    return (functional.linear(hidden, projection[0]) if projection else hidden), cell


def _gru_step(entry: Tensor, states: States, weights: Sequence[Tensor], has_biases: bool) -> States:
    from_input, from_state = _products(entry, states[0], weights, has_biases)
    (r, z, n), (hr, hz, hn) = from_input.chunk(3, -1), from_state.chunk(3, -1)
    fresh, stay = torch.tanh(n + (r + hr).sigmoid() * hn), (z + hz).sigmoid()
    return ((1 - stay) * fresh + stay * states[0],)


def _tanh_step(entry: Tensor, states: States, weights: Sequence[Tensor], has_biases: bool) -> States:
    return (torch.add(*_products(entry, states[0], weights, has_biases)).tanh(),)


def _relu_step(entry: Tensor, states: States, weights: Sequence[Tensor], has_biases: bool) -> States:
    return (torch.add(*_products(entry, states[0], weights, has_biases)).relu(),)


_STEPS: dict[Any, Callable[..., States]] = {
    aten.lstm.input: _lstm_step,
    aten.gru.input: _gru_step,
    aten.rnn_tanh.input: _tanh_step,
    aten.rnn_relu.input: _relu_step,
}
