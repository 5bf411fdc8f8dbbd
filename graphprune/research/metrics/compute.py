"""Multiply-accumulates of a forward pass, and the cost of training that follows from them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry

from graphprune.errors import OptionError
from graphprune.program.example import Example
from graphprune.program.module_state import evaluating

FORWARD_PASSES = 3
"""Cost of a training step in forward passes: one forward, one for the inputs' gradients, one for the weights'."""


@dataclass(frozen=True)
class Macs:
    """Multiply-accumulates per sample of one forward pass: convolutions, linear layers and other matrix products.

    Attributes:
        executed: Operations with every weight that is there, zero or not: what dense kernels do.
        nonzero: Without those by zero weights: what perfect sparse kernels would do.
    """

    executed: int
    nonzero: int


@dataclass(frozen=True)
class TrainingCost:
    """Cost of a training run.

    Attributes:
        macs: Over all epochs.
        epochs: Epochs of each epoch.
        assumption: How it was reckoned.
    """

    macs: int
    epochs: tuple[int, ...]
    assumption: str = "3 x the forward multiply-accumulates per sample and epoch, of the network as it was then"

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields, ready for JSON."""
        return asdict(self) | {"epochs": list(self.epochs)}


def training_cost(forward: Sequence[int], samples: int | Sequence[int]) -> TrainingCost:
    """Returns 3 x forward multiply-accumulates x samples, summed over the epochs.

    Args:
        forward: Multiply-accumulates per sample from `forward_macs`, for the network as it was in each epoch.
        samples: Number of samples seen in each epoch, or one number for all epochs.

    Raises:
        OptionError: `forward` and `samples` have different lengths.
    """
    counts = [samples] * len(forward) if isinstance(samples, int) else list(samples)
    if len(counts) != len(forward):
        raise OptionError(f"expected samples for each of {len(forward)} epochs, got {len(counts)}")
    epochs = tuple(FORWARD_PASSES * macs * count for macs, count in zip(forward, counts, strict=True))
    return TrainingCost(sum(epochs), epochs)


def forward_macs(model: nn.Module, example_input: Any) -> Macs:
    """Counts multiply-accumulates by torch's own formulas, which are right for grouped convolutions.

    Products with a zero weight count as products by zero. Positions in the padding count, as in torch.

    Args:
        model: The network; it is run once, in evaluation mode, and not changed.
        example_input: See `graphprune.compile`; dim 0 of the first tensor is the batch.
    """
    example = Example.of(example_input)
    counter = _Counter(model)
    # fused attention kernels have no formula, or not on every device
    plain = (sdpa_kernel(SDPBackend.MATH), _without_fused_encoder(), evaluating(model))
    with ExitStack() as stack:
        for context in plain:
            stack.enter_context(context)
        with counter:
            model(*example.args, **example.kwargs)
    return Macs(*(total // example.batch_size for total in (counter.executed, counter.nonzero)))


class _Counter(TorchDispatchMode):
    """Counts the products of every op that torch has a formula for."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.executed, self.nonzero = 0, 0
        self._weights: dict[int, Tensor] = {}
        self._note([*model.parameters(), *model.buffers()])

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs an op, or the ops that it is made of, and counts its products."""
        kwargs = kwargs or {}
        formula = flop_registry.get(func._overloadpacket)
        if formula is None:
            with self:
                apart = func.decompose(*args, **kwargs)
            if apart is not NotImplemented:
                return apart
        result = func(*args, **kwargs)
        operands = _tensors((args, kwargs))
        if formula is not None:
            macs = formula(*args, **kwargs, out_val=result) // 2
            self.executed += macs
            self.nonzero += self._without_zeros(macs, operands)
        elif operands and all(map(self._is_weight, operands)):
            self._note(_tensors(result))
        return result

    def _without_zeros(self, macs: int, operands: Sequence[Tensor]) -> int:
        """Returns the products by non-zero weights: every element of a weight takes part in equally many products."""
        for operand in operands:
            if operand.dim() >= 2 and self._is_weight(operand):
                return macs * int(torch.count_nonzero(operand)) // operand.numel()
        return macs

    def _note(self, weights: Sequence[Tensor]) -> None:
        """Notes tensors that are weights: stored, or made only of stored ones (a masked weight).

        The tensors are kept, so that no other tensor gets their address.
        """
        self._weights |= {tensor.untyped_storage().data_ptr(): tensor for tensor in weights}

    def _is_weight(self, operand: Tensor) -> bool:
        return operand.untyped_storage().data_ptr() in self._weights


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


@contextmanager
def _without_fused_encoder() -> Iterator[None]:
    before = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        yield
    finally:
        torch.backends.mha.set_fastpath_enabled(before)
