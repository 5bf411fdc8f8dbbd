"""The choices in scoring, one at a time, before and after training."""
