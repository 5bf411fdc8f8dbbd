"""The program that passes transform, its tensors and its nodes."""
