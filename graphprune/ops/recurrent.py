"""Recurrent layers: a hidden unit goes with its row in every gate, its column in the state's weight, and its state.

All layers and directions of one call have one hidden size, so a unit is removed from all of them.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphprune.labels.operand import Operand, operand_of
from graphprune.labels.planes import Planes, compress, drop, relayout
from graphprune.ops.call import OpCall
from graphprune.ops.contraction import loops, required
from graphprune.ops.registry import rule

aten = torch.ops.aten

GATES = {
    aten.lstm: 4, aten.gru: 3, aten.rnn_tanh: 1, aten.rnn_relu: 1,
    aten.lstm_cell: 4, aten.gru_cell: 3, aten.rnn_tanh_cell: 1, aten.rnn_relu_cell: 1,
}  # fmt: skip
"""Number of row blocks of a layer's weights, one for each gate."""


@rule(aten.lstm_cell, aten.gru_cell, aten.rnn_tanh_cell, aten.rnn_relu_cell)
def cell(call: OpCall) -> list[Planes]:
    """One step: input ``(N, I)``, states ``(N, H)``, weights ``(gates * H, I)`` and ``(gates * H, H)``."""
    weights = [required(call, name) for name in ("w_ih", "w_hh")]
    biases = [operand for name in ("b_ih", "b_hh") if (operand := call.operand(name)) is not None]
    states = [operand_of(state) for state in _states(call)]
    found = _direction(call, 1, required(call, "input"), states, [*weights, *biases])
    return [state.planes for state in found]


@rule(aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
def layers(call: OpCall) -> list[Planes]:
    """Input ``(T, N, I)`` or ``(N, T, I)``, output likewise with ``directions * H``, states ``(blocks, N, H)``."""
    time = 1 if call["batch_first"] else 0
    source = call.collapsed(required(call, "input"), [time], "steps follow each other")
    steps, n = source.shape[time], source.shape[1 - time]
    flat = source.mapped((n, source.shape[2]), lambda plane: drop(plane, [time]))
    output, states = _stacked(call, steps, flat)
    planes = (plane.unsqueeze(time).expand(call.shape) for plane in output.planes)
    return [tuple(planes), *states]


def _states(call: OpCall) -> list[Tensor]:
    given = call["hx"]
    return [given] if isinstance(given, Tensor) else list(given)


def _stacked(call: OpCall, steps: int, source: Operand) -> tuple[Operand, list[Planes]]:
    """Ties all layers and directions.

    Args:
        call: The call.
        steps: Number of time steps.
        source: Input without its time dim, ``(N, I)``.

    Returns:
        The output without its time dim, and the planes of the states.
    """
    directions = 2 if call["bidirectional"] else 1
    blocks = directions * call["num_layers"]
    params = [operand_of(weight) for weight in call["params"]]
    per_block = len(params) // blocks
    given = [call.collapsed(operand_of(state), [0], "every layer has its states") for state in _states(call)]
    states = [state.mapped(state.shape[1:], lambda plane: drop(plane, [0])) for state in given]
    for block in range(blocks):
        weights = params[block * per_block : (block + 1) * per_block]
        if block and block % directions == 0:
            source = _side_by_side(states[0], directions)
        states = _direction(call, steps, source, states, weights)
    planes = [tuple(plane.expand(blocks, *state.shape) for plane in state.planes) for state in states]
    return _side_by_side(states[0], directions), planes


def _side_by_side(state: Operand, directions: int) -> Operand:
    """Features of all directions, ``(N, directions * H)``; their units are tied, so one direction stands for all."""
    n, width = state.shape
    return state.mapped((n, directions * width), lambda plane: compress(plane.repeat(1, directions)))


def _direction(
    call: OpCall, steps: int, source: Operand, states: Sequence[Operand], weights: Sequence[Operand]
) -> list[Operand]:
    """Ties one layer in one direction.

    Args:
        call: The call.
        steps: Number of time steps.
        source: Input ``(N, I)``.
        states: Hidden state ``(N, P)``, and for an LSTM the cell state ``(N, H)``.
        weights: ``(gates * H, I)``, ``(gates * H, P)``, biases ``(gates * H)`` if there are any, and for an LSTM with
            projection, where P is not H, ``(P, H)``.

    Returns:
        The states after the last step.
    """
    n, units = states[-1].shape
    gates = GATES[call.func.overloadpacket]
    projected = states[0].shape[1] != units
    rows = [_by_gate(weight, gates) for weight in (weights[:-1] if projected else weights)]
    from_input = _weighted(call, steps, source, rows[0])
    cell = call.join((n, units), [from_input, *states[1:]], "cell state")
    hidden = Operand((n, units), cell)
    if projected:
        for plane in cell:  # torch knows a projection by its width, which has to stay below the number of units
            call.freeze(plane, "a projection is narrower than the hidden units before it")
        sizes = (steps, n, units, weights[-1].shape[0])
        operands = [loops(hidden, [1, 2], sizes), loops(weights[-1], [3, 2], sizes)]
        hidden = Operand(states[0].shape, tuple(drop(plane, [0]) for plane in call.contract(sizes, operands, [2])))
    hidden = Operand(states[0].shape, call.join(states[0].shape, [hidden, states[0]], "hidden state"))
    from_state = _weighted(call, steps, hidden, rows[1])
    biases = [call.collapsed(bias, [0], _TOGETHER) for bias in rows[2:]]
    own = [bias.mapped((units,), lambda plane: drop(plane, [0])) for bias in biases]
    unit = Operand((n, units), call.join((n, units), [Operand((n, units), cell), from_state, *own], "gates"))
    return [hidden if projected else unit, unit][: len(states)]


_TOGETHER = "the gates of a hidden unit go together"


def _by_gate(weight: Operand, gates: int) -> Operand:
    """A weight or bias ``(gates * H, ...)`` as ``(gates, H, ...)``."""
    shape = (gates, weight.shape[0] // gates, *weight.shape[1:])
    return weight.mapped(shape, lambda plane: relayout(plane, shape))


def _weighted(call: OpCall, steps: int, source: Operand, weight: Operand) -> Operand:
    """The product of ``(N, K)`` and ``(gates, H, K)``, for one gate: ``(N, H)``."""
    gates, units, width = weight.shape
    weight = call.collapsed(weight, [0], _TOGETHER)
    sizes = (steps, source.shape[0], width, gates, units)
    planes = call.contract(sizes, [loops(source, [1, 2], sizes), loops(weight, [3, 4, 2], sizes)], [2])
    shape = (source.shape[0], units)
    return Operand(shape, tuple(drop(plane, [0, 2]) for plane in planes))
