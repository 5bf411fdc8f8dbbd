"""Costs of a program: the measures, how each follows from what is kept, and which weights count."""
