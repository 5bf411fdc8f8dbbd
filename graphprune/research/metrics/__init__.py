"""Figures that a study reports about a network: sparsity, size, work, memory, time, and spread over seeds."""

from graphprune.research.metrics.compute import Macs, TrainingCost, forward_macs, training_cost
from graphprune.research.metrics.disk import DiskSize, disk_size
from graphprune.research.metrics.memory import PeakMemory, training_memory
from graphprune.research.metrics.sparsity import harmonic_mean, node_sparsity, nodes_left, weight_sparsity, weights_left
from graphprune.research.metrics.spread import Spread, spread_over_seeds
from graphprune.research.metrics.times import time_inference, time_training

__all__ = [
    "DiskSize", "Macs", "PeakMemory", "Spread", "TrainingCost", "disk_size", "forward_macs", "harmonic_mean",
    "node_sparsity", "nodes_left", "spread_over_seeds", "time_inference", "time_training", "training_cost",
    "training_memory", "weight_sparsity", "weights_left",
]  # fmt: skip
