"""The one call: from a model to a smaller one."""

from __future__ import annotations

from typing import Any

from graphprune.compiled import Compiled
from graphprune.pruner import Pruner
from graphprune.request.signatures import takes_as


@takes_as(Pruner)
def compile(*args: Any, **options: Any) -> Compiled:  # noqa: D417 - the arguments are those of `Pruner`
    """Removes the least important channels or weights of a model, round by round, and proves each round.

    Args:
        model: Any nn.Module, in any mode, on any device. It is never changed.
        example_input: A tensor, a tuple of arguments, or a dict of keyword arguments; dim 0 is the batch.
        sparsity: Share of the prunable channels to remove, in [0, 1); short for ``budget=Budget(channels=sparsity)``.
            Where single weights are removed, it is the share of the weights, short for ``Budget(weights=sparsity)``.
        budget: Shares to remove, in [0, 1). By default half of the channels are removed, or half of the weights where
            single weights are removed. Latency is predicted from a profile of the target and then measured; the last
            round is repeated until its measurement fits.
        data: Batches ``(inputs, target)`` for scoring. Without data, the example input is scored against the model's
            own prediction.
        loss: ``loss(output, target)``, a mean over the batch; cross-entropy by default.
        samples: Number of sensitivity samples per round.
        accumulate: How the gradients of samples add up: ``"signed"`` (the paper), ``"absolute"`` or ``"squared"``; see
            `graphprune.criteria.elasticity`. The default is ``"absolute"``, but ``"signed"`` with
            ``granularity="mixed"``. With ``granularity="weight"``, every 16 samples count as one.
        granularity: What is removed: whole channels (``"channel"``, SNAP-it), single weights of convolutions and matrix
            products, which become zero and stay zero in training (``"weight"``, SNIP-it), or both under one threshold
            (``"mixed"``, CNIP-it).
        resurrect: Whether dead weights are ranked again in later rounds and can come back (FORCE). Channels cannot.
        dead_paths: What happens to the remaining weights that are on no path from an input to an output, and to
            channels without such a path: ``"keep"`` counts them in the report; ``"remove"`` zeroes the weights, gives
            their places in the budget to the next weights in the ranking, and removes the channels where channels are
            removed. Removing what no output depends on changes no output; removing what depends on no input loses the
            constant that its biases made. Channels alone (``granularity="channel"``) are always on a path.
        criterion: What ranks the channels: a name (see `graphprune.criteria`), an importance object of torch-pruning
            (``torch_pruning.importance``), which gets gradients where it needs them, or a function of your own. The
            function takes the weights of one group, ``{"conv1.weight[0]": (channels, values), ...}``, and returns a
            tensor ``(channels,)``, or it takes ``(program, sensitivity)`` and ranks all channels at once. Weights are
            ranked by a name or a function of `graphprune.criteria.weights`.
        schedule: A name (see `graphprune.request.schedule`) or a function from the final sparsity to the cumulative
            sparsities after each round.
        protect: Name patterns (shell wildcards) of modules whose outputs must stay, or of parameters that must stay as
            a whole.
        attention: What is removed from attention: whole heads (``"heads"``), or the same number of indices of every
            head (``"head_dim"``).
        min_channels: Number of channels that stay in every group: a number, ``"safe"`` (two channels or 2 %, whichever
            is more), or a function of the group's size.
        align: Widths that shrink stay multiples of this number; ``"auto"`` takes the multiples at which the operators
            run well on the target.
        target: Where latencies are measured, as `graphprune.profile` returns it. By default this machine, on one thread
            and at the example's batch size.
        repair: What is done for the weights that are left, after the last round: nothing, or ``"least-squares"``, which
            fits each layer to what the dense model computes, on the data of the last round, without training; see
            `Compiled.repair`. With training between rounds, the dense model is still the one that was given.
        verify: Whether to prove after each round that the compact program equals the masked one.
        strict: Raise `FrozenError` instead of freezing what could be pruned if graphprune knew more: an op without a
            rule, a rule that gives up on a form of its op, a node whose sizes cannot be rewritten. It lists all of
            them, each with its op, node, source line and what it froze. What the program needs (outputs, rows that
            data looks up, positions that are mixed) or ``protect`` names is frozen all the same.
        seed: Seed of everything random.
        progress: Called as ``progress(stage, rounds_done, rounds)``.
        runner: Runs the passes; give one to dump or print programs between passes, or to read times.

    Returns:
        The compact module with its plan and report.

    Raises:
        UserError: the model, the data or an option cannot work; the message says what to change.
        InternalError: graphprune has a bug, which showed for example in a failed proof.
    """
    pruner = Pruner(*args, **options)
    while pruner.rounds_left:
        pruner.step()
    return pruner.finish()
