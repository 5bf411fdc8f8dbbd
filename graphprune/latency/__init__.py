"""Latency: measured by operator, predicted by width, and measured again."""

from graphprune.latency.model import LatencyModel
from graphprune.latency.profiles import Profile

__all__ = ["LatencyModel", "Profile"]
