"""Where a compact program can be repaired, and what its layers should compute there."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from graphprune.labels.dependencies import Dependencies
from graphprune.labels.keep_set import KeepSet
from graphprune.labels.operand import Operand
from graphprune.labels.planes import channel_planes, channels_along, varying
from graphprune.program.nodes import op_name
from graphprune.program.program import Program
from graphprune.repair.layers import Affine, LayersOf, Norm


@dataclass(frozen=True)
class Sum:
    """A residual sum that a layer's output goes into, through a batch norm or directly.

    Attributes:
        node: The node that adds.
        other: The node of the other summand, which is computed before the layer.
    """

    node: fx.Node
    other: fx.Node


@dataclass(frozen=True)
class Site:
    """A layer that can be fitted.

    Attributes:
        affine: The layer.
        norm: The batch norm that alone reads its output, if there is one.
        sum: The residual sum whose value the layer is fitted to; None if it is fitted to its own output.
        channels: Indices of the dense output's channels that are left, shape ``(channels,)``.
        inputs: Number of values that an output is computed from.
    """

    affine: Affine
    norm: Norm | None
    sum: Sum | None
    channels: Tensor
    inputs: int

    @property
    def target(self) -> str:
        """Name of the node whose value in the dense program is the target."""
        return self.affine.node.name if self.sum is None else self.sum.node.name


@dataclass(frozen=True)
class Sites:
    """What can be fitted, in the order of the graph, and what cannot.

    Attributes:
        sites: Layers that can be fitted.
        left: Names of layers, and of other weights that lose inputs, which cannot be fitted, each with the reason.
    """

    sites: tuple[Site, ...]
    left: tuple[tuple[str, str], ...]


def sites_of(dense: Program, compact: Program, keep: KeepSet) -> Sites:
    """Finds the layers of a compact program that can be fitted to the dense one.

    Args:
        dense: The dense program, with its dependencies.
        compact: The compact program; its nodes have the names of the dense ones.
        keep: What is left of the dense program.
    """
    layers, finder = LayersOf(compact.module), _Finder(dense[Dependencies], keep)
    sites, left = [], list(_without_a_matrix(layers, keep))
    order = {node: place for place, node in enumerate(compact.module.graph.nodes)}
    for node in order:
        affine = layers.affine(node)
        if affine is None:
            continue
        channels = finder.channels(affine)
        if channels is None or (reason := _reason(layers, compact, affine)):
            left.append((affine.name, reason if channels is not None else "its output has no dim for channels alone"))
            continue
        norm = _norm_behind(layers, affine)
        residual = finder.sum(affine, norm, order, channels)
        inputs = affine.geometry.matrix(layers.tensors[affine.weight]).shape[1]
        sites.append(Site(affine, norm, residual, channels, inputs))
    return Sites(tuple(sites), tuple(dict.fromkeys(left)))


def _reason(layers: LayersOf, compact: Program, affine: Affine) -> str:
    """Why a layer's weights cannot be fitted; empty if they can."""
    names = [affine.weight, *([affine.bias] if affine.bias is not None else [])]
    if any(layers.readers(name) > 1 for name in names):
        return "its weights are used more than once"
    if any(name in compact.history.masks for name in names):
        return "some of its weights are dead"
    if not layers.tensors[affine.weight].is_floating_point():
        return "its weights are not real numbers"
    return ""


def _without_a_matrix(layers: LayersOf, keep: KeepSet) -> Iterator[tuple[str, str]]:
    """Weights that lose entries along other dims than the first and that no convolution or linear layer reads.

    Embeddings and what is only added are no such weights: what they lose are outputs.
    """
    nodes = layers.graph.nodes
    known = {affine.weight for node in nodes if (affine := layers.affine(node)) is not None}
    known |= {name for node in nodes if (name := layers.embedding(node) or layers.added(node)) is not None}
    for name in dict.fromkeys(name for name, dim in keep.indices if dim > 0):
        if name not in known and isinstance(layers.tensors.get(name), nn.Parameter):
            yield name, "neither a convolution nor a linear layer reads it"


def _norm_behind(layers: LayersOf, affine: Affine) -> Norm | None:
    """The batch norm that alone reads a layer's output, and that no other node uses."""
    if len(affine.node.users) != 1:
        return None
    norm = layers.norm(next(iter(affine.node.users)))
    if norm is None or norm.source is not affine.node:
        return None
    stored = (norm.mean, norm.variance, norm.scale, norm.shift)
    return norm if all(layers.readers(name) == 1 for name in stored if name is not None) else None


@dataclass(frozen=True)
class _Finder:
    dependencies: Dependencies
    keep: KeepSet

    def channels(self, affine: Affine) -> Tensor | None:
        """Indices of a dense output's channels that are left; None where other dims shrink, or samples have none."""
        value, spatial = self.dependencies.values.get(affine.node.name), len(affine.geometry.kernel)
        rank = len(value.shape) if isinstance(value, Operand) else 0
        has_samples = rank == spatial + 2 if spatial else rank >= 2
        return self._left(affine.node, affine.geometry.channel_dim) if has_samples else None

    def _left(self, node: fx.Node, dim: int) -> Tensor | None:
        value = self.dependencies.values.get(node.name)
        if not isinstance(value, Operand):
            return None
        dim %= len(value.shape)
        if any(varying(plane) - {dim} for plane in channel_planes(value.planes)):
            return None
        labels = channels_along(value.planes, dim)
        if labels is None:
            return torch.arange(value.shape[dim])
        return self.keep.labels.index_select(0, labels).nonzero().flatten()

    def sum(self, affine: Affine, norm: Norm | None, order: dict[fx.Node, int], channels: Tensor) -> Sum | None:
        """The residual sum behind a layer, if its other summand is there before the layer and stays as it is."""
        summand = affine.node if norm is None else norm.node
        if len(summand.users) != 1:
            return None
        added = next(iter(summand.users))
        if op_name(added) not in ("add", "iadd", "add_") or len(added.args) != 2 or added.kwargs:
            return None
        others = [each for each in added.args if each is not summand]
        if len(others) != 1 or not isinstance(others[0], fx.Node) or order[others[0]] > order[affine.node]:
            return None
        other = others[0]
        if self._is_rewritten(other) or not self._fit(added, other, affine, channels):
            return None
        return Sum(added, other)

    def _is_rewritten(self, node: fx.Node) -> bool:
        return bool(self.dependencies.rewritten.get(node.name))

    def _fit(self, added: fx.Node, other: fx.Node, affine: Affine, channels: Tensor) -> bool:
        """Whether the sum and the other summand have the shape and the channels of the layer's output."""
        values = [self.dependencies.values.get(each.name) for each in (added, other, affine.node)]
        shapes = [value.shape if isinstance(value, Operand) else None for value in values]
        if None in shapes or len(set(shapes)) != 1:
            return False
        kept = self._left(added, affine.geometry.channel_dim)
        return kept is not None and torch.equal(kept, channels)
