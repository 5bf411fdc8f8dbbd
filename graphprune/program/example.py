"""Inputs of a model, and other inputs like them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import KeyPath, tree_leaves, tree_leaves_with_path, tree_map_only, tree_map_with_path


@dataclass(frozen=True)
class Example:
    """Example inputs of a model.

    Attributes:
        args: Positional arguments; tensors of shape ``(N, ...)`` that share N are batched.
        kwargs: Keyword arguments; tensors of shape ``(N, ...)`` among them are batched as well.
    """

    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    @classmethod
    def of(cls, example_input: Any) -> Example:
        """Makes an example of what a user gives: a tensor, a tuple of arguments, or a dict of keyword arguments."""
        if isinstance(example_input, Example):
            return example_input
        if isinstance(example_input, dict):
            return cls((), dict(example_input))
        if isinstance(example_input, (tuple, list)):
            return cls(tuple(example_input), {})
        return cls((example_input,), {})

    def tensors(self) -> list[Tensor]:
        """All tensors among the arguments, nested ones included."""
        return [leaf for leaf in tree_leaves((self.args, self.kwargs)) if isinstance(leaf, Tensor)]

    @property
    def batch_size(self) -> int:
        """Size of dim 0 of the first tensor that has one; 1 where there is none."""
        return next((tensor.shape[0] for tensor in self.tensors() if tensor.dim() > 0), 1)

    def is_batched(self, tensor: Tensor) -> bool:
        """True for a tensor whose dim 0 is the batch."""
        return tensor.dim() > 0 and tensor.shape[0] == self.batch_size

    def mapped(self, change: Any) -> Example:
        """The example with a function applied to every tensor."""
        args, kwargs = tree_map_only(Tensor, change, (self.args, self.kwargs))
        return Example(args, kwargs)

    def given_to(self, module: nn.Module) -> Any:
        """Calls a module with the example and returns its output."""
        # not module(...): a graph module prints a traceback of its own before it lets an error through
        return nn.Module.__call__(module, *self.args, **self.kwargs)

    def resized(self, batch_size: int) -> Example:
        """The example at another batch size; rows repeat from the start."""

        def take(tensor: Tensor) -> Tensor:
            if not self.is_batched(tensor) or tensor.shape[0] == batch_size:
                return tensor
            rows = torch.arange(batch_size, device=tensor.device) % tensor.shape[0]
            return tensor.index_select(0, rows)

        return self.mapped(take)

    def rows(self, start: int, stop: int, like: Example | None = None) -> Example:
        """Some of the samples.

        Args:
            start: Index of the first sample.
            stop: Index after the last sample.
            like: Inputs with another batch size. A tensor that is not batched there stays whole here, even if it has
                as many rows as there are samples.
        """
        known = {} if like is None else dict(tree_leaves_with_path((like.args, like.kwargs)))

        def cut(path: KeyPath, leaf: Any) -> Any:
            if not isinstance(leaf, Tensor) or not self.is_batched(leaf):
                return leaf
            other = known.get(path)
            is_alike = like is None or not isinstance(other, Tensor) or like.is_batched(other)
            return leaf[start:stop] if is_alike else leaf

        args, kwargs = tree_map_with_path(cut, (self.args, self.kwargs))
        return Example(args, kwargs)

    def fresh(self, batch_size: int, generator: torch.Generator) -> Example:
        """New inputs like these: floats with the mean and standard deviation of each tensor, integers shuffled.

        Masks (booleans, floats with infinities) stay as they are: a shuffled mask may hide everything.
        """

        def draw(tensor: Tensor) -> Tensor:
            if tensor.dtype == torch.bool or not bool(torch.isfinite(tensor).all()):
                return tensor
            if tensor.is_floating_point():
                noise = torch.randn(tensor.shape, generator=generator, dtype=torch.float32).to(tensor)
                spread = tensor.std() if tensor.numel() > 1 else torch.ones((), device=tensor.device)
                spread = torch.where(spread > 0, spread, torch.ones_like(spread))
                return tensor.mean() + spread * noise
            order = torch.randperm(tensor.numel(), generator=generator).to(tensor.device)
            return tensor.flatten()[order].view(tensor.shape)

        return self.resized(batch_size).mapped(draw)
