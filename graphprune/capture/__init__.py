"""Captures an nn.Module as a `Program`: by torch.fx, by torch.fx with known sizes, or by torch.export."""

from graphprune.capture.capture import capture
from graphprune.capture.frozen_modes import kept_in_evaluation
from graphprune.capture.private_copy import unshare
from graphprune.capture.torch_compiled import unwrapped

__all__ = ["capture", "kept_in_evaluation", "unshare", "unwrapped"]
