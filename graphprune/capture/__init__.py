"""From an nn.Module to a `Program`, by torch.fx or, where that fails, by torch.export."""

from graphprune.capture.capture import capture
from graphprune.capture.private_copy import unshare

__all__ = ["capture", "unshare"]
