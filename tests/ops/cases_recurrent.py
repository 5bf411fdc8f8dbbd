"""Rows for recurrent layers and cells."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tests.ops.case import Case, image, images, net

TOKENS = image(3, 7, 5)
STEM = ("stem.weight", "cell.weight_ih_l0:1")
UNITS = ("cell.weight_ih_l0", "cell.weight_hh_l0", "cell.weight_hh_l0:1", "head.weight:1")
BIASES = ("cell.bias_ih_l0", "cell.bias_hh_l0")


def _around(layer: nn.Module, width: int = 8, take: Any = lambda found: found[0].mean(1), head: int = 4) -> nn.Module:
    """A linear layer, a recurrent one, and a head that reads what ``take`` makes of its results."""
    return net(
        lambda self, x: self.head(take(self.cell(self.stem(x)))),
        stem=nn.Linear(5, 6),
        cell=layer,
        head=nn.Linear(width, head),
    )


def _by_export(self: Any, x: Tensor) -> Tensor:
    y = self.stem(x) if len(x) > 0 else x
    out, (hidden, cell) = self.cell(y)
    result: Tensor = self.head(out.mean(1) + hidden[-1] + cell[0])
    return result


def _with_states(self: Any, x: Tensor) -> Tensor:
    hidden = self.start(x[:, 0]).unsqueeze(0)
    out, (last, cell) = self.cell(self.stem(x), (hidden, hidden.tanh()))
    result: Tensor = self.head(out.mean(1) + last[0] + cell[-1])
    return result


def _learned_states(self: Any, x: Tensor) -> Tensor:
    result: Tensor = self.head(self.cell(self.stem(x), self.start.expand(-1, x.shape[0], -1).contiguous())[0][:, -1])
    return result


def _zero_states(self: Any, x: Tensor) -> Tensor:
    zeros = torch.zeros(1, x.shape[0], 8)
    result: Tensor = self.head(self.cell(self.stem(x), (zeros, zeros))[0][:, -1])
    return result


def _encoder_decoder(self: Any, x: Tensor, y: Tensor) -> Tensor:
    result: Tensor = self.head(self.cell(self.other(y), self.encoder(self.stem(x))[1])[0])
    return result


def _loop(self: Any, x: Tensor) -> Tensor:
    state = None
    for step in range(7):
        state = self.cell(self.stem(x[:, step]), state)
    hidden = state[0] + state[1] if isinstance(self.cell, nn.LSTMCell) else state  # type: ignore[index]
    result: Tensor = self.head(hidden)
    return result


def _loop_over_length(self: Any, x: Tensor) -> Tensor:
    state = None
    for step in range(x.shape[1]):
        state = self.cell(self.stem(x[:, step]), state)
    result: Tensor = self.head(state[0])  # type: ignore[index]
    return result


def _loop_by_export(self: Any, *inputs: Tensor) -> Tensor:
    state = None
    for step in inputs[0].unbind(1):
        state = self.cell(self.stem(step), state)
    result: Tensor = self.head(state[0])  # type: ignore[index]
    return result


def _cell(cell: nn.Module, forward: Any = _loop) -> nn.Module:
    return net(forward, stem=nn.Linear(5, 6), cell=cell, head=nn.Linear(8, 4))


CELL = ("stem.weight", "cell.weight_ih", "cell.weight_ih:1", "cell.weight_hh", "cell.weight_hh:1", "head.weight:1")

ROWS = (
    Case("lstm", lambda: _around(nn.LSTM(6, 8, batch_first=True)), TOKENS, (*STEM, *UNITS, *BIASES)),
    Case("gru", lambda: _around(nn.GRU(6, 8, batch_first=True)), TOKENS, (*STEM, *UNITS, *BIASES)),
    Case("rnn", lambda: _around(nn.RNN(6, 8, batch_first=True)), TOKENS, (*STEM, *UNITS, *BIASES)),
    Case("rnn with relu, without biases", lambda: _around(
        nn.RNN(6, 8, batch_first=True, nonlinearity="relu", bias=False)), TOKENS, (*STEM, *UNITS)),
    Case("lstm in both directions, two layers, dropout", lambda: _around(
        nn.LSTM(6, 8, num_layers=2, dropout=0.2, bidirectional=True, batch_first=True), 16), TOKENS,
         (*STEM, *UNITS, "cell.weight_ih_l0_reverse", "cell.weight_hh_l1_reverse", "cell.weight_ih_l1:1")),
    Case("gru in both directions, two layers", lambda: _around(
        nn.GRU(6, 8, num_layers=2, bidirectional=True, batch_first=True), 16), TOKENS,
         (*STEM, *UNITS, "cell.weight_ih_l0_reverse", "cell.weight_hh_l1_reverse", "cell.weight_ih_l1:1")),
    Case("last states of an lstm", lambda: _around(
        nn.LSTM(6, 8, num_layers=2, batch_first=True), 8, lambda found: found[1][0][-1] + found[1][1][0]), TOKENS,
         (*STEM, *UNITS)),
    Case("last state of a gru in both directions", lambda: _around(
        nn.GRU(6, 8, bidirectional=True, batch_first=True), 16, lambda found: torch.cat([found[1][0], found[1][1]], 1)),
         TOKENS, (*STEM, *UNITS)),
    Case("lstm with time first", lambda: _around(nn.LSTM(6, 8), 8, lambda found: found[0]), TOKENS, (*STEM, *UNITS)),
    Case("lstm with projection", lambda: _around(nn.LSTM(6, 8, proj_size=3, batch_first=True), 3), TOKENS,
         (*STEM, "cell.weight_hr_l0", "cell.weight_hh_l0:1", "head.weight:1"),
         ("cell.weight_ih_l0", "cell.weight_hr_l0:1"), "narrower than the hidden units"),
    Case("lstm that torch.export captures", lambda: net(
        _by_export, stem=nn.Linear(5, 6), cell=nn.LSTM(6, 8, num_layers=2, batch_first=True), head=nn.Linear(8, 4)),
         TOKENS, (*STEM, *UNITS), exported=True),
    Case("lstm with computed states", lambda: net(
        _with_states, stem=nn.Linear(5, 6), start=nn.Linear(5, 8), cell=nn.LSTM(6, 8, batch_first=True),
        head=nn.Linear(8, 4)), TOKENS, (*STEM, *UNITS, "start.weight")),
    Case("gru with learned states", lambda: net(
        _learned_states, stem=nn.Linear(5, 6), start=nn.Parameter(torch.randn(2, 1, 8)),
        cell=nn.GRU(6, 8, num_layers=2, batch_first=True), head=nn.Linear(8, 4)), TOKENS,
         (*STEM, *UNITS, "start:2"), ("start",), "every layer"),
    Case("lstm with zero states", lambda: net(
        _zero_states, stem=nn.Linear(5, 6), cell=nn.LSTM(6, 8, batch_first=True), head=nn.Linear(8, 4)), TOKENS,
         (*STEM, *UNITS)),
    Case("gru with a state from outside", lambda: net(
        lambda self, x, state: self.head(self.cell(self.stem(x), state[None])[0]), stem=nn.Linear(5, 6),
        cell=nn.GRU(6, 8, batch_first=True), head=nn.Linear(8, 4)), images((3, 7, 5), (3, 8)), STEM,
         ("cell.weight_ih_l0", "head.weight:1"), "hidden state"),
    Case("lstm whose output leaves", lambda: nn.LSTM(6, 8, batch_first=True), image(3, 7, 6),
         frozen=("weight_ih_l0", "weight_hh_l0:1"), reason="leaves the program"),
    Case("encoder and decoder", lambda: net(
        _encoder_decoder, stem=nn.Linear(5, 6), other=nn.Linear(4, 7), encoder=nn.LSTM(6, 8, batch_first=True),
        cell=nn.LSTM(7, 8, batch_first=True), head=nn.Linear(8, 4)), images((3, 7, 5), (3, 6, 4)),
         (*UNITS, "stem.weight", "other.weight", "encoder.weight_ih_l0", "encoder.weight_ih_l0:1")),
    Case("lstm on the columns of an image", lambda: net(
        lambda self, x: self.head(self.cell(self.conv(x).relu().permute(0, 3, 1, 2).flatten(2))[0]),
        conv=nn.Conv2d(3, 8, 3), cell=nn.LSTM(32, 8, batch_first=True), head=nn.Linear(8, 4)), image(2, 3, 6, 6),
         ("conv.weight", *UNITS)),
    Case("lstm over channels as steps", lambda: net(
        lambda self, x: self.head(self.cell(self.conv(x).flatten(2))[0]), conv=nn.Conv2d(3, 8, 3),
        cell=nn.LSTM(16, 8, batch_first=True), head=nn.Linear(8, 4)), image(2, 3, 6, 6), UNITS, ("conv.weight",),
         "steps follow each other"),
    Case("lstm cell in a loop", lambda: _cell(nn.LSTMCell(6, 8)), TOKENS, CELL),
    Case("gru cell in a loop", lambda: _cell(nn.GRUCell(6, 8)), TOKENS, CELL),
    Case("rnn cell in a loop", lambda: _cell(nn.RNNCell(6, 8, nonlinearity="relu", bias=False)), TOKENS, CELL),
    Case("lstm cell in a loop over the length", lambda: _cell(nn.LSTMCell(6, 8), _loop_over_length), TOKENS, CELL),
    Case("lstm cell in a loop that torch.export captures", lambda: _cell(nn.LSTMCell(6, 8), _loop_by_export), TOKENS,
         CELL, exported=True),
)  # fmt: skip
