"""Single weights: which there are, how important each is, which go, and how they stay zero."""
