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
        sparsity: Share to remove, in [0, 1): of the prunable channels, short for ``budget=Budget(channels=sparsity)``,
            or, where single weights go, of the weights, short for ``Budget(weights=sparsity)``.
        budget: Shares to remove, in [0, 1); half of the channels where nothing is said. A latency is predicted from a
            profile of the target on the way, and measured at the end, until it fits.
        data: Batches ``(inputs, target)`` for scoring. Without it the example input is scored against the model's own
            prediction.
        loss: ``loss(output, target)``, a mean over the batch; cross-entropy by default.
        samples: Sensitivity samples per round.
        accumulate: How samples add up: ``"signed"`` (the paper), ``"absolute"``, ``"squared"``; see
            `graphprune.criteria.elasticity`. By default ``"absolute"``, for channels and weights together
            ``"signed"``. Of single weights each 16 samples count as one, else each sample.
        granularity: What goes: whole channels (``"channel"``, SNAP-it), single weights of convolutions and matrix
            products, which become zero and stay so in training (``"weight"``, SNIP-it), or both under one threshold
            (``"mixed"``, CNIP-it).
        resurrect: Weights that died are ranked as well in later rounds and can come back (FORCE); not for channels.
        dead_paths: What becomes of weights that are left but on no path from an input to an output, and of channels
            without such a path: ``"keep"`` counts them in the report; ``"remove"`` zeroes the weights, gives their
            places in the budget to the next in the ranking, and removes the channels where channels go. What no output
            depends on leaves every output as it was; of what depends on no input the constant that its biases made is
            lost. Not for channels alone, which are always on a path.
        criterion: What ranks the channels: a name (see `graphprune.criteria`); an importance object of torch-pruning
            (``torch_pruning.importance``), which gets gradients where it needs them; or a function of your own: of the
            weights of a group, ``{"conv1.weight[0]": (channels, values), ...}``, that gives a tensor ``(channels,)``,
            or of ``(program, sensitivity)`` for all channels at once. Weights are ranked by a name or function of
            `graphprune.criteria.weights`.
        schedule: A name (see `graphprune.request.schedule`) or a function from the final sparsity to that of each
            round.
        protect: Name patterns (shell wildcards) of modules whose outputs, or parameters that as a whole, must stay.
        attention: What goes of attention: whole ``"heads"``, or as many indices of every head (``"head_dim"``).
        min_channels: Channels that stay in every group: a number, ``"safe"`` (two or 2 %), or a function of the group's
            size.
        align: Widths that shrink stay multiples of this; ``"auto"`` for those that suit the target, by operator.
        target: Where latencies are measured: what `graphprune.profile` gives; by default this machine, one thread, and
            the example's batch size.
        verify: Prove after each round that the compact program equals the masked one.
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
        InternalError: a bug in graphprune, such as a failed proof.
    """
    pruner = Pruner(*args, **options)
    while pruner.rounds_left:
        pruner.step()
    return pruner.finish()
