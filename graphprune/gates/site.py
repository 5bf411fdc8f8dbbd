"""A site of gates: what is multiplied, and how samples and channels lie in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, fx

from graphprune.labels.dependencies import Dependencies
from graphprune.labels.operand import Operand
from graphprune.labels.planes import is_sample, labels_along, varying

Acts = Literal["result", "first", "steps", "user"]


@dataclass(frozen=True)
class Site:
    """Where a gate acts.

    Attributes:
        node: Name of the node whose result is multiplied.
        users: Names of the nodes that see the product; other users have their sites further on.
        channels: Channel index of each element. Its shape is that of the result, but with size 1 where channels do not
            vary, and with the elements of one sample only along the dim of the samples. Frozen elements have the index
            ``dependencies.channels``, whose gate is always 1.
        sample_dim: Dim along which samples vary, None if the result is the same for all samples.
        repeats: Number of elements along that dim that belong to one sample.
        regular: Whether samples lie along that dim in order; only then can each sample have a gate of its own.
        sample_major: Whether elements of the same sample are next to each other along that dim; if not, elements of
            the same place in different samples are.
        acts_on: What is multiplied: the node's ``"result"``, the ``"first"`` of its results, the hidden state after
            each of the ``"steps"`` of a recurrent layer, or the result as a ``"user"`` sees it, after other nodes
            wrote to it in place.
    """

    node: str
    users: frozenset[str]
    channels: Tensor
    sample_dim: int | None = None
    repeats: int = 1
    regular: bool = True
    sample_major: bool = True
    acts_on: Acts = "result"


def site_of(
    dependencies: Dependencies, node: fx.Node, users: Sequence[fx.Node], value: Operand, channels: Tensor
) -> Site:
    """The site at a node's result for the given users; ``channels`` still covers all samples."""
    site = Site(node.name, frozenset(user.name for user in users), channels)
    samples = [plane for plane in value.planes if is_sample(plane)]
    if not samples:
        return replace(site, regular=all(_meets_samples(dependencies, user, value) for user in users))
    if len(samples) > 1 or len(varying(samples[0])) != 1:
        return replace(site, regular=False)
    (dim,) = varying(samples[0])
    order = labels_along(samples[0], dim)
    return _laid_out(replace(site, sample_dim=dim, repeats=int((order == order[0]).sum())), order)


def _laid_out(site: Site, order: Tensor) -> Site:
    """The site with its layout: ``order`` is the sample of each element along the samples' dim, shape ``(size,)``."""
    places, count = torch.arange(len(order)), len(order) // site.repeats
    assert site.sample_dim is not None
    for sample_major, expected in ((True, places // site.repeats), (False, places % count)):
        if not torch.equal(order.long(), expected):
            continue
        own = (order == order[0]).nonzero().flatten()
        if site.channels.shape[site.sample_dim] == 1:
            return replace(site, sample_major=sample_major)
        channels = site.channels.index_select(site.sample_dim, own)
        if torch.equal(spread(channels, count, site.sample_dim, sample_major=sample_major), site.channels):
            return replace(site, channels=channels, sample_major=sample_major)
    return replace(site, regular=False)


def spread(one: Tensor, count: int, dim: int, *, sample_major: bool) -> Tensor:
    """Repeats the values of one sample along a dim for ``count`` samples."""
    if not sample_major:
        return one.repeat_interleave(count, dim)
    return one.repeat([count if other == dim else 1 for other in range(one.dim())])


def _meets_samples(dependencies: Dependencies, user: fx.Node, value: Operand) -> bool:
    """Whether a user broadcasts a result without samples against one with samples along dim 0."""
    result = dependencies.values[user.name]
    return (
        isinstance(result, Operand)
        and len(result.shape) == len(value.shape)
        and any(varying(plane) == {0} for plane in result.planes if is_sample(plane))
    )
