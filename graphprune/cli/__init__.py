"""The command line; see ``graphprune --help``."""

from graphprune.cli.app import app, main

__all__ = ["app", "main"]
