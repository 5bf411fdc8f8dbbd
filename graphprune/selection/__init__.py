"""Chooses which channels and weights stay."""
