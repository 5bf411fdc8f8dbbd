"""What is kept of a model, as a file that can be replayed."""
