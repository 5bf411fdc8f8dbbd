"""From an nn.Module to a `Program`: by torch.fx, by torch.fx with known sizes, or by torch.export."""

from graphprune.capture.capture import capture
from graphprune.capture.modes import kept_in_evaluation
from graphprune.capture.private_copy import unshare
from graphprune.capture.unwrapped import unwrapped

__all__ = ["capture", "kept_in_evaluation", "unshare", "unwrapped"]
