"""From an nn.Module to a `Program`, by torch.fx or, where that fails, by torch.export."""

from graphprune.capture.capture import capture, unshare

__all__ = ["capture", "unshare"]
