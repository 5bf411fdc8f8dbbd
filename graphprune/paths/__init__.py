"""Finds which channels and weights are joined to input and output by live weights, and which are not."""
