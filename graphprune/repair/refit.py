"""Refits the layers of a compact program, in the order of the graph, to what the dense program computes.

Each layer is fitted on the inputs that it has in the compact program, after the layers before it were fitted, so that
it also makes up for what they could not.

Source: the reconstruction of feature maps by least squares of He et al. 2017, Channel Pruning for Accelerating Very
    Deep Neural Networks; here for every kind of layer, towards the weights that are there, and with residual sums as
    targets.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain, islice

from torch import Tensor

from graphprune.labels.keep_set import KeepSet
from graphprune.process_state import private_random_state
from graphprune.program.example import Example
from graphprune.program.module_state import evaluating, keeping_buffers
from graphprune.program.program import Program
from graphprune.program.tensors import stored_tensors
from graphprune.repair.fit_layer import Rows, before_norm, fit_layer, has_place_for_intercept
from graphprune.repair.judgement import distance
from graphprune.repair.least_squares import regression_of
from graphprune.repair.lockstep import Lockstep
from graphprune.repair.record import Repair, RepairedLayer
from graphprune.repair.samples import Split
from graphprune.repair.shelf import Shelf
from graphprune.repair.sites import Site, sites_of
from graphprune.repair.targets import Target, at_least_float, dense_values


def refit(compact: Program, dense: Program, keep: KeepSet, samples: Split, seed: int) -> tuple[Program, Repair]:
    """Fits a copy of the compact program to the dense one.

    Args:
        compact: The compact program, which is not changed.
        dense: The dense program, with its dependencies; it is not changed.
        keep: What is left of the dense program.
        samples: Samples to fit to, and samples that are held out.
        seed: Chooses the positions.

    Returns:
        The program with fitted weights, or the compact program itself if it is nearer to the dense one on the samples
        that are held out; and what was done.
    """
    with private_random_state(seed):  # a model may draw random numbers
        return _refit(compact, dense, keep, samples, seed)


def _refit(compact: Program, dense: Program, keep: KeepSet, samples: Split, seed: int) -> tuple[Program, Repair]:
    repaired = replace(compact, module=copy.deepcopy(compact.module))
    found = sites_of(dense, repaired, keep)
    batches, fitted = (*samples.fitted, *samples.held_out), len(samples.fitted)
    with Shelf() as shelf:
        outputs = _shelve_targets(dense, found.sites, batches, shelf, seed)
        wanted = outputs[fitted:]
        before = distance(compact, samples.held_out, wanted)
        layers = _refit_in_order(repaired, found.sites, Lockstep(repaired, batches, shelf), shelf, fitted)
    after = distance(repaired, samples.held_out, wanted)
    record = Repair("least-squares", *samples.sizes, before, after, after < before, tuple(layers), found.left)
    return (repaired if record.accepted else compact), record


def _shelve_targets(
    dense: Program, sites: Sequence[Site], batches: Sequence[Example], shelf: Shelf, seed: int
) -> list[tuple[Tensor, ...]]:
    """Puts what each layer should compute on a shelf, by batch and node; returns the outputs of each batch."""
    outputs = []
    with evaluating(dense.module), keeping_buffers(dense.module):
        for place, batch in enumerate(batches):
            values = dense_values(dense, sites, batch, seed + place)
            outputs.append(values.outputs)
            for name, target in values.targets.items():
                shelf.put((place, name), target)
    return outputs


def _refit_in_order(
    program: Program, sites: Sequence[Site], lockstep: Lockstep, shelf: Shelf, fitted: int
) -> list[RepairedLayer]:
    """Fits the layers of a program in place; the first ``fitted`` batches are fitted to."""
    tensors, layers = stored_tensors(program.module), []
    with evaluating(program.module), keeping_buffers(program.module) as changed:
        for site in sites:
            rows = _rows(site, tensors, lockstep, shelf)
            first = next(rows)
            # batches are of about equal sizes
            count = first[0].shape[1] * fitted
            regression = regression_of(count, site.inputs, intercepts=has_place_for_intercept(site))
            for row in chain([first], islice(rows, fitted - 1)):
                regression.add(*row)
            if (layer := fit_layer(site, tensors, regression, rows)) is not None:
                changed.update(id(tensors[name]) for name in layer.tensors)
                layers.append(layer)
    return layers


def _rows(site: Site, tensors: Mapping[str, Tensor], lockstep: Lockstep, shelf: Shelf) -> Iterator[Rows]:
    """Yields the inputs of a layer and what it should compute of them, for each batch."""
    geometry, node = site.affine.geometry, site.affine.node
    for place, values in enumerate(lockstep.until(node)):
        target: Target = shelf.take((place, node.name))
        wanted = target.rows
        if site.sum is not None:
            wanted = wanted - geometry.rows(values[site.sum.other], target.positions)
            wanted = before_norm(site.norm, tensors, wanted)
        inputs = geometry.input_rows(values[site.affine.source], target.output_shape, target.positions)
        by_group = wanted.view(len(wanted), geometry.groups, -1).transpose(0, 1)
        yield at_least_float(inputs), by_group
