"""``python -m graphprune.cli`` is the command ``graphprune``."""

from graphprune.cli.app import main

main()
