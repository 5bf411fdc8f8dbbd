"""Repair without training: weights refitted in closed form to the dense model's activations."""
