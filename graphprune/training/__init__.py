"""The module stays right while its user trains it: exchanged contents, optimizer state, masks."""
